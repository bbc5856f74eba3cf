"""Configurations of optimizers, and the plain Optax that they stand for: update rule, schedule, weight decay."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from vision.errors import UserError
from vision.ranges import Decay, NonNegativeFloat, NonNegativeInt, PositiveFraction
from vision.train.parameter_groups import frozen, layerwise, weights_alone

ScheduleName = Literal["cosine", "linear", "polynomial", "constant", "inverse_sqrt"]

POWER = 0.9
"""Of the schedule "polynomial", (1 - step / steps) ** 0.9 (Chen et al. 2018, "DeepLab", section 4.1)."""


@dataclass(frozen=True)
class AdamConfig:
    """Adam (Kingma & Ba 2015) and its schedule, for recipes that use nothing else."""

    lr: NonNegativeFloat = 2e-4
    """Peak learning rate, not negative."""
    b1: Decay = 0.9
    """Decay of the first moment, within [0, 1)."""
    b2: Decay = 0.999
    """Decay of the second moment, within [0, 1)."""
    warmup: NonNegativeInt = 0
    """Images over which the learning rate rises from 0."""
    schedule: ScheduleName = "constant"
    """How the learning rate falls to 0 until the end of the budget; "inverse_sqrt" falls with the square root of the
    images whatever the budget is."""
    decay_after: NonNegativeInt = 0
    """Images after which "inverse_sqrt" falls; 0 for other schedules."""
    clip: NonNegativeFloat = 0.0
    """Largest norm of the gradient; 0 for none."""


@dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer of recognition recipes and its schedule."""

    name: Literal["sgd", "adamw", "lamb", "muon"] = "sgd"
    """SGD with Nesterov momentum; AdamW (Loshchilov & Hutter 2019); LAMB (You et al. 2020); or Muon (Jordan et al.
    2024), which is for kernels, with AdamW for vectors."""
    lr: NonNegativeFloat = 0.1
    """Peak learning rate."""
    momentum: Decay = 0.9
    """Of SGD and Muon."""
    b2: Decay = 0.999
    """Decay of the second moment, of AdamW, of LAMB, and of Muon's AdamW."""
    weight_decay: NonNegativeFloat = 5e-4
    """Added to the gradient for SGD; decoupled and scaled with the learning rate for the others."""
    decay_vectors: bool = False
    """Let weight decay, and with it LAMB's trust ratio, act on biases and scales of normalisation too."""
    warmup: NonNegativeInt = 0
    """Images over which the learning rate rises from 0."""
    schedule: ScheduleName = "cosine"
    """How the learning rate falls to 0 until the end of the budget; "inverse_sqrt" falls with the square root of the
    images whatever the budget is."""
    decay_after: NonNegativeInt = 0
    """Images after which "inverse_sqrt" falls; 0 for other schedules."""
    clip: NonNegativeFloat = 0.0
    """Largest norm of the gradient; 0 for none."""
    layer_decay: PositiveFraction = 1.0
    """Factor on the learning rate for every layer away from the head."""
    frozen: tuple[str, ...] = ()
    """Regular expressions: parameters in whose path one is found stay as they are ("stem|stage_[12]")."""


def learning_rate(config: AdamConfig | OptimizerConfig, *, steps: int, batch_size: int) -> optax.Schedule:
    """Step -> learning rate: a linear warm-up, then the schedule, which ends at step ``steps``.

    Raises ``UserError`` where ``decay_after`` is not what the schedule needs.
    """
    _check_decay(config, batch_size)
    warmup = config.warmup // batch_size
    left = max(steps - warmup, 1)
    falls = {
        "cosine": optax.cosine_decay_schedule(config.lr, left),
        "linear": optax.linear_schedule(config.lr, 0.0, left),
        "polynomial": optax.polynomial_schedule(config.lr, 0.0, POWER, left),
        "constant": optax.constant_schedule(config.lr),
        "inverse_sqrt": inverse_sqrt(config.lr, config.decay_after // batch_size - warmup, warmup),
    }
    rate = falls[config.schedule]
    # a linear schedule over no steps would stay at its start, 0
    return optax.join_schedules([optax.linear_schedule(0.0, config.lr, warmup), rate], [warmup]) if warmup else rate


def inverse_sqrt(peak: float, flat: int, before: int = 0) -> optax.Schedule:
    """Step -> peak / sqrt(max(t / t_ref, 1)), where t counts from the start of the warm-up.

    Kingma & Ba 2015, section 4, in the form of Karras et al. 2024, equation 67: it needs no budget, and an average
    after the fact (``vision.train.power_average``) takes the place of the decay to 0.

    Args:
      peak: the rate until t_ref.
      flat: steps from the end of the warm-up to t_ref = ``before + flat``.
      before: steps of the warm-up, which are over when this schedule counts from 0.
    """
    reference = max(before + flat, 1)
    return lambda step: peak * jax.lax.rsqrt(jnp.maximum((jnp.asarray(step, jnp.float32) + before) / reference, 1.0))


def _check_decay(config: AdamConfig | OptimizerConfig, batch_size: int) -> None:
    """Raise ``UserError`` unless ``decay_after`` is set for "inverse_sqrt" alone, and not before the peak."""
    if config.schedule != "inverse_sqrt":
        if config.decay_after:
            raise UserError(
                f"optimizer.decay_after is for optimizer.schedule inverse_sqrt, not {config.schedule}: leave it 0"
            )
    elif config.decay_after < max(config.warmup, batch_size):
        raise UserError(
            f"optimizer.schedule inverse_sqrt falls after optimizer.decay_after = {config.decay_after:,} images: set "
            f"it to the end of the warm-up at least, and to a batch ({max(config.warmup, batch_size):,})"
        )


def clipped(norm: float) -> optax.GradientTransformation:
    """Gradients of at most this norm (Pascanu et al. 2013); all of them for 0."""
    return optax.clip_by_global_norm(norm) if norm else optax.identity()


def make_optimizer(
    config: OptimizerConfig,
    *,
    steps: int,
    batch_size: int,
    layer_of: Callable[[str], int] = lambda path: 0,
    layers: int = 1,
) -> optax.GradientTransformation:
    """The optimizer of a run.

    Args:
      config: which.
      steps: length of the run.
      batch_size: images a step, by which the warm-up is counted.
      layer_of: path of a parameter -> its layer, 0 for the stem and ``layers - 1`` for the head; by default
        all parameters are one layer.
      layers: number of layers.

    Raises:
      UserError: ``layer_decay`` is for a network with layers, or, when its state is made, a pattern of ``frozen`` is
        found nowhere.
    """
    if config.layer_decay != 1.0 and layers == 1:
        raise UserError(
            "optimizer.layer_decay is for networks with layers to tell apart, which this one has not: leave it 1"
        )
    rate, decay = learning_rate(config, steps=steps, batch_size=batch_size), config.weight_decay
    mask = None if config.decay_vectors else weights_alone
    if config.name == "sgd":
        # Sutskever et al. 2013, as every published ResNet recipe has it: the decay is part of the gradient
        decayed = optax.add_decayed_weights(decay, mask=mask)
        optimizer = optax.chain(decayed, optax.sgd(rate, momentum=config.momentum, nesterov=True))
    elif config.name == "adamw":
        optimizer = optax.adamw(rate, b2=config.b2, weight_decay=decay, mask=mask)
    elif config.name == "lamb":
        optimizer = lamb(rate, b2=config.b2, weight_decay=decay, mask=mask)
    else:
        optimizer = muon(
            rate, momentum=config.momentum, b2=config.b2, weight_decay=decay, decay_vectors=config.decay_vectors
        )
    by_layer = [layerwise(config.layer_decay, layer_of, layers - 1)] if config.layer_decay != 1.0 else []
    return frozen(optax.chain(clipped(config.clip), optimizer, *by_layer), config.frozen)


def lamb(
    rate: optax.Schedule, *, b2: float, weight_decay: float, mask: Callable[[Any], Any] | None
) -> optax.GradientTransformation:
    """LAMB (You et al. 2020, algorithm 2) with the trust ratio where the decay is, as timm has it.

    A vector that starts at zero, such as a bias or the last scale of a residual block, would hardly move with a ratio
    of its own: |w| / |update| is then almost 0 after the first step, and grows by the learning rate's share a step.

    Args:
      rate: step -> learning rate.
      b2: decay of the second moment.
      weight_decay: added to Adam's direction, before the ratio.
      mask: parameters -> which of them have decay and ratio; None for all.
    """
    ratio = optax.scale_by_trust_ratio()  # 1 where a norm is 0
    return optax.chain(
        optax.scale_by_adam(b2=b2, eps=1e-6),
        optax.add_decayed_weights(weight_decay, mask=mask),
        ratio if mask is None else optax.masked(ratio, mask),
        optax.scale_by_learning_rate(rate),
    )


def muon(
    rate: optax.Schedule, *, momentum: float, b2: float, weight_decay: float, decay_vectors: bool
) -> optax.GradientTransformation:
    """Optax's Muon for kernels, as matrices from all inputs at all places to the outputs; vectors have AdamW.

    Both have Nesterov momentum: on vectors it is NAdam (Dozat 2016) with decoupled decay.
    """

    def matrices(params: Any) -> Any:
        """Which axes of each kernel are inputs and outputs; None for vectors."""
        kernel = lambda leaf: optax.contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), (leaf.ndim - 1,))
        return jax.tree.map(lambda leaf: kernel(leaf) if leaf.ndim > 1 else None, params)

    return optax.contrib.muon(
        rate,
        beta=momentum,
        weight_decay=weight_decay,
        adam_b2=b2,
        adam_weight_decay=weight_decay if decay_vectors else 0.0,
        muon_weight_dimension_numbers=matrices,
    )
