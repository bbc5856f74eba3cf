"""Textures are functions of their arguments, in the colours of their palettes, and a source."""

import numpy as np
import pytest

from vision.data.textures import PALETTES, TextureSource, texture


@pytest.mark.parametrize("name", PALETTES)
def test_textures(name):
    one = texture(name, 24)
    assert (one.shape, one.dtype) == ((24, 24, 3), np.uint8)
    np.testing.assert_array_equal(one, texture(name, 24))
    assert (one != texture(name, 24, seed=1)).any()
    assert one.std() > 10


def test_a_source_of_textures():
    source = TextureSource(side=16, size=6, first_seed=3)
    assert len(source) == 6
    np.testing.assert_array_equal(source[5]["image"], texture("cells", 16, seed=8))
