"""The watermark: exact on untouched images, kept by JPEG, halving and crops, absent where it was not put."""

import io
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from vision.errors import UserError
from vision.ops.watermark import (
    WATERMARK,
    WATERMARK_OF_32,
    WATERMARK_OF_64,
    least_agreement,
    marked,
    read_mark,
)


def natural(side, count=2, seed=0):
    """Images with the spectrum of photographs, amplitude 1 / frequency, in [-1, 1] of 8 bits."""
    generator = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)) + 1.0 / side
    noise = np.fft.rfft2(generator.normal(size=(count, 3, side, side))) / frequency
    image = np.fft.irfft2(noise, (side, side)).transpose(0, 2, 3, 1)
    return np.round(np.clip(127.5 + 45.0 * image / image.std(), 0, 255)) / 127.5 - 1.0


def levels(images):
    return np.round((np.asarray(images) + 1.0) * 127.5).astype(np.uint8)


def unit(pixels):
    return jnp.asarray(pixels, jnp.float32) / 127.5 - 1.0


def after(pixels, *, quality=None, halved=False):
    changed = []
    for image in map(Image.fromarray, pixels):
        if halved:
            image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)
            image = image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC)
        if quality:
            encoded = io.BytesIO()
            image.save(encoded, "JPEG", quality=quality)
            image = Image.open(encoded)
        changed.append(np.asarray(image))
    return unit(np.stack(changed))


def agreement(images, message, config=WATERMARK):
    return np.mean([(read.message == row).mean() for read, row in zip(read_mark(images, config), message, strict=True)])


MESSAGE = np.random.default_rng(5).integers(0, 2, (2, 48)).astype(bool)
PIXELS = levels(natural(256))


@pytest.fixture(scope="module", name="pixels")
def marked_images():
    """PIXELS with MESSAGE."""
    return levels(marked(unit(PIXELS), MESSAGE))


def test_the_change_is_small_and_grey(pixels):
    change = pixels.astype(float) - PIXELS
    assert 10.0 * np.log10(255.0**2 / np.mean(change**2)) > 38.0
    inside = (pixels > 0).all(-1) & (pixels < 255).all(-1)
    assert np.ptp(change, axis=-1)[inside].max() <= 1.0  # equal in all colours but for rounding


@pytest.mark.parametrize(
    "change",
    [{}, {"quality": 70}, {"halved": True}, {"halved": True, "quality": 70}],
    ids=["none", "jpeg", "half", "both"],
)
def test_the_message_is_kept(change, pixels):
    assert agreement(after(pixels, **change), MESSAGE) >= 0.99


def test_brightness_and_contrast_keep_it(pixels):
    assert agreement(unit(np.clip(0.7 * pixels + 30.0, 0, 255)), MESSAGE) == 1.0


def test_a_crop_is_read_at_its_shift(pixels):
    reading = read_mark(unit(pixels[:, 21:230, 40:250]))[0]
    assert reading.shift == ((-21) % 64, (-40) % 64)
    assert (reading.message == MESSAGE[0]).mean() > 0.85


def test_unmarked_images_agree_by_chance_only():
    readings = read_mark(unit(levels(natural(256, 24, seed=1))))
    bits = np.concatenate([reading.message == MESSAGE[0] for reading in readings])
    assert stats.binomtest(int(bits.sum()), len(bits), 0.5).pvalue > 1e-4
    assert max((reading.message == MESSAGE[0]).sum() for reading in readings) < least_agreement(48, 1e-6)


def test_another_secret_reads_nothing(pixels):
    assert agreement(unit(pixels), MESSAGE, replace(WATERMARK, secret=1)) < 0.8


@pytest.mark.parametrize(("config", "side", "quality"), [(WATERMARK_OF_64, 64, 70), (WATERMARK_OF_32, 32, 90)])
def test_small_images_use_lattices(config, side, quality):
    images = levels(natural(side))
    small = levels(marked(unit(images), MESSAGE, config))
    assert 10.0 * np.log10(255.0**2 / np.mean((small.astype(float) - images) ** 2)) > 38.0
    assert agreement(unit(small), MESSAGE, config) == 1.0
    assert agreement(after(small, quality=quality), MESSAGE, config) > 0.95


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([(64, 64), (70, 97)]))
def test_any_message_and_any_size(seed, size):
    generator = np.random.default_rng(seed)
    config = replace(WATERMARK_OF_64, bits=16)
    message = generator.integers(0, 2, (1, 16)).astype(bool)
    images = unit(generator.integers(40, 215, (1, *size, 3)))
    assert agreement(marked(images, message, config), message, config) == 1.0


@given(st.integers(1, 128), st.floats(1e-12, 0.5))
def test_the_threshold_is_the_least(bits, share):
    least = least_agreement(bits, share)
    exact = lambda count: sum(stats.binom.pmf(k, bits, 0.5) for k in range(count, bits + 1))
    assert exact(least) <= share * (1 + 1e-9)
    assert exact(least - 1) > share * (1 - 1e-9)


@pytest.mark.parametrize(
    ("config", "side", "words"),
    [
        (WATERMARK, 32, "an image of 32x32 pixels is smaller"),
        (replace(WATERMARK, high=40.0), 64, "must rise and end at half"),
        (replace(WATERMARK, low=5.0, high=6.0), 64, "have no place for 80 bits"),
        (replace(WATERMARK, bits=3), 64, "the message has 48 bits, and the watermark carries 3"),
    ],
)
def test_what_cannot_be_is_refused(config, side, words):
    with pytest.raises(UserError, match=words):
        marked(jnp.zeros((2, side, side, 3)), MESSAGE, config)
