"""The diffusion UNet as a restoration network: it predicts the difference between an image and what it was."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vision.errors import UserError
from vision.models.unet import UNet, UNetConfig

UNET_RESTORATION = UNetConfig(
    width=64, multipliers=(1, 2, 4), blocks=1, attention=(), mid_attention="none", dropout=0.0
)
"""No attention, so that work grows as the number of pixels."""


def unet_multiple(config: UNetConfig) -> int:
    """What sides must be multiples of inside the network."""
    return config.patch * 2 ** (len(config.multipliers) - 1)


class RestorationUNet(nn.Module):
    """Restore an image, of any size: it is continued by its mirror image to the multiples that the network needs.

    Its normalisations are over the whole image, so that the result of a tile depends on the tile.
    """

    config: UNetConfig = UNET_RESTORATION

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
        """The restored images, float32 of about [0, 1].

        Args:
          image: in [0, 1].
          train: whether dropout is active, which needs the "dropout" random stream where its rate is not 0.

        Raises:
          UserError: the network has conditions, or other channels out than in.
        """
        config = self.config
        if config.out_channels not in (None, config.channels):
            raise UserError(f"a UNet that restores has as many channels out as in, not {config.out_channels}")
        height, width = image.shape[1:3]
        multiple = unet_multiple(config)
        padding = ((0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0))
        padded = jnp.pad(image, padding, mode="symmetric")
        change = UNet(config, name="unet")(2.0 * padded - 1.0, jnp.zeros(len(image)), {}, train=train)
        return image + 0.5 * change[:, :height, :width]
