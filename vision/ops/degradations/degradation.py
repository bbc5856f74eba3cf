"""What makes an image worse, by name and level: the pairs that restoration is trained and measured on.

With a scale above 1, images are first reduced by MATLAB's bicubic ``imresize`` (blur comes before that). A level is the
one number of a degradation that varies: a deviation of noise or blur, or a quality. In training each image has its own,
uniform within a range; in evaluation all have the same.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vision.errors import UserError
from vision.ops.degradations.blur import blurred
from vision.ops.degradations.blur_kernels import gaussian_kernels
from vision.ops.degradations.jpeg import jpeg
from vision.ops.degradations.noise import gaussian_noise
from vision.ops.degradations.real_esrgan import Quality, RealEsrganDegradation, real_esrgan
from vision.ops.imresize import imresize
from vision.ranges import NonNegativeFloat, PositiveFloat


@dataclass(frozen=True)
class BicubicDegradation:
    """The reduction alone. The level says whether values are rounded to 8 bits (1) or not (0)."""


@dataclass(frozen=True)
class NoiseDegradation:
    """Gaussian noise, of each channel its own, added without clipping. The level is its deviation."""

    sigma: tuple[NonNegativeFloat, NonNegativeFloat] = (25.0, 25.0)
    """Smallest and largest deviation in levels of 255, not negative: equal for one level of noise, different for a
    network that does not know it ("blind")."""


@dataclass(frozen=True)
class JpegDegradation:
    """Compression, as libjpeg does it. The level is its quality."""

    quality: tuple[Quality, Quality] = (10.0, 10.0)
    """Smallest and largest quality, in [1, 100]."""


@dataclass(frozen=True)
class BlurDegradation:
    """A Gaussian blur, then noise. The level is the deviation of the blur."""

    sigma: tuple[PositiveFloat, PositiveFloat] = (1.6, 1.6)
    """Smallest and largest deviation in pixels, above 0."""
    noise: NonNegativeFloat = 2.0
    """Deviation of the noise in levels of 255, not negative."""


Degradation = BicubicDegradation | NoiseDegradation | JpegDegradation | BlurDegradation | RealEsrganDegradation

# Levels of blind networks that papers report: Zhang et al. 2017, sections IV.C and IV.D
_NOISE, _QUALITY, _BLUR = (15.0, 25.0, 50.0), (10.0, 20.0, 30.0, 40.0), (1.0, 1.6, 2.4)


def check_degradation(config: Degradation, scale: int) -> None:
    """Raise ``UserError`` for a range whose ends are exchanged, or a degradation that leaves images as they are."""
    low, high = level_range(config)
    if low > high:
        raise UserError(f"the smaller end of a degradation's range comes first, not {low:g} before {high:g}")
    if isinstance(config, BicubicDegradation) and scale == 1:
        raise UserError("images of the same size without noise leave nothing to restore: set another --degradation")


def level_range(config: Degradation) -> tuple[float, float]:
    """The smallest and the largest level of training."""
    match config:
        case BicubicDegradation():
            return 1.0, 1.0
        case NoiseDegradation() | BlurDegradation():
            return config.sigma
        case JpegDegradation():
            return config.quality
        case RealEsrganDegradation():
            return 0.0, 0.0


def evaluation_levels(config: Degradation) -> tuple[float, ...]:
    """The levels to evaluate at: the one of training, or those within its range that papers report."""
    low, high = level_range(config)
    if low == high:
        return (low,)
    usual = {NoiseDegradation: _NOISE, JpegDegradation: _QUALITY, BlurDegradation: _BLUR}[type(config)]
    return tuple(level for level in usual if low <= level <= high) or ((low + high) / 2,)


def level_words(config: Degradation, level: float) -> str:
    """A level in words, for protocols: "Gaussian noise of deviation 25 of 255 levels, not clipped"."""
    match config:
        case BicubicDegradation():
            return "reduced by MATLAB's bicubic imresize" + (", rounded to 8 bits" if level else ", not rounded")
        case NoiseDegradation():
            return f"Gaussian noise of deviation {level:g} of 255 levels, neither clipped nor rounded"
        case JpegDegradation():
            return f"JPEG of quality {level:g}"
        case BlurDegradation():
            return (
                f"Gaussian blur of deviation {level:g} pixels, then noise of deviation {config.noise:g} of 255 levels"
            )
        case RealEsrganDegradation():
            return "the random degradation of Real-ESRGAN"


def level_name(config: Degradation, level: float) -> str:
    """A level as a part of a number's name: "sigma25"; "" where there is only one kind."""
    match config:
        case BicubicDegradation() | RealEsrganDegradation():
            return ""
        case JpegDegradation():
            return f"quality{level:g}"
        case NoiseDegradation() | BlurDegradation():
            return f"{'sigma' if isinstance(config, NoiseDegradation) else 'blur'}{level:g}"


def margin_of(config: Degradation, scale: int) -> int:
    """Pixels of the result at the borders of a crop that are not what they would be inside a larger image."""
    bicubic = 4 if scale > 1 else 0
    match config:
        case BlurDegradation():
            return bicubic + math.ceil(_reach(config) / scale)
        case RealEsrganDegradation():
            return 16
        case _:
            return bicubic


def random_levels(config: Degradation, count: int, *, key: PRNGKeyArray) -> Float[Array, " count"]:
    """Levels of training for ``count`` images."""
    low, high = level_range(config)
    return jax.random.uniform(key, (count,), minval=low, maxval=high)


def degraded(
    images: Float[Array, "b h w c"],
    config: Degradation,
    level: Float[Array, " b"],
    *,
    scale: int,
    key: PRNGKeyArray,
) -> Float[Array, "b H W c"]:
    """The images at a lower quality, and 1 / ``scale`` of their size.

    Args:
      images: RGB or grey in [0, 1], with sides that are multiples of ``scale``.
      config: what is done to them.
      level: of each image.
      scale: 1 keeps the size.
      key: of the noise.

    Raises:
      UserError: images that are too small for blur or for Real-ESRGAN's pipeline.
    """
    if isinstance(config, RealEsrganDegradation):
        return real_esrgan(images, config, scale=scale, key=key)
    own = jnp.zeros(len(images), bool)
    if isinstance(config, BlurDegradation):
        side = 2 * _reach(config) + 1
        kernels = gaussian_kernels(
            jnp.stack([level, level], -1), jnp.zeros_like(level), sizes=jnp.full(len(images), side), grid=side
        )
        images = blurred(images, kernels)
    if scale > 1:
        images = imresize(images, 1 / scale)
    match config:
        case BicubicDegradation():
            levels = jnp.floor(jnp.clip(images, 0.0, 1.0) * 255.0 + 0.5) / 255.0
            return jnp.where(level[:, None, None, None] > 0.0, levels, images)
        case NoiseDegradation():
            return gaussian_noise(images, level / 255.0, grey=own, key=key)
        case JpegDegradation():
            return jpeg(images, level)
        case BlurDegradation():
            return gaussian_noise(images, jnp.full_like(level, config.noise / 255.0), grey=own, key=key)


def _reach(config: BlurDegradation) -> int:
    """Half of the side of the kernel, without its middle: four deviations of the widest blur."""
    return math.ceil(4.0 * config.sigma[1])
