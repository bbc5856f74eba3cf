"""Backgrounds: muted, far from every object colour, and of the kinds they are named for."""

import numpy as np
import pytest

from vision.data.shapes.backgrounds import BACKGROUNDS, background
from vision.data.shapes.counter_random import sample_keys
from vision.data.shapes.world import PALETTE

KEYS = sample_keys(0, "train", np.arange(150))


@pytest.mark.parametrize("kind", BACKGROUNDS)
def test_no_tone_is_near_an_object_colour(kind):
    image = background((kind,), 32, KEYS)
    assert image.shape == (150, 3, 32, 32)
    assert image.dtype == np.float32
    assert 0 <= image.min() <= image.max() <= 1
    chroma = image.max(1) - image.min(1)
    assert chroma.max() < 0.16
    for _, colour in PALETTE:
        assert (max(colour) - min(colour)) / 255 > 0.4


def test_kinds_vary_as_they_are_named():
    deviation = {kind: background((kind,), 32, KEYS).std((2, 3)).max(1) for kind in BACKGROUNDS}
    assert deviation["solid"].max() < 1e-6
    assert all((deviation[kind] > 0.001).all() for kind in BACKGROUNDS[1:])


def test_a_gradient_is_monotonic_along_every_row():
    steps = np.diff(background(("gradient",), 32, KEYS)[:, 0], axis=-1)
    assert ((steps >= -1e-6).all((1, 2)) | (steps <= 1e-6).all((1, 2))).all()
