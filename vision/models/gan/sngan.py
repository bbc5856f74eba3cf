"""The residual generator and discriminator of Miyato et al. 2018 (SNGAN), in their form for CIFAR-10.

Miyato et al., table 4: a generator of three upsampling residual blocks of 256 channels with batch normalisation; a
discriminator of four residual blocks of 128 channels with spectral normalisation, of which two downsample, and a sum
over all pixels. With classes, a scale and a shift for each in the generator's normalisations and a projection in the
discriminator (Miyato & Koyama 2018). For other sizes the generator has one block per doubling, and the discriminator
downsamples until the size is at most 8.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vision.models.gan.dcgan import Normalisation, halvings, projected
from vision.nn.batch_norm import batch_norm
from vision.nn.conditional_batch_norm import ConditionalBatchNorm
from vision.nn.convolution import Conv, PointwiseConv
from vision.nn.dense import Dense
from vision.nn.resample import upsample_nearest
from vision.nn.spectral_norm import SpectralConv

glorot = nn.initializers.glorot_uniform()
Conv3x3 = partial(Conv, winograd=True, kernel_init=glorot)
_COARSE = 8  # pixels: the size at which the discriminator stops downsampling


class DoublingBlock(nn.Module):
    """norm, ReLU, doubling, conv, norm, ReLU, conv; a 1x1 convolution and a doubling on the shortcut."""

    channels: int
    classes: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: Float[Array, "b h w c"], label: Int[Array, " b"] | None, *, train: bool
    ) -> Float[Array, "b H W channels"]:
        """Twice the sides."""
        norm = partial(ConditionalBatchNorm, self.classes, dtype=self.dtype)
        hidden = upsample_nearest(nn.relu(norm(name="norm_in")(features, label, train=train)))
        hidden = Conv3x3(self.channels, dtype=self.dtype, name="conv_in")(hidden)
        hidden = nn.relu(norm(name="norm_out")(hidden, label, train=train))
        hidden = Conv3x3(self.channels, dtype=self.dtype, name="conv_out")(hidden)
        # before the doubling, with which it commutes, it costs a quarter
        skip = PointwiseConv(self.channels, use_bias=True, kernel_init=glorot, dtype=self.dtype, name="skip")
        return hidden + upsample_nearest(skip(features))


class SnganGenerator(nn.Module):
    """From a latent to an image: a dense layer, upsampling blocks of equal width, norm, ReLU, conv, tanh."""

    resolution: int = 32
    channels: int = 3
    width: int = 256
    classes: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, latent: Float[Array, "b z"], label: Int[Array, " b"] | None = None, *, train: bool
    ) -> Float[Array, "b h w c"]:
        """Images in [-1, 1], float32."""
        steps = halvings(self.resolution)
        side = self.resolution >> steps
        project = Dense(side * side * self.width, kernel_init=glorot, dtype=self.dtype, name="project")
        hidden = project(latent).reshape(-1, side, side, self.width)
        for index in range(steps):
            block = DoublingBlock(self.width, self.classes, dtype=self.dtype, name=f"block_{index}")
            hidden = block(hidden, label, train=train)
        hidden = nn.relu(batch_norm(train=train, dtype=self.dtype, name="norm_out")(hidden))
        image = Conv3x3(self.channels, dtype=self.dtype, name="image")(hidden)
        return jnp.tanh(image.astype(jnp.float32))


class DiscriminatorBlock(nn.Module):
    """ReLU, conv, ReLU, conv, optionally with mean pooling; a 1x1 convolution on the shortcut if the shape changes.

    The first block has pixels as input: no activation and no normalisation before its first convolution.
    """

    channels: int
    halve: bool
    first: bool = False
    norm: Normalisation = "spectral"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b H W channels"]:
        """Half the sides, or the same."""
        conv = partial(SpectralConv, spectral=self.norm == "spectral", dtype=self.dtype)
        batch = partial(batch_norm, train=train, dtype=self.dtype)
        normalised = lambda x, name: batch(name=name)(x) if self.norm == "batch" else x
        hidden = features if self.first else nn.relu(normalised(features, "norm_in"))
        hidden = conv(self.channels, name="conv_in")(hidden, train=train)
        hidden = conv(self.channels, name="conv_out")(nn.relu(normalised(hidden, "norm_out")), train=train)
        means = lambda x: nn.avg_pool(x, (2, 2), (2, 2)) if self.halve else x
        if self.halve or features.shape[-1] != self.channels:
            # after the mean pooling, with which it commutes, it costs a quarter
            features = conv(self.channels, size=1, name="skip")(means(features), train=train)
        return means(hidden) + features


class SnganDiscriminator(nn.Module):
    """From an image to the logit of being real: residual blocks, ReLU, a sum over pixels, a linear layer."""

    width: int = 128
    classes: int = 0
    norm: Normalisation = "spectral"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, image: Float[Array, "b h w c"], label: Int[Array, " b"] | None = None, *, train: bool
    ) -> Float[Array, " b"]:
        """Logits, float32."""
        block = partial(DiscriminatorBlock, self.width, norm=self.norm, dtype=self.dtype)
        hidden, index = image, 0
        while index < halvings(image.shape[1]) and hidden.shape[1] > _COARSE:
            hidden = block(halve=True, first=index == 0, name=f"block_{index}")(hidden, train=train)
            index += 1
        for last in range(2):
            hidden = block(halve=False, first=index + last == 0, name=f"block_{index + last}")(hidden, train=train)
        pooled = jnp.sum(nn.relu(hidden), axis=(1, 2))
        return projected(pooled, label, self.classes, spectral=self.norm == "spectral", dtype=self.dtype, train=train)
