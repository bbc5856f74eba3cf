"""Instance maps of samples: aligned with their images, in the order of the boxes, and counted in memory."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from vision.data.box_padding import largest_boxes, padded_boxes
from vision.data.content import content_of
from vision.data.detection import DetectionConfig, detection_source, ground_truth
from vision.data.instance_maps import instance_map, map_dtype, renumbered_map
from vision.data.letterbox import Letterbox, letterboxed
from vision.data.shapes.world import ShapesConfig, render_scenes
from vision.data.source import ArraySource, layout
from vision.errors import UserError
from vision.ops import rle

BYTE = np.dtype(np.uint8)
SHAPES = DetectionConfig(
    resolution=48, max_boxes=8, shapes=ShapesConfig(max_objects=6, min_size=0.2, max_size=0.4), shapes_count=8
)


@settings(max_examples=200)
@given(
    sides=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    resolution=st.integers(1, 50),
    ends=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_a_mask_is_where_its_box_is_to_half_a_pixel(sides, resolution, ends):
    width, height = sides
    x0, x1 = sorted(round(end * width) for end in ends[:2])
    y0, y1 = sorted(round(end * height) for end in ends[2:])
    assume(x0 < x1 and y0 < y1)
    mask = np.zeros((height, width), bool)
    mask[y0:y1, x0:x1] = True
    box = Letterbox(width, height, resolution)
    found = instance_map([rle.encode(mask)], box, BYTE)
    exact = box.to_square(np.array([x0, y0, x1, y1], np.float32))
    if not found.any():
        assert (exact[2:] - exact[:2]).min() < 1
        return
    # a pixel is of the mask if its centre is within the box, so that no border moves by more than half a pixel
    np.testing.assert_allclose(rle.box(rle.encode(found > 0)), exact, atol=0.5 + 1e-4)
    assert (found > 0).sum() == np.prod(np.diff(rle.box(rle.encode(found > 0)).reshape(2, 2), axis=0))


@settings(max_examples=100)
@given(
    width=st.integers(20, 90),
    height=st.integers(20, 90),
    resolution=st.integers(15, 90),
    place=st.floats(0.35, 0.65),
    turned=st.booleans(),
)
def test_a_mask_is_where_its_image_is_to_half_a_pixel(width, height, resolution, place, turned):
    """An image that is black up to a line and white from there: its grey crosses the middle where the mask begins."""
    mask = np.zeros((height, width), bool)
    mask[:, round(place * width) :] = True
    if turned:
        mask = mask.T
    image = letterboxed(Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)), resolution)[..., 0]
    box = Letterbox(mask.shape[1], mask.shape[0], resolution)
    found = instance_map([rle.encode(mask)], box, BYTE)
    (x, y), (inner_width, inner_height) = box.offset, box.size
    inside = np.zeros((resolution, resolution), bool)
    inside[y : y + inner_height, x : x + inner_width] = True
    assert (found[~inside] == 0).all()
    assert (found[inside & (image > 160)] == 1).all()
    assert (found[inside & (image < 95)] == 0).all()


def test_smaller_instances_are_on_top():
    def filled(x0, y0, x1, y1):
        mask = np.zeros((8, 8), bool)
        mask[y0:y1, x0:x1] = True
        return rle.encode(mask)

    masks = [filled(2, 2, 4, 4), filled(0, 0, 8, 8), filled(0, 0, 4, 4), filled(4, 0, 8, 4), filled(5, 0, 8, 4)]
    masks += [filled(4, 4, 6, 8), filled(5, 4, 7, 8)]  # of equal size
    found = instance_map(masks, Letterbox(8, 8, 8), BYTE)
    assert found.dtype == np.uint8
    for x, y, number in ((3, 3, 1), (0, 7, 2), (0, 0, 3), (4, 0, 4), (7, 0, 5), (4, 4, 6), (5, 4, 7), (6, 4, 7)):
        assert found[y, x] == number
    assert not instance_map([], Letterbox(8, 8, 8), BYTE).any()


def test_dtypes():
    assert [map_dtype(count) for count in (1, 255, 256, 65_535)] == ["uint8", "uint8", "uint16", "uint16"]
    with pytest.raises(UserError, match=r"at most 65,535 instances with masks: --data.max-boxes is 65536"):
        map_dtype(65_536)
    with pytest.raises(UserError, match="at most 65,535"):
        detection_source(replace(SHAPES, max_boxes=65_536), "train", masks=True)


def test_numbers_follow_the_selection():
    instances = np.arange(8, dtype=np.uint8).reshape(2, 4)
    found = renumbered_map(instances, np.array([0, 3, 4]), np.dtype(np.uint16))
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, [[0, 1, 0, 0], [2, 3, 0, 0]])


# colours of the instances below, far from each other and from black
COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], np.uint8)


@pytest.fixture
def coco(tmp_path):
    """Three images of odd sizes whose colours are their instances, rectangles apart; the second has a crowd."""
    sizes = {"a": (37, 23), "b": (29, 41), "c": (33, 33)}
    boxes = {
        "a": [[2, 3, 9, 8], [14, 2, 20, 19]],
        "b": [[0, 0, 29, 6], [1, 10, 4, 5], [8, 10, 18, 28], [2, 20, 3, 8], [0, 16, 7, 2]],
    }
    (tmp_path / "images").mkdir()
    images, annotations = [], []
    for number, (name, (width, height)) in enumerate(sizes.items()):
        pixels = np.zeros((height, width, 3), np.uint8)
        for place, (x, y, w, h) in enumerate(boxes.get(name, [])):
            crowd = name == "b" and place == 0
            outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            fields = {"bbox": [x, y, w, h], "segmentation": outline, "iscrowd": int(crowd)}
            annotations.append({"image_id": number, "category_id": 1, **fields})
            pixels[y : y + h, x : x + w] = COLOURS[place if name == "b" else place + 1] if not crowd else 0
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
        images.append({"id": number, "file_name": f"{name}.png", "width": width, "height": height})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "set.json").write_text(json.dumps(content))
    files = {f"{split}_{what}": name for split in ("train", "test") for what, name in (("json", "set.json"),)}
    return DetectionConfig(
        name="coco", dir=tmp_path, **files, train_images="images", test_images="images", resolution=64, max_boxes=4
    )


def _agrees(sample, colours):
    """Away from edges, the colour of each pixel is that of the box that the map names."""
    image, instances = sample["image"].astype(int), sample["instances"]
    near = np.abs(image[:, :, None] - colours.astype(int)).max(-1)
    sure = near.min(-1) < 60
    np.testing.assert_array_equal(instances[sure], near.argmin(-1)[sure])
    assert set(instances[sure].tolist()) == set(range(len(colours)))


@pytest.mark.parametrize("stream", [False, True])
def test_maps_agree_with_the_colours_of_images(coco, stream):
    source = detection_source(replace(coco, stream=stream), "train", masks=True)
    assert isinstance(source, ArraySource) is not stream
    samples = [source[index] for index in range(3)]
    assert layout(samples[0]) == (
        "boxes float32 [4, 4], image uint8 [64, 64, 3], index int32 [], instances uint8 [64, 64], labels int32 [4], "
        "valid bool [4]"
    )
    _agrees(samples[0], COLOURS[:3])
    _agrees(samples[1], COLOURS)  # without its crowd
    assert not samples[2]["instances"].any()
    for sample in samples:
        for number in range(1, 1 + sample["valid"].sum()):
            found = rle.box(rle.encode(sample["instances"] == number))
            np.testing.assert_allclose(found, sample["boxes"][number - 1], atol=0.501)


def test_maps_follow_the_selection_of_the_largest(coco):
    """The second and fourth of the second image are the smallest and go; the rest keeps its order."""
    sample = detection_source(replace(coco, max_boxes=2), "train", masks=True)[1]
    truth = ground_truth(coco, "train", masks=True).images[1]
    own = np.flatnonzero(~truth.crowd)
    kept = own[np.sort(np.argsort(-truth.area[own], kind="stable")[:2])]
    assert kept.tolist() != own[:2].tolist()
    _agrees(sample, COLOURS[[0, *kept]])


def test_samples_are_otherwise_those_without_masks(coco):
    for config in (coco, SHAPES, replace(coco, max_boxes=2), replace(SHAPES, max_boxes=2, stream=True)):
        with_masks, without = (detection_source(config, "train", masks=masks) for masks in (True, False))
        for index in range(len(without)):
            one, other = dict(with_masks[index]), without[index]
            del one["instances"]
            assert layout(one) == layout(other)
            for name, value in other.items():
                np.testing.assert_array_equal(one[name], value)


def test_many_boxes_take_a_wider_dtype(coco):
    for config in (coco, SHAPES, replace(SHAPES, stream=True)):
        few, many = (detection_source(replace(config, max_boxes=count), "train", masks=True) for count in (255, 256))
        assert (few[0]["instances"].dtype, many[0]["instances"].dtype) == (np.uint8, np.uint16)
        np.testing.assert_array_equal(few[0]["instances"], many[0]["instances"])
        assert few[0]["instances"].any()


def test_maps_are_counted_in_memory(coco):
    for boxes, each in ((4, 1), (256, 2)):
        config = replace(coco, max_boxes=boxes)
        needed = 3 * (64 * 64 * (3 + each) + boxes * 21 + 4)
        assert isinstance(detection_source(config, "train", masks=True, limit_bytes=needed), ArraySource)
        with pytest.raises(UserError, match=r"need .* GiB of memory"):
            detection_source(config, "train", masks=True, limit_bytes=needed - 1)
        detection_source(config, "train", limit_bytes=needed - 3 * 64 * 64 * each)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("boxes", [8, 3])
def test_maps_of_the_shapes_world(boxes, stream):
    config = replace(SHAPES, max_boxes=boxes, stream=stream, shapes_count=24)
    source = detection_source(config, "train", masks=True)
    scenes = render_scenes(replace(SHAPES.shapes, resolution=48), seed=0, indices=np.arange(24), split="train")
    others = 0
    for index in range(24):
        sample, slots = source[index], scenes["instances"][index]
        kept = largest_boxes(scenes["boxes"][index][scenes["valid"][index]], boxes)
        assert sample["valid"].sum() == len(kept)
        for place, slot in enumerate(kept):
            np.testing.assert_array_equal(sample["instances"] == 1 + place, slots == 1 + slot)
            mask = rle.encode(sample["instances"] == 1 + place)
            np.testing.assert_array_equal(rle.box(mask), sample["boxes"][place])
        assert ((sample["instances"] == 0) == ~np.isin(slots, 1 + kept)).all()
        others += kept.tolist() != list(range(len(kept)))
    assert (others > 0) == (boxes == 3)  # some scenes have larger boxes behind smaller ones


def test_ground_truth_of_the_shapes_world():
    truth, plain = (ground_truth(SHAPES, "train", masks=masks) for masks in (True, False))
    scenes = render_scenes(replace(SHAPES.shapes, resolution=48), seed=0, indices=np.arange(8), split="train")
    assert truth.counts.masks
    assert str(truth.counts).startswith(f"8 images with {plain.counts.boxes} instances of ")
    for index, (image, other) in enumerate(zip(truth.images, plain.images, strict=True)):
        assert other.masks is None
        for name in ("boxes", "labels", "crowd", "image_id", "width", "height"):
            np.testing.assert_array_equal(getattr(image, name), getattr(other, name))
        for slot, mask in enumerate(image.masks):
            np.testing.assert_array_equal(rle.decode(mask), scenes["instances"][index] == 1 + slot)
        assert image.area.dtype == np.float32
        np.testing.assert_array_equal(image.area, [rle.area(mask) for mask in image.masks])
        assert (image.area < other.area).any()


def test_masks_are_part_of_the_content_and_scenes_keep_theirs(coco, tmp_path):
    streamed = replace(coco, stream=True)
    contents = [content_of(detection_source(streamed, "train", masks=masks)) for masks in (False, True)]
    assert contents[0] != contents[1]
    path = tmp_path / "set.json"
    changed = json.loads(path.read_text())
    changed["annotations"][0]["segmentation"] = [[2, 3, 11, 3, 11, 10]]
    path.write_text(json.dumps(changed))
    moved = replace(streamed, dir=tmp_path / "." / "images" / "..")  # so that it is read again
    again = [content_of(detection_source(moved, "train", masks=masks)) for masks in (False, True)]
    assert again[0] == contents[0]
    assert again[1] != contents[1]
    scenes = [
        content_of(detection_source(replace(SHAPES, stream=True), "train", masks=masks)) for masks in (False, True)
    ]
    assert scenes[0] == scenes[1]


def test_worker_processes_can_be_handed_a_source(coco):
    for config in (coco, SHAPES):
        source = detection_source(replace(config, stream=True), "train", masks=True)
        copy = pickle.loads(pickle.dumps(source))
        np.testing.assert_array_equal(copy[1]["instances"], source[1]["instances"])


def test_what_padding_keeps():
    boxes = np.array([[0, 0, 2, 2], [0, 0, 9, 9], [1, 1, 3, 3], [0, 0, 5, 1]], np.float32)
    kept = largest_boxes(boxes, 3)
    np.testing.assert_array_equal(kept, [0, 1, 3])
    np.testing.assert_array_equal(padded_boxes(boxes, np.arange(4, dtype=np.int32), 3)["boxes"], boxes[kept])


def test_other_formats(tmp_path):
    """A square in text and in VOC's masks, from the lists of segmentation."""
    for folder in (
        "images",
        "labels",
        "JPEGImages",
        "SegmentationObject",
        "SegmentationClass",
        "ImageSets/Segmentation",
    ):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("images/a.png", "JPEGImages/a.jpg"):
        Image.new("RGB", (32, 24)).save(tmp_path / name)
    (tmp_path / "labels" / "a.txt").write_text("0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n")
    (tmp_path / "classes.txt").write_text("cat\n")
    square = np.zeros((24, 32), np.uint8)
    square[6:18, 8:24] = 1
    for name in ("SegmentationObject", "SegmentationClass"):
        Image.fromarray(square).save(tmp_path / name / "a.png")
    (tmp_path / "ImageSets" / "Segmentation" / "train.txt").write_text("a\n")
    folders = {"train_images": "images", "test_images": "images"}
    for name in ("text", "voc"):
        config = DetectionConfig(name=name, dir=tmp_path, **folders, resolution=16, max_boxes=3)
        source = detection_source(config, "train", masks=True)
        assert source.class_names == ("cat",)
        expected = np.zeros((16, 16), np.uint8)
        expected[5:11, 4:12] = 1
        np.testing.assert_array_equal(source[0]["instances"], expected)
        np.testing.assert_array_equal(source[0]["boxes"][0], [4, 5, 12, 11])
    for each in ("SegmentationObject", "SegmentationClass"):
        Image.fromarray(np.zeros_like(square)).save(tmp_path / each / "a.png")
    with pytest.raises(UserError, match=r"None of the 1 images .*: the masks in .*SegmentationObject have no objects"):
        detection_source(replace(config, resolution=17), "train", masks=True)


def test_scenes_that_are_enlarged_have_their_boxes_and_masks_enlarged():
    plain = replace(SHAPES, resolution=32, shapes=ShapesConfig(max_objects=3, min_size=0.3))
    large = replace(plain, resolution=64, shapes_reduction=2, stream=True)
    small, enlarged = detection_source(plain, "train", masks=True), detection_source(large, "train", masks=True)
    together = detection_source(replace(large, stream=False), "train", masks=True)
    for place in range(6):
        one, other = small[place], enlarged[place]
        assert other["image"].shape == (64, 64, 3)
        np.testing.assert_array_equal(other["boxes"], 2 * one["boxes"])
        np.testing.assert_array_equal(other["instances"][::2, ::2], one["instances"])
        np.testing.assert_array_equal(other["instances"][1::2, 1::2], one["instances"])
        near = np.abs(other["image"].reshape(32, 2, 32, 2, 3).mean((1, 3)) - one["image"])
        assert near.mean() < 5
        for name, value in other.items():
            np.testing.assert_array_equal(together[place][name], value)
    true, same = (ground_truth(config, "train", masks=True).images for config in (large, plain))
    assert [each.masks for each in true] == [each.masks for each in same]
    with pytest.raises(UserError, match="shapes_reduction must divide"):
        replace(plain, shapes_reduction=3)
