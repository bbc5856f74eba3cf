"""What JPEG compression does to images, on the device: ITU-T T.81, with the choices of the library libjpeg.

Colours become full-range YCbCr, whose colour differences are halved in both directions (4:2:0); each block of 8x8
values is transformed by a cosine transform, divided by the table of annex K scaled by the quality, and rounded. The
decoder's enlargement of the colour differences is libjpeg's default, linear interpolation. Entropy coding loses nothing
and is left out. From what Pillow makes at qualities of 10 to 95, the mean difference is up to 0.2 levels for grey and
0.4 for colours: libjpeg's integer transforms round some of the coefficients to the neighbouring value.
"""

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from vision.errors import UserError
from vision.ops.ycbcr import rgb_to_ycbcr, ycbcr_to_rgb

# ITU-T T.81, tables K.1 and K.2
_LUMA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_CHROMA = np.full((8, 8), 99)
_CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

_frequency, _place = np.arange(8)[:, None], np.arange(8)
_COSINES = np.where(_frequency == 0, np.sqrt(1 / 8), 0.5 * np.cos((2 * _place + 1) * _frequency * np.pi / 16))
"""The orthonormal cosine transform of 8 values."""


def jpeg(images: Float[Array, "b h w c"], quality: Float[Array, " b"]) -> Float[Array, "b h w c"]:
    """The images after compression, at 256 levels.

    Rounding has no gradient.

    Args:
      images: RGB or grey in [0, 1], which are rounded to 256 levels first.
      quality: for each image, 1 to 100, as libjpeg defines it; it need not be a whole number.

    Raises:
      UserError: images that have neither one nor three channels.
    """
    if images.shape[-1] not in (1, 3):
        raise UserError(f"JPEG needs images of 1 or 3 channels, got {images.shape[-1]}")
    height, width = images.shape[1:3]
    levels = _rounded(images * 255.0)
    if images.shape[-1] == 1:
        return _coded(levels, quantization(quality, _LUMA))[:, :height, :width] / 255.0
    planes = _rounded(255.0 * rgb_to_ycbcr(levels / 255.0, value_range="full"))
    luma = _coded(planes[..., :1], quantization(quality, _LUMA))[:, :height, :width]
    colour = _halved(planes[..., 1:])
    sides = colour.shape[1:3]
    colour = _coded(colour, quantization(quality, _CHROMA))[:, : sides[0], : sides[1]]
    colour = _doubled(colour)[:, :height, :width]
    decoded = jnp.concatenate([luma, colour], axis=-1) / 255.0
    return _rounded(255.0 * ycbcr_to_rgb(decoded, value_range="full")) / 255.0


def quantization(quality: Float[Array, " b"], table: np.ndarray = _LUMA) -> Float[Array, "b 8 8"]:
    """The divisors of the 8x8 frequencies at a quality, whole numbers in [1, 255]; of luma by default."""
    percent = jnp.where(quality < 50.0, 5000.0 / quality, 200.0 - 2.0 * quality)[:, None, None]
    return jnp.clip(jnp.floor((table * jnp.floor(percent) + 50.0) / 100.0), 1.0, 255.0)


def _coded(planes: Array, table: Array) -> Array:
    """Levels [b h w c] after quantisation, continued to whole blocks by their border."""
    height, width = planes.shape[1:3]
    padded = jnp.pad(planes, ((0, 0), (0, -height % 8), (0, -width % 8), (0, 0)), mode="edge")
    blocks = rearrange(padded, "b (h p) (w q) c -> b h w c p q", p=8, q=8) - 128.0
    turn = lambda matrix, blocks: jnp.einsum(
        "ip,bhwcpq,jq->bhwcij", matrix, blocks, matrix, precision=jax.lax.Precision.HIGHEST
    )
    divisors = table[:, None, None, None]
    cosines = jnp.asarray(_COSINES, planes.dtype)
    # halves, which are frequent since levels are whole numbers, are rounded away from 0; a float32 may miss them
    ratio = turn(cosines, blocks) / divisors
    kept = jnp.sign(ratio) * jnp.floor(jnp.abs(ratio) + (0.5 + 1e-5)) * divisors
    decoded = turn(cosines.T, kept) + 128.0
    return _rounded(rearrange(decoded, "b h w c p q -> b (h p) (w q) c"))


def _halved(planes: Array) -> Array:
    """The mean of each 2x2 pixels; halves are rounded down and up in turn along a row."""
    height, width = planes.shape[1:3]
    padded = jnp.pad(planes, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    total = rearrange(padded, "b (h p) (w q) c -> b h w c p q", p=2, q=2).sum((-2, -1))
    bias = 1.0 + jnp.arange(total.shape[2]) % 2
    return jnp.floor((total + bias[:, None]) / 4.0)


def _doubled(planes: Array) -> Array:
    """Twice the sides: 3/4 of the nearer and 1/4 of the farther pixel along each axis."""
    for axis in (1, 2):
        before, after = (jnp.roll(planes, shift, axis) for shift in (1, -1))
        at = jnp.arange(planes.shape[axis]).reshape([-1 if n == axis else 1 for n in range(4)])
        before = jnp.where(at == 0, planes, before)
        after = jnp.where(at == planes.shape[axis] - 1, planes, after)
        pair = jnp.stack([0.75 * planes + 0.25 * before, 0.75 * planes + 0.25 * after], axis=axis + 1)
        planes = pair.reshape([2 * n if a == axis else n for a, n in enumerate(planes.shape)])
    return jnp.floor(planes + 0.5)


def _rounded(levels: Array) -> Array:
    return jnp.floor(jnp.clip(levels, 0.0, 255.0) + 0.5)
