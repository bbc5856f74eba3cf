"""Crops on the host: their rectangles, their pixels against Pillow in two steps, and their use in the pipeline."""

import pickle

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from vision.data.crop import _rectangle, random_resized_crop, resize_centre_crop
from vision.data.folder import folder_source
from vision.data.pipeline import batches, evaluation_batches
from vision.errors import UserError

PICTURE = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
RECORD = {"image": PICTURE, "label": np.int32(3)}


def test_rectangles_have_the_stated_area_and_ratio():
    rng = np.random.default_rng(1)
    sampled = np.array([_rectangle(300, 400, (0.08, 0.4), (3 / 4, 4 / 3), rng) for _ in range(2000)])
    top, left, tall, wide = sampled.T
    assert stats.kstest(tall * wide / 120_000, stats.uniform(0.08, 0.32).cdf).pvalue > 1e-4
    logs = np.log(wide / tall)
    assert stats.kstest(logs, stats.uniform(np.log(3 / 4), np.log(16 / 9)).cdf).pvalue > 1e-4
    for start, extent, side in ((top, tall, 300), (left, wide, 400)):
        assert start.min() >= 0
        assert (start + extent).max() <= side
        assert stats.kstest((start + 0.5) / (side - extent + 1), "uniform").pvalue > 1e-4
    assert _rectangle(10, 40, (1.0, 1.0), (1.0, 1.0), rng) == (0, 15, 10, 10)
    assert _rectangle(40, 10, (1.0, 1.0), (2.0, 2.0), rng) == (17, 0, 5, 10)


def test_a_random_crop_is_cut_and_then_resized():
    transform = pickle.loads(pickle.dumps(random_resized_crop(24, scale=(0.1, 0.8), ratio=(0.5, 2.0))))
    for seed in range(5):
        out = transform(RECORD, np.random.default_rng(seed))
        top, left, tall, wide = _rectangle(60, 90, (0.1, 0.8), (0.5, 2.0), np.random.default_rng(seed))
        cut = Image.fromarray(PICTURE).crop((left, top, left + wide, top + tall))
        np.testing.assert_array_equal(out["image"], np.asarray(cut.resize((24, 24), Image.Resampling.BILINEAR)))
        assert out["image"].dtype == np.uint8
        assert out["label"] == 3
    assert RECORD["image"] is PICTURE


@pytest.mark.parametrize(("size", "resize", "shorter"), [(24, 30, 30), (28, None, 32), (40, 40, 40), (70, 80, 80)])
@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (61, 77)])
def test_the_centre_is_that_of_the_resized_image(size, resize, shorter, shape):
    picture = np.random.default_rng(2).integers(0, 256, (*shape, 3), dtype=np.uint8)
    transform = pickle.loads(pickle.dumps(resize_centre_crop(size, resize=resize)))
    out = transform({"image": picture}, np.random.default_rng(0))["image"].astype(int)
    scale = shorter / min(shape)
    tall, wide = (round(side * scale) for side in shape)
    whole = Image.fromarray(picture).resize((wide, tall), Image.Resampling.BILINEAR)
    left, top = (wide - size) // 2, (tall - size) // 2
    expected = np.asarray(whole.crop((left, top, left + size, top + size))).astype(int)
    assert np.abs(out - expected).max() <= 1


def test_they_bring_a_folder_of_all_sizes_to_batches(tmp_path):
    generator = np.random.default_rng(3)
    for i, shape in enumerate(((30, 40), (50, 20), (9, 9))):
        Image.fromarray(generator.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    source = folder_source(tmp_path, resolution=None)
    stream = batches(source, batch_size=4, seed=1, transform=random_resized_crop(16))
    first, second = next(stream), next(stream)
    stream.close()
    assert first["image"].shape == (4, 16, 16, 3)
    again = batches(source, batch_size=4, seed=1, start_step=1, transform=random_resized_crop(16))
    np.testing.assert_array_equal(next(again)["image"], second["image"])
    again.close()
    (whole,) = evaluation_batches(source, batch_size=3, transform=resize_centre_crop(8))
    assert whole["image"].shape == (3, 8, 8, 3)


@pytest.mark.parametrize("options", [{"size": 0}, {"size": 8, "scale": (0.5, 0.1)}, {"size": 8, "ratio": (0.0, 1.0)}])
def test_random_crops_that_are_invalid(options):
    with pytest.raises(UserError, match="A random resized crop needs a size of at least 1"):
        random_resized_crop(**options)


def test_centre_crops_that_are_invalid():
    with pytest.raises(UserError, match="A crop of 33 pixels cannot be taken from a shorter side of 32"):
        resize_centre_crop(33, resize=32)
    with pytest.raises(UserError, match="A crop of 0 pixels"):
        resize_centre_crop(0)
