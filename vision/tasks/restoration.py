"""Restoration: images of low resolution or quality in, what they were before out; losses, and networks on colours.

Images are in [0, 1] here, as restoration networks take them. A network of one channel sees luma in super-resolution,
whose colours are enlarged by bicubic interpolation (Dong et al. 2016), and each channel by itself otherwise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vision.ops.colour import greyscale
from vision.ops.imresize import imresize
from vision.ops.ycbcr import luma, rgb_to_ycbcr, ycbcr_to_rgb
from vision.ranges import NonNegativeFloat, PositiveFloat
from vision.types import LossFn

Features = Callable[[Any, Float[Array, "b h w c"]], Sequence[Float[Array, "b _ _ _"]]]
"""(variables, images in [0, 1]) -> features in which images are compared."""
Restore = Callable[[Float[Array, "b h w c"]], Float[Array, "b H W c"]]
"""Images in [0, 1] -> restored ones, of about [0, 1]."""


@dataclass(frozen=True)
class RestorationLossConfig:
    """What is minimised: a sum of distances between the restored image and the true one."""

    name: Literal["l1", "l2", "charbonnier"] = "l1"
    """The error of pixels: absolute, squared, or sqrt(d² + epsilon²) (Charbonnier et al. 1994; Lai et al. 2017)."""
    pixels: NonNegativeFloat = 1.0
    """Its weight, not negative."""
    epsilon: PositiveFloat = 1e-3
    """Of Charbonnier, above 0, where the range of pixels is 1."""
    perceptual: NonNegativeFloat = 0.0
    """Weight, not negative, of the mean absolute difference in the features of a VGG (``perceptual.weights``)."""


def pixel_error(
    output: Float[Array, "b h w c"], target: Float[Array, "b h w c"], config: RestorationLossConfig
) -> Float[Array, " b"]:
    """The mean error of the pixels of each image, of values in [0, 1]."""
    difference = output - target
    error = {
        "l1": lambda: jnp.abs(difference),
        "l2": lambda: jnp.square(difference),
        "charbonnier": lambda: jnp.sqrt(jnp.square(difference) + config.epsilon**2),
    }[config.name]()
    return error.mean((1, 2, 3))


def feature_error(one: Sequence[Array], other: Sequence[Array]) -> Float[Array, " b"]:
    """The mean absolute difference of features, summed over layers (Wang et al. 2018, "ESRGAN", section 3.4)."""
    parts = [jnp.abs(a - b).mean((1, 2, 3)) for a, b in zip(one, other, strict=True)]
    return jnp.sum(jnp.stack(parts), axis=0)


def restoration_loss(model: nn.Module, config: RestorationLossConfig, *, features: Features | None = None) -> LossFn:
    """The LossFn; batches hold "image" and the true "target", float32 in [0, 1]. Logs ``pixels`` and ``perceptual``.

    Args:
      model: (image, train=...) -> the restored image; may carry batch statistics and use dropout.
      config: the weights.
      features: needed for ``config.perceptual``; its variables are those of the frozen network "perceptual".
    """

    def loss(params, model_state, batch, *, key, step):
        del step
        rest = {name: tree for name, tree in model_state.items() if name != "frozen"}
        output, new = model.apply(
            {"params": params, **rest}, batch["image"], train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )
        value, scalars = content_loss(output, batch["target"], model_state, config, features=features)
        return value, ({**model_state, **new}, scalars)

    return loss


def content_loss(
    output: Float[Array, "b h w c"],
    target: Float[Array, "b h w c"],
    model_state: Mapping[str, Any],
    config: RestorationLossConfig,
    *,
    features: Features | None,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The weighted sum of the errors of pixels and features, means over the batch, and each of them."""
    scalars = {"pixels": jnp.mean(pixel_error(output, target, config))}
    value = config.pixels * scalars["pixels"]
    if features is not None and config.perceptual > 0.0:
        variables = model_state["frozen"]["perceptual"]
        scalars["perceptual"] = jnp.mean(feature_error(features(variables, output), features(variables, target)))
        value = value + config.perceptual * scalars["perceptual"]
    return value, scalars


def network_view(images: Float[Array, "b h w 3"], *, channels: int, scale: int) -> Float[Array, "b h w c"]:
    """RGB in the form that the network is trained on.

    With three channels as it is; with one, its studio-range luma where images are enlarged, else its grey.
    """
    if channels == 3:
        return images
    return luma(images) if scale > 1 else greyscale(images)


def on_colours(restore: Restore, *, channels: int, scale: int) -> Restore:
    """A network of one or three channels as a function of RGB, and of a single channel.

    A single channel is repeated for a network of three, and the mean of its result is taken.
    """

    def restored(images: Array) -> Array:
        given = images.shape[-1]
        if given == channels:
            return restore(images)
        if given == 1:
            return jnp.mean(restore(jnp.repeat(images, 3, axis=-1)), axis=-1, keepdims=True)
        if scale == 1:
            apart = jnp.moveaxis(images, -1, 0).reshape(-1, *images.shape[1:3], 1)
            made = restore(apart)
            return jnp.moveaxis(made.reshape(given, len(images), *made.shape[1:3]), 0, -1)
        planes = rgb_to_ycbcr(images)
        colours = imresize(planes[..., 1:], float(scale))
        return ycbcr_to_rgb(jnp.concatenate([restore(planes[..., :1]), colours], axis=-1))

    return restored
