"""Lovász-softmax (Berman et al. 2018): a convex surrogate of 1 - IoU that agrees with it at hard predictions.

The Jaccard loss of a class is a function of the set of its mispredicted pixels, |errors| / |truth or errors|, which is
submodular; its Lovász extension is defined for errors between 0 and 1, convex, and piecewise linear.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vision.ops.ranking import descending_order


def lovasz_jaccard(
    errors: Float[Array, "*b n"], truth: Bool[Array, "*b n"], counted: Bool[Array, "*b n"]
) -> Float[Array, "*b"]:
    """The Lovász extension of the Jaccard loss of one class (equation 8 and algorithm 1).

    Errors times the increments of the loss when pixels are added in descending order of their errors. A true pixel
    that joins the errors adds 1/U, a false one I/(U (U - 1)), where I counts the true pixels that are left and U the
    union: without the cancellation of a difference of two losses. Where there are no true pixels, the loss is the
    largest error.

    Args:
      errors: m in [0, 1]: 1 - p on true pixels, p on others.
      truth: pixels of the class.
      counted: pixels that take part.
    """
    # the order is a constant of the gradient, and so are the increments. Where errors are exchanged that differ by less
    # than d, increments are those of errors that differ by less than d, and the loss by less than 2 d: they sum to 1
    order = descending_order(errors, counted)
    own = truth & counted
    is_true = jnp.take_along_axis(own, order, -1)
    total = jnp.sum(own, -1, keepdims=True, dtype=jnp.int32)
    joined = jnp.cumsum(is_true, -1, dtype=jnp.int32)
    left, others = total - joined, jnp.arange(1, errors.shape[-1] + 1) - joined
    union = jnp.maximum(total + others, 1).astype(errors.dtype)
    step = jnp.where(is_true, 1.0 / union, left / (union * jnp.maximum(union - 1.0, 1.0)))
    # without true pixels the union is that of the errors: the first adds all
    first = (jnp.arange(errors.shape[-1]) == 0).astype(errors.dtype)
    step = jnp.where(total > 0, step, first)
    step = _unsorted(step, order)
    return jnp.sum(jnp.where(counted, errors * step, 0.0), -1)


def _unsorted(values: Float[Array, "*b n"], order: Int[Array, "*b n"]) -> Float[Array, "*b n"]:
    """Values at the places that they were taken from."""
    shape = values.shape
    values, order = values.reshape(-1, shape[-1]), order.reshape(-1, shape[-1])
    row = jnp.arange(len(values))[:, None]
    made = jnp.zeros_like(values).at[row, order].set(values, unique_indices=True, mode="promise_in_bounds")
    return made.reshape(shape)


def lovasz_softmax(
    logits: Float[Array, "b h w k"], truth: Int[Array, "b h w"], counted: Bool[Array, "b h w"]
) -> Float[Array, " b"]:
    """The mean of `lovasz_jaccard` over the classes in the truth of an image (equations 9 to 11), for each image.

    Probabilities are the softmax of the logits. Of each image by itself, as for the per-image IoU of the publication;
    its other form, of all pixels of a batch, would depend on microbatches. Classes that are not in the truth have no
    term. 0 for an image without counted pixels. Sorts the pixels of an image once for each class.
    """
    size, classes = len(logits), logits.shape[-1]
    probability = jnp.moveaxis(jax.nn.softmax(logits, axis=-1), -1, 1).reshape(size, classes, -1)
    inside = jnp.broadcast_to(counted.reshape(size, 1, -1), probability.shape)
    of_class = inside & (truth.reshape(size, 1, -1) == jnp.arange(classes)[:, None])
    losses = lovasz_jaccard(jnp.where(of_class, 1.0 - probability, probability), of_class, inside)
    present = jnp.any(of_class, -1)
    return jnp.sum(jnp.where(present, losses, 0.0), -1) / jnp.maximum(jnp.sum(present, -1), 1)
