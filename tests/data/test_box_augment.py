"""The complete recipe: fields that its parts keep, invariants of the results, and one device against eight."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from scipy import stats

from vision.data.augment.box_mixing import copy_paste, mixup_with_boxes
from vision.data.augment.boxes import BoxAugmentConfig, box_augment, random_mosaic
from vision.data.augment.hsv import hsv_jitter
from vision.data.augment.mosaic import GREY
from vision.errors import UserError
from vision.parallel.collectives import collectives
from vision.parallel.mesh import MeshConfig, make_mesh

BATCH, SIDE, SLOTS = 8, 24, 5
NOTHING = BoxAugmentConfig(mosaic=0, translate=0, scale=0, hue=0, saturation=0, value=0, flip=0)
ALL = BoxAugmentConfig(mosaic=0.6, mixup=0.5, copy_paste=0.5, pastes=2, degrees=20, shear=5, perspective=0.2)


def _batch(batch=BATCH, seed=0):
    generator = np.random.default_rng(seed)
    corner = generator.uniform(0, SIDE - 8, (batch, SLOTS, 2))
    boxes = np.concatenate([corner, corner + generator.uniform(3, 8, corner.shape)], axis=-1)
    valid = np.arange(SLOTS) < generator.integers(0, SLOTS + 1, (batch, 1))
    return {
        "image": jnp.asarray(generator.uniform(-1, 1, (batch, SIDE, SIDE, 3)), jnp.float32),
        "boxes": jnp.asarray(boxes * valid[..., None], jnp.float32),
        "labels": jnp.asarray(generator.integers(1, 80, (batch, SLOTS)) * valid, jnp.int32),
        "valid": jnp.asarray(valid),
        "id": jnp.arange(batch),
    }


def _augmented(config, batch, key=0, size=None):
    run = jax.jit(lambda x, key: box_augment(x, config, size=size, key=key))
    return jax.tree.map(np.asarray, run(batch, jax.random.key(key)))


def test_nothing_enabled_returns_the_batch():
    batch = _batch()
    out = _augmented(NOTHING, batch)
    assert set(out) == {*batch, "dropped_boxes"}
    for name, of in batch.items():
        np.testing.assert_array_equal(out[name], of)
        assert out[name].dtype == of.dtype
    np.testing.assert_array_equal(out["dropped_boxes"], np.zeros(BATCH, np.int32))


@pytest.mark.parametrize("name", ["flip", "flip_vertical"])
def test_flips_are_involutions(name):
    batch = _batch()
    run = jax.jit(lambda x: box_augment(x, replace(NOTHING, **{name: 1.0}), key=jax.random.key(0)))
    once = run(batch)
    np.testing.assert_array_equal(once["image"], jnp.flip(batch["image"], axis=2 if name == "flip" else 1))
    low, high = (0, 2) if name == "flip" else (1, 3)
    expected = np.asarray(batch["boxes"]).copy()
    expected[..., [low, high]] = SIDE - expected[..., [high, low]]
    np.testing.assert_allclose(once["boxes"], expected * np.asarray(batch["valid"])[..., None], atol=1e-5)
    twice = run(once)
    np.testing.assert_array_equal(twice["image"], batch["image"])
    np.testing.assert_allclose(twice["boxes"], batch["boxes"], atol=1e-5)


def test_what_holds_of_every_result():
    batch, side = _batch(16), 40
    config = replace(ALL, least_side=2.5, largest_ratio=2.0)
    run = jax.jit(lambda x, key: box_augment(x, config, size=side, key=key))
    lost = 0
    for key in range(6):
        out = jax.tree.map(np.asarray, run(batch, jax.random.key(key)))
        assert out["image"].shape == (16, side, side, 3)
        assert np.isfinite(out["image"]).all()
        assert np.abs(out["image"]).max() <= 1 + 1e-5
        valid, boxes = out["valid"], out["boxes"]
        assert (np.sort(~valid, axis=1) == ~valid).all()  # the valid ones are first
        assert (boxes[~valid] == 0).all()
        assert (out["labels"][~valid] == 0).all()
        assert np.isin(out["labels"][valid], batch["labels"]).all()
        assert (boxes >= 0).all()
        assert (boxes <= side).all()
        sides = (boxes[..., 2:] - boxes[..., :2])[valid]
        assert sides.min() >= 2.5 - 1e-4
        assert (sides.max(1) / sides.min(1)).max() <= 2 + 1e-4
        assert (valid[out["dropped_boxes"] > 0]).all()
        lost += out["dropped_boxes"].sum()
    assert lost > 0


def test_boxes_are_dropped_that_are_hardly_visible():
    """Images are enlarged about their centre, so that boxes at the left lose some of their width or all of it."""
    boxes = jnp.array([[1.0, 10, 5, 14], [2.0, 10, 6.5, 14], [4.0, 10, 8, 14], [8.0, 8, 12, 12], [0, 0, 0, 0]])
    batch = {
        "image": jnp.zeros((4, SIDE, SIDE, 3)),
        "boxes": jnp.tile(boxes, (4, 1, 1)),
        "labels": jnp.tile(jnp.arange(5, dtype=jnp.int32), (4, 1)),
        "valid": jnp.tile(jnp.arange(5) < 4, (4, 1)),
    }
    for share, kept in ((0.05, [1, 2, 3]), (0.6, [3])):
        config = replace(NOTHING, scale=0.999, least_area=share, least_side=0.0)
        run = jax.jit(lambda x, key, c=config: random_mosaic(x, c, SIDE, key=key))
        found = 0
        for key in range(8):
            out = jax.tree.map(np.asarray, run(batch, jax.random.key(key)))
            for sample in range(4):
                labels = out["labels"][sample][out["valid"][sample]].tolist()
                # The scale factor, from the box that is completely visible
                box = out["boxes"][sample][labels.index(3)]
                factor = (box[2] - box[0]) / 4
                left = 12 - 12 / factor
                visible = (np.minimum(24 - left, boxes[:4, 2]) - np.maximum(left, boxes[:4, 0])) / (
                    boxes[:4, 2] - boxes[:4, 0]
                )
                assert labels == [k for k in range(4) if min(visible[k], 1) >= share]
                found += labels == kept
        assert found > 0


def test_the_smallest_boxes_beyond_the_maximum_are_dropped_and_counted():
    """Up to 20 boxes of four samples with a maximum of 5, against a batch with room for all."""
    batch = _batch(8)
    config = replace(NOTHING, mosaic=1.0, least_area=0.0, least_side=0.0)
    run = jax.jit(lambda x: random_mosaic(x, config, SIDE, key=jax.random.key(0)))
    few = jax.tree.map(np.asarray, run(batch))
    more = lambda of: jnp.pad(of, [(0, 0), (0, 3 * SLOTS), (0, 0)][: of.ndim])
    wide = {**batch, **{name: more(batch[name]) for name in ("boxes", "labels", "valid")}}
    many = jax.tree.map(np.asarray, run(wide))
    np.testing.assert_array_equal(many["dropped_boxes"], 0)
    area = lambda boxes: (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    np.testing.assert_array_equal(few["dropped_boxes"], np.maximum(many["valid"].sum(1) - SLOTS, 0))
    assert few["dropped_boxes"].max() > 0
    for i in np.flatnonzero(few["dropped_boxes"]):
        np.testing.assert_allclose(area(few["boxes"][i]), np.sort(area(many["boxes"][i]))[::-1][:SLOTS], rtol=1e-5)
    for i in np.flatnonzero(few["dropped_boxes"] == 0):
        np.testing.assert_array_equal(few["boxes"][i], many["boxes"][i, :SLOTS])


def test_an_image_by_itself_has_only_its_own_boxes():
    """Also where rotated boxes of its neighbours, which are cropped to nothing, would have some extent again."""
    batch = _batch()
    batch["labels"] = jnp.arange(BATCH, dtype=jnp.int32)[:, None] * batch["valid"] + batch["valid"]
    out = _augmented(replace(NOTHING, degrees=40.0, scale=0.6, least_area=0.0, least_side=0.0), batch)
    for sample in range(BATCH):
        assert set(out["labels"][sample][out["valid"][sample]].tolist()) <= {sample + 1}
    assert (out["valid"].sum(1) <= np.asarray(batch["valid"]).sum(1)).all()
    assert out["valid"].any()


def test_mosaics_at_random():
    """Images of one value each: a mosaic at half the scale shows others, and a single image shows grey."""
    count = 200
    value = jnp.linspace(-1, 1, count)[:, None, None, None]
    batch = {**_batch(count), "image": jnp.broadcast_to(value, (count, SIDE, SIDE, 3))}
    for chance in (0.35, 1.0):
        out = _augmented(replace(NOTHING, mosaic=chance), batch)["image"]
        others = (np.abs(out - np.asarray(value)) > 1e-4).any((1, 2, 3))
        # The window is an image wide, so that a mosaic always shows two images at least unless they meet at a limit
        assert abs(others.mean() - chance) < 0.1
        assert stats.binomtest(int(others.sum()), count, chance * 0.97).pvalue > 1e-6 or chance == 1
    assert (np.abs(out - GREY) > 1e-4).any()


def test_parts_come_in_order_and_have_their_own_key():
    batch, key = _batch(), jax.random.key(3)
    config = replace(ALL, hue=0.3, saturation=0.5, value=0.2)
    keys = jax.random.split(key, 4)
    others = lambda of: {name: jnp.roll(of[name], 4, axis=0) for name in of}

    # so that the same formulas are fused in the same way, separately and as parts
    @partial(jax.jit, compiler_options={"xla_cpu_use_fusion_emitters": True})
    def both(batch):
        out = random_mosaic(batch, config, SIDE, key=keys[0])
        out = copy_paste(out, others(out), probability=0.5, max_pastes=2, key=keys[1])
        out = mixup_with_boxes(out, others(out), probability=0.5, key=keys[2])
        image = hsv_jitter(out["image"], hue=0.3, saturation=0.5, value=0.2, key=keys[3])
        return box_augment(batch, config, key=key), {**out, "image": image}

    found, expected = both(batch)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5, err_msg=name)


def test_the_key_decides_and_a_sample_depends_on_its_group():
    batch = _batch()
    config = replace(ALL, mixup=0.0, copy_paste=0.0)
    first, again, other = (_augmented(config, batch, key=k) for k in (1, 1, 2))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert (np.abs(first["image"] - other["image"]).max((1, 2, 3)) > 0.1).all()
    changed = {name: jnp.concatenate([of[:4], jnp.zeros_like(of[4:])]) for name, of in batch.items()}
    out = _augmented(config, changed, key=1)
    for name in ("image", "boxes", "labels", "valid"):
        np.testing.assert_array_equal(out[name][:4], first[name][:4])
    assert (out["image"][4:] != first["image"][4:]).any((1, 2, 3)).all()


def test_whole_groups_on_a_device_exchange_nothing():
    config = replace(ALL, mixup=0.0, copy_paste=0.0)
    mesh = make_mesh(MeshConfig(), jax.devices()[:2])
    sharding = NamedSharding(mesh, P("data"))
    run = lambda x: box_augment(x, config, key=jax.random.key(2))
    batch = _batch()
    program = jax.jit(run, in_shardings=(sharding,), out_shardings=sharding).lower(batch).compile()
    assert collectives(program.as_text()) == []
    out = program(jax.device_put(batch, sharding))
    for name, of in jax.jit(run)(batch).items():
        np.testing.assert_allclose(out[name], of, atol=1e-5, err_msg=name)


def test_eight_devices_are_one():
    """One sample on each device, so that both mosaics and pasted boxes come from others."""
    config = replace(ALL, mixup=0.0)
    sharding = NamedSharding(make_mesh(MeshConfig()), P("data"))
    run = lambda x: box_augment(x, config, key=jax.random.key(2))
    batch = _batch()
    out = jax.jit(run, out_shardings=sharding)(jax.device_put(batch, sharding))
    for name, of in jax.jit(run)(batch).items():
        np.testing.assert_allclose(out[name], of, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mosaic": 1.5}, r"mosaic must be at least 0 and at most 1, not 1\.5"),
        ({"hue": -0.1}, "hue must be at least 0"),
        ({"scale": 1.0}, "scale must be at least 0 and less than 1"),
        ({"shear": 45.0}, "shear must be at least 0 and less than 45"),
        ({"perspective": 0.5}, r"perspective must be at least 0 and less than 0\.5"),
        ({"translate": -0.1}, r"translate must be at least 0 and at most 1, not -0\.1"),
        ({"pastes": 0}, "pastes must be at least 1"),
        ({"largest_ratio": 0.5}, "largest_ratio must be at least 1"),
    ],
)
def test_configurations_that_are_invalid(fields, message):
    with pytest.raises(UserError, match=message):
        BoxAugmentConfig(**fields)


def test_images_that_are_not_square():
    batch = {**_batch(), "image": jnp.zeros((BATCH, SIDE, SIDE + 1, 3))}
    with pytest.raises(UserError, match="needs square images"):
        box_augment(batch, NOTHING, key=jax.random.key(0))
