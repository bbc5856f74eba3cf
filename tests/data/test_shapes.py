"""The shapes world: determinism, annotations against one another and brute force, balance, messages."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vision.data.shapes.outlines import OUTLINES
from vision.data.shapes.world import (
    COLOURS,
    SHAPES,
    ShapesConfig,
    ShapesSource,
    class_names,
    instance_masks,
    render_scenes,
)
from vision.errors import UserError


@st.composite
def configs(draw_value):
    resolution = draw_value(st.sampled_from([24, 32, 45, 64]))
    most = draw_value(st.integers(1, 6))
    fitting = 1 / np.ceil(np.sqrt(most))
    least = draw_value(st.floats(6 / resolution, fitting * 0.999))
    return ShapesConfig(
        resolution=resolution,
        min_objects=draw_value(st.integers(1, most)),
        max_objects=most,
        min_size=least,
        max_size=draw_value(st.floats(least, 1.0)),
        min_visible=draw_value(st.floats(0.2, 1)),
        shapes=tuple(draw_value(st.lists(st.sampled_from(SHAPES), min_size=1, unique=True))),
        colours=tuple(draw_value(st.lists(st.sampled_from(COLOURS), min_size=1, unique=True))),
        relief=draw_value(st.sampled_from([0.0, 1.0])),
    )


@settings(max_examples=25, deadline=None)
@given(config=configs(), seed=st.integers(0, 2**63 - 1))
def test_a_scene_is_the_same_by_itself_and_in_any_batch(config, seed):
    indices = np.array([11, 0, 2**40, 5, 11, 3])
    together = render_scenes(config, seed=seed, indices=indices)
    for place, index in enumerate(indices):
        alone = render_scenes(config, seed=seed, indices=np.array([index]))
        for name, array in together.items():
            assert array[place].tobytes() == alone[name][0].tobytes(), name


def test_chunks_do_not_show():
    config = ShapesConfig(resolution=64, max_objects=4, min_size=0.2)
    whole = render_scenes(config, seed=0, indices=np.arange(40))
    parts = [render_scenes(config, seed=0, indices=np.arange(start, start + 5)) for start in range(0, 40, 5)]
    for name, array in whole.items():
        assert np.array_equal(array, np.concatenate([part[name] for part in parts])), name


@settings(max_examples=25, deadline=None)
@given(config=configs(), seed=st.integers(0, 1000))
def test_annotations_agree(config, seed):
    n, m, r = 6, config.max_objects, config.resolution
    scenes = render_scenes(config, seed=seed, indices=np.arange(n))
    assert scenes["image"].shape == (n, r, r, 3)
    assert scenes["image"].dtype == scenes["instances"].dtype == scenes["semantic"].dtype == np.uint8
    assert scenes["label"].dtype == scenes["shape"].dtype == scenes["colour"].dtype == np.int32
    assert scenes["boxes"].dtype == np.float32
    count = scenes["valid"].sum(1)
    assert ((count >= config.min_objects) & (count <= m)).all()
    masks = instance_masks(scenes["instances"], m)
    assert masks.shape == (n, m, r, r)
    for i in range(n):
        assert scenes["label"][i] == scenes["shape"][i, 0] * len(config.colours) + scenes["colour"][i, 0]
        assert scenes["size"][i, 0] == scenes["size"][i].max()
        assert scenes["valid"][i].tolist() == [True] * count[i] + [False] * (m - count[i])
        semantic = np.zeros((r, r), int)
        for k in range(m):
            if k >= count[i]:
                assert not masks[i, k].any()
                assert not scenes["boxes"][i, k].any()
                continue
            rows, columns = np.nonzero(masks[i, k])
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert scenes["boxes"][i, k].tolist() == box
            # An object of the stated size fits into the image, and its visible box into its disc.
            assert max(box[2] - box[0], box[3] - box[1]) <= scenes["size"][i, k] * r + 1
            semantic[masks[i, k]] = 1 + scenes["shape"][i, k]
        assert np.array_equal(semantic, scenes["semantic"][i])


@settings(max_examples=25, deadline=None)
@given(config=configs(), seed=st.integers(0, 1000))
def test_every_object_stays_visible(config, seed):
    scenes = render_scenes(config, seed=seed, indices=np.arange(8))
    valid = scenes["valid"]
    assert (scenes["visible"][valid] >= config.min_visible - 1e-6).all()
    # The pixels seen are that share of the figure's area, known in closed form, up to a rim of half a pixel.
    seen = instance_masks(scenes["instances"], config.max_objects).sum((2, 3))[valid]
    radius = scenes["size"][valid] * config.resolution / 2
    area = np.array([OUTLINES[SHAPES.index(name)].area for name in config.shapes])[scenes["shape"][valid]]
    assert (np.abs(seen / scenes["visible"][valid] - area * radius**2) < 0.25 * area * radius**2 + 4).all()


def test_objects_hide_one_another():
    config = ShapesConfig(min_objects=3, max_objects=3, min_visible=0.6)
    visible = render_scenes(config, seed=0, indices=np.arange(200))["visible"]
    assert 0.2 < (visible < 0.95).mean() < 0.8
    assert (
        render_scenes(dataclasses.replace(config, min_visible=1.0), seed=0, indices=np.arange(50))["visible"].min() == 1
    )


def test_edges_are_anti_aliased_and_the_colour_is_the_named_one():
    config = ShapesConfig(shapes=("circle",), colours=("red",), backgrounds=("solid",), relief=0.0, shade_jitter=0.0)
    scenes = render_scenes(config, seed=0, indices=np.arange(50))
    for image, size in zip(scenes["image"].astype(float), scenes["size"], strict=True):
        ground = image[0, 0]
        figure = np.array([222, 42, 46])
        share = (image - ground) @ (figure - ground) / ((figure - ground) @ (figure - ground))
        assert share.sum() == pytest.approx(np.pi * (0.88 * size * 16) ** 2, rel=0.02)
        assert ((share > 0.05) & (share < 0.95)).sum() > 8


@pytest.mark.parametrize("most", [1, 3])
def test_classes_are_balanced(most):
    config = ShapesConfig(resolution=16, max_objects=most, min_size=0.4, min_visible=0.7)
    scenes = render_scenes(config, seed=1, indices=np.arange(6400))
    assert stats.chisquare(np.bincount(scenes["label"], minlength=64)).pvalue > 0.001
    assert stats.chisquare(np.bincount(scenes["valid"].sum(1))[1:]).pvalue > 0.001 or most == 1


def test_labels_follow_the_class_names():
    config = ShapesConfig(shapes=("star", "circle"), colours=("pink", "blue", "red"))
    names = class_names(config)
    assert names == ("pink star", "blue star", "red star", "pink circle", "blue circle", "red circle")
    scenes = render_scenes(config, seed=0, indices=np.arange(30))
    for label, shape, colour in zip(scenes["label"], scenes["shape"], scenes["colour"], strict=True):
        assert names[label] == f"{config.colours[colour[0]]} {config.shapes[shape[0]]}"


def test_splits_and_seeds_have_no_scene_in_common():
    config = ShapesConfig(resolution=16, min_size=0.5)
    images = [
        render_scenes(config, seed=seed, indices=np.arange(1000), split=split)["image"]
        for seed, split in ((0, "train"), (0, "validation"), (0, "test"), (1, "train"))
    ]
    assert len({image.tobytes() for image in np.concatenate(images)}) == 4000


def test_source_is_a_random_access_view_of_render_scenes():
    source = ShapesSource(config=ShapesConfig(resolution=16, min_size=0.5), seed=4, size=9, split="test")
    samples = list(source)
    assert len(samples) == len(source) == 9
    assert source.class_names == class_names(source.config)
    arrays = source.arrays(("image", "label", "boxes"))
    assert set(arrays) == {"image", "label", "boxes"}
    assert set(source.arrays()) == {"image", "label"}
    scenes = render_scenes(source.config, seed=4, indices=np.arange(9), split="test")
    for name, array in arrays.items():
        assert np.array_equal(array, np.stack([sample[name] for sample in samples]))
        assert np.array_equal(array, scenes[name])
    for index in (-1, 9):
        with pytest.raises(IndexError):
            source[index]


def test_no_indices_give_empty_arrays():
    scenes = render_scenes(ShapesConfig(), seed=0, indices=np.array([], int))
    assert scenes["image"].shape == (0, 32, 32, 3)
    assert scenes["boxes"].shape == (0, 1, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shapes": ("blob",)}, "shapes has no 'blob'; choose from circle, square"),
        ({"colours": ()}, "colours is empty; choose from red, orange"),
        ({"colours": ("red", "red")}, "colours has a name twice"),
        ({"backgrounds": ("photo",)}, "backgrounds has no 'photo'; choose from solid"),
        ({"resolution": 7}, "resolution is 7"),
        ({"min_objects": 3, "max_objects": 2}, "min_objects is 3 and max_objects is 2"),
        ({"min_size": 0.5, "max_size": 0.4}, "min_size is 0.5 and max_size is 0.4"),
        ({"min_size": 0.1}, "raise min_size to 0.188"),
        ({"max_objects": 5, "min_size": 0.4}, "lower min_size to 0.333 or max_objects to 4"),
        ({"min_visible": 0.0}, "min_visible is 0.0"),
        ({"shade_jitter": 0.5}, "shade_jitter is 0.5"),
        ({"relief": 2.0}, "relief is 2.0"),
    ],
)
def test_impossible_configs_say_what_to_do(options, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        ShapesConfig(**options)


@pytest.mark.usefixtures("unchecked")
def test_impossible_requests_say_what_to_do():
    config = ShapesConfig()
    with pytest.raises(UserError, match="seed is -1"):
        render_scenes(config, seed=-1, indices=np.arange(2))
    with pytest.raises(UserError, match="indices reach from -3 to 2"):
        render_scenes(config, seed=0, indices=np.array([-3, 2]))
    with pytest.raises(UserError, match="split is 'dev'; choose from train, validation, test"):
        render_scenes(config, seed=0, indices=np.arange(2), split="dev")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="no field 'mask'; choose from image, label"):
        ShapesSource(size=2).arrays(("mask",))
    with pytest.raises(UserError, match="size is 0"):
        ShapesSource(size=0)
