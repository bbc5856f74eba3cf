import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tyro
from PIL import Image

from vision.data.box_padding import padded_boxes
from vision.data.detection import DetectionConfig, description, detection_source, ground_truth
from vision.data.letterbox import PAD, Letterbox
from vision.data.pipeline import batches, evaluation_batches
from vision.data.shapes.world import ShapesConfig, render_scenes
from vision.data.source import ArraySource, layout
from vision.errors import UserError

LAYOUT = "boxes float32 [3, 4], image uint8 [16, 16, 3], index int32 [], labels int32 [3], valid bool [3]"
SHAPES = DetectionConfig(
    resolution=32, max_boxes=3, shapes=ShapesConfig(max_objects=4, min_size=0.25, max_size=0.4), shapes_count=6
)


def picture(path, seed, size=(32, 24)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def coco(tmp_path):
    """Three training images (with two boxes, with five and a crowd, with none) and one to evaluate on."""
    names = {"train": ("a", "b", "c"), "test": ("d",)}
    boxes = {
        "a": [(1, [8, 6, 16, 12], 0), (2, [0, 0, 4, 4], 0)],
        "b": [(1, [0, 0, side, side], 0) for side in (4, 12, 2, 8, 6)] + [(2, [0, 0, 32, 24], 1)],
        "d": [(2, [2, 2, 20, 20], 0)],
    }
    for split, pictures in names.items():
        images, annotations = [], []
        for number, name in enumerate(pictures, start=1):
            picture(tmp_path / "images" / split / f"{name}.png", number)
            images.append({"id": 10 * number, "file_name": f"{name}.png", "width": 32, "height": 24})
            for category, box, crowd in boxes.get(name, []):
                entry = {"image_id": 10 * number, "category_id": category, "bbox": box, "iscrowd": crowd}
                annotations.append(entry)
        categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
        (tmp_path / f"{split}.json").write_text(text)
    return DetectionConfig(
        name="coco",
        dir=tmp_path,
        train_json="train.json",
        test_json="test.json",
        train_images="images/train",
        test_images="images/test",
        resolution=16,
        max_boxes=3,
    )


@pytest.mark.parametrize("stream", [False, True])
def test_samples_of_coco(coco, stream):
    source = detection_source(replace(coco, stream=stream), "train")
    assert isinstance(source, ArraySource) is not stream
    assert len(source) == 3
    assert source.class_names == ("cat", "dog")
    samples = [source[index] for index in range(3)]
    assert {layout(sample) for sample in samples} == {LAYOUT}
    assert [int(sample["index"]) for sample in samples] == [0, 1, 2]
    # 32x24 in a square of 16: halved, two pixels of padding above and below
    np.testing.assert_array_equal(samples[0]["boxes"], [[4, 5, 12, 11], [0, 2, 2, 4], [0, 0, 0, 0]])
    np.testing.assert_array_equal(samples[0]["labels"], [0, 1, 0])
    np.testing.assert_array_equal(samples[0]["valid"], [True, True, False])
    # The largest three of five, as they come, and no crowd
    np.testing.assert_array_equal(samples[1]["boxes"][:, 2], [6, 4, 3])
    assert samples[1]["valid"].all()
    assert not samples[1]["labels"].any()
    assert not samples[2]["valid"].any()
    assert not samples[2]["boxes"].any()
    for sample, name in zip(samples, "abc", strict=True):
        with Image.open(coco.dir / "images" / "train" / f"{name}.png") as image:
            small = np.asarray(image.resize((16, 12), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(sample["image"][2:14], small)
        assert (sample["image"][[0, 1, 14, 15]] == PAD).all()


def test_ground_truth_keeps_crowds_and_original_pixels(coco):
    found = ground_truth(coco, "train")
    assert [picture.image_id for picture in found.images] == [10, 20, 30]
    np.testing.assert_array_equal(found.images[0].boxes, [[8, 6, 24, 18], [0, 0, 4, 4]])
    np.testing.assert_array_equal(found.images[1].crowd, [False] * 5 + [True])
    assert found.category_ids == (1, 2)
    assert (found.counts.boxes, found.counts.crowd, found.counts.background) == (7, 1, 1)
    assert found.counts.beyond_max_boxes == 2
    assert "Beyond the maximum per image (the smallest): 2 boxes." in str(found.counts)
    assert ground_truth(coco, "train") is found  # read once
    test = ground_truth(coco, "test")
    assert [picture.file.name for picture in test.images] == ["d.png"]
    assert test.counts.beyond_max_boxes == 0


def test_boxes_of_samples_are_those_of_the_ground_truth(coco):
    for split in ("train", "test"):
        source = detection_source(replace(coco, max_boxes=9), split)
        for sample in (source[index] for index in range(len(source))):
            truth = ground_truth(replace(coco, max_boxes=9), split).images[int(sample["index"])]
            back = Letterbox(truth.width, truth.height, 16).from_square(sample["boxes"][sample["valid"]])
            np.testing.assert_allclose(back, truth.boxes[~truth.crowd], atol=1e-5)


@pytest.mark.parametrize("name", ["coco", "shapes"])
def test_a_few_images_to_overfit(coco, name):
    config = replace(coco if name == "coco" else SHAPES, overfit_images=2)
    train, test = (detection_source(config, split) for split in ("train", "test"))
    assert len(train) == len(test) == len(ground_truth(config, "test").images) == 2
    whole = detection_source(replace(config, overfit_images=0), "train")
    for index in range(2):
        np.testing.assert_array_equal(train[index]["image"], test[index]["image"])
        np.testing.assert_array_equal(train[index]["image"], whole[index]["image"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["coco", "shapes"])
def test_batches(coco, name, stream):
    config = replace(coco if name == "coco" else SHAPES, stream=stream)
    train = detection_source(config, "train")
    stream_of = batches(train, batch_size=4, seed=0)
    batch = next(stream_of)
    stream_of.close()
    side = config.resolution
    assert batch["image"].shape == (4, side, side, 3)
    assert batch["boxes"].shape == (4, 3, 4)
    for place, index in enumerate(batch["index"]):
        np.testing.assert_array_equal(batch["image"][place], train[int(index)]["image"])
    seen = list(evaluation_batches(train, batch_size=4))
    indices = np.concatenate([batch["index"][batch["mask"]] for batch in seen])
    np.testing.assert_array_equal(indices, np.arange(len(train)))


def test_worker_processes_can_be_handed_a_source(coco):
    for config in (coco, SHAPES):
        source = detection_source(replace(config, stream=True), "train")
        copy = pickle.loads(pickle.dumps(source))
        for name, value in source[1].items():
            np.testing.assert_array_equal(copy[1][name], value)


def test_the_shapes_world():
    config = replace(SHAPES, max_boxes=2)
    source, truth = detection_source(config, "train"), ground_truth(config, "train")
    assert source.class_names == truth.class_names == SHAPES.shapes.shapes
    assert truth.category_ids == tuple(range(1, len(SHAPES.shapes.shapes) + 1))
    scenes = render_scenes(replace(SHAPES.shapes, resolution=32), seed=0, indices=np.arange(6), split="train")
    np.testing.assert_array_equal(np.stack([source[index]["image"] for index in range(6)]), scenes["image"])
    for index, picture in enumerate(truth.images):
        valid = scenes["valid"][index]
        np.testing.assert_array_equal(picture.boxes, scenes["boxes"][index][valid])
        np.testing.assert_array_equal(picture.labels, scenes["shape"][index][valid])
        assert (picture.file, picture.width, picture.height, picture.image_id) == (None, 32, 32, index + 1)
        sides = picture.boxes[:, 2:] - picture.boxes[:, :2]
        np.testing.assert_array_equal(picture.area, sides.prod(1))
        sample = source[index]
        assert sample["valid"].sum() == min(2, valid.sum())
        if valid.sum() <= 2:
            np.testing.assert_array_equal(sample["boxes"][sample["valid"]], picture.boxes)
            np.testing.assert_array_equal(sample["labels"][sample["valid"]], picture.labels)
    assert truth.counts.beyond_max_boxes == np.maximum(scenes["valid"].sum(1) - 2, 0).sum() > 0
    assert truth.counts.boxes == scenes["valid"].sum()
    test = detection_source(replace(SHAPES, stream=True), "test")
    assert len(test) == 500
    assert not np.array_equal(test[0]["image"], source[0]["image"])


def test_padding_keeps_the_largest_boxes_in_order():
    boxes = np.array([[0, 0, 2, 2], [0, 0, 9, 9], [1, 1, 3, 3], [0, 0, 5, 1]], np.float32)
    labels = np.array([4, 5, 6, 7], np.int32)
    some = padded_boxes(boxes, labels, 3)
    np.testing.assert_array_equal(some["labels"], [4, 5, 7])  # of equals the first
    np.testing.assert_array_equal(some["boxes"], boxes[[0, 1, 3]])
    more = padded_boxes(boxes, labels, 6)
    np.testing.assert_array_equal(more["labels"], [4, 5, 6, 7, 0, 0])
    np.testing.assert_array_equal(more["valid"], [True] * 4 + [False] * 2)
    none = padded_boxes(boxes[:0], labels[:0], 2)
    assert layout(none) == "boxes float32 [2, 4], labels int32 [2], valid bool [2]"


def test_voc(tmp_path):
    picture(tmp_path / "JPEGImages" / "a.jpg", 0)
    picture(tmp_path / "JPEGImages" / "b.jpg", 1)
    (tmp_path / "Annotations").mkdir()
    for name, label in (("a", "dog"), ("b", "cat")):
        box = "<bndbox><xmin>9</xmin><ymin>7</ymin><xmax>24</xmax><ymax>18</ymax></bndbox>"
        size = "<size><width>32</width><height>24</height></size>"
        xml = f"<annotation>{size}<object><name>{label}</name>{box}</object></annotation>"
        (tmp_path / "Annotations" / f"{name}.xml").write_text(xml)
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("b\n")
    config = DetectionConfig(name="voc", dir=tmp_path, resolution=16, max_boxes=3, train_names="")
    source = detection_source(config, "train")
    assert (len(source), source.class_names) == (2, ("cat", "dog"))
    np.testing.assert_array_equal(source[0]["boxes"][0], [4, 5, 12, 11])
    assert layout(source[0]) == LAYOUT
    assert len(detection_source(config, "test")) == 1
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    assert detection_source(replace(config, max_boxes=4), "test").class_names == ("dog", "cat")


def test_text(tmp_path):
    for split in ("train", "val"):
        picture(tmp_path / "images" / split / "a.png", 0)
        (tmp_path / "labels" / split).mkdir(parents=True)
        (tmp_path / "labels" / split / "a.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    config = DetectionConfig(
        name="text",
        dir=tmp_path,
        train_images="images/train",
        test_images="images/val",
        classes="names.txt",
        resolution=16,
        max_boxes=3,
    )
    for split in ("train", "test"):
        source = detection_source(config, split)
        np.testing.assert_array_equal(source[0]["boxes"][0], [4, 5, 12, 11])
        assert source.class_names == ("cat", "dog")
        assert layout(source[0]) == LAYOUT


def test_damaged_images(coco):
    (coco.dir / "images" / "train" / "b.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"Sample 1 of 3 cannot be read: .*b.png cannot be used \(cannot identify"):
        detection_source(coco, "train")
    with pytest.raises(UserError, match=r"b.png cannot be used"):
        detection_source(replace(coco, stream=True), "train")[1]
    skipping = replace(coco, skip_damaged=True)
    source, truth = detection_source(skipping, "train"), ground_truth(skipping, "train")
    assert [picture.file.name for picture in truth.images] == ["a.png", "c.png"]
    assert [int(source[index]["index"]) for index in range(2)] == [0, 1]
    assert truth.counts.damaged == 1
    assert "1 damaged (b.png: cannot identify" in str(truth.counts)


def test_too_much_for_memory(coco):
    needed = 3 * (16 * 16 * 3 + 3 * 21 + 4)
    assert isinstance(detection_source(coco, "train", limit_bytes=needed), ArraySource)
    with pytest.raises(UserError, match=r"3 images of 16x16 need .* GiB of memory, more than .*: stream them"):
        detection_source(coco, "train", limit_bytes=needed - 1)
    assert len(detection_source(replace(coco, stream=True), "train", limit_bytes=0)) == 3


def test_out_of_range(coco):
    source = detection_source(replace(coco, stream=True), "train")
    for index in (-1, 3):
        with pytest.raises(IndexError):
            source[index]


@pytest.mark.parametrize(
    ("changes", "train", "test"),
    [
        ({"name": "shapes"}, "the shapes world (train), 64x64", "the shapes world (test), 64x64"),
        ({"name": "coco", "test_json": "b.json"}, None, "d/b.json (coco), letterboxed to 64x64"),
        (
            {"name": "voc", "train_names": ""},
            "d, all of Annotations (voc), letterboxed to 64x64",
            "d, val (voc), letterboxed to 64x64",
        ),
        ({"name": "text", "test_images": "i/val"}, None, "d/i/val (text), letterboxed to 64x64"),
        (
            {"name": "coco", "train_json": "a.json", "overfit_images": 8},
            "the first 8 images of d/a.json (coco), letterboxed to 64x64",
            "the first 8 images of d/a.json (coco), letterboxed to 64x64",
        ),
    ],
)
def test_the_data_description(changes, train, test):
    config = DetectionConfig(dir=Path("d"), resolution=64, **changes)
    assert description(config, "test") == test
    if train is not None:
        assert description(config, "train") == train


@pytest.mark.parametrize(
    "wrong", [{"resolution": 0}, {"max_boxes": 0}, {"overfit_images": -1}, {"workers": -1}, {"shapes_count": 0}]
)
def test_options_that_are_invalid(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(UserError, match=f"{name} must be at least .*, not {value}"):
        DetectionConfig(**wrong)


def test_the_command_line(tmp_path):
    given = ["--name", "text", "--dir", str(tmp_path), "--max-boxes", "7", "--stream", "--shapes.max-objects", "3"]
    config = tyro.cli(DetectionConfig, args=given)
    assert (config.name, config.dir, config.max_boxes, config.stream) == ("text", tmp_path, 7, True)
    assert config.shapes == replace(DetectionConfig().shapes, max_objects=3)
    with pytest.raises(SystemExit):
        tyro.cli(DetectionConfig, args=["--name", "yolo"], console_outputs=False)


def test_blood_cells(real_data):
    config = DetectionConfig(
        name="coco",
        dir=real_data / "bccd",
        train_json="train.json",
        test_json="test.json",
        train_images="images",
        test_images="images",
        resolution=64,
    )
    source, truth = detection_source(config, "test"), ground_truth(config, "test")
    assert isinstance(source, ArraySource)
    assert len(source) == 72
    assert int(source.arrays["valid"].sum()) == 945
    assert truth.counts.beyond_max_boxes == 0
    # 416x312 in a square of 64: 64x48, and 8 of padding above and below
    assert (source.arrays["image"][:, :8] == PAD).all()
    boxes = source.arrays["boxes"][source.arrays["valid"]]
    assert boxes.min() >= 0
    assert boxes[:, 1].min() >= 8
    assert boxes[:, 3].max() <= 56
