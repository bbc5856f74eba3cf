"""Changes of resolution without parameters, written so that their gradients are cheap on every backend."""

import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from vision.errors import UserError


def space_to_depth(image: Float[Array, "b h w c"], patch: int) -> Float[Array, "b H W C"]:
    """Fold each ``patch`` x ``patch`` square of pixels into channels: [b, h/p, w/p, p*p*c].

    The inverse is :func:`depth_to_space`. Raises ``UserError`` if the sides are not multiples of ``patch``.
    """
    _, height, width, _ = image.shape
    if height % patch or width % patch:
        raise UserError(
            f"an image of {height}x{width} pixels cannot be cut into {patch}x{patch} patches: "
            "choose a patch that divides both sides"
        )
    return rearrange(image, "b (h p) (w q) c -> b h w (p q c)", p=patch, q=patch)


def depth_to_space(features: Float[Array, "b H W C"], patch: int) -> Float[Array, "b h w c"]:
    """Unfold channels into ``patch`` x ``patch`` squares of pixels: the inverse of :func:`space_to_depth`."""
    return rearrange(features, "b h w (p q c) -> b (h p) (w q) c", p=patch, q=patch)


def upsample_nearest(features: Float[Array, "b h w c"]) -> Float[Array, "b H W c"]:
    """Repeat every pixel 2 x 2 times: [b, 2h, 2w, c].

    A broadcast and a reshape: the gradient is then a plain sum, where that of ``jax.image.resize`` is a scatter
    that takes fifty times as long on a CPU.
    """
    batch, height, width, channels = features.shape
    tiled = jnp.broadcast_to(features[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
    return tiled.reshape(batch, 2 * height, 2 * width, channels)


def upsample_nearest_to(features: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b H W c"]:
    """Every pixel 2 x 2 times, as many as ``size`` (height, width) has: a last row or column is left out or repeated.

    For sides that were halved and rounded, up or down. Features that have this size already are returned as they are.
    """
    if features.shape[1:3] == size:
        return features
    doubled = upsample_nearest(features)
    missing = [max(wanted - side, 0) for wanted, side in zip(size, doubled.shape[1:3], strict=True)]
    if any(missing):
        doubled = jnp.pad(doubled, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    return doubled[:, : size[0], : size[1]]
