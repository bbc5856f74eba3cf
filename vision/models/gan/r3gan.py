"""A generator and a discriminator without normalisation, after Huang et al. 2024 (R3GAN, config E).

Both have the same architecture, reversed. At each resolution there are residual blocks: a 1x1 convolution that widens,
a grouped 3x3 convolution, a 1x1 convolution back, leaky ReLUs between them and neither normalisation nor an activation
after the sum. Between resolutions features are resampled bilinearly, with a 1x1 convolution where widths differ (here
they are equal, as in the paper for CIFAR-10). Normalisation is replaced by the initialisation of Zhang et al. 2019
(Fixup): the last convolution of a block is initialised to zero, the two others to L^(-1/4) of the usual deviation, with
L blocks in total. The generator starts with a learned 4x4 map, modulated by the latent code; the discriminator ends
with a convolution over the whole 4x4 map, channel by channel, and a linear layer. Classes are concatenated to the
latent and use a projection in the discriminator. Not specified in the paper: class conditioning, and sizes whose
smallest map is not 4x4.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vision.models.gan.dcgan import halvings, leaky, projected
from vision.nn.convolution import Conv, PointwiseConv
from vision.nn.dense import Dense, add_bias
from vision.nn.resample_bilinear import downsample_bilinear, upsample_bilinear

unit_fan_in = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


class InvertedBottleneck(nn.Module):
    """1x1 to ``expansion`` times the channels, leaky ReLU, grouped 3x3, leaky ReLU, 1x1 back; residual."""

    blocks: int
    """Residual blocks of the complete network, for the initialisation."""
    expansion: int = 2
    group_size: int = 16
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Add the branch."""
        channels = features.shape[-1]
        wide = self.expansion * channels
        # Zhang et al. 2019, section 3: L^(-1/(2m-2)) for m = 3 layers per branch, on the deviation; he_normal's gain is
        # 2
        scaled = nn.initializers.variance_scaling(2.0 * self.blocks**-0.5, "fan_in", "normal")
        point = partial(PointwiseConv, dtype=self.dtype)
        hidden = leaky(point(wide, use_bias=True, kernel_init=scaled, name="widen")(features))
        groups = wide // self.group_size
        grouped = Conv(wide, groups=groups, use_bias=False, kernel_init=scaled, dtype=self.dtype, name="grouped")
        hidden = grouped(hidden)
        hidden = leaky(add_bias(hidden, self.param("bias", nn.initializers.zeros, (wide,))))
        return features + point(channels, kernel_init=nn.initializers.zeros, name="narrow")(hidden)


class R3ganGenerator(nn.Module):
    """From a latent to an image: a modulated map, residual blocks per resolution, a 1x1 convolution to pixels."""

    resolution: int = 32
    channels: int = 3
    width: int = 768
    blocks: int = 2
    """Residual blocks per resolution."""
    classes: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, latent: Float[Array, "b z"], label: Int[Array, " b"] | None = None, *, train: bool
    ) -> Float[Array, "b h w c"]:
        """Images, float32, centred on [-1, 1] and not bounded; ``train`` has no effect."""
        del train
        steps = halvings(self.resolution)
        side = self.resolution >> steps
        if label is not None:
            unit = nn.initializers.normal(1.0)
            embed = nn.Embed(self.classes, latent.shape[-1], embedding_init=unit, name="class")
            latent = jnp.concatenate([latent, embed(label).astype(self.dtype)], axis=-1)
        basis = self.param("basis", nn.initializers.normal(1.0), (side, side, self.width))
        modulate = Dense(self.width, use_bias=False, kernel_init=unit_fan_in, dtype=self.dtype, name="modulate")
        hidden = (basis * modulate(latent)[:, None, None, :]).astype(self.dtype)
        block = partial(InvertedBottleneck, blocks=self.blocks * (steps + 1), dtype=self.dtype)
        for level in range(steps + 1):
            hidden = upsample_bilinear(hidden) if level else hidden
            for index in range(self.blocks):
                hidden = block(name=f"level_{level}_block_{index}")(hidden)
        image = PointwiseConv(self.channels, use_bias=True, kernel_init=unit_fan_in, dtype=self.dtype, name="image")
        return image(hidden).astype(jnp.float32)


class R3ganDiscriminator(nn.Module):
    """From an image to the logit of being real: the reversed architecture of the generator."""

    width: int = 768
    blocks: int = 2
    """Residual blocks per resolution."""
    classes: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, image: Float[Array, "b h w c"], label: Int[Array, " b"] | None = None, *, train: bool
    ) -> Float[Array, " b"]:
        """Logits, float32."""
        steps = halvings(image.shape[1])
        pixels = PointwiseConv(self.width, use_bias=True, kernel_init=unit_fan_in, dtype=self.dtype, name="pixels")
        hidden = pixels(image)
        block = partial(InvertedBottleneck, blocks=self.blocks * (steps + 1), dtype=self.dtype)
        for level in range(steps + 1):
            hidden = downsample_bilinear(hidden) if level else hidden
            for index in range(self.blocks):
                hidden = block(name=f"level_{level}_block_{index}")(hidden)
        fan = nn.initializers.normal(1.0 / hidden.shape[1])
        basis = self.param("basis", fan, hidden.shape[1:])
        pooled = jnp.einsum("bhwc,hwc->bc", hidden.astype(jnp.float32), basis)
        return projected(pooled, label, self.classes, spectral=False, init=unit_fan_in, dtype=self.dtype, train=train)
