"""Evaluation of segmenters: known predictions, canvases of several sizes, files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vision.data.annotations.index_masks import VOID, mask_values
from vision.errors import UserError
from vision.evaluation.segmentation import SegmentationSet, evaluator, predicted_classes
from vision.evaluation.segmentation_files import likeliest, segment_files
from vision.ops.resize import resize
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.report.boxes import class_colours
from vision.train.compile import Compiler

NAMES = ("dark", "red", "green", "blue")
COLOURS = class_colours(4)
PURE = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)


def by_colour(variables, images):
    """Probabilities: what a pixel's colour is nearest to; ``variables`` rotates the classes."""
    distance = jnp.abs(images[..., None, :].astype(jnp.float32) - PURE).sum(-1)
    return jnp.roll(jnp.exp(-distance / 100), variables, axis=-1)


def batch(mask, rows=8, columns=8, truth=None):
    """A canvas whose upper left part has the colours of a mask."""
    height, width = mask.shape
    image = np.full((rows, columns, 3), 255, np.uint8)
    image[:height, :width] = PURE[np.where(mask == VOID, 0, mask)]
    truth = mask if truth is None else truth
    canvas = np.full((max(rows, truth.shape[0]), max(columns, truth.shape[1])), VOID, np.uint8)
    canvas[: truth.shape[0], : truth.shape[1]] = truth
    return {
        "image": image[None],
        "size": np.array([mask.shape], np.int32),
        "truth": canvas[None],
        "truth_size": np.array([truth.shape], np.int32),
        "mask": np.array([True]),
    }


def scores(batches, variables=0):
    compiler = Compiler(make_mesh(MeshConfig(), jax.devices()[:1]))
    test = SegmentationSet(lambda: batches, NAMES, COLOURS, "a few squares")
    return evaluator(compiler, by_colour, classes=4)(jnp.asarray(variables), test)


MASK = np.random.default_rng(0).integers(0, 4, (6, 7)).astype(np.uint8)


def test_a_perfect_prediction():
    found = scores([batch(MASK), {**batch(np.zeros_like(MASK)), "mask": np.array([False])}])
    for name in ("mean_iou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou", "mean_boundary_iou"):
        assert found.scalars[name] == 1.0, name
    assert {name for name in found.scalars if "/" in name} == {f"class_iou/{name}" for name in NAMES}
    assert set(found.images) == {"confusion", "class_iou", "examples", "worst"}
    assert "a few squares" in found.protocol["mean_iou"]
    assert set(found.protocol) == set(found.scalars)


def test_a_wrong_prediction_and_void():
    mask = MASK.copy()
    mask[0] = VOID
    assert scores([batch(mask)]).scalars["pixel_accuracy"] == 1.0
    assert scores([batch(mask)], variables=1).scalars["pixel_accuracy"] == 0.0


def test_numbers_are_at_the_size_of_the_truth():
    """An image that is half as large as its truth: probabilities are enlarged, and not classes."""
    truth = np.repeat(np.repeat(MASK, 2, 0), 2, 1)
    half = batch(MASK, 6, 7, truth)
    fields = {name: jnp.asarray(value) for name, value in half.items()}
    found = np.asarray(predicted_classes(by_colour, 0, fields))
    enlarged = resize(by_colour(0, fields["image"]), truth.shape, method="bilinear")
    np.testing.assert_array_equal(found[0], np.argmax(enlarged, -1)[0])
    assert scores([half]).scalars["pixel_accuracy"] == (found[0] == truth).mean()


def test_files(tmp_path):
    compiler = Compiler(make_mesh(MeshConfig(), jax.devices()[:1]))
    predict = segment_files(compiler, by_colour, class_names=NAMES, colours=COLOURS, canvas=(8, 8))
    Image.fromarray(PURE[MASK]).save(tmp_path / "small.png")
    blocks = np.repeat(np.repeat(MASK, 4, 0), 4, 1)  # larger than the canvas
    Image.fromarray(PURE[blocks]).save(tmp_path / "large.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    files = [tmp_path / name for name in ("small.png", "large.png", "bad.png")]
    lines = predict(jnp.asarray(0), files, tmp_path / "out")
    assert "skipped, it cannot be decoded" in lines[2]
    np.testing.assert_array_equal(mask_values(tmp_path / "out" / "masks" / "small.png"), MASK)
    large = mask_values(tmp_path / "out" / "masks" / "large.png")
    assert large.shape == blocks.shape
    assert (large == blocks).mean() > 0.6
    table = json.loads((tmp_path / "out" / "segmentation.json").read_text())
    assert table["class_names"] == list(NAMES)
    shares = table["images"][0]["shares"]
    assert shares == {name: pytest.approx((i == MASK).mean(), abs=1e-6) for i, name in enumerate(NAMES)} | {}
    assert (tmp_path / "out" / "large.png").exists()
    with pytest.raises(UserError, match="there is nothing to predict"):
        predict(jnp.asarray(0), [tmp_path / "bad.png"], tmp_path / "none")


def test_scores_are_resized_before_the_likeliest_is_chosen():
    values = np.random.default_rng(1).random((5, 4, 3)).astype(np.float32)
    expected = np.argmax(resize(jnp.asarray(values)[None], (9, 11), method="bilinear"), -1)[0]
    np.testing.assert_array_equal(likeliest(values, (9, 11)), expected)
    np.testing.assert_array_equal(likeliest(values, (5, 4)), np.argmax(values, -1))
