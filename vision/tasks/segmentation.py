"""Semantic segmentation: from a network to a loss."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vision.errors import UserError
from vision.ranges import Decay, Fraction, NonNegativeFloat, PositiveFraction, check_ranges
from vision.tasks.lovasz import lovasz_softmax
from vision.tasks.overlap_losses import dice
from vision.tasks.pixel_losses import cross_entropy, hardest, image_mean, is_of_class
from vision.types import LossFn


@runtime_checkable
class SegmentationOutput(Protocol):
    """What a network for segmentation returns, at the resolution of its input."""

    @property
    def logits(self) -> Float[Array, "b h w k"]:
        """float32, of each class."""
        ...

    @property
    def auxiliary(self) -> Float[Array, "b h w k"] | None:
        """Likewise from a layer within the network, for training; None for none."""
        ...


@dataclass(frozen=True)
class SegmentationLossConfig:
    """The loss: a weighted sum of terms. The default is the cross-entropy."""

    cross_entropy: NonNegativeFloat = 1.0
    """Weight of the cross-entropy of pixels."""
    dice: NonNegativeFloat = 0.0
    """Weight of the soft Dice loss of the classes of each image."""
    lovasz: NonNegativeFloat = 0.0
    """Weight of Lovász-softmax (Berman et al. 2018), of the classes of each image."""
    focal: NonNegativeFloat = 0.0
    """Exponent that makes the cross-entropy a focal loss (Lin et al. 2017); 0 for none, 2 is usual."""
    smoothing: Decay = 0.0
    """Share of each pixel's target that is spread evenly over all classes (Szegedy et al. 2016)."""
    ohem_threshold: Fraction = 0.0
    """Cross-entropy of hard pixels only: those whose true class has a probability below this; 0 for all pixels, 0.7 is
    usual."""
    ohem_minimum: PositiveFraction = 0.1
    """Share of the pixels of an image that are trained on at least, where there is a threshold."""
    auxiliary: NonNegativeFloat = 0.4
    """Weight of the same loss of the network's auxiliary output, where it has one (Zhao et al. 2017)."""
    class_weights: Literal["none", "median_frequency"] = "none"
    """Weights of the pixels of each class in the cross-entropy: 1, or by their frequency in the training set (Eigen &
    Fergus 2015)."""


def check(config: SegmentationLossConfig, class_weights: Float[Array | np.ndarray, " k"] | None, classes: int) -> None:
    """Raise ``UserError`` where a value is out of range or has no effect; traced numbers pass."""
    check_ranges(config)
    if _is_zero(config.cross_entropy) and _is_zero(config.dice) and _is_zero(config.lovasz):
        raise UserError("all terms of the loss have weight 0: set --loss.cross-entropy, --loss.dice or --loss.lovasz")
    if _is_zero(config.cross_entropy):
        for name in ("focal", "smoothing", "ohem_threshold"):
            if not _is_zero(getattr(config, name)):
                raise UserError(f"loss.{name} is for the cross-entropy, whose weight is 0: set --loss.cross-entropy")
        if config.class_weights != "none":
            raise UserError("loss.class_weights is for the cross-entropy, whose weight is 0: set --loss.cross-entropy")
    if not _is_zero(config.focal) and not _is_zero(config.smoothing):
        raise UserError("loss.focal and loss.smoothing contradict each other: a focal loss is of one true class")
    if class_weights is None and config.class_weights != "none":
        raise UserError(
            f"loss.class_weights is {config.class_weights}, but no weights are given: count the classes first"
        )
    if class_weights is not None and config.class_weights == "none":
        raise UserError("weights of the classes are given, but loss.class_weights is none: set --loss.class-weights")
    if class_weights is not None and class_weights.shape != (classes,):
        raise UserError(f"{len(class_weights)} weights are given for {classes} classes")


def segmentation_losses(
    logits: Float[Array, "b h w k"],
    truth: Int[Array, "b h w"],
    config: SegmentationLossConfig,
    *,
    ignore: int | None,
    class_weights: Float[Array, " k"] | None = None,
) -> dict[str, Float[Array, " b"]]:
    """The terms whose weight is not 0, each of every image, before their weights.

    Args:
      logits: float32.
      truth: classes in [0, k), or ``ignore``. Anything else makes the losses of its image nan, which stops a run.
      config: checked by `check`.
      ignore: the value of void pixels; None if there are none.
      class_weights: of the pixels of each class in the cross-entropy.
    """
    counted = is_of_class(truth, ignore=ignore)
    losses: dict[str, Array] = {}
    if not _is_zero(config.cross_entropy):
        chosen = counted
        if not _is_zero(config.ohem_threshold):
            chosen = hardest(logits, truth, counted, threshold=config.ohem_threshold, minimum=config.ohem_minimum)
        losses["cross_entropy"] = cross_entropy(
            logits, truth, chosen, class_weights=class_weights, smoothing=config.smoothing, focal=config.focal
        )
    if not _is_zero(config.dice):
        losses["dice"] = dice(logits, truth, counted)
    if not _is_zero(config.lovasz):
        losses["lovasz"] = lovasz_softmax(logits, truth, counted)
    strange = _has_unknown(truth, counted, logits.shape[-1])
    return {name: jnp.where(strange, jnp.nan, values) for name, values in losses.items()}


def segmentation_loss(
    model: nn.Module,
    config: SegmentationLossConfig,
    *,
    classes: int,
    ignore: int | None,
    class_weights: Float[Array | np.ndarray, " k"] | None = None,
) -> LossFn:
    """The LossFn of a network on batches with "image" float [b h w 3] and "semantic" int32 [b h w].

    The network returns a `SegmentationOutput`. Every term is a mean over the pixels of an image, or over its classes,
    and the loss is the mean over the images of the global batch, those that are all void among them, which have a loss
    of 0. So the loss and its gradient are equal in microbatches of any number (`vision.train.step.accumulate`), apart
    from batch statistics and dropout, and images count alike however much of them is void.

    Batch statistics are updated in ``model_state``. Logs the terms before their weights, "auxiliary", the weighted sum
    of the terms of the auxiliary output, where the network has one, and "pixel_accuracy", the mean over images of the
    share of pixels with the right class.

    Args:
      model: called as ``model.apply(variables, image, train=True, mutable=["batch_stats"], rngs={"dropout": key})``.
      config: the terms.
      classes: k, the number of classes of the data.
      ignore: the value of void pixels; None if there are none.
      class_weights: as ``config.class_weights`` wants them (`vision.data.class_counts`), None for none.

    Raises:
      UserError: a value of the configuration is out of range, has no effect, or contradicts another; when called, the
        network has another number of classes or another resolution.
    """
    check(config, class_weights, classes)
    weights = None if class_weights is None else jnp.asarray(class_weights, jnp.float32)

    def weighted(logits: Array, truth: Array) -> tuple[Array, dict[str, Array]]:
        """The sum of the terms, and each of them; means over images."""
        if logits.shape != (*truth.shape, classes):
            raise UserError(
                f"the network gives {logits.shape[-1]} classes at {logits.shape[1]}x{logits.shape[2]} pixels for maps "
                f"of {classes} classes at {truth.shape[1]}x{truth.shape[2]}: build it for the classes of the data, "
                "with logits at the resolution of its input"
            )
        terms = segmentation_losses(logits, truth, config, ignore=ignore, class_weights=weights)
        means = {name: jnp.mean(values) for name, values in terms.items()}
        total = sum((getattr(config, name) * value for name, value in means.items()), jnp.zeros(()))
        return total, means

    def loss(params, model_state, batch, *, key, step):
        del step
        variables = {"params": params, **model_state}
        output: Any
        output, new = model.apply(variables, batch["image"], train=True, mutable=["batch_stats"], rngs={"dropout": key})
        truth = batch["semantic"]
        total, scalars = weighted(output.logits, truth)
        if output.auxiliary is not None:
            scalars["auxiliary"], _ = weighted(output.auxiliary, truth)
            total = total + config.auxiliary * scalars["auxiliary"]
        right = (jnp.argmax(output.logits, -1) == truth).astype(jnp.float32)
        scalars["pixel_accuracy"] = jnp.mean(image_mean(right, is_of_class(truth, ignore=ignore)))
        return total, ({**model_state, **new}, scalars)

    return loss


def _has_unknown(truth: Int[Array, "b h w"], counted: Bool[Array, "b h w"], classes: int) -> Bool[Array, " b"]:
    return jnp.any(counted & ((truth < 0) | (truth >= classes)), (1, 2))


def _is_zero(value: Any) -> bool:
    """Whether a number is 0, and not a traced one, which may be anything."""
    return isinstance(value, int | float) and value == 0
