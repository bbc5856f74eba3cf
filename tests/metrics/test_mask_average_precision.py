"""AP of masks against pycocotools on files and boxes; boundary AP against the published code.

The golden values are made by make_segmentation_metrics_golden.py.
"""

import contextlib
import copy
import io
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from segmentation_maps import instance_set

from vision.data.annotations.cleaning import AnnotatedImage, Annotations
from vision.data.annotations.counts import Counts
from vision.data.annotations.fields import Entry
from vision.data.annotations.segmentation import rle_of_segmentation
from vision.errors import UserError
from vision.metrics.detection.average_precision import ImageDetections, coco_scores
from vision.metrics.segmentation.mask_average_precision import (
    boundary_scores,
    detected_masks,
    mask_overlaps,
    mask_scores,
)
from vision.ops.rle import Rle, decode, encode

GOLDEN = Path(__file__).parents[1] / "golden" / "segmentation_metrics.npz"
STATISTICS = (
    *("average_precision", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)


@dataclass(frozen=True, eq=False)
class Masked:
    """An image with masks."""

    width: int
    height: int
    labels: np.ndarray
    crowd: np.ndarray
    area: np.ndarray
    image_id: int
    masks: tuple


@dataclass(frozen=True, eq=False)
class Set:
    """Images with masks."""

    images: tuple
    class_names: tuple
    category_ids: tuple


def read(dataset, results):
    """COCO's JSON as truth and predictions."""
    numbers = [each["id"] for each in dataset["categories"]]
    rle = lambda each, image: rle_of_segmentation(Entry(each, "", 0, Path()), image["height"], image["width"])
    images, found = [], []
    for image in dataset["images"]:
        own, theirs = ([e for e in of if e["image_id"] == image["id"]] for of in (dataset["annotations"], results))
        labels = lambda entries: np.array([numbers.index(each["category_id"]) for each in entries], np.int32)
        images.append(
            Masked(
                image["width"],
                image["height"],
                labels(own),
                np.array([each["iscrowd"] for each in own], bool),
                np.array([each["area"] for each in own], np.float32),
                image["id"],
                tuple(rle(each, image) for each in own),
            )
        )
        scores = np.array([each["score"] for each in theirs], np.float32)
        found.append(detected_masks([rle(each, image) for each in theirs], scores, labels(theirs)))
    return Set(tuple(images), tuple(each["name"] for each in dataset["categories"]), tuple(numbers)), found


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_numbers_are_those_of_pycocotools_on_files(seed, tmp_path, capsys):
    dataset, results = instance_set(seed)
    (tmp_path / "truth.json").write_text(json.dumps(dataset))
    (tmp_path / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(tmp_path / "truth.json")
        reference = COCOeval(coco, coco.loadRes(str(tmp_path / "results.json")), "segm")
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
    scores = mask_scores(*read(dataset, results))
    ours = [getattr(scores, name) for name in STATISTICS]
    np.testing.assert_array_equal(ours, np.where(reference.stats < 0, np.nan, reference.stats))
    assert 0.05 < scores.average_precision < 0.95
    assert capsys.readouterr().out == ""
    protocol = scores.protocol("toys", "all predictions")
    assert protocol["mask_ap50"].startswith("COCO's (pycocotools, masks) AP@.50")
    assert "on 6 images of toys, 3 classes; all predictions" in protocol["mask_ap50"]


def test_boundary_ap_is_that_of_the_published_code():
    golden = np.load(GOLDEN)["boundary_ap"]
    pair = read(*instance_set(0))
    scores, of_masks = boundary_scores(*pair), mask_scores(*pair)
    ours = [getattr(scores, name) for name in STATISTICS]
    np.testing.assert_allclose(ours, np.where(golden < 0, np.nan, golden), rtol=1e-12)
    assert scores.average_precision < of_masks.average_precision
    assert "the smaller IoU of masks and of their borders" in scores.protocol("toys", "")["boundary_ap50"]


def test_masks_that_are_boxes_have_the_numbers_of_boxes():
    generator = np.random.default_rng(5)
    side, pictures, boxes_found, masked, masks_found = 300, [], [], [], []
    for number in range(1, 6):
        low = generator.integers(0, 150, (6, 2))
        boxes = np.concatenate([low, low + generator.choice([8, 20, 60, 120], (6, 2))], 1).astype(np.float32)
        near = boxes + generator.integers(-4, 5, boxes.shape)
        near = np.concatenate([np.minimum(near[:, :2], near[:, 2:] - 1).clip(0), near[:, 2:]], 1).astype(np.float32)
        labels, crowd = generator.integers(0, 2, 6).astype(np.int32), generator.random(6) < 0.2
        area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        scores = generator.random(6).astype(np.float32)
        common = {"width": side, "height": side, "labels": labels, "crowd": crowd, "area": area, "image_id": number}
        pictures.append(AnnotatedImage(file=None, boxes=boxes, **common))
        masked.append(Masked(masks=tuple(encode(mask) for mask in filled(boxes, side)), **common))
        boxes_found.append(ImageDetections(near, scores, labels))
        masks_found.append(detected_masks([encode(mask) for mask in filled(near, side)], scores, labels))
    names, numbers = ("a", "b"), (4, 3)
    of_boxes = coco_scores(Annotations(tuple(pictures), names, numbers, Counts(5, 0, 0, 0, 2)), boxes_found)
    of_masks = mask_scores(Set(tuple(masked), names, numbers), masks_found)
    of_both = {f"mask_{name}": value for name, value in of_boxes.scalars().items()}
    assert of_masks.scalars() == pytest.approx(of_both, rel=1e-12)
    np.testing.assert_allclose(of_masks.class_average_precision, of_boxes.class_average_precision)


def test_overlaps_of_masks_are_those_of_their_pixels():
    truth, found = read(*instance_set(0))
    compared = 0
    for image, each in zip(truth.images, found, strict=True):
        shared = mask_overlaps(image, each)
        assert shared.shape == (len(each.masks), len(image.masks))
        for i, one in enumerate(map(decode, each.masks)):
            for j, other in enumerate(map(decode, image.masks)):
                whole = one if image.crowd[j] else one | other
                assert shared[i, j] == pytest.approx((one & other).sum() / whole.sum())
                compared += shared[i, j] > 0
    assert compared > 10
    nothing = detected_masks([], np.zeros(0, np.float32), np.zeros(0, np.int32))
    assert mask_overlaps(truth.images[0], nothing).shape == (0, len(truth.images[0].masks))
    with pytest.raises(ValueError, match="boxes alone"):
        mask_overlaps(truth.images[0], replace(nothing, masks=None))


def filled(boxes, side):
    """Masks of boxes of whole pixels."""
    made = np.zeros((len(boxes), side, side), bool)
    for mask, (x0, y0, x1, y1) in zip(made, boxes.astype(int), strict=True):
        mask[y0:y1, x0:x1] = True
    return made


def test_the_truth_itself_is_perfect_and_empty_masks_are_not_found():
    truth, found = read(*instance_set(3))
    perfect = []
    for image in truth.images:
        own = np.flatnonzero(~image.crowd)
        once = np.full(len(own), 0.5, np.float32)
        perfect.append(detected_masks([image.masks[i] for i in own], once, image.labels[own]))
    for scored in (mask_scores(truth, perfect), boundary_scores(truth, perfect)):
        assert {scored.average_precision, scored.ar100} == {1.0}
    empty = lambda image: tuple(encode(np.zeros((image.height, image.width), bool)) for _ in image.masks)
    nothing = replace(truth, images=tuple(replace(image, masks=empty(image)) for image in truth.images))
    for scores in (mask_scores, boundary_scores):
        assert scores(nothing, found).average_precision == 0
        none = [detected_masks([], np.zeros(0, np.float32), np.zeros(0, np.int32)) for _ in truth.images]
        assert scores(truth, none).average_precision == 0


def test_an_evaluation_leaves_its_input():
    truth, found = read(*instance_set(0))
    before = copy.deepcopy((truth, found))
    boundary_scores(truth, found)
    for old, new in zip(before[1], found, strict=True):
        assert old.masks == new.masks
    for old, new in zip(before[0].images, truth.images, strict=True):
        assert old.masks == new.masks


def test_errors():
    truth, found = read(*instance_set(0))
    with pytest.raises(UserError, match="no images"):
        mask_scores(replace(truth, images=()), [])
    with pytest.raises(ValueError, match="1 detections for 6 images"):
        mask_scores(truth, found[:1])
    wrong = [replace(found[0], scores=found[0].scores * np.float32(np.nan)), *found[1:]]
    with pytest.raises(UserError, match="1 images have detections that are not finite"):
        mask_scores(truth, wrong)
    with pytest.raises(UserError, match=r"labels outside \[0, 3\)"):
        mask_scores(truth, [replace(found[0], labels=found[0].labels + 3), *found[1:]])
    small = Rle(32, 64, encode(np.ones((32, 64), bool)).counts)
    with pytest.raises(UserError, match="a mask of 32x64 pixels is compared in the image 1 of 64x64"):
        mask_scores(truth, [replace(found[0], masks=[small, *found[0].masks[1:]]), *found[1:]])
