"""Resizing by protocol: TensorFlow 1's against golden values and a loop, clean-fid's against Pillow itself."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vision.errors import UserError
from vision.ops.resize_protocols import resize_clean, resize_legacy_tensorflow

GOLDEN = Path(__file__).parents[1] / "golden" / "resize_legacy.npz"

_compiled = partial(jax.jit, static_argnums=1)


def _levels(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), dtype=np.uint8)


def _by_definition(image, size):
    """Loops over the pixels of [h w c]."""
    (height, width), out = image.shape[:2], np.zeros((*size, image.shape[2]))
    for i, j in np.ndindex(*size):
        y, x = (np.float32(k) * np.float32(n / m) for k, n, m in ((i, height, size[0]), (j, width, size[1])))
        top, left = int(y), int(x)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        dy, dx = y - top, x - left
        above = (1 - dx) * image[top, left] + dx * image[top, right]
        below = (1 - dx) * image[bottom, left] + dx * image[bottom, right]
        out[i, j] = (1 - dy) * above + dy * below
    return out


@pytest.mark.parametrize(
    "sizes", [((1, 7), (4, 3)), ((6, 1), (5, 2)), ((10, 9), (19, 21)), ((19, 20), (7, 11))], ids=str
)
def test_legacy_by_definition(sizes):
    (height, width), size = sizes
    images = _levels(height, width)
    out = np.asarray(_compiled(resize_legacy_tensorflow)(images, size))
    np.testing.assert_allclose(out[0], _by_definition(images[0].astype(float), size), rtol=0, atol=5e-5)


@pytest.mark.parametrize(("source", "result"), [("few", "up"), ("many", "down")])
def test_legacy_is_torch_fidelitys(source, result):
    """Made by make_inception_golden.py."""
    golden = np.load(GOLDEN)
    out = _compiled(resize_legacy_tensorflow)(golden[source], golden[result].shape[1:3])
    assert out.dtype == jnp.float32
    # the last bits of float32 at 255, for products that the compiler adds without rounding them
    np.testing.assert_allclose(out, golden[result], rtol=0, atol=5e-5)


@pytest.mark.parametrize("sizes", [((13, 20), (29, 31)), ((40, 33), (9, 14)), ((28, 28), (299, 299))], ids=str)
def test_clean_is_pillows(sizes):
    (height, width), (tall, wide) = sizes
    images = _levels(height, width)
    # stripes of black and white overshoot, so that the clipping shows
    images[1] = 255 * (np.arange(width) // 6 % 2)[None, :, None]
    by_pillow = lambda channel: np.asarray(Image.fromarray(channel).resize((wide, tall), Image.Resampling.BICUBIC))
    raw = np.stack([np.stack([by_pillow(i[..., c]) for c in range(3)], axis=-1) for i in images.astype(np.float32)])
    assert raw.min() < -1 or raw.max() > 256
    out = np.asarray(_compiled(resize_clean)(images, (tall, wide)))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, raw.clip(0, 255), rtol=0, atol=1e-4)


@pytest.mark.parametrize("resize", [resize_legacy_tensorflow, resize_clean])
def test_images_of_the_right_size_stay_and_levels_are_not_rounded(resize):
    images = _levels(9, 12)
    np.testing.assert_array_equal(_compiled(resize)(images, (9, 12)), images)
    out = np.asarray(_compiled(resize)(images, (11, 15)))
    assert np.mean(out != np.round(out)) > 0.5
    with pytest.raises(UserError, match="resized to 0x3 pixels: both sides must be at least 1"):
        resize(jnp.asarray(images), (0, 3))


def test_legacy_puts_corners_on_corners_and_skips_pixels():
    line = jnp.arange(8.0)[None, None, :, None]
    np.testing.assert_array_equal(resize_legacy_tensorflow(line, (1, 2))[0, 0, :, 0], [0, 4])
    np.testing.assert_array_equal(resize_legacy_tensorflow(line, (1, 16))[0, 0, -3:, 0], [6.5, 7, 7])
