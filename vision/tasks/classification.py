"""Image classification: from a network to a loss and to predictions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vision.errors import UserError
from vision.ranges import Decay, FiniteFloat, check_ranges
from vision.types import LossFn

Classify = Callable[[Mapping[str, Any], Float[Array, "b h w c"]], Float[Array, "b k"]]
"""(variables, images) -> logits."""


@dataclass(frozen=True)
class ClassificationConfig:
    """The loss. The default is the cross-entropy of the label."""

    loss: Literal["cross_entropy", "binary"] = "cross_entropy"
    """Cross-entropy of the softmax, or the mean of a binary cross-entropy for each class."""
    smoothing: Decay = 0.0
    """Share of each target that is spread evenly over all classes (Szegedy et al. 2016, section 7)."""
    threshold: FiniteFloat = -1.0
    """Binary loss: targets above this count as 1, others as 0, so that both classes of a mixed image are fully there
    (Wightman et al. 2021 use 0.2); a negative number leaves targets as they are."""
    running_statistics: bool = False
    """Normalise batches by the running statistics, as in use, and leave those as they are: for fine-tuning on few
    images. Dropout and stochastic depth are off then."""


def check(config: ClassificationConfig) -> None:
    """Raise ``UserError`` where a value is out of range or has no effect; traced numbers pass."""
    check_ranges(config)
    if config.threshold >= 0.0 and config.loss != "binary":
        raise UserError("loss.threshold is for the binary loss alone: set --loss.loss binary")


def smoothed(targets: Float[Array, "b k"], smoothing: float) -> Float[Array, "b k"]:
    """Targets of which a share is spread evenly over the classes."""
    # Szegedy et al. 2016, section 7: q'(k) = (1 - epsilon) q(k) + epsilon / K
    return (1.0 - smoothing) * targets + smoothing / targets.shape[-1]


def cross_entropy(logits: Float[Array, "b k"], targets: Float[Array, "b k"]) -> Float[Array, " b"]:
    """-sum_k q(k) log p(k) for each image, in nats; p is the softmax of the logits."""
    return -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)


def binary_cross_entropy(logits: Float[Array, "b k"], targets: Float[Array, "b k"]) -> Float[Array, " b"]:
    """Mean over the classes of -q log s - (1 - q) log(1 - s) for each image, in nats; s is the logit's sigmoid.

    Each class is a question of its own (Wightman et al. 2021, section 3.1, after Beyer et al. 2020).
    """
    # log s(x) = -softplus(-x), log(1 - s(x)) = -softplus(x)
    return jnp.mean(targets * jax.nn.softplus(-logits) + (1.0 - targets) * jax.nn.softplus(logits), axis=-1)


def image_losses(
    logits: Float[Array, "b k"], targets: Float[Array, "b k"], config: ClassificationConfig
) -> Float[Array, " b"]:
    """The configured loss of each image; ``targets`` are probabilities, before smoothing."""
    if config.loss == "cross_entropy":
        return cross_entropy(logits, smoothed(targets, config.smoothing))
    if config.threshold >= 0.0:
        targets = (targets > config.threshold).astype(logits.dtype)
    return binary_cross_entropy(logits, smoothed(targets, config.smoothing))


def classification_loss(model: nn.Module, config: ClassificationConfig) -> LossFn:
    """The LossFn of a network on batches with "image" float [b h w c] and "target" [b k], probabilities of classes.

    Batch statistics are updated in ``model_state``. Logs "accuracy", the share of images whose most likely class is
    the target's, which with mixed targets says little by itself.
    """

    def loss(params, model_state, batch, *, key, step):
        del step
        variables = {"params": params, **model_state}
        logits: Any
        if config.running_statistics:
            logits = model.apply(variables, batch["image"], train=False)
        else:
            logits, new = model.apply(
                variables, batch["image"], train=True, mutable=["batch_stats"], rngs={"dropout": key}
            )
            model_state = {**model_state, **new}
        losses = image_losses(logits, batch["target"], config)
        right = jnp.argmax(logits, -1) == jnp.argmax(batch["target"], -1)
        return jnp.mean(losses), (model_state, {"accuracy": jnp.mean(right.astype(jnp.float32))})

    return loss


def classify(model: nn.Module, *, flip_tta: bool = False) -> Classify:
    """(variables, images) -> logits in float32.

    With ``flip_tta``, the mean of the log-probabilities of the image and of its left-right flip, which are logits too.
    """

    def predict(variables: Mapping[str, Any], images: Float[Array, "b h w c"]) -> Float[Array, "b k"]:
        logits = model.apply(variables, images, train=False)
        if not flip_tta:
            return logits  # pyright: ignore[reportReturnType]
        other = model.apply(variables, images[:, :, ::-1], train=False)
        return (jax.nn.log_softmax(logits) + jax.nn.log_softmax(other)) / 2.0  # pyright: ignore[reportArgumentType]

    return predict
