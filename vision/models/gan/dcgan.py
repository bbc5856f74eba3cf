"""The convolutional generator and discriminator of Radford et al. 2016 (DCGAN), and the patch discriminator.

Radford et al., section 3 and figure 1: strides in place of pooling, batch normalisation in all layers but the
generator's last and the discriminator's first, ReLU in the generator with a tanh at its end, leaky ReLU in the
discriminator, no hidden dense layers, all kernels from N(0, 0.02^2). Kernels are 4x4, which a stride of 2 divides
evenly. Three things are added: sides other than 64, classes (a scale and a shift for each in the generator, a
projection in the discriminator), and a discriminator with spectral normalisation (Miyato et al. 2018) or without
normalisation.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vision.nn.batch_norm import batch_norm
from vision.nn.conditional_batch_norm import ConditionalBatchNorm
from vision.nn.dense import Dense
from vision.nn.fractional_stride import FractionallyStridedConv
from vision.nn.spectral_norm import SpectralConv, SpectralDense, SpectralEmbed

Normalisation = Literal["batch", "spectral", "none"]

narrow = nn.initializers.normal(0.02)
leaky = partial(nn.leaky_relu, negative_slope=0.2)


def about_one(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    """N(1, 0.02^2), the initializer of batch normalisation scales."""
    return 1.0 + 0.02 * jax.random.normal(key, tuple(shape), dtype)


def halvings(resolution: int) -> int:
    """How often a size is halved: until it is odd or would be less than 4. From 64, 4 times; from 28, twice, to 7."""
    count = 0
    while resolution % 2 == 0 and resolution // 2 >= 4:
        resolution, count = resolution // 2, count + 1
    return count


class DcganGenerator(nn.Module):
    """From a latent to an image: a dense layer to the smallest map, and a sequence of upsampling layers."""

    resolution: int = 64
    channels: int = 3
    width: int = 128
    """Channels before the last doubling; each doubling halves them."""
    classes: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, latent: Float[Array, "b z"], label: Int[Array, " b"] | None = None, *, train: bool
    ) -> Float[Array, "b h w c"]:
        """Images in [-1, 1], float32."""
        steps = halvings(self.resolution)
        side, channels = self.resolution >> steps, self.width << (steps - 1)
        norm = partial(ConditionalBatchNorm, self.classes, scale_init=about_one, dtype=self.dtype)
        project = Dense(side * side * channels, use_bias=False, kernel_init=narrow, dtype=self.dtype, name="project")
        hidden = project(latent).reshape(-1, side, side, channels)
        hidden = nn.relu(norm(name="project_norm")(hidden, label, train=train))
        double = partial(FractionallyStridedConv, kernel_init=narrow, dtype=self.dtype)
        for index in range(steps - 1):
            channels //= 2
            hidden = double(channels, use_bias=False, name=f"double_{index}")(hidden)
            hidden = nn.relu(norm(name=f"double_{index}_norm")(hidden, label, train=train))
        image = double(self.channels, name="image")(hidden)
        return jnp.tanh(image.astype(jnp.float32))


class DcganDiscriminator(nn.Module):
    """From an image to the logit of being real: a sequence of downsampling layers, and a linear layer."""

    width: int = 128
    """Channels after the first halving; each further one doubles them, up to 8 times."""
    classes: int = 0
    norm: Normalisation = "batch"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, image: Float[Array, "b h w c"], label: Int[Array, " b"] | None = None, *, train: bool
    ) -> Float[Array, " b"]:
        """Logits, float32."""
        hidden = _halved(self, image, halvings(image.shape[1]), train=train).reshape(image.shape[0], -1)
        return projected(
            hidden, label, self.classes, spectral=self.norm == "spectral", init=narrow, dtype=self.dtype, train=train
        )


class PatchDiscriminator(nn.Module):
    """A logit for each of many overlapping patches: the discriminator of Isola et al. 2017, appendix 6.1.2.

    With three layers the receptive field of a logit has 70x70 pixels, as published; with two 34x34, with one 16x16.
    """

    width: int = 64
    """Channels of the first layer; each further one doubles them, up to 8 times."""
    layers: int = 3
    """Layers with a stride of 2."""
    norm: Normalisation = "batch"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, image: Float[Array, "b h w c"], label: Int[Array, " b"] | None = None, *, train: bool
    ) -> Float[Array, "b H W"]:
        """Logits, float32; there are no classes, and ``label`` is ignored."""
        del label
        hidden = _halved(self, image, self.layers, train=train)
        spectral = self.norm == "spectral"
        conv = partial(SpectralConv, size=4, spectral=spectral, kernel_init=narrow, dtype=self.dtype)
        # without a stride, borders of one pixel on all sides make the map one pixel smaller, as published
        crop = lambda features: features[:, :-1, :-1]
        last = conv(self.width * min(2**self.layers, 8), use_bias=self.norm != "batch", name="wide")
        hidden = crop(last(hidden, train=train))
        if self.norm == "batch":
            hidden = batch_norm(train=train, dtype=self.dtype, scale_init=about_one, name="wide_norm")(hidden)
        logits = crop(conv(1, name="logits")(leaky(hidden), train=train))
        return logits[..., 0].astype(jnp.float32)


def _halved(module: Any, image: Array, steps: int, *, train: bool) -> Array:
    """``steps`` convolutions of stride 2 with the normalisation and the width of ``module``."""
    hidden = image
    for index in range(steps):
        plain = index == 0 or module.norm != "batch"
        conv = SpectralConv(
            module.width * min(2**index, 8),
            size=4,
            strides=2,
            spectral=module.norm == "spectral",
            use_bias=plain,
            kernel_init=narrow,
            dtype=module.dtype,
            name=f"halve_{index}",
        )
        hidden = conv(hidden, train=train)
        if not plain:
            norm = batch_norm(train=train, dtype=module.dtype, scale_init=about_one, name=f"halve_{index}_norm")
            hidden = norm(hidden)
        hidden = leaky(hidden)
    return hidden


def projected(
    features: Float[Array, "b d"],
    label: Int[Array, " b"] | None,
    classes: int,
    *,
    spectral: bool,
    train: bool,
    init: Any = nn.initializers.glorot_uniform(),  # noqa: B008 - a pure function
    dtype: Any = jnp.float32,
) -> Float[Array, " b"]:
    """The end of a discriminator: a linear layer, plus the inner product with the vector of the class.

    Miyato & Koyama 2018, eq. 3: y^T V phi(x) + psi(phi(x)). Called inside a compact method; the layers are "logit" and
    "projection".
    """
    logit = SpectralDense(1, spectral=spectral, kernel_init=init, dtype=dtype, name="logit")(features, train=train)
    logit = logit[:, 0].astype(jnp.float32)
    if label is None:
        return logit
    embed = SpectralEmbed(classes, features.shape[-1], spectral=spectral, dtype=dtype, name="projection")
    return logit + jnp.sum(embed(label, train=train) * features, axis=-1).astype(jnp.float32)
