"""Restoration as a game: Ledig et al. 2017 (SRGAN) and Wang et al. 2018 (ESRGAN).

The generator restores an image; a discriminator tells restored images from true ones. Parameters, and what networks
carry besides, lie in a sub-tree for each player, as in ``vision.tasks.adversarial``.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from vision.tasks.adversarial import AdversarialLoss
from vision.tasks.restoration import Features, RestorationLossConfig, content_loss
from vision.types import LossFn


def restoring_generator_loss(
    generator: nn.Module,
    discriminator: nn.Module,
    config: RestorationLossConfig,
    loss: AdversarialLoss,
    *,
    weight: float,
    features: Features | None = None,
) -> LossFn:
    """The generator's LossFn: ``content_loss`` and ``weight`` times that of the game.

    Batches hold "image" and the true "target", float32 in [0, 1]. Logs ``pixels``, ``perceptual``, ``adversarial``.

    Args:
      generator: (image, train=...) -> the restored image, without a state of its own.
      discriminator: (image, train=...) -> logits of any shape that begins with the batch.
      config: weights of the content.
      loss: of the game.
      weight: of the game.
      features: see ``vision.tasks.restoration.restoration_loss``.
    """

    def value(params, model_state, batch, *, key, step):
        del step
        restored = _restored(generator, params, batch["image"], key=key)
        total, scalars = content_loss(restored, batch["target"], model_state, config, features=features)
        fake, _ = _logits(discriminator, params, model_state, restored)
        real, _ = _logits(discriminator, params, model_state, batch["target"]) if loss.relativistic else (fake, {})
        scalars["adversarial"] = loss.generator(real, fake)
        return total + weight * scalars["adversarial"], (model_state, scalars)

    return value


def restoring_discriminator_loss(generator: nn.Module, discriminator: nn.Module, loss: AdversarialLoss) -> LossFn:
    """The discriminator's LossFn, for the same batches; its state moves with true and with restored images.

    Logs ``real_logit`` and ``fake_logit``, means.
    """

    def value(params, model_state, batch, *, key, step):
        del step
        restored = jax.lax.stop_gradient(_restored(generator, params, batch["image"], key=key))
        real, model_state = _logits(discriminator, params, model_state, batch["target"])
        fake, model_state = _logits(discriminator, params, model_state, restored)
        scalars = {"real_logit": jnp.mean(real), "fake_logit": jnp.mean(fake)}
        return loss.discriminator(real, fake), (model_state, scalars)

    return value


def _restored(generator: nn.Module, params: Any, image: Array, *, key: Array) -> Array:
    made: Any = generator.apply({"params": params["generator"]}, image, train=True, rngs={"dropout": key})
    return made


def _logits(discriminator: nn.Module, params: Any, model_state: Any, image: Array) -> tuple[Array, Any]:
    """Logits, and the model's state with the discriminator's updated."""
    carried = model_state.get("discriminator", {})
    variables = {"params": params["discriminator"], **carried}
    logits, moved = discriminator.apply(variables, image, train=True, mutable=list(carried))
    return logits, {**model_state, "discriminator": moved} if carried else model_state
