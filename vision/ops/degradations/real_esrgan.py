"""The second-order degradation of Wang et al. 2021, "Real-ESRGAN" (arXiv:2107.10833), section 3 and figure 2.

Twice in a row an image is blurred, resized by a random factor, given noise and compressed; then it is brought to its
final size, filtered by a sinc filter and compressed, the last two in either order. Every image has its own random
numbers and its own factors, where the published code has one factor for a batch: images lie in the upper left of a
canvas of static size, beyond which their border is repeated, so that one program serves all factors.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Interval
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vision.errors import UserError
from vision.ops.degradations.blur import blurred
from vision.ops.degradations.blur_kernels import gaussian_kernels, identity_kernels, sinc_kernels
from vision.ops.degradations.jpeg import jpeg
from vision.ops.degradations.noise import gaussian_noise, poisson_noise
from vision.ops.resize import REGION_METHODS, resize_region
from vision.ranges import Fraction, NonNegativeFloat, PositiveFloat

Quality = Annotated[float, Interval(ge=1.0, le=100.0)]
SIZES = tuple(range(7, 22, 2))
"""Sides of blur kernels, all equally likely."""
GRID = SIZES[-1]


@dataclass(frozen=True)
class DegradationStage:
    """One round of blur, resizing, noise and compression. The defaults are the first of Real-ESRGAN."""

    blur: Fraction = 1.0
    """Probability of any blur, in [0, 1]."""
    sinc: Fraction = 0.1
    """Probability that the kernel is a sinc filter, in [0, 1]."""
    kinds: tuple[Fraction, Fraction, Fraction, Fraction, Fraction, Fraction] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    """Probabilities of the others: isotropic and anisotropic of Gaussians, generalised Gaussians and plateaus."""
    sigma: tuple[PositiveFloat, PositiveFloat] = (0.2, 3.0)
    """Range of deviations in pixels, above 0."""
    generalised: tuple[PositiveFloat, PositiveFloat] = (0.5, 4.0)
    """Range of beta of generalised Gaussians, above 0."""
    plateau: tuple[PositiveFloat, PositiveFloat] = (1.0, 2.0)
    """Range of beta of plateaus, above 0."""
    resizing: tuple[Fraction, Fraction, Fraction] = (0.2, 0.7, 0.1)
    """Probabilities of enlarging, reducing, and keeping the size."""
    factor: tuple[PositiveFloat, PositiveFloat] = (0.15, 1.5)
    """Smallest and largest factor, at most and at least 1."""
    gaussian: Fraction = 0.5
    """Probability that the noise is Gaussian and not Poisson, in [0, 1]."""
    noise: tuple[NonNegativeFloat, NonNegativeFloat] = (1.0, 30.0)
    """Range of the deviation of Gaussian noise in levels of 255, not negative."""
    photons: tuple[NonNegativeFloat, NonNegativeFloat] = (0.05, 3.0)
    """Range of the scale of Poisson noise, not negative."""
    grey: Fraction = 0.4
    """Probability that all channels get the same noise, in [0, 1]."""
    quality: tuple[Quality, Quality] = (30.0, 95.0)
    """Range of the quality of JPEG, in [1, 100]."""


@dataclass(frozen=True)
class RealEsrganDegradation:
    """The whole pipeline with its published ranges."""

    first: DegradationStage = DegradationStage()
    second: DegradationStage = DegradationStage(
        blur=0.8,
        sigma=(0.2, 1.5),
        resizing=(0.3, 0.4, 0.3),
        factor=(0.3, 1.2),
        noise=(1.0, 25.0),
        photons=(0.05, 2.5),
    )
    """Its factors are relative to the final size."""
    final_sinc: Fraction = 0.8
    """Probability of the last sinc filter, in [0, 1]."""


REAL_ESRGAN = RealEsrganDegradation()


def real_esrgan(
    images: Float[Array, "b h w c"], config: RealEsrganDegradation = REAL_ESRGAN, *, scale: int = 4, key: PRNGKeyArray
) -> Float[Array, "b H W c"]:
    """Images of low resolution and quality, at 256 levels.

    Args:
      images: RGB or grey in [0, 1]; sides are multiples of ``scale`` and at least 16 pixels after it.
      config: the probabilities and ranges.
      scale: how many times as small the result is, at least 1.
      key: random key.

    Raises:
      UserError: sides that do not fit.
    """
    height, width = images.shape[1:3]
    if height % scale or width % scale or min(height, width) < 16 * scale:
        raise UserError(
            f"images of {height}x{width} pixels cannot be degraded to a {scale}th: choose sides that are "
            f"multiples of {scale} and at least {16 * scale}"
        )
    small = (height // scale, width // scale)
    keys = jax.random.split(key, 6)
    sizes = jnp.broadcast_to(jnp.array([height, width]), (len(images), 2))
    images, sizes = _blurred_and_resized(images, sizes, (height, width), config.first, key=keys[0])
    images = jpeg(_with_noise(images, config.first, key=keys[1]), _between(config.first.quality, images, keys[2]))
    images, sizes = _blurred_and_resized(images, sizes, small, config.second, key=keys[3])
    images = _with_noise(images, config.second, key=keys[4])
    return _finished(images, sizes, small, config, key=keys[5])


def _blurred_and_resized(
    images: Array, sizes: Int[Array, "b 2"], base: tuple[int, int], stage: DegradationStage, *, key: PRNGKeyArray
) -> tuple[Array, Int[Array, "b 2"]]:
    """Images in a canvas that has room for the largest factor of ``base``, and their sizes in it."""
    kernel_key, method_key, factor_key = jax.random.split(key, 3)
    images = blurred(images, stage_kernels(stage, len(images), key=kernel_key))
    factor = _factors(stage, len(images), key=factor_key)[:, None]
    targets = jnp.maximum(jnp.floor(factor * jnp.array(base)), 1.0).astype(jnp.int32)
    canvas = (math.floor(stage.factor[1] * base[0]), math.floor(stage.factor[1] * base[1]))
    method = jax.random.randint(method_key, (len(images),), 0, len(REGION_METHODS))
    return resize_region(images, sizes, targets, size=canvas, method=method), targets


def stage_kernels(stage: DegradationStage, batch: int, *, key: PRNGKeyArray) -> Float[Array, "b k k"]:
    """Random blur kernels of a stage, one for each of ``batch`` images."""
    keys = jax.random.split(key, 9)
    uniform = lambda at, bounds: jax.random.uniform(keys[at], (batch,), minval=bounds[0], maxval=bounds[1])
    sizes = jax.random.choice(keys[0], jnp.array(SIZES), (batch,))
    sigma = jnp.stack([uniform(1, stage.sigma), uniform(2, stage.sigma)], axis=-1)
    angle = uniform(3, (-math.pi, math.pi))
    kind = jax.random.choice(keys[4], len(stage.kinds), (batch,), p=jnp.array(stage.kinds) / sum(stage.kinds))
    sigma = jnp.where((kind % 2 == 0)[:, None], sigma[:, :1], sigma)
    shape = jnp.where(kind < 2, 1.0, uniform(5, stage.generalised))
    made = gaussian_kernels(sigma, angle, sizes=sizes, grid=GRID, shape=shape)
    flat = gaussian_kernels(sigma, angle, sizes=sizes, grid=GRID, shape=uniform(6, stage.plateau), plateau=True)
    made = jnp.where((kind >= 4)[:, None, None], flat, made)
    # small filters with a low cutoff would not be low-pass filters
    lowest = jnp.where(sizes < 13, math.pi / 3, math.pi / 5)
    cutoff = lowest + (math.pi - lowest) * uniform(7, (0.0, 1.0))
    sinc, none = jax.random.uniform(keys[8], (2, batch, 1, 1))
    made = jnp.where(sinc < stage.sinc, sinc_kernels(cutoff, sizes=sizes, grid=GRID), made)
    return jnp.where(none < stage.blur, made, identity_kernels(batch, GRID))


def _factors(stage: DegradationStage, batch: int, *, key: PRNGKeyArray) -> Float[Array, " b"]:
    kind_key, key = jax.random.split(key)
    kind = jax.random.choice(kind_key, 3, (batch,), p=jnp.array(stage.resizing) / sum(stage.resizing))
    share = jax.random.uniform(key, (batch,))
    larger, smaller = 1.0 + (stage.factor[1] - 1.0) * share, stage.factor[0] + (1.0 - stage.factor[0]) * share
    return jnp.select([kind == 0, kind == 1], [larger, smaller], 1.0)


def _with_noise(images: Array, stage: DegradationStage, *, key: PRNGKeyArray) -> Array:
    keys = jax.random.split(key, 6)
    grey = jax.random.bernoulli(keys[0], stage.grey, (len(images),))
    normal = gaussian_noise(images, _between(stage.noise, images, keys[1]) / 255.0, grey=grey, key=keys[2])
    counted = poisson_noise(images, _between(stage.photons, images, keys[3]), grey=grey, key=keys[4])
    chosen = jax.random.bernoulli(keys[5], stage.gaussian, (len(images), 1, 1, 1))
    return jnp.clip(jnp.where(chosen, normal, counted), 0.0, 1.0)


def _finished(
    images: Array, sizes: Array, small: tuple[int, int], config: RealEsrganDegradation, *, key: PRNGKeyArray
) -> Array:
    """The final size and sinc filter, and the last compression, in either order."""
    keys = jax.random.split(key, 6)
    batch = len(images)
    side = jax.random.choice(keys[0], jnp.array(SIZES), (batch,))
    cutoff = jax.random.uniform(keys[1], (batch,), minval=math.pi / 3, maxval=math.pi)
    kernels = sinc_kernels(cutoff, sizes=side, grid=GRID)
    filtered = jax.random.bernoulli(keys[2], config.final_sinc, (batch, 1, 1))
    kernels = jnp.where(filtered, kernels, identity_kernels(batch, GRID))
    method = jax.random.randint(keys[3], (batch,), 0, len(REGION_METHODS))
    quality = _between(config.second.quality, images, keys[4])
    targets = jnp.broadcast_to(jnp.array(small), (batch, 2))
    bring = lambda images: jnp.clip(
        blurred(resize_region(images, sizes, targets, size=small, method=method), kernels), 0.0, 1.0
    )
    last = jax.random.bernoulli(keys[5], 0.5, (batch, 1, 1, 1))
    made = jnp.where(last, jpeg(bring(images), quality), bring(jpeg(images, quality)))
    return jnp.round(made * 255.0) / 255.0


def _between(bounds: tuple[float, float], images: Array, key: PRNGKeyArray) -> Float[Array, " b"]:
    return jax.random.uniform(key, (len(images),), minval=bounds[0], maxval=bounds[1])
