"""Instance maps through the augmentation of samples with boxes: alignment, numbers, boxes, copy-paste."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from scipy import stats

from vision.data.annotations.index_masks import VOID
from vision.data.augment.box_mixing import paste_instances
from vision.data.augment.box_padding import packed
from vision.data.augment.boxes import BoxAugmentConfig, box_augment, random_mosaic
from vision.data.augment.instances import visible_parts
from vision.data.augment.mosaic import GREY
from vision.data.instance_maps import THINGS
from vision.errors import UserError
from vision.parallel.collectives import collectives
from vision.parallel.mesh import MeshConfig, make_mesh

BATCH, SIDE, SLOTS = 8, 24, 5
NOTHING = BoxAugmentConfig(
    mosaic=0, translate=0, scale=0, hue=0, saturation=0, value=0, flip=0, least_side=0, least_area=0
)
ALL = BoxAugmentConfig(mosaic=0.6, copy_paste=0.5, pastes=2, degrees=20, shear=5, perspective=0.2, flip_vertical=0.5)
MOTIONS = {
    "separable": replace(NOTHING, mosaic=0.5, translate=0.2, scale=0.4, flip=0.5, flip_vertical=0.5),
    "projective": replace(
        NOTHING, mosaic=0.5, translate=0.2, scale=0.4, degrees=40, shear=10, perspective=0.2, flip=0.5
    ),
}


def _batch(batch=BATCH, seed=0, dtype=jnp.uint8):
    """Images whose three channels are functions of the label, black elsewhere; labels are all different."""
    generator = np.random.default_rng(seed)
    instances = np.zeros((batch, SIDE, SIDE), np.int32)
    labels = np.zeros((batch, SLOTS), np.int32)
    valid = np.arange(SLOTS) < generator.integers(0, SLOTS + 1, (batch, 1))
    for i in range(batch):
        for k in np.flatnonzero(valid[i]):
            x, y = generator.integers(0, SIDE - 8, 2)
            w, h = generator.integers(4, 9, 2)
            instances[i, y : y + h, x : x + w] = 1 + k
            labels[i, k] = 1 + i * SLOTS + k
    boxes = np.asarray(visible_parts(jnp.asarray(instances), SLOTS)[1])
    valid &= boxes[..., 2] > boxes[..., 0]
    colours = np.concatenate([np.zeros((1, 3)), _colours(batch * SLOTS)])
    of_pixel = np.take_along_axis(np.pad(labels, ((0, 0), (1, 0))), instances.reshape(batch, -1), 1)
    image = colours[of_pixel].reshape(batch, SIDE, SIDE, 3)
    return {
        "image": jnp.asarray(image, jnp.float32),
        "boxes": jnp.asarray(boxes, jnp.float32),
        "labels": jnp.asarray(labels * valid),
        "valid": jnp.asarray(valid),
        "instances": jnp.asarray(instances, dtype),
        "id": jnp.arange(batch),
    }


def _colours(count):
    """Of the labels from 1 on, in [-1, 1], at random, so that no mixture of some is another one; none is near black."""
    colours = np.random.default_rng(9).uniform(-1, 1, (10 * count, 3))
    return colours[np.abs(colours).max(1) > 0.4][:count]


def _run(config, batch, key=0, size=None):
    run = jax.jit(lambda x, key: box_augment(x, config, size=size, key=key))
    return jax.tree.map(np.asarray, run(batch, jax.random.key(key)))


def _is_consistent(out):
    """Numbers are those of valid boxes, which enclose exactly their pixels; no more and no less."""
    for i in range(len(out["valid"])):
        instances, valid = out["instances"][i].astype(int), out["valid"][i]
        assert set(np.unique(instances)) - {0} == set((1 + np.flatnonzero(valid)).tolist())
        for k in np.flatnonzero(valid):
            rows, columns = np.nonzero(instances == 1 + k)
            exact = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_array_equal(out["boxes"][i, k], exact)


def _agrees(out):
    """Where a pixel has the colour of a label, the map names the box of that label, and none where it is black."""
    colours = np.concatenate([np.zeros((1, 3)), _colours(BATCH * SLOTS)])
    away = np.abs(out["image"][..., None, :] - colours).max(-1)
    certain = away.min(-1) < 1e-3
    labels = np.pad(out["labels"], ((0, 0), (1, 0)))
    named = np.take_along_axis(labels, out["instances"].reshape(len(labels), -1).astype(int), 1).reshape(certain.shape)
    np.testing.assert_array_equal(named[certain], away.argmin(-1)[certain])
    assert (certain & (named > 0)).mean() > 0.02


def test_visible_parts():
    generator = np.random.default_rng(0)
    instances = generator.integers(0, 7, (3, 5, 9)) * (generator.uniform(size=(3, 5, 9)) < 0.2)
    pixels, boxes = (np.asarray(of) for of in visible_parts(jnp.asarray(instances, jnp.uint8), 7))
    for i in range(3):
        for k in range(7):
            rows, columns = np.nonzero(instances[i] == 1 + k)
            assert pixels[i, k] == len(rows)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else [0] * 4
            np.testing.assert_array_equal(boxes[i, k], box)
    assert boxes.dtype == np.float32
    assert (pixels[:, 6] == 0).all()


def test_packing_renumbers():
    boxes = jnp.array([[[0, 0, 2, 2], [0, 0, 9, 9], [1, 1, 3, 3], [0, 0, 5, 1.0]]] * 2)
    valid = jnp.array([[True] * 4, [False, True, False, True]])
    instances = jnp.tile(jnp.arange(5, dtype=jnp.uint8)[None, None], (2, 1, 1))
    pack = jax.jit(
        lambda most: packed(boxes, jnp.arange(8).reshape(2, 4), valid, most, jnp.zeros(2, int), instances),
        static_argnums=0,
    )
    # of more than three the largest come, in descending order; of fewer all, in theirs
    out = pack(3)
    np.testing.assert_array_equal(out["instances"][:, 0], [[0, 3, 1, 0, 2], [0, 0, 1, 0, 2]])
    np.testing.assert_array_equal(out["labels"], [[1, 3, 0], [5, 7, 0]])
    np.testing.assert_array_equal(pack(6)["instances"][:, 0], [[0, 1, 2, 3, 4], [0, 0, 1, 0, 2]])
    assert out["instances"].dtype == jnp.int32


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_nothing_enabled_returns_the_batch(dtype):
    batch = _batch(dtype=dtype)
    # a box that is not there leaves its pixels
    batch["valid"] = batch["valid"].at[0, 0].set(False)
    out = _run(NOTHING, batch)
    assert set(out) == {*batch, "dropped_boxes"}
    assert out["instances"].dtype == dtype
    for name in ("image", "boxes", "labels", "valid", "instances"):
        np.testing.assert_array_equal(out[name][1:], batch[name][1:])
    first = np.asarray(batch["instances"][0]).astype(int)
    np.testing.assert_array_equal(out["instances"][0], np.where(first > 1, first - 1, 0))
    _agrees({name: of[1:] for name, of in out.items()})
    _is_consistent(out)


@pytest.mark.parametrize("name", ["flip", "flip_vertical"])
def test_flips(name):
    batch = _batch()
    out = _run(replace(NOTHING, **{name: 1.0}), batch)
    axis = 2 if name == "flip" else 1
    np.testing.assert_array_equal(out["instances"], jnp.flip(batch["instances"], axis=axis))
    np.testing.assert_array_equal(out["image"], jnp.flip(batch["image"], axis=axis))
    assert (out["instances"] != np.asarray(batch["instances"])).any()
    _is_consistent(out)


@pytest.mark.parametrize("size", [SIDE, 37])
@pytest.mark.parametrize("kind", MOTIONS)
def test_maps_stay_with_their_images_and_boxes_with_their_pixels(kind, size):
    batch = _batch(seed=1)
    run = jax.jit(lambda x, key: box_augment(x, MOTIONS[kind], size=size, key=key))
    mixed = 0
    for key in range(4):
        out = jax.tree.map(np.asarray, run(batch, jax.random.key(key)))
        _is_consistent(out)
        for i in np.flatnonzero(out["dropped_boxes"] == 0):
            labels = out["labels"][i][out["valid"][i]]
            mixed += len(set(((labels - 1) // SLOTS).tolist())) > 1
        whole = {name: of[out["dropped_boxes"] == 0] for name, of in out.items()}
        _agrees(whole)
    assert mixed > 1


def test_edges_are_at_the_same_place_as_in_the_image_to_half_a_pixel():
    """A square of ones on zeros, of one instance: the map is where the bilinear image is more than a half."""
    image = np.zeros((4, SIDE, SIDE, 3), np.float32)
    image[:, 6:17, 5:18] = 1.0
    batch = {
        "image": jnp.asarray(image),
        "boxes": jnp.tile(jnp.array([5.0, 6, 18, 17]), (4, 1, 1)),
        "labels": jnp.ones((4, 1), jnp.int32),
        "valid": jnp.ones((4, 1), bool),
        "instances": jnp.asarray(image[..., 0], jnp.uint8),
    }
    config = replace(NOTHING, translate=0.1, scale=0.3, flip=0.5, flip_vertical=0.5)
    run = jax.jit(lambda x, key: random_mosaic(x, config, 31, key=key))
    wrong = total = 0
    for key in range(6):
        out = jax.tree.map(np.asarray, run(batch, jax.random.key(key)))
        ones, shown = out["image"][..., 0] > 0.5, out["instances"] == 1
        # at its corners the bilinear image is below a half within the square
        rows, columns = (ones.any(axis) for axis in (2, 1))
        for i in range(4):
            np.testing.assert_allclose(shown[i].any(1).sum(), rows[i].sum(), atol=1)
            np.testing.assert_allclose(shown[i].any(0).sum(), columns[i].sum(), atol=1)
        wrong += (ones != shown).sum()
        total += shown.sum()
    assert wrong / total < 0.01


def test_rotated_boxes_are_tight():
    """A diagonal line turned by up to 45 degrees: its box is smaller than the box around the turned corners."""
    line = np.eye(SIDE, dtype=np.uint8)
    line[:4] = line[-4:] = 0
    batch = {
        "image": jnp.zeros((4, SIDE, SIDE, 3)),
        "boxes": jnp.tile(jnp.array([4.0, 4, 20, 20]), (4, 1, 1)),
        "labels": jnp.ones((4, 1), jnp.int32),
        "valid": jnp.ones((4, 1), bool),
    }
    config = replace(NOTHING, degrees=45)
    masked = _run(config, {**batch, "instances": jnp.tile(jnp.asarray(line), (4, 1, 1))})
    plain = _run(config, batch)
    _is_consistent(masked)
    low, high = (
        (masked["boxes"][:, 0, :2], plain["boxes"][:, 0, :2]),
        (masked["boxes"][:, 0, 2:], plain["boxes"][:, 0, 2:]),
    )
    tight, loose = (np.prod(far - near, axis=-1) for near, far in zip(low, high, strict=True))
    assert masked["valid"].all()
    assert (tight < loose).all()
    assert (tight < 0.4 * loose).any()


def test_instances_without_a_visible_pixel_are_dropped():
    batch = _batch(seed=2)
    hidden = jnp.where(batch["instances"] == 1, 0, batch["instances"])
    out = _run(NOTHING, {**batch, "instances": hidden})
    expected = np.asarray(batch["valid"]).sum(1) - np.asarray(batch["valid"])[:, 0]
    np.testing.assert_array_equal(out["valid"].sum(1), expected)
    assert not np.isin(out["labels"], np.asarray(batch["labels"])[:, 0][np.asarray(batch["valid"])[:, 0]]).any()
    np.testing.assert_array_equal(out["dropped_boxes"], 0)
    _is_consistent(out)


def test_rules_hold_for_the_visible_pixels():
    """The box is wide, its mask one column: too narrow by ``least_side``."""
    instances = np.zeros((4, SIDE, SIDE), np.uint8)
    instances[:, 2:20, 7] = 1
    batch = {
        "image": jnp.zeros((4, SIDE, SIDE, 3)),
        "boxes": jnp.tile(jnp.array([2.0, 2, 20, 20]), (4, 1, 1)),
        "labels": jnp.ones((4, 1), jnp.int32),
        "valid": jnp.ones((4, 1), bool),
        "instances": jnp.asarray(instances),
    }
    for rules, kept in (({}, True), ({"least_side": 1.5}, False), ({"largest_ratio": 17.0}, False)):
        out = _run(replace(NOTHING, **rules), batch)
        assert (out["valid"] == kept).all()
        assert (out["instances"].any((1, 2)) == kept).all()


def test_boxes_beyond_the_maximum_leave_no_pixels():
    """Numbers of mosaics go up to four times the maximum, beyond what the dtype of the map has room for."""
    slots = 70
    generator = np.random.default_rng(0)
    instances = generator.permutation(np.arange(24 * 24) % (slots + 1)).reshape(1, SIDE, SIDE)
    instances = np.stack([np.roll(instances[0], i, 0) for i in range(4)]).astype(np.uint8)
    _, boxes = visible_parts(jnp.asarray(instances), slots)
    batch = {
        "image": jnp.zeros((4, SIDE, SIDE, 3)),
        "boxes": boxes,
        "labels": jnp.asarray(np.arange(4 * slots, dtype=np.int32).reshape(4, slots)),
        "valid": jnp.ones((4, slots), bool),
        "instances": jnp.asarray(instances),
    }
    config = replace(NOTHING, mosaic=1.0)
    out = _run(config, batch)
    assert out["instances"].dtype == np.uint8
    assert (out["dropped_boxes"] > 0).all()
    assert out["valid"].all()
    assert out["labels"].max() >= 3 * slots
    _is_consistent(out)
    # more boxes than uint8 has room for
    many = lambda of: jnp.pad(of, [(0, 0), (0, 300 - slots), (0, 0)][: of.ndim])
    wide = _run(config, {**batch, **{name: many(batch[name]) for name in ("boxes", "labels", "valid")}})
    assert wide["instances"].dtype == np.int32
    np.testing.assert_array_equal(wide["dropped_boxes"], 0)
    np.testing.assert_array_equal(wide["valid"].sum(1), slots + out["dropped_boxes"])
    _is_consistent(wide)


@pytest.mark.parametrize("kind", MOTIONS)
def test_semantic_maps_stay_with_the_other_maps(kind):
    """Here an instance has its label as its class, and each image another class around its instances."""
    batch = _batch(seed=1)
    padded = jnp.pad(batch["labels"], ((0, 0), (1, 0)))
    numbers = batch["instances"].reshape(BATCH, -1).astype(int)
    own = jnp.take_along_axis(padded, numbers, 1).reshape(batch["instances"].shape)
    batch["semantic"] = jnp.where(own > 0, own, 100 + jnp.arange(BATCH)[:, None, None]).astype(jnp.uint8)
    run = jax.jit(lambda x, key: box_augment(x, MOTIONS[kind], size=SIDE + 3, key=key))
    for key in range(3):
        out = jax.tree.map(np.asarray, run(batch, jax.random.key(key)))
        assert out["semantic"].dtype == np.uint8
        assert (out["semantic"] == VOID).any()
        for semantic, instances, labels, dropped in zip(
            *(out[name] for name in ("semantic", "instances", "labels", "dropped_boxes")), strict=True
        ):
            shown = instances > 0
            np.testing.assert_array_equal(semantic[shown], labels[instances[shown].astype(int) - 1])
            assert dropped or (semantic[~shown] >= 100).all()


def test_pasted_instances_are_of_things():
    own, other = _samples(0.0, [], 1), _samples(1.0, [(3, 0, 11, 6)], 11)
    for of, value in ((own, 7), (other, 9)):
        of["semantic"] = jnp.full((COUNT, 12, 12), value, jnp.uint8)
    out = _paste(own, other, probability=0.5, max_pastes=1)
    np.testing.assert_array_equal(out["semantic"], np.where(out["instances"] > 0, THINGS, 7))
    assert out["semantic"].dtype == np.uint8
    assert 0.3 < (out["semantic"] == THINGS).any((1, 2)).mean() < 0.7
    batch = {**_batch(), "semantic": jnp.full((BATCH, SIDE, SIDE), 7, jnp.uint8)}
    mixed = _run(replace(NOTHING, copy_paste=1.0), batch)
    assert (mixed["semantic"] == THINGS).any()
    assert (mixed["instances"][mixed["semantic"] == THINGS] > 0).all()


def test_semantic_maps_outside_of_images():
    batch = _batch(seed=1)
    batch["semantic"] = jnp.full(batch["instances"].shape, 3, jnp.uint8)
    out = _run(replace(NOTHING, scale=0.5, translate=0.2), batch)
    shown = _run(replace(NOTHING, scale=0.5, translate=0.2), {**batch, "image": jnp.ones_like(batch["image"])})
    inside = np.asarray(shown["image"])[..., 0] > (1 + GREY) / 2
    assert 0.05 < (~inside).mean() < 0.95
    assert (np.asarray(out["semantic"]) == np.where(inside, 3, VOID)).mean() > 0.99


def test_what_holds_of_every_result():
    batch = _batch(16, seed=3)
    run = jax.jit(lambda x, key: box_augment(x, replace(ALL, least_side=2.0), size=30, key=key))
    for key in range(6):
        out = jax.tree.map(np.asarray, run(batch, jax.random.key(key)))
        _is_consistent(out)
        assert out["instances"].dtype == np.uint8
        assert out["instances"].shape == (16, 30, 30)
        sides = (out["boxes"][..., 2:] - out["boxes"][..., :2])[out["valid"]]
        assert sides.min() >= 2
        assert (out["valid"][out["dropped_boxes"] > 0]).all()


def test_mixup_is_refused():
    with pytest.raises(UserError, match=r"^mixup blends two images, .* with masks, augment.mixup is 0, not 0\.1\.$"):
        box_augment(_batch(), replace(NOTHING, mixup=0.1), key=jax.random.key(0))


COUNT = 400


def _samples(value, rectangles, label, slots=3):
    """Images of one value with these rectangles as instances, the later ones on top."""
    instances = np.zeros((COUNT, 12, 12), np.int32)
    for k, (x0, y0, x1, y1) in enumerate(rectangles):
        instances[:, y0:y1, x0:x1] = 1 + k
    _, boxes = visible_parts(jnp.asarray(instances), slots)
    valid = jnp.tile(jnp.arange(slots) < len(rectangles), (COUNT, 1))
    return {
        "image": jnp.full((COUNT, 12, 12, 3), value),
        "boxes": boxes,
        "labels": (jnp.arange(slots, dtype=jnp.int32) + label) * valid,
        "valid": valid,
        "instances": jnp.asarray(instances, jnp.uint8),
        "dropped_boxes": jnp.zeros(COUNT, jnp.int32),
        "id": jnp.arange(COUNT),
    }


RULES = {"least_side": 0.0, "least_area": 0.0, "largest_ratio": 1e9}


def _paste(own, other, key=0, **options):
    run = jax.jit(lambda a, b, key: paste_instances(a, b, **{**RULES, **options}, key=key))
    return {name: np.asarray(of) for name, of in run(own, other, jax.random.key(key)).items()}


def test_pasting_updates_what_it_covers():
    """The first instance loses its right half, the second is covered, and the third is touched by nothing."""
    own = _samples(0.0, [(0, 0, 6, 6), (7, 1, 9, 3), (0, 8, 4, 12)], 1, slots=5)
    other = _samples(1.0, [(3, 0, 11, 6)], 11, slots=5)
    out = _paste(own, other, probability=1.0, max_pastes=3)
    np.testing.assert_array_equal(out["labels"], np.tile([1, 3, 11, 0, 0], (COUNT, 1)))
    np.testing.assert_array_equal(out["boxes"][0], [[0, 0, 3, 6], [0, 8, 4, 12], [3, 0, 11, 6], [0] * 4, [0] * 4])
    np.testing.assert_array_equal(out["image"][..., 0] == 1, out["instances"] == 3)
    np.testing.assert_array_equal((out["instances"] == 3).sum((1, 2)), 48)
    np.testing.assert_array_equal(out["dropped_boxes"], 0)
    _is_consistent({name: of[:4] for name, of in out.items()})
    for share, left in ((0.49, True), (0.51, False)):
        some = _paste(own, other, probability=1.0, max_pastes=3, least_area=share)
        assert ((some["labels"] == 1).any(1) == left).all()
        assert ((some["instances"][:, 0, 0] > 0) == left).all()
        assert (some["labels"] == 3).any(1).all()
    narrow = _paste(own, other, probability=1.0, max_pastes=3, least_side=3.5)
    np.testing.assert_array_equal(narrow["labels"][0], [3, 11, 0, 0, 0])


def test_masks_and_not_boxes_are_pasted():
    """A ring: what is inside of it stays."""
    own = _samples(0.0, [(5, 5, 7, 7)], 1)
    other = _samples(1.0, [(2, 2, 10, 10)], 11)
    other["instances"] = other["instances"].at[:, 4:8, 4:8].set(0)
    out = _paste(own, other, probability=1.0, max_pastes=1)
    np.testing.assert_array_equal(out["labels"][0], [1, 11, 0])
    assert (out["image"][:, 4:8, 4:8] == 0).all()
    np.testing.assert_array_equal(out["image"][..., 0] == 1, np.asarray(other["instances"]) == 1)
    np.testing.assert_array_equal(out["boxes"][0, :2], [[5, 5, 7, 7], [2, 2, 10, 10]])


def test_the_subset_is_random():
    own = _samples(0.0, [], 1, slots=4)
    other = _samples(1.0, [(0, 0, 3, 3), (4, 4, 7, 7), (8, 8, 11, 11)], 11, slots=4)
    out = _paste(own, other, probability=0.5, max_pastes=2)
    pasted = np.stack([out["image"][:, at, at, 0] == 1 for at in (0, 4, 8)], axis=-1)
    for k in range(3):
        np.testing.assert_array_equal((out["labels"] == 11 + k).any(1), pasted[:, k])
    number = pasted.sum(1)
    assert stats.binomtest(int((number > 0).sum()), COUNT, 0.5).pvalue > 1e-5
    assert number.max() == 2
    assert stats.binomtest(int((number == 1).sum()), int((number > 0).sum()), 0.5).pvalue > 1e-5
    assert stats.chisquare(pasted.sum(0)).pvalue > 1e-4
    np.testing.assert_array_equal(out["instances"] > 0, out["image"][..., 0] == 1)
    assert (_paste(own, other, key=1, probability=0.5, max_pastes=2)["image"] != out["image"]).any()
    never = _paste(own, other, probability=0.0, max_pastes=2)
    for name in ("image", "boxes", "labels", "valid", "instances"):
        np.testing.assert_array_equal(never[name], own[name])


def test_pasted_instances_beyond_the_maximum_are_counted():
    own = _samples(0.0, [(0, 0, 5, 5), (6, 0, 8, 2), (9, 0, 12, 3)], 1)
    own["dropped_boxes"] = jnp.full(COUNT, 2, jnp.int32)
    other = _samples(1.0, [(0, 6, 4, 10)], 11)
    other["dropped_boxes"] = jnp.full(COUNT, 7, jnp.int32)
    out = _paste(own, other, probability=1.0, max_pastes=1)
    np.testing.assert_array_equal(out["labels"], np.tile([1, 11, 3], (COUNT, 1)))
    np.testing.assert_array_equal(out["dropped_boxes"], 3)
    assert (out["instances"][:, 0:2, 6:8] == 0).all()
    assert (out["instances"][:, 6:10, 0:4] == 2).all()


def test_whole_groups_on_a_device_exchange_nothing():
    config = replace(ALL, copy_paste=0.0)
    sharding = NamedSharding(make_mesh(MeshConfig(), jax.devices()[:2]), P("data"))
    run = lambda x: box_augment(x, config, key=jax.random.key(2))
    batch = _batch()
    program = jax.jit(run, in_shardings=(sharding,), out_shardings=sharding).lower(batch).compile()
    assert collectives(program.as_text()) == []
    out = program(jax.device_put(batch, sharding))
    for name, of in jax.jit(run)(batch).items():
        np.testing.assert_allclose(out[name], of, atol=1e-5, err_msg=name)


def test_eight_devices_are_one():
    """One sample on each device, so that both mosaics and pasted instances come from others."""
    sharding = NamedSharding(make_mesh(MeshConfig()), P("data"))
    run = lambda x: box_augment(x, ALL, key=jax.random.key(2))
    batch = _batch()
    out = jax.jit(run, out_shardings=sharding)(jax.device_put(batch, sharding))
    expected = jax.jit(run)(batch)
    assert expected["instances"].any((1, 2)).sum() > 4
    for name, of in expected.items():
        np.testing.assert_allclose(out[name], of, atol=1e-5, err_msg=name)
