"""Masks of instances from prototypes, and their losses inside of boxes (Bolya et al. 2019, YOLACT).

Losses are one number for each instance, 0 for padding, of which `mean_of_images` makes one for each image.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vision.tasks.detection import binary_cross_entropy


def assembled(prototypes: Float[Array, "b h w p"], coefficients: Float[Array, "b n p"]) -> Float[Array, "b n h w"]:
    """Logits of the masks of n instances: prototypes weighted by the coefficients of each (equation 1)."""
    return jnp.einsum("bhwp,bnp->bnhw", prototypes, coefficients)


def in_boxes(boxes: Float[Array, "b n 4"], size: tuple[int, int]) -> Bool[Array, "b n h w"]:
    """The pixels of a mask whose centres are in a box, its left and upper border included.

    Args:
      boxes: (x0, y0, x1, y1) in pixels of the masks.
      size: height and width of the masks.
    """
    x0, y0, x1, y1 = (boxes[..., k, None] for k in range(4))
    row, column = (jnp.arange(side) + 0.5 for side in size)
    rows, columns = (row >= y0) & (row < y1), (column >= x0) & (column < x1)
    return rows[..., :, None] & columns[..., None, :]


def mask_cross_entropy(
    logits: Float[Array, "b n h w"],
    truth: Float[Array, "b n h w"],
    boxes: Float[Array, "b n 4"],
    valid: Bool[Array, "b n"],
) -> Float[Array, "b n"]:
    """The mean of the binary cross-entropy over the pixels in the box of each instance, in nats.

    Bolya et al. 2019 divide the sum by the area of the box, which is that number where boxes are of whole pixels. 0
    for padding, and for a box that holds the centre of no pixel.

    Args:
      logits: float32.
      truth: 1 inside of the true mask and 0 outside, or between where it was resized.
      boxes: the true boxes, in pixels of the masks.
      valid: False for padding, whatever it holds.
    """
    inside = in_boxes(boxes, (logits.shape[2], logits.shape[3])) & valid[..., None, None]
    # padding may hold what is not finite
    losses = binary_cross_entropy(jnp.where(inside, logits, 0.0), jnp.where(inside, truth, 0.0))
    return jnp.sum(jnp.where(inside, losses, 0.0), (2, 3)) / jnp.maximum(jnp.sum(inside, (2, 3)), 1)


def mask_dice(
    logits: Float[Array, "b n h w"],
    truth: Float[Array, "b n h w"],
    boxes: Float[Array, "b n 4"],
    valid: Bool[Array, "b n"],
) -> Float[Array, "b n"]:
    """1 - 2 sum(s g) / (sum(s) + sum(g)) over the pixels in the box of each instance; s is the logit's sigmoid.

    0 for padding, and for an instance whose box holds nothing of its true mask. Arguments as of `mask_cross_entropy`.
    """
    inside = in_boxes(boxes, (logits.shape[2], logits.shape[3])) & valid[..., None, None]
    found = jnp.where(inside, jax.nn.sigmoid(jnp.where(inside, logits, 0.0)), 0.0)
    true = jnp.where(inside, truth, 0.0)
    total = lambda values: jnp.sum(values, (2, 3))
    some = total(true) > 0
    denominator = jnp.where(some, total(found) + total(true), 1.0)
    return jnp.where(some, 1.0 - 2.0 * total(found * true) / denominator, 0.0)


def mean_of_images(losses: Float[Array, "b n"], valid: Bool[Array, "b n"]) -> Float[Array, " b"]:
    """The mean over the instances of each image, 0 for one without any; its mean is equal in microbatches."""
    return jnp.sum(jnp.where(valid, losses, 0.0), 1) / jnp.maximum(jnp.sum(valid, 1), 1)
