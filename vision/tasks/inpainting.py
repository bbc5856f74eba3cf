"""Inpainting as conditional diffusion: the masked image and its mask as conditions (Saharia et al. 2022, "Palette").

The input of the network is the noisy image, the image with the inside of the mask set to grey, and the mask (Rombach et
al. 2022, section 4.5; Wang et al. 2023, "Imagen Editor"). Masks are random in training, of the kinds that inpainting is
measured with; where the data says what an edited region shows, some masks are that region and the network is given
the words.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8

from vision.diffusion.conditions import Conditioning
from vision.errors import UserError
from vision.ops.edit_masks import MaskKind, random_masks
from vision.ops.pixels import to_float
from vision.ranges import Fraction, check_ranges
from vision.types import Batch, LossFn, Sampler

TOKENS = "tokens"
REGION = "region"
"""The field of a batch that holds the mask of an edit, uint8 [b h w 1]."""


@dataclass(frozen=True)
class InpaintingConfig:
    """The masks of training."""

    masks: tuple[MaskKind, ...] = ("thick", "thin", "box", "half", "expand")
    """Kinds of random masks, equally often."""
    random: Fraction = 0.5
    """Edits: share of samples with a random mask and no words, in place of the edited region and what it shows."""


def check_inpainting(config: InpaintingConfig) -> None:
    """Raise ``UserError`` where a value is out of range or there is no mask."""
    check_ranges(config)
    if not config.masks:
        raise UserError("inpainting.masks is empty: name at least one kind, such as thick")


def inpainting_conditioning(*, words: bool) -> Conditioning:
    """The masked image with its mask, which every sample has, and perhaps words."""
    nulls = {"image": 0.0, **({TOKENS: 0} if words else {})}
    return Conditioning(nulls, frozenset({"image"}))


def masked(image: Float[Array, "b h w c"], mask: Float[Array, "b h w 1"]) -> Float[Array, "b h w c_plus_1"]:
    """The condition: the image, 0 where the mask is above 0, and the mask as -1 and 1 in a channel of its own."""
    inside = (mask > 0.0).astype(image.dtype)
    return jnp.concatenate([image * (1.0 - inside), 2.0 * inside - 1.0], axis=-1)


def with_masks(batch: Batch, config: InpaintingConfig, *, key: Key[Array, ""]) -> Batch:
    """A batch of "image" in [-1, 1] with the conditions of training.

    Of edits, which have "region" and "tokens", a share ``config.random`` gets a random mask, and 0 for all tokens.
    """
    image = batch["image"]
    count, rows, columns, _ = image.shape
    mask_key, choice_key = jax.random.split(key)
    mask = random_masks(count, (rows, columns), kinds=config.masks, key=mask_key).astype(jnp.float32)
    if REGION not in batch:
        return {**batch, "condition_image": masked(image, mask)}
    region = (batch[REGION] > 0).astype(jnp.float32)
    # an edit that changes nothing has no region, and is no mask to learn from
    random = jax.random.bernoulli(choice_key, config.random, (count,)) | ~jnp.any(region > 0, axis=(1, 2, 3))
    mask = jnp.where(random[:, None, None, None], mask, region)
    tokens = jnp.where(random[:, None], 0, batch[TOKENS])
    return {**batch, "condition_image": masked(image, mask), TOKENS: tokens}


def inpainting_loss(loss: LossFn, config: InpaintingConfig) -> LossFn:
    """``loss`` of "image" in [-1, 1] given the masked image as "condition_image"."""

    def given(params, model_state, batch, *, key, step):
        mask_key, loss_key = jax.random.split(key)
        return loss(params, model_state, with_masks(batch, config, key=mask_key), key=loss_key, step=step)

    return given


def inpainting_sampler(sample: Sampler) -> Sampler:
    """``sample`` given "image" uint8 and "mask" uint8 [n h w 1], with the pixels of the image outside of the mask."""

    def given(variables, condition, index, key, /):
        image, mask = to_float(condition["image"]), inside(condition["mask"])
        words = {name: value for name, value in condition.items() if name == TOKENS}
        made = sample(variables, {"image": masked(image, mask), **words}, index, key)
        # a float that came from a level becomes that level again
        return jnp.where(mask > 0.0, made, image)

    return given


def inside(mask: UInt8[Array, "b h w 1"]) -> Float[Array, "b h w 1"]:
    """1 where the mask is above 0."""
    return (mask > 0).astype(jnp.float32)
