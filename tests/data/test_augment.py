"""Mirrored images: each is itself or its mirror image, by a fair and keyed coin."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from vision.data.augment import flipped, random_flip

IMAGES = jax.random.normal(jax.random.key(0), (2000, 3, 4, 2))


def _choices(images, out):
    """Which images were mirrored; fails for one that is neither itself nor its mirror image."""
    images, out = np.asarray(images), np.asarray(out)
    mirror = np.stack([np.stack([row[::-1] for row in image]) for image in images])
    same, mirrored = ((of == out).all((1, 2, 3)) for of in (images, mirror))
    assert (same ^ mirrored).all()
    return mirrored


def test_half_are_mirrored_independently():
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
