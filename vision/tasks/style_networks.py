"""What networks that paint are trained for: Johnson et al. 2016 for one style, Huang & Belongie 2017 for any.

The network whose features are compared is the frozen part "features" of a run; batches hold "image" [b h w 3] and, for
any style, "style" [b h w 3], float32 in [0, 1].
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from vision.models.style.adain import adain, channel_statistics
from vision.ranges import NonNegativeFloat
from vision.tasks.style import Features, StyleLossConfig, content_loss, gram_distance, gram_matrix, total_variation
from vision.types import LossFn

Activations = Callable[[Any, Array], Features]
"""(variables, images in [0, 1]) -> activations by layer."""


def one_style_loss(model: nn.Module, activations: Activations, config: StyleLossConfig) -> LossFn:
    """Johnson et al. 2016, eq. 5; the Gram matrices [1 c c] of the painting are the frozen part "painting".

    Logs ``content``, ``style`` and ``total_variation``.
    """

    def loss(params, model_state, batch, *, key, step):
        del key, step
        frozen = model_state["frozen"]
        painted: Any = model.apply({"params": params}, batch["image"], train=True)
        found, target = activations(frozen["features"], painted), activations(frozen["features"], batch["image"])
        parts = [
            weight * gram_distance(gram_matrix(found[name]), frozen["painting"][name])
            for name, weight in config.weights().items()
        ]
        scalars = {
            "content": jnp.mean(content_loss(found, target, config)),
            "style": jnp.mean(sum(parts[1:], parts[0])),
            "total_variation": jnp.mean(total_variation(painted)),
        }
        value = config.content * scalars["content"] + config.style * scalars["style"]
        return value + config.total_variation * scalars["total_variation"], (model_state, scalars)

    return loss


@dataclass(frozen=True)
class AdainLossConfig:
    """The loss of a decoder for any style."""

    content: NonNegativeFloat = 1.0
    """Weight of the difference from the features that the decoder was given (eq. 12), not negative."""
    style: NonNegativeFloat = 10.0
    """Weight of the differences of means and deviations, lambda of eq. 11, not negative."""
    total_variation: NonNegativeFloat = 0.0
    """Weight of the squared differences of neighbouring pixels, not negative."""


def any_style_loss(
    decoder: nn.Module, activations: Activations, layers: tuple[str, ...], config: AdainLossConfig
) -> LossFn:
    """Huang & Belongie 2017, eq. 11 to 13, as means over channels and pixels.

    Logs ``content``, ``style`` and ``total_variation``.

    Args:
      decoder: (features, train=...) -> images.
      activations: of at least ``layers``.
      layers: in which means and deviations are compared; the last one is where the encoder ends.
      config: weights.
    """

    def loss(params, model_state, batch, *, key, step):
        del key, step
        frozen = model_state["frozen"]["features"]
        last = layers[-1]
        painting = {name: channel_statistics(of) for name, of in activations(frozen, batch["style"]).items()}
        target = adain(activations(frozen, batch["image"])[last], painting[last])
        made: Any = decoder.apply({"params": params}, target, train=True)
        found = activations(frozen, made)
        own = {name: channel_statistics(found[name]) for name in layers}
        # eq. 13
        parts = [
            jnp.mean(jnp.square(one - other))
            for name in layers
            for one, other in zip(own[name], painting[name], strict=True)
        ]
        scalars = {
            "content": jnp.mean(jnp.square(found[last] - target)),  # eq. 12
            "style": sum(parts[1:], parts[0]),
            "total_variation": jnp.mean(total_variation(made)),
        }
        value = config.content * scalars["content"] + config.style * scalars["style"]
        return value + config.total_variation * scalars["total_variation"], (model_state, scalars)

    return loss
