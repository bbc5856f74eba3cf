"""Augmentation on the device, inside the step: functions (batch, key=...) -> batch, keyed for each sample."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def random_flip(images: Float[Array, "b h w c"], *, key: Key[Array, ""]) -> Float[Array, "b h w c"]:
    """Mirror each image left to right with probability one half."""
    mirrored = jax.random.bernoulli(key, 0.5, images.shape[:1])
    return jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def flipped(batch: Mapping[str, Array], *, key: Key[Array, ""]) -> dict[str, Array]:
    """The batch with "image" under :func:`random_flip`."""
    return {**batch, "image": random_flip(batch["image"], key=key)}
