"""Blurring: every image with a kernel of its own."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vision.errors import UserError


def blurred(images: Float[Array, "b h w c"], kernels: Float[Array, "b k k"]) -> Float[Array, "b h w c"]:
    """The correlation of each image with its kernel; images are continued by reflection (c b | a b c | b a).

    Args:
      images: any range.
      kernels: of odd sides.

    Raises:
      UserError: kernels of even sides, or that reach farther than an image is large.
    """
    side = kernels.shape[-1]
    margin = side // 2
    if side % 2 == 0 or margin >= min(images.shape[1:3]):
        raise UserError(
            f"kernels of {side}x{side} pixels do not blur images of {images.shape[1]}x{images.shape[2]}: choose an odd "
            "side, whose half is less than the image's sides"
        )
    padded = jnp.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="reflect")
    # one convolution of the batch, whose images are groups of channels and whose channels are images
    made = jax.lax.conv_general_dilated(
        jnp.transpose(padded, (3, 1, 2, 0)),
        jnp.transpose(kernels, (1, 2, 0))[:, :, None].astype(images.dtype),
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=len(images),
        precision=jax.lax.Precision.HIGHEST,
    )
    return jnp.transpose(made, (3, 1, 2, 0))
