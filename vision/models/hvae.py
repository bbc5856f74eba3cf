"""A hierarchical variational autoencoder after Child 2021, "Very Deep VAEs Generalize Autoregressive Models".

The latent has groups, sampled one after another from coarse to fine feature maps. The encoder keeps its features at
each resolution; in the decoder, each group z_l has a prior p(z_l | z_<l) from the features so far and a posterior q(z_l
| z_<l, x) from these and the encoder's (the ladder of Sonderby et al. 2016). The samples are added to the features.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp
from annotated_types import MinLen
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Key

from vision.errors import UserError
from vision.nn.convolution import Conv
from vision.nn.dense import Dense
from vision.nn.latent import Inferred, gaussian_kl, gaussian_log_density, standard_normal
from vision.nn.resample import depth_to_space, space_to_depth, upsample_nearest
from vision.ranges import Channels, Depth, Pixels


@dataclass(frozen=True)
class HvaeConfig:
    """The architecture of the network."""

    resolution: Pixels = 32
    """Size of the images in pixels."""
    channels: Channels = 3
    """Channels of the image."""
    patch: Pixels = 2
    """Size of the squares of pixels that are first folded into channels."""
    sides: Annotated[tuple[Pixels, ...], MinLen(1)] = (1, 4, 8, 16)
    """Sizes of the feature maps with groups, from coarse to fine; each a power of two times the one before, and the
    last one resolution / patch."""
    groups: Annotated[tuple[Depth, ...], MinLen(1)] = (1, 2, 3, 4)
    """Groups of the latent at each of them."""
    width: Channels = 128
    """Channels of all feature maps."""
    bottleneck: Channels = 4
    """Factor by which blocks reduce their inner channels."""
    latent: Channels = 16
    """Channels of each group."""

    def __post_init__(self):
        if self.width < self.bottleneck:
            raise UserError(f"model.width must be at least model.bottleneck, {self.bottleneck}, but is {self.width}")


SHARDING_RULES: tuple[tuple[str, P], ...] = (
    (r"/narrow/kernel$", P(None, "tensor")),
    (r"/widen/kernel$", P("tensor", None)),
)

fan_in = nn.initializers.he_normal()
zeros = nn.initializers.zeros
Conv3x3 = partial(Conv, winograd=True, kernel_init=fan_in)


class Block(nn.Module):
    """GELU and layers of 1x1, 3x3, 3x3, 1x1, the inner ones narrow: Child 2021, figure 3. No normalisation."""

    outputs: int
    inner: int

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h w outputs"]:
        """Initially zero; 3x3 layers are 1x1 where maps are too small."""
        inside = Conv3x3 if features.shape[1] > 2 else partial(Dense, kernel_init=fan_in)
        hidden = Dense(self.inner, kernel_init=fan_in, name="narrow")(nn.gelu(features))
        hidden = inside(self.inner, name="first")(nn.gelu(hidden))
        hidden = inside(self.inner, name="second")(nn.gelu(hidden))
        return Dense(self.outputs, kernel_init=zeros, name="widen")(nn.gelu(hidden))


class Hvae(nn.Module):
    """The complete model; ``outputs`` is the number of parameters of the likelihood per pixel."""

    config: HvaeConfig
    outputs: int

    def setup(self):
        """Create encoder blocks, and for each group a prior, a posterior and a decoder block."""
        config = self.config
        inner = config.width // config.bottleneck
        self.places = tuple(
            (side, index) for side, count in zip(config.sides, config.groups, strict=True) for index in range(count)
        )
        each = lambda made: {f"{side}_{index}": made() for side, index in self.places}
        self.stem = Dense(config.width, kernel_init=fan_in)
        self.up = each(lambda: Block(config.width, inner))
        self.posterior = each(lambda: Block(2 * config.latent, inner))
        self.prior = each(lambda: Block(2 * config.latent + config.width, inner))
        self.join = each(lambda: Dense(config.width))
        self.down = each(lambda: Block(config.width, inner))
        self.start = {side: self.param(f"start_{side}", zeros, (side, side, config.width)) for side in config.sides}
        self.pixels = Dense(config.patch**2 * self.outputs)

    def _encoded(self, image: Float[Array, "b h w c"]) -> dict[int, Array]:
        """Features at each side."""
        hidden, found = self.stem(space_to_depth(image, self.config.patch)), {}
        for side in reversed(self.config.sides):
            factor = hidden.shape[1] // side
            if factor > 1:
                hidden = hidden.reshape(-1, side, factor, side, factor, hidden.shape[-1]).mean((2, 4))
            for where, index in self.places:
                if where == side:
                    hidden = hidden + self.up[f"{side}_{index}"](hidden)
            found[side] = hidden
        return found

    def _decoded(
        self, index: Int[Array, " n"], encoded: dict[int, Array] | None, *, key: Key[Array, ""], temperature: float
    ) -> Inferred:
        """From the coarsest group to pixels; from the posterior where there is an image, else from the prior."""
        config, count = self.config, len(index)
        hidden = jnp.zeros((count, config.sides[0], config.sides[0], config.width))
        divergences, ratio, codes, before = [], jnp.zeros(count), [], None
        for number, (side, block) in enumerate(self.places):
            if side != before:
                while hidden.shape[1] < side:
                    hidden = upsample_nearest(hidden)
                hidden, before = hidden + self.start[side], side
            place = f"{side}_{block}"
            prior = self.prior[place](hidden)
            mean, log_variance, more = jnp.split(prior, [config.latent, 2 * config.latent], axis=-1)
            group_key = jax.random.fold_in(key, number)
            noise = standard_normal(mean.shape, key=group_key, index=index)
            if encoded is None:
                code = mean + temperature * jnp.exp(0.5 * log_variance) * noise
                divergences.append(jnp.zeros(count))
            else:
                found = self.posterior[place](jnp.concatenate([hidden, encoded[side]], axis=-1))
                q_mean, q_log_variance = jnp.split(found, 2, axis=-1)
                code = q_mean + jnp.exp(0.5 * q_log_variance) * noise
                # Child 2021, eq. 3 and 4: the divergence of a group, given the groups before it
                divergences.append(gaussian_kl(q_mean, q_log_variance, mean, log_variance).sum((1, 2, 3)))
                difference = gaussian_log_density(code, q_mean, q_log_variance) - gaussian_log_density(
                    code, mean, log_variance
                )
                ratio = ratio + difference.sum((1, 2, 3))
            codes.append(code.reshape(count, -1))
            hidden = hidden + more + self.join[place](code)
            hidden = hidden + self.down[place](hidden)
        outputs = depth_to_space(self.pixels(nn.gelu(hidden)), config.patch)
        return Inferred(outputs, jnp.stack(divergences, axis=-1), ratio, jnp.concatenate(codes, axis=-1))

    def __call__(self, image: Float[Array, "b h w c"], *, key: Key[Array, ""]) -> Inferred:
        """All groups of each image, sampled from the posterior, and the decoder's output.

        Args:
          image: float32 in [-1, 1].
          key: for sampling.
        """
        return self._decoded(jnp.arange(len(image)), self._encoded(image), key=key, temperature=1.0)

    def sample(
        self, index: Int[Array, " n"], *, key: Key[Array, ""], temperature: float = 1.0
    ) -> Float[Array, "n h w outputs"]:
        """Parameters of the likelihood for latents from the prior, with all deviations times ``temperature``.

        The latents of sample i are functions of (key, index[i]).
        """
        return self._decoded(index, None, key=key, temperature=temperature).outputs
