"""Adversarial networks as a task: losses of logits, and the two players' LossFns.

A generator maps latents to images; a discriminator gives each image a logit, high for real ones, whose sigmoid D is
the probability of being real. Each player has its own loss and steps down its own gradient:

    alternate(
        gradient(discriminator_loss(players, HINGE), optimizer_d, part="discriminator"),
        gradient(generator_loss(players, HINGE), optimizer_g, part="generator"),
    )

Parameters, and what networks carry besides, lie in a sub-tree for each player: ``params["generator"]`` and
``model_state["generator"]["batch_stats"]``. ``model_state["augmentation"]`` holds the strength of augmentation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt8

from vision.errors import UserError
from vision.nn.latent import standard_normal
from vision.ops.pixels import to_uint8
from vision.parallel.gathering import over_samples
from vision.tasks.gradient_penalty import Penalty
from vision.types import Condition, LossFn, Sampler

Logits = Float[Array, "*shape"]


class AdversarialLoss(NamedTuple):
    """What the two players minimise: functions of the logits of real and of generated images."""

    discriminator: Callable[[Logits, Logits], Float[Array, ""]]
    """(real logits, generated logits) -> loss."""
    generator: Callable[[Logits, Logits], Float[Array, ""]]
    """(real logits, generated logits) -> loss."""
    relativistic: bool = False
    """Whether the generator's loss depends on the real logits too."""
    calibrated: bool = True
    """Whether the sign of a logit means real or generated."""


def minimax_discriminator(real: Logits, fake: Logits) -> Float[Array, ""]:
    """-E[log D(x)] - E[log(1 - D(G(z)))]: minus the value V(D, G) of Goodfellow et al. 2014, eq. 1."""
    # log sigmoid(l) = -softplus(-l), log(1 - sigmoid(l)) = -softplus(l)
    return jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fake))


def minimax_generator(real: Logits, fake: Logits) -> Float[Array, ""]:
    """E[log(1 - D(G(z)))]: what the generator can change of V(D, G), Goodfellow et al. 2014, eq. 1."""
    del real
    return -jnp.mean(jax.nn.softplus(fake))


def non_saturating_generator(real: Logits, fake: Logits) -> Float[Array, ""]:
    """-E[log D(G(z))], whose gradient does not vanish early: Goodfellow et al. 2014, end of section 3."""
    del real
    return jnp.mean(jax.nn.softplus(-fake))


def hinge_discriminator(real: Logits, fake: Logits) -> Float[Array, ""]:
    """E[max(0, 1 - l(x))] + E[max(0, 1 + l(G(z)))]: Miyato et al. 2018, eq. 16 (Lim & Ye 2017)."""
    return jnp.mean(nn.relu(1.0 - real)) + jnp.mean(nn.relu(1.0 + fake))


def linear_generator(real: Logits, fake: Logits) -> Float[Array, ""]:
    """-E[l(G(z))]: Miyato et al. 2018, eq. 17; Arjovsky et al. 2017, eq. 2."""
    del real
    return -jnp.mean(fake)


def least_squares_discriminator(real: Logits, fake: Logits) -> Float[Array, ""]:
    """(E[(l(x) - 1)^2] + E[(l(G(z)) + 1)^2]) / 2: Mao et al. 2017, eq. 8."""
    return 0.5 * (jnp.mean(jnp.square(real - 1.0)) + jnp.mean(jnp.square(fake + 1.0)))


def least_squares_generator(real: Logits, fake: Logits) -> Float[Array, ""]:
    """E[l(G(z))^2] / 2: Mao et al. 2017, eq. 8."""
    del real
    return 0.5 * jnp.mean(jnp.square(fake))


def wasserstein_discriminator(real: Logits, fake: Logits) -> Float[Array, ""]:
    """E[l(G(z))] - E[l(x)]: minus the estimate of the distance, Arjovsky et al. 2017, eq. 2."""
    return jnp.mean(fake) - jnp.mean(real)


def relativistic_discriminator(real: Logits, fake: Logits) -> Float[Array, ""]:
    """E[-log sigmoid(l(x) - l(G(z)))], one generated image for each real one.

    Jolicoeur-Martineau 2019, section 3.1 (RpGAN); Huang et al. 2024, eq. 2 with f(t) = -log(1 + exp(-t)).
    """
    return jnp.mean(jax.nn.softplus(fake - real))


def relativistic_generator(real: Logits, fake: Logits) -> Float[Array, ""]:
    """E[-log sigmoid(l(G(z)) - l(x))]: with the two exchanged."""
    return jnp.mean(jax.nn.softplus(real - fake))


def relativistic_average_discriminator(real: Logits, fake: Logits) -> Float[Array, ""]:
    """-E[log D(x)] - E[log(1 - D(G(z)))], where D compares a logit with the mean of those of the other kind.

    Jolicoeur-Martineau 2019, section 3.2 (RaGAN); Wang et al. 2018 ("ESRGAN"), eq. 1.
    """
    return jnp.mean(jax.nn.softplus(fake.mean() - real)) + jnp.mean(jax.nn.softplus(fake - real.mean()))


def relativistic_average_generator(real: Logits, fake: Logits) -> Float[Array, ""]:
    """-E[log(1 - D(x))] - E[log D(G(z))]: Wang et al. 2018, eq. 2."""
    return relativistic_average_discriminator(fake, real)


MINIMAX = AdversarialLoss(minimax_discriminator, minimax_generator)
"""The game of Goodfellow et al. 2014, as written."""
NON_SATURATING = AdversarialLoss(minimax_discriminator, non_saturating_generator)
"""The same with their other loss for the generator."""
HINGE = AdversarialLoss(hinge_discriminator, linear_generator)
"""Hinge losses."""
LEAST_SQUARES = AdversarialLoss(least_squares_discriminator, least_squares_generator)
"""Least squares, with -1 for generated and 1 for real."""
WASSERSTEIN = AdversarialLoss(wasserstein_discriminator, linear_generator, calibrated=False)
"""The Wasserstein distance, which needs a discriminator of bounded slope."""
RELATIVISTIC = AdversarialLoss(relativistic_discriminator, relativistic_generator, relativistic=True, calibrated=False)
"""Relativistic pairing loss, which needs R1 and R2 to converge (Huang et al. 2024)."""

RELATIVISTIC_AVERAGE = AdversarialLoss(
    relativistic_average_discriminator, relativistic_average_generator, relativistic=True, calibrated=False
)
"""Relativistic loss against the mean of the batch, of ESRGAN."""


@dataclass(frozen=True)
class Players:
    """The two networks and the generator's inputs."""

    generator: nn.Module
    """(latent [b z], label [b] or None, train=...) -> image [b h w c]."""
    discriminator: nn.Module
    """(image, label or None, train=...) -> logits [b], or of any shape that begins with b."""
    latent: int
    """Size z of a latent."""
    classes: int = 0
    """Number of classes; 0 for networks without labels."""


class Augmentation(NamedTuple):
    """Augmentation of all images that the discriminator sees, real and generated."""

    function: Callable[..., Float[Array, "b h w c"]]
    """(images, key=..., probability=...) -> images, differentiable; the probability is that of each change."""
    adapted: Callable[[Any, Float[Array, "..."]], Any] | None = None
    """(``model_state["augmentation"]``, real logits) -> the next; None for a probability that stays."""


def sample_latents(
    index: Int[Array, " n"], size: int, *, key: Key[Array, ""], truncation: float | None = None
) -> Float[Array, "n {size}"]:
    """Latents from N(0, 1); latent i depends on (key, index[i]) alone.

    With ``truncation``, values beyond it are sampled again: fidelity for variety (Brock et al. 2019, section 3.1).
    """
    if truncation is None:
        return standard_normal((index.shape[0], size), key=key, index=index)
    keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(index)
    return jax.vmap(lambda each: jax.random.truncated_normal(each, -truncation, truncation, (size,)))(keys)


def check_truncation(truncation: float | None) -> None:
    """Raise ``UserError`` unless this is a bound or None."""
    if truncation is not None and not truncation > 0.0:
        raise UserError(f"truncation is a positive number or None, not {truncation}")


def discriminator_loss(
    players: Players,
    loss: AdversarialLoss,
    *,
    penalty: Penalty | None = None,
    augmentation: Augmentation | None = None,
) -> LossFn:
    """The discriminator's LossFn; batches hold "image" float32 in [-1, 1] and, with classes, "label" int32.

    Real and generated images pass the network one batch after the other, so that batch statistics do not mix them; its
    state (statistics, singular vectors) moves with both. Generated images get the labels of the real ones. The penalty
    is computed on the images after augmentation, with the network in inference mode. Logs
    ``real_logit`` and ``fake_logit`` (means), ``real_sign`` (mean sign of the real logits, which overfitting takes to
    1), ``penalty``, and ``augmentation``, its probability.
    """

    def value(params, model_state, batch, *, key, step):
        latent_key, real_key, fake_key, penalty_key = jax.random.split(key, 4)
        real, label = batch["image"], batch["label"] if players.classes else None
        fake, _ = _generated(players, params, model_state, real.shape[0], label, key=latent_key)
        real = _augmented(augmentation, model_state, real, key=real_key)
        fake = _augmented(augmentation, model_state, jax.lax.stop_gradient(fake), key=fake_key)
        real_logits, model_state = _logits(players, params, model_state, real, label)
        fake_logits, model_state = _logits(players, params, model_state, fake, label)
        total = loss.discriminator(real_logits, fake_logits)
        scalars = {
            "real_logit": real_logits.mean(),
            "fake_logit": fake_logits.mean(),
            "real_sign": jnp.sign(real_logits).mean(),
        }
        if penalty is not None:
            # singular vectors as they are by now, and constants
            frozen = {"params": params["discriminator"], **jax.lax.stop_gradient(model_state.get("discriminator", {}))}

            def critic(image: Array, label: Array | None) -> Array:
                logits: Any = players.discriminator.apply(frozen, image, label, train=False)
                return logits

            scalars["penalty"] = penalty(critic, real, fake, label, key=penalty_key, step=step)
            total = total + scalars["penalty"]
        if augmentation is not None:
            scalars["augmentation"] = model_state["augmentation"]["probability"]
            if augmentation.adapted is not None:
                moved = augmentation.adapted(model_state["augmentation"], jax.lax.stop_gradient(real_logits))
                model_state = {**model_state, "augmentation": moved}
        return total, (model_state, scalars)

    return value


def generator_loss(players: Players, loss: AdversarialLoss, *, augmentation: Augmentation | None = None) -> LossFn:
    """The generator's LossFn, for the same batches; of the network states it changes the generator's alone."""

    def value(params, model_state, batch, *, key, step):
        del step
        latent_key, real_key, fake_key = jax.random.split(key, 3)
        real, label = batch["image"], batch["label"] if players.classes else None
        fake, moved = _generated(players, params, model_state, real.shape[0], label, key=latent_key)
        fake = _augmented(augmentation, model_state, fake, key=fake_key)
        fake_logits, _ = _logits(players, params, model_state, fake, label)
        real_logits = fake_logits
        if loss.relativistic:
            real = _augmented(augmentation, model_state, real, key=real_key)
            real_logits, _ = _logits(players, params, model_state, real, label)
        return loss.generator(real_logits, fake_logits), (moved, {})

    return value


def generator_variables(state: Any) -> dict[str, Any]:
    """Of a TrainState, what the generator's ``apply`` takes, statistics too; for ``averaged(..., of=...)``."""
    return {"params": state.params["generator"], **state.model_state.get("generator", {})}


def sampler(players: Players, *, truncation: float | None = None) -> Sampler:
    """The generator with latents from its prior; image i depends on (key, index[i], label i)."""

    def sample(
        variables: Any, condition: Condition, index: Int[Array, " n"], key: Key[Array, ""]
    ) -> UInt8[Array, "n h w c"]:
        latents = sample_latents(index, players.latent, key=key, truncation=truncation)
        return images_of_latents(players, variables, condition, latents)

    return sample


def images_of_latents(
    players: Players, variables: Any, condition: Condition, latents: Float[Array, "n z"]
) -> UInt8[Array, "n h w c"]:
    """The generator's images of given latents; with classes, ``condition`` has "label" int32 [n]."""
    label = condition["label"] if players.classes else None
    image: Any = players.generator.apply(variables, latents, label, train=False)
    return to_uint8(image)


def _generated(
    players: Players, params: Any, model_state: Any, count: int, label: Array | None, *, key: Array
) -> tuple[Array, Any]:
    """Images of fresh latents, and the model's state with the generator's updated."""
    latents = over_samples(sample_latents(jnp.arange(count), players.latent, key=key))
    return _applied(players.generator, "generator", params, model_state, latents, label)


def _logits(players: Players, params: Any, model_state: Any, image: Array, label: Array | None) -> tuple[Array, Any]:
    """Logits, and the model's state with the discriminator's updated."""
    return _applied(players.discriminator, "discriminator", params, model_state, image, label)


def _applied(
    network: nn.Module, part: str, params: Any, model_state: Any, inputs: Array, label: Array | None
) -> tuple[Array, Any]:
    carried = model_state.get(part, {})
    variables = {"params": params[part], **carried}
    outputs, moved = network.apply(variables, inputs, label, train=True, mutable=list(carried))
    return outputs, {**model_state, part: moved} if carried else model_state


def _augmented(augmentation: Augmentation | None, model_state: Any, image: Array, *, key: Array) -> Array:
    if augmentation is None:
        return image
    return augmentation.function(image, key=key, probability=model_state["augmentation"]["probability"])
