"""What an exported file says of its input, followed with Pillow alone, gives the input that the model gets."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image

from vision.data import labelled, letterbox
from vision.data.labelled import LabelledConfig

CONFIG = LabelledConfig(resolution=16, test_resolution=24, test_resize=30)


def followed(image, how, width, height):
    """The input by the words and numbers of the description."""
    sides = {"shorter side": min, "longer side": max}[how["resize"]](image.size)
    size = [max(1, round(side * how["side"] / sides)) for side in image.size]
    image = image.resize(
        size, {"bilinear": Image.Resampling.BILINEAR, "lanczos": Image.Resampling.LANCZOS}[how["interpolation"]]
    )
    canvas = Image.new("RGB", (width, height), (how["padding"] or 0,) * 3)
    if how["fit"] == "pad around the centre":
        canvas.paste(image, ((width - size[0]) // 2, (height - size[1]) // 2))
        return np.asarray(canvas)
    assert how["fit"] == "crop the centre"
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return np.asarray(image.crop((left, top, left + width, top + height)))


@pytest.fixture(params=[(40, 60), (61, 33), (9, 9)])
def photograph(request):
    width, height = request.param
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8))


@pytest.mark.parametrize("stream", [False, True])
def test_classifiers(photograph, stream):
    config = replace(CONFIG, stream=stream)
    side = config.test_side
    expected = labelled.fitted(photograph, config)
    found = followed(photograph, asdict(labelled.preprocessing(config)), side, side)
    # streamed images are cropped before they are resized, which rounds once less
    np.testing.assert_allclose(found.astype(int), expected.astype(int), atol=1 if stream else 0)


def test_detectors(photograph):
    expected = letterbox.letterboxed(photograph, 32)
    np.testing.assert_array_equal(followed(photograph, asdict(letterbox.preprocessing(32)), 32, 32), expected)
