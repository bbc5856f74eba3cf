"""The soft Dice loss of a segmentation: one minus the overlap of probabilities and truth, of each class alike.

Every function returns one number for each image, see `vision.tasks.pixel_losses`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def dice(
    logits: Float[Array, "b h w k"], truth: Int[Array, "b h w"], counted: Bool[Array, "b h w"]
) -> Float[Array, " b"]:
    """Mean over the classes in the truth of an image of 1 - 2 sum(p g) / (sum(p) + sum(g)), over its counted pixels.

    p is the probability of the class and g is 1 where it is the truth (Dice 1945; Milletari et al. 2016 square both in
    the denominator). Sums are over one image, not over the batch. Classes that are not in the truth of the image have
    no term, so no constant is needed against division by 0; they appear in the other terms through the softmax. 0 for
    an image without counted pixels.
    """
    inside = counted[..., None]
    of_class = inside & (jnp.arange(logits.shape[-1]) == truth[..., None])
    probability = jnp.where(inside, jax.nn.softmax(logits, axis=-1), 0.0)
    number = jnp.sum(of_class, (1, 2)).astype(logits.dtype)
    shared = jnp.sum(jnp.where(of_class, probability, 0.0), (1, 2))
    present = number > 0
    losses = 1.0 - 2.0 * shared / jnp.maximum(jnp.sum(probability, (1, 2)) + number, 1.0)
    return jnp.sum(jnp.where(present, losses, 0.0), -1) / jnp.maximum(jnp.sum(present, -1), 1)
