"""The protocols by which papers on super-resolution and restoration measure PSNR and SSIM; each has a name.

One reconstruction has several numbers, by what is compared (luma or colours), by where values are rounded to 8 bits,
and by how many pixels of the border are left out. The means over Set5 of MATLAB's bicubic enlargement, in decibels:

===============  ===================================================================  =====  =====  =====
protocol         what is rounded to 8 bits                                            x2     x3     x4
===============  ===================================================================  =====  =====  =====
luma             nothing; the low-resolution luma neither                             33.69  30.41  28.43
luma of 8 bits   both lumas, the small one before it is enlarged (Dong et al. 2016)   33.65  30.39  28.42
luma of colours  the colours, before their luma is taken (BasicSR; Lim et al. 2017)   33.68  30.40  28.43
colours          the colours                                                          31.80  28.63  26.70
===============  ===================================================================  =====  =====  =====

As many pixels as the scale are left out on every side. SSIM is that of Wang et al. 2004 with all windows inside what is
left (``structural_similarity``), of colours the mean over channels; it reads 0 to 255 as MATLAB's ``ssim_index`` does.
"""

from dataclasses import dataclass, replace
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vision.errors import UserError
from vision.metrics.reconstruction.signal_to_noise import decibels, peak_signal_to_noise
from vision.metrics.reconstruction.structural_similarity import WINDOW, similarity_map, structural_similarity
from vision.ops.imresize import crop_border
from vision.ops.ycbcr import luma
from vision.ranges import NonNegativeInt

ProtocolName = Literal["luma", "luma of 8 bits", "luma of colours", "colours"]


@dataclass(frozen=True)
class ReconstructionProtocol:
    """What is compared of two images."""

    name: ProtocolName = "luma"
    """See the table of this module."""
    border: NonNegativeInt = 0
    """Pixels that are left out on every side: the scale of super-resolution, 0 of denoising."""

    @property
    def words(self) -> str:
        """The protocol in words, for reports."""
        what = {
            "luma": "BT.601 luma, not rounded",
            "luma of 8 bits": "BT.601 luma rounded to 8 bits",
            "luma of colours": "BT.601 luma of colours rounded to 8 bits",
            "colours": "red, green and blue rounded to 8 bits",
        }[self.name]
        return f"{what}; {self.border} pixels of the border left out"

    @property
    def label(self) -> str:
        """A short name for tables and keys, such as ``y_8bit_border2``."""
        short = {"luma": "y", "luma of 8 bits": "y_8bit", "luma of colours": "y_of_8bit_rgb", "colours": "rgb_8bit"}
        return f"{short[self.name]}_border{self.border}"


def compared(images: Float[Array, "b h w c"], protocol: ReconstructionProtocol) -> Float[Array, "b H W d"]:
    """What the protocol compares of images in [0, 1], in [0, 1]: their luma or colours without the border.

    Args:
      images: RGB, or a single channel that is luma already (studio range, see ``vision.ops.ycbcr``).
      protocol: which.

    Raises:
      UserError: colours are asked for of images without colours; or nothing is left inside the border.
    """
    if protocol.name == "colours" and images.shape[-1] != 3:
        raise UserError(f"the protocol of colours needs images of 3 channels, got {images.shape[-1]}")
    if protocol.name in ("colours", "luma of colours"):
        images = rounded(images)
    if protocol.name != "colours":
        images = luma(images)
    if protocol.name == "luma of 8 bits":
        images = rounded(images)
    return crop_border(images, protocol.border)


def reconstruction_quality(
    image: Float[Array, "b h w c"], reference: Float[Array, "b h w c"], protocol: ReconstructionProtocol
) -> dict[str, Float[Array, " b"]]:
    """PSNR in decibels and SSIM of each image, as "psnr_LABEL" and "ssim_LABEL" with the label of the protocol.

    Args:
      image: in [0, 1], RGB or luma; values outside are clipped where they are rounded, and only there.
      reference: the target image.
      protocol: what is compared.

    Raises:
      UserError: as for :func:`compared`, or the images without their border are smaller than SSIM's window.
    """
    image, reference = compared(image, protocol), compared(reference, protocol)
    return {
        f"psnr_{protocol.label}": peak_signal_to_noise(image, reference, value_range=(0.0, 1.0)),
        f"ssim_{protocol.label}": structural_similarity(image, reference, value_range=(0.0, 1.0)),
    }


def region_quality(
    image: Float[Array, "b h w c"],
    reference: Float[Array, "b h w c"],
    sizes: Int[Array, "b 2"],
    protocol: ReconstructionProtocol,
) -> dict[str, Float[Array, " b"]]:
    """:func:`reconstruction_quality` of images of different sizes, each in the upper left of a canvas.

    Args:
      image: in [0, 1], RGB or luma.
      reference: the target image.
      sizes: height and width of each image, of at least 11 pixels without the border; what is outside has no effect.
      protocol: what is compared.

    Raises:
      UserError: as for :func:`reconstruction_quality`, of the canvas.
    """
    border, whole = protocol.border, replace(protocol, border=0)
    image, reference = compared(image, whole), compared(reference, whole)
    inside = _inside(sizes, image.shape[1:3], border, border)
    error = _mean_where(inside, jnp.square(image - reference))
    similarity = similarity_map(image, reference, value_range=(0.0, 1.0))
    windows = _inside(sizes, similarity.shape[1:3], border, border + WINDOW - 1)
    return {
        f"psnr_{protocol.label}": decibels(error, value_range=(0.0, 1.0)),
        f"ssim_{protocol.label}": _mean_where(windows, similarity),
    }


def _inside(sizes: Array, shape: tuple[int, ...], before: int, after: int) -> Bool[Array, "b h w 1"]:
    """Which pixels have at least ``before`` pixels of their image above and left, and ``after`` below and right."""
    rows, columns = (
        (at >= before) & (at < sizes[:, axis, None] - after)
        for axis, at in enumerate(jnp.arange(side) for side in shape)
    )
    return (rows[:, :, None] & columns[:, None, :])[..., None]


def _mean_where(chosen: Array, values: Array) -> Float[Array, " b"]:
    total = jnp.sum(jnp.where(chosen, values, 0.0), axis=(1, 2, 3))
    return total / (jnp.sum(chosen, axis=(1, 2, 3)) * values.shape[-1])


def rounded(images: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Images in [0, 1] at the nearest of 256 levels; values outside are clipped. MATLAB rounds half up."""
    return jnp.floor(jnp.clip(images, 0.0, 1.0) * 255.0 + 0.5) / 255.0
