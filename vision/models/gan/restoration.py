"""Discriminators of super-resolution: of whole patches (Ledig et al. 2017) and of every pixel (Wang et al. 2021).

Both give logits, high for true images.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vision.errors import UserError
from vision.models.gan.dcgan import leaky
from vision.nn.batch_norm import batch_norm
from vision.nn.convolution import Conv
from vision.nn.dense import Dense
from vision.nn.initializers import fan_in_uniform
from vision.nn.resample_bilinear import upsample_bilinear
from vision.nn.spectral_norm import SpectralConv


class VggDiscriminator(nn.Module):
    """Convolutions that halve the patch until it has 4 pixels or fewer, then two dense layers: a logit a patch.

    "Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial Network", figure 4: pairs of a 3x3
    convolution and one with a stride of 2, all but the first with a batch normalisation. As in ESRGAN, the strided ones
    have 4x4 kernels and the first dense layer 100 outputs.
    """

    width: int = 64
    """Channels of the first pair; each further one doubles them, up to 8 times."""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool) -> Float[Array, " b"]:
        """Logits, float32.

        Args:
          image: in [0, 1], of one size for a set of parameters.
          train: whether batch normalisation normalises by the batch and updates its statistics.

        Raises:
          UserError: sides that cannot be halved so often.
        """
        steps = patch_halvings(min(image.shape[1:3]))
        if any(side % 2**steps for side in image.shape[1:3]):
            raise UserError(
                f"patches of {image.shape[1]} pixels cannot be halved {steps} times: choose --data.patch as a multiple "
                f"of {2**steps}"
            )
        conv = partial(Conv, kernel_init=fan_in_uniform, dtype=self.dtype)
        norm = partial(batch_norm, train=train, dtype=self.dtype)
        hidden = 2.0 * image - 1.0
        for index in range(steps):
            width = self.width * min(2**index, 8)
            hidden = conv(width, 3, use_bias=index == 0, name=f"conv_{index}")(hidden)
            hidden = leaky(norm(name=f"conv_{index}_norm")(hidden) if index else hidden)
            hidden = conv(width, 4, strides=2, padding=1, use_bias=False, name=f"halve_{index}")(hidden)
            hidden = leaky(norm(name=f"halve_{index}_norm")(hidden))
        hidden = leaky(Dense(100, dtype=self.dtype, name="dense")(hidden.reshape(len(hidden), -1)))
        return Dense(1, name="logit")(hidden)[:, 0].astype(jnp.float32)


def patch_halvings(side: int) -> int:
    """How often a patch is halved: five times from 128 pixels, as published, and fewer for smaller ones."""
    count = 0
    while side > 4 and count < 5:
        side, count = side // 2, count + 1
    return count


class UNetDiscriminator(nn.Module):
    """A UNet with spectral normalisation: a logit for every pixel ("Real-ESRGAN", section 3.3)."""

    width: int = 64
    """Channels at the highest resolution; each of three halvings doubles them."""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w"]:
        """Logits, float32.

        Args:
          image: in [0, 1]; sides are multiples of 8.
          train: whether the vectors of spectral normalisation move; their collection must then be mutable.

        Raises:
          UserError: other sides.
        """
        if image.shape[1] % 8 or image.shape[2] % 8:
            raise UserError(
                f"patches of {image.shape[1]}x{image.shape[2]} pixels cannot be halved three times: choose "
                "--data.patch as a multiple of 8"
            )
        spectral = partial(SpectralConv, spectral=True, use_bias=False, kernel_init=fan_in_uniform, dtype=self.dtype)
        hidden = leaky(Conv(self.width, 3, kernel_init=fan_in_uniform, dtype=self.dtype, name="first")(image))
        skips = []
        for index in range(1, 4):
            skips.append(hidden)
            halve = spectral(self.width * 2**index, size=4, strides=2, name=f"halve_{index}")
            hidden = leaky(halve(hidden, train=train))
        for index in (3, 2, 1):
            hidden = upsample_bilinear(hidden)
            double = spectral(self.width * 2 ** (index - 1), size=3, name=f"double_{index}")
            hidden = leaky(double(hidden, train=train)) + skips.pop()
        for number in (1, 2):
            hidden = leaky(spectral(self.width, size=3, name=f"last_{number}")(hidden, train=train))
        return Conv(1, 3, kernel_init=fan_in_uniform, name="logits")(hidden)[..., 0].astype(jnp.float32)
