"""Likelihoods of images: what the outputs of a decoder say of each pixel, p(x|z).

Images are float32 in [-1, 1], as everywhere. Each likelihood is a set of pure functions of the decoder's outputs
[b h w p]; log-likelihoods are in nats, summed over the image.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Key

from vision.errors import UserError
from vision.ranges import Depth, PositiveFloat, check_ranges


@runtime_checkable
class Likelihood(Protocol):
    """p(x|z), given what the decoder says of it."""

    def outputs(self, channels: int) -> int:
        """Outputs of the decoder per pixel, for images of ``channels`` channels."""
        ...

    def log_density(self, outputs: Float[Array, "b h w p"], image: Float[Array, "b h w c"]) -> Float[Array, " b"]:
        """The log-likelihood of each image in nats."""
        ...

    def mean(self, outputs: Float[Array, "b h w p"]) -> Float[Array, "b h w c"]:
        """The expected image, in [-1, 1]: what is shown."""
        ...

    def draw(self, outputs: Float[Array, "b h w p"], *, key: Key[Array, ""]) -> Float[Array, "b h w c"]:
        """An image from p(x|z), in [-1, 1]."""
        ...


@dataclass(frozen=True)
class Bernoulli:
    """Pixels that are black or white; outputs are logits. For images of -1 and 1 alone, see ``binarised``."""

    def outputs(self, channels: int) -> int:
        """A logit for each channel."""
        return channels

    def log_density(self, outputs: Float[Array, "b h w c"], image: Float[Array, "b h w c"]) -> Float[Array, " b"]:
        """Kingma & Welling 2014, appendix C.1: sum of x log y + (1 - x) log(1 - y)."""
        # with t = 2x - 1 in {-1, 1}, log sigmoid(t logit); between, the same cross-entropy
        white = 0.5 * (image + 1.0)
        return -jnp.sum(jax.nn.softplus(outputs) - white * outputs, axis=(1, 2, 3))

    def mean(self, outputs: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Probabilities as grey values."""
        return 2.0 * jax.nn.sigmoid(outputs) - 1.0

    def draw(self, outputs: Float[Array, "b h w c"], *, key: Key[Array, ""]) -> Float[Array, "b h w c"]:
        """Black or white."""
        return 2.0 * jax.random.bernoulli(key, jax.nn.sigmoid(outputs)).astype(jnp.float32) - 1.0


@dataclass(frozen=True)
class Gaussian:
    """Independent normal pixels around the output, with one deviation for all or one for each.

    A density, not a probability: its nats depend on the range of pixels, here [-1, 1], and it can exceed 0.
    """

    deviation: float = 0.1
    """Where ``learned`` is false; sqrt(1/2) makes the loss the squared error up to a constant."""
    learned: bool = False
    """The decoder gives the log deviation of each pixel too."""
    smallest: float = 1.0 / 255.0
    """Bound from below on learned deviations, half a grey level: without one, flat areas drive them to 0."""

    def outputs(self, channels: int) -> int:
        """Means, and log deviations where they are learned."""
        return channels * (2 if self.learned else 1)

    def _parameters(self, outputs: Array) -> tuple[Array, Array | float]:
        if not self.learned:
            return outputs, math.log(self.deviation)
        mean, raw = jnp.split(outputs, 2, axis=-1)
        return mean, math.log(self.smallest) + jax.nn.softplus(raw - math.log(self.smallest))

    def log_density(self, outputs: Float[Array, "b h w p"], image: Float[Array, "b h w c"]) -> Float[Array, " b"]:
        """Sum of log N(x; mean, deviation^2)."""
        mean, log_deviation = self._parameters(outputs)
        scaled = (image - mean) * jnp.exp(-jnp.asarray(log_deviation))
        each = -0.5 * (jnp.square(scaled) + math.log(2.0 * math.pi)) - log_deviation
        return jnp.sum(each, axis=(1, 2, 3))

    def mean(self, outputs: Float[Array, "b h w p"]) -> Float[Array, "b h w c"]:
        """The mean, clipped."""
        return jnp.clip(self._parameters(outputs)[0], -1.0, 1.0)

    def draw(self, outputs: Float[Array, "b h w p"], *, key: Key[Array, ""]) -> Float[Array, "b h w c"]:
        """The mean with noise, clipped."""
        mean, log_deviation = self._parameters(outputs)
        noise = jnp.exp(jnp.asarray(log_deviation)) * jax.random.normal(key, mean.shape)
        return jnp.clip(mean + noise, -1.0, 1.0)


@dataclass(frozen=True)
class LogisticMixture:
    """The probability of 8-bit pixels under a mixture of discretised logistics (Salimans et al. 2017, "PixelCNN++").

    Channels of one pixel are tied: all share the component, and in colour the means of green and blue depend linearly
    on the channels before (section 2.2 there).
    """

    components: int = 10
    """Of the mixture."""
    smallest: float = math.exp(-7.0)
    """Bound from below on scales; the default is that of the paper."""

    def outputs(self, channels: int) -> int:
        """A logit, and a mean and a log scale a channel, for each component; in colour three coefficients more."""
        return self.components * (1 + 2 * channels + (3 if channels == 3 else 0))

    def _parameters(self, outputs: Array) -> tuple[Array, Array, Array, Array | None]:
        """Logits [b h w m], means and log scales [b h w m c], coefficients [b h w m 3] in colour."""
        each = outputs.shape[-1] // self.components
        channels = 3 if each == 10 else (each - 1) // 2
        parts = rearrange(outputs, "b h w (m e) -> b h w m e", m=self.components)
        logits, means, log_scales = (
            parts[..., 0],
            parts[..., 1 : 1 + channels],
            parts[..., 1 + channels : 1 + 2 * channels],
        )
        coefficients = jnp.tanh(parts[..., 1 + 2 * channels :]) if channels == 3 else None
        return logits, means, jnp.maximum(log_scales, math.log(self.smallest)), coefficients

    def log_density(self, outputs: Float[Array, "b h w p"], image: Float[Array, "b h w c"]) -> Float[Array, " b"]:
        """The log probability of each image of values n/127.5 - 1 for whole n; so never above 0."""
        logits, means, log_scales, coefficients = self._parameters(outputs)
        value = image[..., None, :]
        if coefficients is not None:
            # Salimans et al. 2017, eq. 3: the mean of green given red, of blue given both
            red, green = value[..., 0], value[..., 1]
            means = jnp.stack(
                [
                    means[..., 0] + 0.0 * red,
                    means[..., 1] + coefficients[..., 0] * red,
                    means[..., 2] + coefficients[..., 1] * red + coefficients[..., 2] * green,
                ],
                axis=-1,
            )
        inverse = jnp.exp(-log_scales)
        upper, lower = inverse * (value - means + 1.0 / 255.0), inverse * (value - means - 1.0 / 255.0)
        # eq. 2: P(x) = sigmoid((x + 1/2 - mean)/s) - sigmoid((x - 1/2 - mean)/s), the ends taking what is beyond them.
        # log(sigmoid(u) - sigmoid(l)) = log sigmoid(u) + log sigmoid(-l) + log(1 - exp(l - u)), and u - l is known
        width = jnp.log(-jnp.expm1(-2.0 / 255.0 * inverse))
        between = jax.nn.log_sigmoid(upper) + jax.nn.log_sigmoid(-lower) + width
        at_ends = jnp.where(value < -0.999, jax.nn.log_sigmoid(upper), jax.nn.log_sigmoid(-lower))
        log_mass = jnp.where(jnp.abs(value) > 0.999, at_ends, between)
        return jax.nn.logsumexp(log_mass.sum(-1) + jax.nn.log_softmax(logits), axis=-1).sum((1, 2))

    def mean(self, outputs: Float[Array, "b h w p"]) -> Float[Array, "b h w c"]:
        """The mean of the likeliest component, clipped; that of a mixture is grey between its parts."""
        logits, means, _, coefficients = self._parameters(outputs)
        return self._tied(_chosen(means, jnp.argmax(logits, axis=-1)), coefficients, jnp.argmax(logits, axis=-1))

    def draw(self, outputs: Float[Array, "b h w p"], *, key: Key[Array, ""]) -> Float[Array, "b h w c"]:
        """A component, then a logistic value around its mean, rounded to 256 values by whoever writes it."""
        logits, means, log_scales, coefficients = self._parameters(outputs)
        which_key, noise_key = jax.random.split(key)
        which = jax.random.categorical(which_key, logits)
        scale = jnp.exp(_chosen(log_scales, which))
        noise = jax.random.logistic(noise_key, scale.shape)
        return self._tied(_chosen(means, which) + scale * noise, coefficients, which)

    def _tied(self, value: Array, coefficients: Array | None, which: Array) -> Array:
        """The colour channels after one another, each clipped before the next is computed of it."""
        value = jnp.clip(value, -1.0, 1.0) if coefficients is None else value
        if coefficients is None:
            return value
        tie = _chosen(coefficients, which)
        red = jnp.clip(value[..., 0], -1.0, 1.0)
        green = jnp.clip(value[..., 1] + tie[..., 0] * red, -1.0, 1.0)
        blue = jnp.clip(value[..., 2] + tie[..., 1] * red + tie[..., 2] * green, -1.0, 1.0)
        return jnp.stack([red, green, blue], axis=-1)


def _chosen(values: Float[Array, "b h w m c"], which: Array) -> Float[Array, "b h w c"]:
    return jnp.take_along_axis(values, which[..., None, None], axis=-2)[..., 0, :]


@dataclass(frozen=True)
class LikelihoodConfig:
    """What is said of each pixel."""

    kind: Literal["bernoulli", "gaussian", "gaussian_learned", "logistic_mixture"] = "logistic_mixture"
    """Black or white pixels; normal with one deviation for all, or with one for each that the decoder gives; 8-bit."""
    deviation: PositiveFloat = 0.1
    """Of ``gaussian``, for pixels in [-1, 1]."""
    components: Depth = 10
    """Of ``logistic_mixture``."""
    smallest: PositiveFloat | None = None
    """Bound from below on scales and deviations that are learned, for pixels in [-1, 1]; None for exp(-7) of logistics
    and half a grey level of deviations. Where areas are flat but for the last bits, as in drawings, more of it makes
    the rest count."""


def make_likelihood(config: LikelihoodConfig) -> Likelihood:
    """The likelihood of a configuration. Raises ``UserError`` for a deviation or a number that cannot be."""
    check_ranges(config)
    if config.smallest is not None and config.kind in ("bernoulli", "gaussian"):
        raise UserError(f"likelihood.kind {config.kind} has no scales that are learned: leave likelihood.smallest out")
    if config.kind == "bernoulli":
        return Bernoulli()
    bound = {} if config.smallest is None else {"smallest": config.smallest}
    if config.kind == "logistic_mixture":
        return LogisticMixture(config.components, **bound)
    return Gaussian(config.deviation, learned=config.kind == "gaussian_learned", **bound)


def binarised(image: Float[Array, "b h w c"], *, key: Key[Array, ""]) -> Float[Array, "b h w c"]:
    """Each pixel -1 or 1, 1 with its grey value as probability (Salakhutdinov & Murray 2008); [-1, 1] in and out."""
    return 2.0 * jax.random.bernoulli(key, 0.5 * (image + 1.0)).astype(jnp.float32) - 1.0
