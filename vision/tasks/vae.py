"""Objectives of variational autoencoders: bounds on the likelihood of images, and what is traded against them.

The evidence lower bound (Kingma & Welling 2014, eq. 3) of an image is E[log p(x|z)] - KL(q(z|x) || p(z)): the first
term is how well it is reconstructed (its negative is called distortion here), the second what its latent costs (the
rate). Training maximises a mixture of them; evaluation reports the bound itself. All numbers are nats of an image.

A model here is a Linen module with ``outputs``-valued likelihood parameters: ``model.apply(variables, image, key=...)``
returns `vision.nn.latent.Inferred`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from vision.errors import UserError
from vision.ops.pixels import to_float, to_uint8
from vision.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt, check_ranges
from vision.tasks.likelihood import Likelihood
from vision.types import Condition, LossFn, Sampler


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is minimised: distortion + beta * rate, with its variations."""

    beta: NonNegativeFloat = 1.0
    """Weight of the rate (Higgins et al. 2017); 1 is the evidence lower bound."""
    warmup: NonNegativeInt = 0
    """Images over which the weight of the rate rises from 0 to ``beta`` (Sonderby et al. 2016)."""
    free_bits: NonNegativeFloat = 0.0
    """Nats that each dimension or group of the code may cost, in the mean over a batch, without being pushed (Kingma et
    al. 2016, appendix C.8)."""
    capacity: NonNegativeFloat = 0.0
    """Nats that the whole code is asked to cost: beta * |rate - capacity| in place of the rate (Burgess et al. 2018,
    eq. 8); 0 for none."""
    capacity_images: PositiveInt = 1_000_000
    """Images over which that capacity rises from 0."""
    importance: PositiveInt = 1
    """Codes a training image: with more than 1, the importance-weighted bound is maximised (Burda et al. 2016)."""


def check(config: ObjectiveConfig) -> None:
    """Raises ``UserError`` for an objective that contradicts itself."""
    check_ranges(config)
    plain = config.beta == 1.0 and not (config.warmup or config.free_bits or config.capacity)
    if config.importance > 1 and not plain:
        raise UserError(
            "objective.importance maximises a bound as it is: leave out beta, warmup, free_bits and capacity, or it"
        )
    if config.capacity and (config.free_bits or config.warmup):
        raise UserError(
            "objective.capacity says what the code may cost all along, so that objective.free_bits and "
            "objective.warmup have no part in it: choose one"
        )


def rate_penalty(
    kl: Float[Array, "b g"], config: ObjectiveConfig, *, images: Int[Array, ""] | Float[Array, ""]
) -> Float[Array, ""]:
    """What the code of a batch costs in the loss, in nats, after ``images`` images of training.

    Args:
      kl: of each image and dimension or group.
      config: beta, warm-up, free bits, capacity.
      images: how many have been trained on.
    """
    each = kl.mean(0)
    if config.capacity:
        share = jnp.minimum(images / config.capacity_images, 1.0)
        return config.beta * jnp.abs(each.sum() - share * config.capacity)
    weight = config.beta * (jnp.minimum(images / config.warmup, 1.0) if config.warmup else 1.0)
    return weight * jnp.maximum(each, config.free_bits).sum()


def vae_loss(
    model: nn.Module,
    likelihood: Likelihood,
    config: ObjectiveConfig,
    *,
    batch_size: int,
    observe: Callable[..., Array] | None = None,
) -> LossFn:
    """The LossFn of a variational autoencoder; batches hold "image" float32 [b h w c] in [-1, 1].

    Logs ``nats`` (the negative evidence lower bound, of one code), ``distortion``, ``rate``, and ``active``: how many
    dimensions or groups cost more than 0.01 nats in the mean.

    Args:
      model: see above.
      likelihood: p(x|z).
      config: the objective.
      batch_size: images a step, which turns steps into images.
      observe: (image, key=...) -> image; what is taken as the data, such as binarised pixels.
    """

    def loss(params, model_state, batch, *, key, step):
        observe_key, code_key = jax.random.split(key)
        image = batch["image"] if observe is None else observe(batch["image"], key=observe_key)
        # several codes of an image are as many images: one pass for all, which is what backward passes like
        copies = jnp.repeat(image, config.importance, axis=0)
        found: Any = model.apply({"params": params, **model_state}, copies, key=code_key)
        distortion, rate = -likelihood.log_density(found.outputs, copies), found.kl.sum(-1)
        if config.importance > 1:
            logs = (-distortion - found.log_ratio).reshape(-1, config.importance)
            value = -jnp.mean(jax.nn.logsumexp(logs, axis=1) - math.log(config.importance))
        else:
            value = distortion.mean() + rate_penalty(found.kl, config, images=step * batch_size)
        scalars = {
            "nats": (distortion + rate).mean(),
            "distortion": distortion.mean(),
            "rate": rate.mean(),
            "active": jnp.sum(found.kl.mean(0) > 0.01).astype(jnp.float32),
        }
        return value, (model_state, scalars)

    return loss


def importance_weighted(
    model: nn.Module,
    likelihood: Likelihood,
    variables: Any,
    image: Float[Array, "b h w c"],
    *,
    samples: int,
    key: Key[Array, ""],
) -> Float[Array, " b"]:
    """The bound log (1/K) sum_k p(x, z_k)/q(z_k|x) of each image, in nats: Burda et al. 2016, eq. 8.

    With more codes K it rises in the mean towards log p(x); with one it is the bound that training maximises, with the
    divergence estimated by the draw. The codes are computed one after another.
    """

    def log_weight(index: Array) -> Array:
        found: Any = model.apply(variables, image, key=jax.random.fold_in(key, index))
        # eq. 7: log p(x, z) - log q(z|x)
        return likelihood.log_density(found.outputs, image) - found.log_ratio

    return jax.nn.logsumexp(jax.lax.map(log_weight, jnp.arange(samples)), axis=0) - math.log(samples)


class VaeFunctions(NamedTuple):
    """Functions of a model's variables for evaluation; images are uint8 [b h w c]."""

    terms: Callable[..., tuple[Array, Array]]
    """(variables, images, key=...) -> distortion [b] and rate of each dimension or group [b g] in nats, with one latent
    of each image."""
    bound: Callable[..., Array]
    """(variables, images, samples=K, key=...) -> the importance-weighted bound [b] in nats."""
    reconstruct: Callable[..., tuple[Array, Array]]
    """(variables, images, key=...) -> images as the model observes them, and the means of p(x|z) of one latent each."""
    sample: Sampler
    """The means of p(x|z) of latents from the prior, uint8."""
    encode: Callable[[Any, Array], Array] | None
    """(variables, images) -> mean latents [b z]; None where latents are not one vector each."""
    decode: Callable[[Any, Array], Array] | None
    """(variables, latents [b z]) -> images."""


def vae_functions(
    model: nn.Module,
    likelihood: Likelihood,
    *,
    observe: Callable[..., Array] | None = None,
    temperature: float = 1.0,
) -> VaeFunctions:
    """What is evaluated and sampled of a model.

    Args:
      model: as for the loss; ``model.sample(index, key=..., temperature=...)`` are outputs for latents from the prior.
        One with a single vector as its latent has the methods ``encode`` and ``decode``.
      likelihood: p(x|z).
      observe: as for the loss.
      temperature: factor on the prior's deviations.
    """

    def observed(image: Array, key: Array) -> tuple[Array, Array]:
        observe_key, code_key = jax.random.split(key)
        image = to_float(image)
        return image if observe is None else observe(image, key=observe_key), code_key

    def terms(variables: Any, image: Array, *, key: Array) -> tuple[Array, Array]:
        image, code_key = observed(image, key)
        found: Any = model.apply(variables, image, key=code_key)
        return -likelihood.log_density(found.outputs, image), found.kl

    def bound(variables: Any, image: Array, *, samples: int, key: Array) -> Array:
        image, code_key = observed(image, key)
        return importance_weighted(model, likelihood, variables, image, samples=samples, key=code_key)

    def reconstruct(variables: Any, image: Array, *, key: Array) -> tuple[Array, Array]:
        image, code_key = observed(image, key)
        found: Any = model.apply(variables, image, key=code_key)
        return to_uint8(image), to_uint8(likelihood.mean(found.outputs))

    def sample(variables: Any, condition: Condition, index: Array, key: Array) -> Array:
        del condition
        outputs: Any = model.apply(variables, index, key=key, temperature=temperature, method="sample")
        return to_uint8(likelihood.mean(outputs))

    def encode(variables: Any, image: Array) -> Array:
        image, _ = observed(image, jax.random.key(0))
        mean_and_log_variance: Any = model.apply(variables, image, method="encode")
        return mean_and_log_variance[0]

    def decode(variables: Any, latent: Array) -> Array:
        outputs: Any = model.apply(variables, latent, method="decode")
        return to_uint8(likelihood.mean(outputs))

    vector = hasattr(model, "encode")
    return VaeFunctions(terms, bound, reconstruct, sample, encode if vector else None, decode if vector else None)
