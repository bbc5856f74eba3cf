"""Crops: exact rearrangements, uniform shifts, and the distribution of rectangles; resized ones against Pillow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from vision.data.augment.crop import crop_resize, pad_crop, random_rectangles, random_resized_crop

# All values are different, so that an image shows its shift
IMAGES = jnp.linspace(-1, 1, 5 * 6 * 2).reshape(1, 5, 6, 2) * jnp.ones((800, 1, 1, 1))


@pytest.mark.parametrize("mode", ["zeros", "reflect", "edge"])
def test_crops_are_pieces_of_the_padded_image_equally_often(mode):
    out = np.asarray(jax.jit(lambda x: pad_crop(x, 2, mode=mode, key=jax.random.key(0)))(IMAGES))
    widths = ((2, 2), (2, 2), (0, 0))
    padded = np.pad(np.asarray(IMAGES[0]), widths, **({} if mode == "zeros" else {"mode": mode}))
    pieces = np.stack([padded[y : y + 5, x : x + 6] for y in range(5) for x in range(5)])
    same = (out[:, None] == pieces).all((2, 3, 4))
    assert (same.sum(1) == 1).all()
    assert stats.chisquare(same.sum(0)).pvalue > 1e-6


def test_no_margin_is_the_image():
    np.testing.assert_array_equal(pad_crop(IMAGES[:2], 0, key=jax.random.key(0)), IMAGES[:2])


def test_rectangles_have_the_stated_area_ratio_and_place():
    height, width, scale, ratio = 300, 400, (0.08, 0.4), (3 / 4, 4 / 3)
    draw = jax.jit(lambda key: random_rectangles(4000, height, width, scale=scale, ratio=ratio, key=key))
    top, left, tall, wide = np.asarray(draw(jax.random.key(1))).T
    # All rectangles of at most 0.4 of the area fit, so that the first one is taken: both distributions are exact
    share = tall * wide / (height * width)
    assert stats.kstest(share, stats.uniform(scale[0], scale[1] - scale[0]).cdf).pvalue > 1e-4
    logs = np.log(wide / tall)
    assert stats.kstest(logs, stats.uniform(np.log(ratio[0]), np.log(ratio[1] / ratio[0])).cdf).pvalue > 1e-4
    assert abs(np.corrcoef(share, logs)[0, 1]) < 0.08
    for start, extent, side in ((top, tall, height), (left, wide, width)):
        assert start.min() >= 0
        assert (start + extent).max() <= side
        assert stats.kstest((start + 0.5) / (side - extent + 1), "uniform").pvalue > 1e-4


def test_rectangles_that_do_not_fit_are_resampled_or_centred():
    draw = lambda h, w, scale, ratio: np.asarray(
        jax.jit(lambda key: random_rectangles(50, h, w, scale=scale, ratio=ratio, key=key))(jax.random.key(2))
    )
    top, left, tall, wide = draw(20, 20, (0.5, 1.0), (0.5, 2.0)).T
    assert (top + tall <= 20).all()
    assert (left + wide <= 20).all()
    assert len(np.unique(tall)) > 5
    # No rectangle of the full area and of ratio 1 fits into 10x40: the largest square in the middle
    assert (draw(10, 40, (1.0, 1.0), (1.0, 1.0)) == [0, 15, 10, 10]).all()
    assert (draw(40, 10, (1.0, 1.0), (2.0, 2.0)) == [17, 0, 5, 10]).all()


def test_resized_crops_are_pillows():
    generator = np.random.default_rng(0)
    images = generator.uniform(-1, 1, (5, 20, 30, 3)).astype(np.float32)
    boxes = [(0, 0, 20, 30), (3, 4, 12, 9), (19, 29, 1, 1), (0, 10, 7, 20), (5, 0, 15, 30)]
    run = jax.jit(lambda x, box: crop_resize(x, box, (8, 11)))
    out = np.asarray(run(images, jnp.array(boxes)))
    for image, (top, left, tall, wide), got in zip(images, boxes, out, strict=True):
        for channel in range(3):
            cut = Image.fromarray(np.ascontiguousarray(image[top : top + tall, left : left + wide, channel]))
            expected = np.asarray(cut.resize((11, 8), Image.Resampling.BILINEAR))
            np.testing.assert_allclose(got[:, :, channel], expected, atol=1e-5)


def test_a_crop_of_everything_is_the_image_and_overshoot_is_clipped():
    images = jnp.sign(jax.random.normal(jax.random.key(0), (3, 9, 9, 3)))

    def crop(size, scale, method):
        run = lambda key: random_resized_crop(images, size, scale=scale, ratio=(1.0, 1.0), method=method, key=key)
        return jax.jit(run)(jax.random.key(1))

    np.testing.assert_allclose(crop((9, 9), (1.0, 1.0), "bilinear"), images, atol=1e-6)
    enlarged = crop((20, 20), (0.2, 0.9), "bicubic")
    assert enlarged.shape == (3, 20, 20, 3)
    assert float(jnp.abs(enlarged).max()) == 1.0
