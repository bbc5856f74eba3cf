"""Losses of autoencoders that compress images for latent models.

A sum of up to three terms: the error of pixels; the distance in the features of a frozen network (perceptual loss,
Johnson et al. 2016; Zhang et al. 2018); and, from some point in training on, the loss of a patch discriminator (Isola
et al. 2017; Esser et al. 2021, eq. 6, with a fixed weight in place of the one that eq. 7 there adapts). The parts of
the parameters are "autoencoder" and, with a discriminator, "discriminator".
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vision.ranges import NonNegativeFloat, NonNegativeInt
from vision.types import LossFn

Features = Callable[[Any, Array], Sequence[Array]]
"""(variables, images [b h w c] in [-1, 1]) -> feature maps [b H W d], from fine to coarse."""
Critic = Callable[[Any, Array], Array]
"""(parameters, images [b h w c] in [-1, 1]) -> logits of any shape [b ...], large where an image looks real."""


@dataclass(frozen=True)
class AutoencoderLossConfig:
    """What is minimised."""

    pixels: Literal["l1", "l2"] = "l1"
    """Mean absolute or mean squared error of pixels in [-1, 1]."""
    penalty: NonNegativeFloat | None = None
    """Weight of the bottleneck's penalty; None for 0.25 of the commitment of "vq" (van den Oord et al. 2017) and 1e-6
    of the divergence of "kl" (Rombach et al. 2022), both beside an error in the mean over an image's values."""
    perceptual: NonNegativeFloat = 0.0
    """Weight of the distance in features."""
    adversarial: NonNegativeFloat = 0.0
    """Weight of the discriminator's logit."""
    adversarial_start: NonNegativeInt = 500_000
    """Images after which the discriminator is trained and its logit counts: against noise it learns nothing useful."""


def feature_distance(one: Sequence[Array], other: Sequence[Array]) -> Float[Array, " b"]:
    """Distance of images in feature maps: of each map the squared difference of unit vectors, the mean over places.

    Zhang et al. 2018, eq. 1, with all weights 1; added up over maps.
    """
    unit = lambda x: x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-10)
    parts = [jnp.square(unit(a) - unit(b)).sum(-1).mean((1, 2)) for a, b in zip(one, other, strict=True)]
    return jnp.sum(jnp.stack(parts), axis=0)


def autoencoder_loss(
    model: nn.Module,
    config: AutoencoderLossConfig,
    *,
    bottleneck: Literal["vq", "kl"],
    batch_size: int,
    features: Features | None = None,
    critic: Critic | None = None,
) -> LossFn:
    """The LossFn of the autoencoder; batches hold "image" float32 [b h w c] in [-1, 1].

    Logs ``pixels``, ``perceptual``, ``penalty``, and the statistics of the bottleneck.

    Args:
      model: called as ``vision.models.autoencoder.Autoencoder``; its state beside parameters is ``codebook``.
      config: the weights.
      bottleneck: of the model.
      batch_size: images a step, which turns steps into images.
      features: needed for ``config.perceptual``; its variables are those of the frozen network "perceptual".
      critic: needed for ``config.adversarial``; its parameters are those of the player "discriminator".
    """
    weight = {"vq": 0.25, "kl": 1e-6}[bottleneck] if config.penalty is None else config.penalty

    def loss(params, model_state, batch, *, key, step):
        image = batch["image"]
        output, new = _applied(model, params, model_state, image, key=key, train=True)
        difference = output.image - image
        pixels = jnp.mean(jnp.abs(difference) if config.pixels == "l1" else jnp.square(difference))
        value = pixels + weight * output.penalty
        scalars = {"pixels": pixels, "penalty": output.penalty, **output.statistics}
        if features is not None and config.perceptual > 0.0:
            maps = [features(model_state["frozen"]["perceptual"], x) for x in (image, output.image)]
            scalars["perceptual"] = jnp.mean(feature_distance(*maps))
            value = value + config.perceptual * scalars["perceptual"]
        if critic is not None and config.adversarial > 0.0:
            begun = (step * batch_size >= config.adversarial_start).astype(jnp.float32)
            # Esser et al. 2021, section 3.1: the autoencoder is the generator of a hinge game
            value = value - config.adversarial * begun * jnp.mean(critic(params["discriminator"], output.image))
        return value, ({**model_state, **new}, scalars)

    return loss


def patch_discriminator_loss(
    model: nn.Module, config: AutoencoderLossConfig, critic: Critic, *, batch_size: int
) -> LossFn:
    """The LossFn of the discriminator: real images against reconstructed ones, by the hinge loss (Lim & Ye 2017)."""

    def loss(params, model_state, batch, *, key, step):
        image = batch["image"]
        output, _ = _applied(model, params, model_state, image, key=key, train=False)
        real = critic(params["discriminator"], image)
        reconstructed = critic(params["discriminator"], jax.lax.stop_gradient(output.image))
        value = jnp.mean(nn.relu(1.0 - real)) + jnp.mean(nn.relu(1.0 + reconstructed))
        begun = (step * batch_size >= config.adversarial_start).astype(jnp.float32)
        scalars = {"real_logit": jnp.mean(real), "reconstructed_logit": jnp.mean(reconstructed)}
        return begun * value, (model_state, scalars)

    return loss


def _applied(
    model: nn.Module,
    params: Mapping[str, Any],
    model_state: Mapping[str, Any],
    image: Array,
    *,
    key: Array,
    train: bool,
) -> tuple[Any, Mapping[str, Any]]:
    """The autoencoder's output for images, and its new codebook."""
    own = {name: tree for name, tree in model_state.items() if name == "codebook"}
    variables = {"params": params["autoencoder"], **own}
    if train and own:
        return model.apply(variables, image, key=key, train=True, mutable=["codebook"])
    return model.apply(variables, image, key=key, train=False), {}
