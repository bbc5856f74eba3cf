"""Enlarging as conditional diffusion: the small image as a condition, degraded in training.

The input of an upsampler is the small image, enlarged, concatenated to the noisy large one (Saharia et al. 2021,
"SR3"). In a cascade the small image is generated and has artefacts that reductions of real images do not have.
Therefore small images get noise in training, whose level the network is given, and some are blurred (Ho et al. 2022,
"Cascaded Diffusion Models", section 4.2). Nothing here depends on texts.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from annotated_types import Interval
from jaxtyping import Array, Float, Key

from vision.diffusion.conditions import Conditioning
from vision.errors import UserError
from vision.ops.degradations.blur import blurred
from vision.ops.degradations.blur_kernels import gaussian_kernels
from vision.ops.resize import resize
from vision.ranges import Fraction, NonNegativeInt, PositiveFloat, check_ranges
from vision.types import Batch, LossFn

IMAGE, LEVEL = "image", "level"
"""The conditions: the small image enlarged, and its share of noise."""
NULLS = {IMAGE: 0.0, LEVEL: 0.0}
"""Of conditions that every sample has."""
_KERNEL = 3


@dataclass(frozen=True)
class UpsamplingConfig:
    """How many times larger images become, and what is done to the small ones in training."""

    factor: Annotated[int, Interval(ge=2, le=16)] = 2
    """How many times as long the sides become."""
    noise: Fraction = 0.5
    """Largest level of the noise that small images get in training; the level is uniform from 0, and 1 leaves nothing
    of the image."""
    blur: Fraction = 0.5
    """Share of small images that are blurred in training."""
    blur_deviation: tuple[PositiveFloat, PositiveFloat] = (0.4, 0.6)
    """Smallest and largest deviation of the blur, by 3x3 pixels, in pixels of the small image."""
    sampled_level: Fraction = 0.0
    """Level of the noise that small images get when they are enlarged: above 0 hides the faults of generated ones."""
    crop: NonNegativeInt = 0
    """Side of the crops of large images that are trained on (Ramesh et al. 2022: a quarter); 0 for whole images."""


def check_upsampling(config: UpsamplingConfig, *, size: int) -> None:
    """Raise ``UserError`` where images of ``size`` pixels cannot be reduced so, or settings contradict each other."""
    check_ranges(config)
    if size % config.factor:
        raise UserError(
            f"images of {size} pixels are no multiple of upsampling.factor {config.factor}: choose another "
            "--data.resolution"
        )
    if size // config.factor <= _KERNEL // 2 and config.blur:
        raise UserError(f"images of {size // config.factor} pixels are too small to be blurred: set upsampling.blur 0")
    low, high = config.blur_deviation
    if low > high:
        raise UserError(f"upsampling.blur_deviation is a smallest and a largest deviation, not {low:g} {high:g}")
    if config.sampled_level > config.noise:
        raise UserError(
            f"upsampling.sampled_level {config.sampled_level:g} is more noise than the network was trained with, "
            f"upsampling.noise {config.noise:g}: choose at most that"
        )
    if config.crop > size:
        raise UserError(f"upsampling.crop {config.crop} is larger than the images of {size} pixels")


def reduced(image: Float[Array, "b h w c"], *, factor: int) -> Float[Array, "b H W c"]:
    """Images with sides of 1 / ``factor``, in [-1, 1]: bicubic, antialiased."""
    size = (image.shape[1] // factor, image.shape[2] // factor)
    return jnp.clip(resize(image, size, method="bicubic"), -1.0, 1.0)


def enlarged(image: Float[Array, "b h w c"], *, factor: int) -> Float[Array, "b H W c"]:
    """Images with sides of ``factor`` times the length: bicubic, which a network is given and has to beat."""
    return resize(image, (image.shape[1] * factor, image.shape[2] * factor), method="bicubic")


def noised(
    image: Float[Array, "b h w c"], level: Float[Array, " b"], noise: Float[Array, "b h w c"]
) -> Float[Array, "b h w c"]:
    """cos(pi/2 level) image + sin(pi/2 level) noise: conditioning augmentation, which preserves the variance."""
    angle = (0.5 * jnp.pi * level)[:, None, None, None]
    return jnp.cos(angle) * image + jnp.sin(angle) * noise


def blurred_some(
    image: Float[Array, "b h w c"], *, share: float, deviation: tuple[float, float], key: Key[Array, ""]
) -> Float[Array, "b h w c"]:
    """A share of images blurred, each with a deviation of its own."""
    choice_key, deviation_key = jax.random.split(key)
    count = len(image)
    sigma = jax.random.uniform(deviation_key, (count,), minval=deviation[0], maxval=deviation[1])
    both = jnp.stack([sigma, sigma], axis=1)
    kernels = gaussian_kernels(both, jnp.zeros(count), sizes=jnp.full(count, _KERNEL), grid=_KERNEL)
    chosen = jax.random.bernoulli(choice_key, share, (count,))[:, None, None, None]
    return jnp.where(chosen, blurred(image, kernels), image)


def augmented(image: Float[Array, "b h w c"], config: UpsamplingConfig, *, key: Key[Array, ""]) -> dict[str, Array]:
    """The conditions of training, by name, from large images in [-1, 1]: reduced, blurred, noisy and enlarged again."""
    blur_key, level_key, noise_key = jax.random.split(key, 3)
    small = reduced(image, factor=config.factor)
    if config.blur:
        small = blurred_some(small, share=config.blur, deviation=config.blur_deviation, key=blur_key)
    level = jax.random.uniform(level_key, (len(image),), maxval=max(config.noise, 1e-12))
    small = noised(small, level, jax.random.normal(noise_key, small.shape))
    return {IMAGE: enlarged(small, factor=config.factor), LEVEL: level}


def conditions_of(
    small: Float[Array, "b h w c"], config: UpsamplingConfig, *, index: Array, key: Key[Array, ""]
) -> dict[str, Array]:
    """The conditions of sampling, by name, from small images in [-1, 1]; noise of image i is of (key, index[i])."""
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
    noise = jax.vmap(lambda each: jax.random.normal(each, small.shape[1:]))(keys)
    level = jnp.full((len(small),), config.sampled_level)
    return {IMAGE: enlarged(noised(small, level, noise), factor=config.factor), LEVEL: level}


def upsampling_loss(loss: LossFn, config: UpsamplingConfig) -> LossFn:
    """``loss`` of large images "image" in [-1, 1], given their small versions as "condition_image" and "level"."""

    def with_small(params, model_state, batch, *, key, step):
        small_key, crop_key, loss_key = jax.random.split(key, 3)
        found = with_conditions(batch, config, key=small_key)
        found = cropped(found, config.crop, key=crop_key) if config.crop else found
        return loss(params, model_state, found, key=loss_key, step=step)

    return with_small


def with_conditions(batch: Batch, config: UpsamplingConfig, *, key: Key[Array, ""]) -> Batch:
    """A batch with the conditions of training in the fields that a :class:`Conditioning` reads."""
    found = augmented(batch["image"], config, key=key)
    return {**batch, "condition_image": found[IMAGE], LEVEL: found[LEVEL]}


def cropped(batch: Batch, side: int, *, key: Key[Array, ""]) -> Batch:
    """The same crop, anywhere in the image, of "image" and of "condition_image"."""
    image = batch["image"]
    spare = jnp.array([image.shape[1] - side + 1, image.shape[2] - side + 1])
    places = jax.random.randint(key, (len(image), 2), 0, spare)
    cut = jax.vmap(lambda each, at: jax.lax.dynamic_slice(each, (at[0], at[1], 0), (side, side, each.shape[-1])))
    return {**batch, **{name: cut(batch[name], places) for name in ("image", "condition_image")}}


def upsampling_conditioning(text: Conditioning | None = None) -> Conditioning:
    """Conditioning on the small image and its level, which every sample has, and perhaps on a text."""
    nulls: dict[str, Any] = dict(text.nulls) if text is not None else {}
    return Conditioning({**nulls, **NULLS}, frozenset(NULLS))
