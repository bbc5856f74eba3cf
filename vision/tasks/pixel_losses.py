"""Losses of single pixels, for segmentation: cross-entropy, focal loss, and the hardest pixels of an image.

Every function returns one number for each image: the mean over its pixels that have a class, and 0 for an image
without any. So a mean over images is exact whatever the microbatches and devices. Other code means over the pixels of a
whole batch, which weights images by their share of void, and is not the mean over microbatches.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def is_of_class(truth: Int[Array, "b h w"], *, ignore: int | None) -> Bool[Array, "b h w"]:
    """Whether a pixel has a class; ``ignore`` is the value of void pixels, None if there are none."""
    return jnp.ones(truth.shape, bool) if ignore is None else truth != ignore


def image_mean(values: Float[Array, "b h w"], counted: Bool[Array, "b h w"]) -> Float[Array, " b"]:
    """The mean over the counted pixels of each image; 0 where there are none."""
    return jnp.sum(jnp.where(counted, values, 0.0), (1, 2)) / jnp.maximum(jnp.sum(counted, (1, 2)), 1)


def negative_log_likelihood(logits: Float[Array, "b h w k"], truth: Int[Array, "b h w"]) -> Float[Array, "b h w"]:
    """-log p(true class) of each pixel, in nats; p is the softmax of the logits. Void pixels have any value."""
    return jax.nn.logsumexp(logits, axis=-1) - _own(logits, truth)


def cross_entropy(
    logits: Float[Array, "b h w k"],
    truth: Int[Array, "b h w"],
    counted: Bool[Array, "b h w"],
    *,
    class_weights: Float[Array, " k"] | None = None,
    smoothing: float | Array = 0.0,
    focal: float | Array = 0.0,
) -> Float[Array, " b"]:
    """The mean of w(y) (1 - p(y))^focal CE over the counted pixels of each image, in nats.

    CE is -sum_c q(c) log p(c), where q is 1 for the true class y, less a share that is spread evenly over all classes
    (Szegedy et al. 2016, section 7). With ``focal``, it is the focal loss of a softmax (Lin et al. 2017, equation 5,
    with the class's weight for alpha). The sum is divided by the number of pixels; PyTorch divides by that of their
    weights instead, by which the weight of the only class of an image has no effect.

    Args:
      logits: float32.
      truth: classes in [0, k), anything where not counted.
      counted: pixels that take part.
      class_weights: w; 1 for all by default.
      smoothing: the share that is spread.
      focal: the exponent; 0 for none.
    """
    total = jax.nn.logsumexp(logits, axis=-1)
    own = _own(logits, truth)
    # total - mean = the mean over classes of -log p
    losses = (1.0 - smoothing) * (total - own) + smoothing * (total - jnp.mean(logits, axis=-1))
    if not (isinstance(focal, int | float) and focal == 0.0):
        # 1 - p(y) from the other classes: in logarithms its digits and its gradient survive p(y) = 1
        others = jax.nn.logsumexp(jnp.where(_is_own(logits, truth), -jnp.inf, logits), axis=-1)
        losses = jnp.exp(focal * (others - total)) * losses
    if class_weights is not None:
        losses = losses * jnp.where(counted, class_weights[jnp.where(counted, truth, 0)], 0.0)
    return image_mean(losses, counted)


def hardest(
    logits: Float[Array, "b h w k"],
    truth: Int[Array, "b h w"],
    counted: Bool[Array, "b h w"],
    *,
    threshold: float | Array,
    minimum: float | Array,
) -> Bool[Array, "b h w"]:
    """The pixels on which online hard example mining trains (Shrivastava et al. 2016, as usual in segmentation).

    Of each image the counted pixels whose true class has a probability below ``threshold``, and at least the share
    ``minimum`` of its counted pixels (rounded up), the least likely first. Pixels that are as likely as the last of
    these are kept too. No gradient passes through the choice.
    """
    nats = jax.lax.stop_gradient(jnp.where(counted, negative_log_likelihood(logits, truth), -jnp.inf))
    ascending = jnp.sort(nats.reshape(len(nats), -1), axis=-1)
    least = jnp.ceil(minimum * jnp.sum(counted, (1, 2))).astype(jnp.int32)
    # all -inf in an image without counted pixels, where nothing is kept anyway
    place = ascending.shape[1] - jnp.maximum(least, 1)
    bound = jnp.take_along_axis(ascending, place[:, None], axis=1)[:, :, None]
    return counted & ((nats >= bound) | (nats > -jnp.log(threshold)))


def _is_own(logits: Float[Array, "b h w k"], truth: Int[Array, "b h w"]) -> Bool[Array, "b h w k"]:
    return jnp.arange(logits.shape[-1]) == truth[..., None]


def _own(logits: Float[Array, "b h w k"], truth: Int[Array, "b h w"]) -> Float[Array, "b h w"]:
    """The logit of the true class; a choice and a sum are one loop, where a gather's gradient is a scatter."""
    return jnp.sum(jnp.where(_is_own(logits, truth), logits, 0.0), axis=-1)
