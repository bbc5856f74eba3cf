"""Random and alternating flips, and the composition of a configuration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from scipy import stats

from vision.data.augment.colour import colour_jitter
from vision.data.augment.crop import pad_crop, random_resized_crop
from vision.data.augment.erase import cutout, random_erasing
from vision.data.augment.image import AugmentConfig, alternating_flip, augment, flipped, random_flip
from vision.data.augment.policy import randaugment, trivialaugment
from vision.errors import UserError
from vision.parallel.collectives import collectives
from vision.parallel.mesh import MeshConfig, make_mesh

IMAGES = jax.random.normal(jax.random.key(0), (2000, 3, 4, 2))
PICTURES = jax.random.uniform(jax.random.key(1), (6, 8, 10, 3), minval=-1, maxval=1)


def _choices(images, out):
    """Which images were flipped; fails for one that is neither the original nor its flip."""
    images, out = np.asarray(images), np.asarray(out)
    mirror = np.stack([np.stack([row[::-1] for row in image]) for image in images])
    same, mirrored = ((of == out).all((1, 2, 3)) for of in (images, mirror))
    assert (same ^ mirrored).all()
    return mirrored


def test_half_are_flipped_independently():
    mirrored = _choices(IMAGES, random_flip(IMAGES, key=jax.random.key(1)))
    assert stats.binomtest(int(mirrored.sum()), len(mirrored), 0.5).pvalue > 1e-6
    agreeing = int((mirrored[1:] == mirrored[:-1]).sum())
    assert stats.binomtest(agreeing, len(mirrored) - 1, 0.5).pvalue > 1e-6


def test_the_key_decides():
    first, again, other = (_choices(IMAGES, random_flip(IMAGES, key=jax.random.key(k))) for k in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_the_rest_of_a_batch_is_kept():
    batch = {"image": IMAGES[:8], "label": jnp.arange(8)}
    out = flipped(batch, key=jax.random.key(1))
    assert set(out) == {"image", "label"}
    assert out["label"] is batch["label"]
    np.testing.assert_array_equal(out["image"], random_flip(IMAGES[:8], key=jax.random.key(1)))


def test_flips_alternate_whatever_the_batch():
    flip = jax.jit(alternating_flip)
    sample, key = jnp.arange(2000), jax.random.key(3)
    epochs = [_choices(IMAGES, flip(IMAGES, sample, epoch, key=key)) for epoch in range(4)]
    assert stats.binomtest(int(epochs[0].sum()), 2000, 0.5).pvalue > 1e-6
    for before, after in itertools.pairwise(epochs):
        np.testing.assert_array_equal(after, ~before)
    # In a different order, at different indices, and in batches that cross the boundary of an epoch
    order = jax.random.permutation(jax.random.key(4), 2000)
    epoch = jnp.arange(2000) % 2
    mixed = _choices(IMAGES[order], flip(IMAGES[order], sample[order], epoch, key=key))
    np.testing.assert_array_equal(mixed, epochs[0][np.asarray(order)] ^ (np.asarray(epoch) == 1))


PARTS = {
    "flip": (AugmentConfig(flip=True), 1, random_flip),
    "pad_crop": (
        AugmentConfig(pad_crop=2, pad_mode="edge"),
        0,
        lambda x, key: pad_crop(x, 2, mode="edge", key=key),
    ),
    "crop_scale": (
        AugmentConfig(crop_scale=(0.2, 0.9), crop_ratio=(0.5, 3.0)),
        0,
        lambda x, key: random_resized_crop(x, (8, 10), scale=(0.2, 0.9), ratio=(0.5, 3.0), key=key),
    ),
    "randaugment": (
        AugmentConfig(policy="randaugment", operations=1, magnitude=7, magnitude_std=1.0, interpolation="nearest"),
        2,
        lambda x, key: randaugment(x, operations=1, magnitude=7, magnitude_std=1.0, interpolation="nearest", key=key),
    ),
    "trivialaugment": (AugmentConfig(policy="trivialaugment"), 2, trivialaugment),
    "jitter": (
        AugmentConfig(brightness=0.4, contrast=0.3, saturation=0.2, hue=0.1),
        3,
        lambda x, key: colour_jitter(x, brightness=0.4, contrast=0.3, saturation=0.2, hue=0.1, key=key),
    ),
    "erasing": (
        AugmentConfig(erasing=0.7, erasing_fill="zeros"),
        4,
        lambda x, key: random_erasing(x, probability=0.7, fill="zeros", key=key),
    ),
    "cutout": (AugmentConfig(cutout=4), 5, lambda x, key: cutout(x, 4, key=key)),
}


@pytest.mark.parametrize("name", PARTS)
def test_each_part_is_its_function(name):
    config, place, function = PARTS[name]
    key = jax.random.key(5)
    both = jax.jit(lambda x: (augment(x, config, key=key), function(x, key=jax.random.split(key, 6)[place])))
    out, expected = both(PICTURES)
    np.testing.assert_allclose(out, expected, atol=1e-6)
    assert float(jnp.abs(out - PICTURES).max()) > 0.01
    assert float(jnp.abs(out).max()) <= 1 + 1e-6


def test_nothing_is_done_by_default_and_parts_come_in_order():
    assert augment(PICTURES, AugmentConfig(), key=jax.random.key(0)) is PICTURES
    config = AugmentConfig(pad_crop=2, flip=True, brightness=0.5, erasing=1.0, erasing_fill="zeros", cutout=4)
    key = jax.random.key(7)
    crop, flip, _, colour, erase, cut = jax.random.split(key, 6)

    @jax.jit
    def both(images):
        by_hand = random_flip(pad_crop(images, 2, key=crop), key=flip)
        by_hand = random_erasing(
            colour_jitter(by_hand, brightness=0.5, key=colour), probability=1.0, fill="zeros", key=erase
        )
        return augment(images, config, key=key), cutout(by_hand, 4, key=cut)

    np.testing.assert_allclose(*both(PICTURES), atol=1e-6)


def test_a_sample_depends_on_no_other():
    config = AugmentConfig(
        flip=True,
        crop_scale=(0.3, 1.0),
        policy="randaugment",
        operations=1,
        contrast=0.5,
        hue=0.2,
        erasing=0.5,
        cutout=3,
    )
    run = jax.jit(lambda x: augment(x, config, key=jax.random.key(9)))
    out = run(PICTURES)
    changed = run(PICTURES.at[1:].set(-PICTURES[1:]))
    np.testing.assert_allclose(changed[0], out[0], atol=1e-6)
    assert (np.abs(np.asarray(changed - out))[1:].max((1, 2, 3)) > 0.01).all()


def test_a_sharded_batch_is_augmented_without_exchange_between_devices():
    """Each device augments its own samples, with the results of a single device."""
    config = AugmentConfig(
        flip=True, pad_crop=2, policy="randaugment", operations=1, saturation=0.5, erasing=0.5, cutout=3
    )
    run = lambda x: augment(x, config, key=jax.random.key(2))
    mesh = make_mesh(MeshConfig(), jax.devices()[:2])
    sharding = NamedSharding(mesh, P("data"))
    program = jax.jit(run, in_shardings=sharding, out_shardings=sharding).lower(PICTURES).compile()
    assert collectives(program.as_text()) == []
    np.testing.assert_allclose(program(jax.device_put(PICTURES, sharding)), jax.jit(run)(PICTURES), atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"crop_scale": (0.5, 0.2)}, "the smaller first"),
        ({"crop_scale": (0.0, 1.0)}, "crop_scale must be more than 0 and at most 1, not 0"),
        ({"crop_ratio": (-1.0, 1.0)}, "crop_ratio must be more than 0, not -1"),
        ({"pad_crop": 4, "crop_scale": (0.1, 1.0)}, "both crop"),
        ({"pad_crop": -1}, "pad_crop must be at least 0 .*, not -1"),
        ({"operations": 0}, "operations must be at least 1 .*, not 0"),
        ({"contrast": -0.1}, r"contrast must be at least 0, not -0\.1"),
        ({"magnitude": 11}, "magnitude must be at least 0 and at most 10"),
        ({"erasing": 1.5}, "erasing must be at least 0 and at most 1"),
        ({"hue": 0.6}, r"hue must be at least 0 and at most 0\.5"),
    ],
)
def test_configurations_that_are_invalid(fields, message):
    with pytest.raises(UserError, match=message):
        AugmentConfig(**fields)
