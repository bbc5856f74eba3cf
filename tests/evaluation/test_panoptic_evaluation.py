"""Merging of things and stuff against loops over pixels; evaluation and files of a network that knows the truth."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vision.data.annotations.cleaning import AnnotatedImage
from vision.data.annotations.panoptic import read_panoptic
from vision.data.annotations.stuff import Stuff
from vision.data.detection import DetectionConfig, detection_source, ground_truth
from vision.data.instance_maps import THINGS
from vision.data.letterbox import Letterbox
from vision.data.pipeline import evaluation_batches
from vision.data.shapes.world import ShapesConfig
from vision.errors import UserError
from vision.evaluation.detection import DetectionSet
from vision.evaluation.panoptic import evaluator
from vision.evaluation.panoptic_files import panoptic_files
from vision.evaluation.panoptic_merging import MergingConfig, from_square, merged, true_segments
from vision.metrics.segmentation.mask_average_precision import detected_masks
from vision.ops import rle
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.tasks.instances import InstanceDetectorConfig, Instances
from vision.train.compile import Compiler

KINDS = 3


def drawn(seed):
    """(things, semantic map) of an image, with overlaps and equal scores."""
    random = np.random.default_rng(seed)
    height, width = random.integers(6, 14, 2)
    masks = []
    for _ in range(random.integers(0, 6)):
        mask = np.zeros((height, width), bool)
        y, x = random.integers(0, height - 3), random.integers(0, width - 3)
        mask[y : y + random.integers(1, 8), x : x + random.integers(1, 8)] = True
        masks.append(mask & (random.random(mask.shape) < 0.9))
    scores = random.choice([0.2, 0.5, 0.6, 0.9], len(masks)).astype(np.float32)
    labels = random.integers(0, KINDS, len(masks)).astype(np.int32)
    found = detected_masks([rle.encode(each) for each in masks], scores, labels)
    return found, random.integers(0, 4, (height, width)).astype(np.uint8)


def slowly_merged(found, semantic, config):
    """(class of the segment, number of the thing or -1) of each pixel; (-1, -1) for void."""
    height, width = semantic.shape
    kind = -np.ones((height, width), int)
    thing = -np.ones((height, width), int)
    order = sorted(range(len(found.scores)), key=lambda i: (-found.scores[i], i))
    for i in order:
        if found.scores[i] < config.confidence:
            continue
        mask = rle.decode(found.masks[i])
        own = [(y, x) for y in range(height) for x in range(width) if mask[y, x]]
        left = [place for place in own if kind[place] < 0]
        if not left or len(left) < config.visible * len(own):
            continue
        for place in left:
            kind[place], thing[place] = found.labels[i], i
    before = kind.copy()
    for value in range(1, 4):
        region = [(y, x) for y in range(height) for x in range(width) if semantic[y, x] == value and before[y, x] < 0]
        if len(region) >= config.least_stuff:
            for place in region:
                kind[place] = KINDS + value - 1
    return kind, thing


@pytest.mark.parametrize(
    "config", [MergingConfig(least_stuff=12), MergingConfig(0.55, 0.8, 0), MergingConfig(0.0, 0.6, 1)]
)
def test_merging_is_that_of_loops_over_pixels(config):
    dropped = small = 0
    for seed in range(40):
        found, semantic = drawn(seed)
        segments = merged(found, semantic, config, things=KINDS)
        kind, thing = slowly_merged(found, semantic, config)
        labels = np.append(segments.labels, -1)[np.where(segments.map == 0, len(segments.ids), segments.map - 1)]
        np.testing.assert_array_equal(labels, kind)
        # one segment is one thing, or all stuff of a class
        pairs = {*zip(segments.map.reshape(-1).tolist(), kind.reshape(-1), thing.reshape(-1), strict=True)}
        assert len(pairs) == len(segments.ids) + (0 in segments.map)
        assert set(np.unique(segments.map)) - {0} == set(segments.ids.tolist())
        dropped += len(found.scores) - (segments.labels < KINDS).sum()
        small += (kind < 0).any()
    assert dropped > 10
    assert small > 0


def test_a_case_by_hand():
    """A thing of which a half is left stays; with less it leaves its pixels to stuff."""
    row = lambda *pixels: np.isin(np.arange(8), pixels)[None]
    masks = [row(0, 1, 2, 3), row(2, 3, 4, 5), row(1, 2, 3, 6), row(7)]
    scores, labels = np.float32([0.9, 0.8, 0.7, 0.4]), np.int32([0, 1, 1, 0])
    found = detected_masks([rle.encode(each) for each in masks], scores, labels)
    semantic = np.array([[1, 1, 1, 1, 1, 1, 2, THINGS]], np.uint8)
    segments = merged(found, semantic, MergingConfig(least_stuff=1), things=2)
    np.testing.assert_array_equal(segments.map, [[1, 1, 1, 1, 2, 2, 3, 0]])
    np.testing.assert_array_equal(segments.labels, [0, 1, 3])
    few = merged(found, semantic, MergingConfig(least_stuff=2), things=2)
    np.testing.assert_array_equal(few.map, [[1, 1, 1, 1, 2, 2, 0, 0]])


@pytest.mark.parametrize("size", [(50, 40), (9, 31), (16, 16), (200, 10)])
def test_maps_come_back_from_their_squares(size):
    """Where the image is enlarged, exactly; else each pixel has what the square has at its place."""
    width, height = size
    box = Letterbox(width, height, 32)
    rows, columns = np.mgrid[:32, :32]
    found_rows, found_columns = (from_square(each.astype(np.uint8), box) for each in (rows, columns))
    assert found_rows.shape == (height, width)
    (x, y), (sx, sy) = box.offset, box.scale
    expected = np.floor((np.arange(height) + 0.5) * sy) + y
    np.testing.assert_allclose(found_rows[:, 0], expected, atol=1e-6)
    np.testing.assert_allclose(found_columns[0], np.floor((np.arange(width) + 0.5) * sx) + x, atol=1e-6)


SIDE, SLOTS = 32, 3
WORLD = DetectionConfig(
    resolution=SIDE,
    max_boxes=SLOTS,
    overfit_images=9,
    shapes=ShapesConfig(max_objects=3, min_size=0.3, max_size=0.5, backgrounds=("dots", "solid")),
)


@pytest.fixture(scope="module")
def world():
    """(samples, truth, what a perfect network finds)."""
    source, truth = detection_source(WORLD, "test", stuff=True), ground_truth(WORLD, "test", stuff=True)
    samples = [source[place] for place in range(len(source))]
    names = ("image", "boxes", "labels", "valid", "semantic")
    columns = {name: np.stack([each[name] for each in samples]) for name in names}
    maps = np.stack([each["instances"] for each in samples])
    masks = maps[:, None] == 1 + np.arange(SLOTS)[:, None, None]
    scores = np.where(columns["valid"], 0.875, 0).astype(np.float32)
    return source, truth, {**columns, "scores": scores, "masks": masks.astype(np.float32)}


def remembered(variables, images):
    """What is stored for an image."""
    same = jnp.all(images[:, None] == variables["image"][None], axis=(2, 3, 4))
    at = jnp.argmax(same, 1)
    return Instances(*(variables[name][at] for name in Instances._fields)), variables["semantic"][at]


def whole(found, row, places, box):
    """Masks that have the size of the image already."""
    assert (box.width, box.height) == (SIDE, SIDE)
    return [rle.encode(np.asarray(found.masks[row][place]) > 0.5) for place in places]


ALL_STUFF = MergingConfig(least_stuff=1)


def evaluated(world, merging=ALL_STUFF, **changes):
    source, truth, values = world
    compiler = Compiler(make_mesh(MeshConfig()))
    evaluate = evaluator(compiler, remembered, InstanceDetectorConfig(), merging, paste=whole)
    test = DetectionSet(lambda: evaluation_batches(source, batch_size=8), lambda: truth, SIDE, "toys")
    return evaluate(compiler.replicate({**values, **changes}), test)


def test_the_truth_is_perfect_and_a_constant_is_not(world):
    made = evaluated(world)
    for group in ("", "things_", "stuff_"):
        for kind in ("panoptic", "segmentation", "recognition"):
            assert made.scalars[f"{group}{kind}_quality"] == 1.0
    assert made.scalars["mask_average_precision"] == 1.0
    assert {value for name, value in made.scalars.items() if name.startswith("class_panoptic_quality/")} == {1.0}
    assert {"panoptic", "panoptic_worst", "class_panoptic_quality", "found", "mistakes"} <= set(made.images)
    assert set(made.protocol) == set(made.scalars)
    truth = world[1]
    areas = np.zeros(2)
    for image in truth.images:
        areas[image.stuff.labels] += [rle.area(each) for each in image.stuff.masks]
    most = truth.stuff_names[int(areas.argmax())]
    everywhere = np.full_like(world[2]["semantic"], 1 + areas.argmax())
    constant = evaluated(world, scores=0 * world[2]["scores"], semantic=everywhere)
    for name in ("panoptic_quality", "stuff_panoptic_quality", f"class_panoptic_quality/{most}"):
        assert f"{most} everywhere gets {constant.scalars[name]:.4f}" in made.protocol[name]
        assert 0 < constant.scalars[name] < 1
    assert "things_panoptic_quality" in made.protocol
    assert "stuff of 1 pixels or more" in made.protocol["panoptic_quality"]


def test_errors_of_things_and_of_stuff_are_told_apart(world):
    values = world[2]
    wrong = np.where(values["semantic"] > 0, 3 - values["semantic"], 0).astype(np.uint8)
    stuff = evaluated(world, semantic=wrong)
    assert (stuff.scalars["things_panoptic_quality"], stuff.scalars["stuff_panoptic_quality"]) == (1.0, 0.0)
    things = evaluated(world, labels=(values["labels"] + 1) % 8)
    assert things.scalars["things_panoptic_quality"] < 0.5
    assert things.scalars["stuff_panoptic_quality"] == 1.0
    few = evaluated(world, merging=MergingConfig(least_stuff=SIDE**2))
    assert few.scalars["stuff_panoptic_quality"] == 0.0
    assert not np.array_equal(stuff.images["panoptic"], things.images["panoptic"])


def test_segments_of_the_truth():
    column = lambda x: rle.encode(np.arange(3)[None].repeat(2, 0) == x)
    image = AnnotatedImage(
        file=None,
        height=2,
        width=3,
        image_id=4,
        boxes=np.float32([[0, 0, 1, 2]]),
        labels=np.int32([1]),
        crowd=np.array([True]),
        area=np.float32([2]),
        masks=(column(0),),
        stuff=Stuff(np.int32([2]), (column(1),)),
    )
    true = true_segments(image, things=5)
    np.testing.assert_array_equal(true.map, [[1, 2, 0]] * 2)
    assert (true.labels.tolist(), true.crowd.tolist()) == ([1, 7], [True, False])
    with pytest.raises(ValueError, match="the stuff of the image 4 was not read"):
        true_segments(replace(image, stuff=None), things=5)


def test_files_are_written_in_the_form_that_is_read(world, tmp_path):
    source, truth, values = world
    compiler = Compiler(make_mesh(MeshConfig()))
    names, things = (*truth.class_names, *truth.stuff_names), len(truth.class_names)
    (tmp_path / "images").mkdir()
    files = [tmp_path / "images" / f"{place}.png" for place in range(4)]
    for place, file in enumerate(files):
        Image.fromarray(source[place]["image"]).save(file)
    (tmp_path / "images" / "no.png").write_bytes(b"none")
    merging = MergingConfig(least_stuff=1)
    predict = panoptic_files(
        compiler, remembered, merging, class_names=names, things=things, resolution=SIDE, paste=whole
    )
    lines = predict(compiler.replicate(values), [*files, tmp_path / "images" / "no.png"], tmp_path / "out")
    assert len(lines) == 6
    kind = truth.stuff_names[truth.images[0].stuff.labels[0]]
    assert f"{kind} " in lines[0]
    assert "%" in lines[0]
    assert "skipped, it cannot be decoded" in lines[4]
    assert np.asarray(Image.open(tmp_path / "out" / "0.png")).shape[2] == 3
    read = read_panoptic(tmp_path / "out" / "panoptic.json", tmp_path / "images")
    assert (read.class_names, read.stuff_names) == (truth.class_names, truth.stuff_names)
    for found, true in zip(read.images, truth.images, strict=False):
        assert sorted(map(rle.area, found.masks)) == sorted(map(rle.area, true.masks))
        np.testing.assert_array_equal(found.stuff.labels, true.stuff.labels)
        np.testing.assert_array_equal(rle.decode(found.stuff.masks[0]), rle.decode(true.stuff.masks[0]))
        np.testing.assert_array_equal(np.sort(found.labels), np.sort(true.labels))
    with pytest.raises(UserError, match=r"there is nothing to predict: .*no\.png cannot be decoded"):
        predict(compiler.replicate(values), [tmp_path / "images" / "no.png"], tmp_path / "out")
