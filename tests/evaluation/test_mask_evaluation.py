"""Evaluation of detectors that predict masks, against the truth; what is written of files."""

import json
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from scipy import ndimage

from vision.data.annotations.box_text import read_box_text
from vision.data.annotations.coco import read_coco
from vision.data.detection import DetectionConfig, detection_source, ground_truth
from vision.data.pipeline import evaluation_batches
from vision.data.shapes.world import ShapesConfig
from vision.evaluation.detection import DetectionSet, PredictionConfig, evaluator, predict_files
from vision.evaluation.detection_files import Predicted, write_results
from vision.evaluation.mask_files import polygons, save_cutout, save_instance_map
from vision.metrics.detection.average_precision import ImageDetections
from vision.metrics.segmentation.mask_average_precision import detected_masks
from vision.ops import rle
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.tasks.detection import DetectorConfig
from vision.train.compile import Compiler

SIDE, SLOTS = 32, 4
WORLD = DetectionConfig(
    resolution=SIDE, max_boxes=SLOTS, overfit_images=9, shapes=ShapesConfig(max_objects=3, min_size=0.3, max_size=0.5)
)
Masked = namedtuple("Masked", "boxes scores labels valid masks")


@pytest.fixture(scope="module")
def world():
    """(samples, truth, what a perfect detector finds)."""
    source, truth = detection_source(WORLD, "test", masks=True), ground_truth(WORLD, "test", masks=True)
    samples = [source[place] for place in range(len(source))]
    columns = {name: np.stack([each[name] for each in samples]) for name in ("image", "boxes", "labels", "valid")}
    maps = np.stack([each["instances"] for each in samples])
    masks = maps[:, None] == 1 + np.arange(SLOTS)[:, None, None]
    scores = np.where(columns["valid"], 0.875, 0).astype(np.float32)
    return source, truth, {**columns, "scores": scores, "masks": masks.astype(np.float32)}


def remembered(variables, images):
    """The detections that are stored for an image."""
    same = jnp.all(images[:, None] == variables["image"][None], axis=(2, 3, 4))
    return Masked(*(variables[name][jnp.argmax(same, 1)] for name in Masked._fields))


def whole(found, row, places, box):
    """Masks that have the size of the image already."""
    assert (box.width, box.height) == (SIDE, SIDE)
    return [rle.encode(np.asarray(found.masks[row][place]) > 0.5) for place in places]


def evaluated(world, **changes):
    source, truth, values = world
    compiler = Compiler(make_mesh(MeshConfig()))
    evaluate = evaluator(compiler, remembered, DetectorConfig(), paste=whole)
    test = DetectionSet(lambda: evaluation_batches(source, batch_size=8), lambda: truth, SIDE, "toys")
    return evaluate(compiler.replicate({**values, **changes}), test)


def test_the_truth_is_perfect_by_boxes_masks_and_borders(world):
    made = evaluated(world)
    for name in ("average_precision", "ap50", "ar100"):
        assert [made.scalars[f"{kind}{name}"] for kind in ("", "mask_", "boundary_")] == [1.0] * 3
    assert made.scalars["f1"] == 1.0
    assert set(made.images) == {"precision_recall", "confidence", "confusion", "found", "mistakes"}
    assert set(made.protocol) == set(made.scalars)
    words = made.protocol["mask_average_precision"]
    assert "COCO's (pycocotools, masks)" in words
    assert "the boxes of the same detections, filled, get 0." in words
    assert "as one circle gets 0.0" in words or "the whole of each image as one " in words
    assert "masks" in made.protocol["precision"]
    assert "by masks" in made.protocol["class_ap50/circle"]


def test_thinner_masks_have_worse_masks_and_the_same_boxes(world):
    values = world[2]
    thin = ndimage.binary_erosion(values["masks"] > 0.5, np.ones((1, 1, 3, 3))).astype(np.float32)
    made, right = evaluated(world, masks=thin), evaluated(world)
    assert made.scalars["average_precision"] == 1.0
    assert 0.05 < made.scalars["mask_average_precision"] < 0.9
    assert made.scalars["boundary_average_precision"] <= made.scalars["mask_average_precision"]
    assert made.scalars["recall"] <= right.scalars["recall"]
    assert not np.array_equal(made.images["mistakes"], right.images["mistakes"])


def test_masks_of_other_objects_are_wrong_though_their_boxes_are_right(world):
    made = evaluated(world, masks=np.zeros_like(world[2]["masks"]))
    assert made.scalars["average_precision"] == 1.0
    assert made.scalars["mask_average_precision"] == made.scalars["recall"] == 0.0


def test_files_get_masks_polygons_cutouts_and_results(world, tmp_path):
    source, truth, values = world
    compiler = Compiler(make_mesh(MeshConfig()))
    names = truth.class_names
    places = [place for place in range(len(source)) if values["valid"][place].sum() > 1][:2]
    files = []
    for place in places:
        files.append(tmp_path / "images" / f"{place}.png")
        files[-1].parent.mkdir(exist_ok=True)
        Image.fromarray(source[place]["image"]).save(files[-1])
    config = PredictionConfig(crops=True)
    predict = predict_files(compiler, remembered, config, class_names=names, resolution=SIDE, paste=whole)
    out = tmp_path / "labels"
    lines = predict(compiler.replicate(values), files, out)
    assert lines[-1] == f"images with masks, and detections.json: {out}"

    results, outlined = (json.loads((out / name).read_text()) for name in ("detections.json", "polygons.json"))
    assert len(results) == len(outlined["annotations"]) == sum(int(values["valid"][place].sum()) for place in places)
    coco = COCO(out / "polygons.json")
    cutouts = sorted(path.name for path in (out / "crops").rglob("*.png"))
    for place, file in zip(places, files, strict=True):
        count = int(values["valid"][place].sum())
        numbers = np.asarray(Image.open(out / "masks" / file.name))
        assert set(np.unique(numbers)) == set(range(count + 1))
        ids = [each["id"] for each in outlined["images"] if each["file_name"] == str(file)]
        own = [each for each in results if each["image_id"] == ids[0]]
        for k, each in enumerate(own):
            mask = values["masks"][place, k] > 0.5
            packed = rle.Rle(*each["segmentation"]["size"], each["segmentation"]["counts"].encode())
            np.testing.assert_array_equal(rle.decode(packed), mask)
            # equally confident ones are numbered in their order
            np.testing.assert_array_equal(numbers == k + 1, mask)
        for number in coco.getAnnIds(imgIds=ids):
            annotation = coco.anns[number]
            outline = rle.Rle(SIDE, SIDE, coco.annToRLE(annotation)["counts"])
            filled, mask = rle.decode(outline), ndimage.binary_fill_holes(rle.decode(rle_of(results, annotation)))
            assert (filled & mask).sum() / (filled | mask).sum() > 0.85
        assert f"{file.stem}-{count}.png" in cutouts
    # the lines of text are read back as annotations
    (tmp_path / "classes.txt").write_text("\n".join(names))
    again = read_box_text(tmp_path / "images", tmp_path / "classes.txt", masks=True)
    assert again.counts.boxes == len(results)
    for each, place in zip(again.images, places, strict=True):
        for k, mask in enumerate(each.masks):
            true = ndimage.binary_fill_holes(values["masks"][place, k] > 0.5)
            shared = (rle.decode(mask) & true).sum() / (rle.decode(mask) | true).sum()
            assert shared > 0.8
    cutout = np.asarray(Image.open(next((out / "crops").rglob(f"{files[0].stem}-1.png"))))
    mask = values["masks"][places[0], 0] > 0.5
    assert cutout.shape[2] == 4
    assert (cutout[..., 3] > 0).sum() == mask.sum()
    np.testing.assert_array_equal(cutout[cutout[..., 3] > 0][:, :3], source[places[0]]["image"][mask])


def test_an_instance_without_a_pixel_has_no_outline(tmp_path):
    """So that the annotation that is written can be read, in which every instance has one."""
    Image.new("RGB", (6, 5)).save(tmp_path / "a.png")
    filled = np.zeros((5, 6), bool)
    filled[1:4, 2:6] = True
    masks = tuple(map(rle.encode, (np.zeros((5, 6), bool), filled)))
    boxes = np.float32([[0, 0, 0.2, 0.2], [2, 1, 6, 4]])
    found = ImageDetections(boxes, np.float32([0.9, 0.8]), np.int32([0, 0]), masks)
    write_results(tmp_path, [Predicted(Path("a.png"), 6, 5, found)], ["cat"])
    assert len(json.loads((tmp_path / "detections.json").read_text())) == 2
    read = read_coco(tmp_path / "polygons.json", tmp_path, masks=True)
    assert read.counts.boxes == 1
    np.testing.assert_array_equal(read.images[0].boxes, boxes[1:])


def rle_of(results, annotation):
    """The mask of the result that an outline is of."""
    same = [each for each in results if all(each[name] == annotation[name] for name in ("image_id", "bbox"))]
    return rle.Rle(*same[0]["segmentation"]["size"], same[0]["segmentation"]["counts"].encode())


@settings(max_examples=80)
@given(seed=st.integers(0, 99_999), height=st.integers(1, 12), width=st.integers(1, 12))
def test_outlines_filled_again_are_the_mask_without_its_holes(seed, height, width):
    generator = np.random.default_rng(seed)
    mask = ndimage.binary_dilation(generator.random((height, width)) < generator.choice([0.0, 0.05, 0.2, 1.0]))
    parts = polygons(mask)
    # pixels that touch at a corner alone may be one part or two
    square = np.ones((3, 3))
    assert ndimage.label(mask, square)[1] <= len(parts) <= ndimage.label(mask)[1]
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    filled = np.zeros(mask.shape, bool)
    for part in parts:
        assert part.min() >= 0
        assert np.all(part.max(0) <= (width, height))
        filled |= inside(part, x, y)
    least, most = ndimage.binary_fill_holes(mask, square), ndimage.binary_fill_holes(mask)
    assert np.all(filled >= least)
    assert np.all(filled <= most)


def inside(polygon, x, y):
    """Whether points are inside of a polygon: a ray to the right crosses it an odd number of times."""
    odd = np.zeros(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y0 != y1:
            crosses = (y0 > y) != (y1 > y)
            odd ^= crosses & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
    return odd


def test_maps_have_the_more_confident_instance_on_top_and_room_for_many(tmp_path):
    one, two = np.zeros((2, 8, 9), bool)
    one[:5, :5], two[3:, 3:] = True, True
    found = detected_masks([rle.encode(one), rle.encode(two)], np.float32([0.3, 0.9]), np.int32([0, 0]))
    save_instance_map(tmp_path / "map.png", found, height=8, width=9)
    written = np.asarray(Image.open(tmp_path / "map.png"))
    np.testing.assert_array_equal(written, np.where(two, 1, np.where(one, 2, 0)))

    masks = np.zeros((300, 20, 20), bool)
    masks[np.arange(300), np.arange(300) // 20, np.arange(300) % 20] = True
    many = detected_masks([rle.encode(each) for each in masks], np.full(300, 0.5, np.float32), np.zeros(300, np.int32))
    save_instance_map(tmp_path / "many.png", many, height=20, width=20)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "many.png")).reshape(-1)[:300], np.arange(1, 301))
    save_cutout(tmp_path / "none.png", np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), bool))
    assert not (tmp_path / "none.png").exists()
    assert replace(found, masks=None).masks is None
