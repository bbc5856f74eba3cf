"""Style transfer: what an image shows and how it is painted, as distances of a network's features.

Gatys, Ecker & Bethge 2016, "Image Style Transfer Using Convolutional Neural Networks", for the losses; Gatys et al.
2017, "Controlling Perceptual Factors in Neural Style Transfer", for masks. The paper's sums over pixels and channels
are means here, so that weights hold for images of any size.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vision.nn.pooling import average_pool_to
from vision.ranges import NonNegativeFloat

Features = Mapping[str, Float[Array, "b _ _ _"]]
"""Activations by the names of their layers."""


@dataclass(frozen=True)
class StyleLossConfig:
    """What is minimised. Weights refer to features whose mean is about 1 in each layer."""

    content_layers: tuple[str, ...] = ("relu4_2",)
    """In which what the image shows is compared."""
    style_layers: tuple[str, ...] = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
    """Whose Gram matrices are compared."""
    layer_weights: tuple[NonNegativeFloat, ...] = ()
    """Of the style layers, w_l of eq. 5, not negative; empty for 1 over their number."""
    content: NonNegativeFloat = 1.0
    """Weight of the content loss, alpha of eq. 7, not negative."""
    style: NonNegativeFloat = 100.0
    """Weight of the style loss, beta of eq. 7, not negative."""
    total_variation: NonNegativeFloat = 0.1
    """Weight of the squared differences of neighbouring pixels, not negative."""

    @property
    def layers(self) -> tuple[str, ...]:
        """All layers, each once."""
        return tuple(dict.fromkeys((*self.content_layers, *self.style_layers)))

    def weights(self) -> dict[str, float]:
        """The weight of each style layer."""
        own = self.layer_weights or (1.0 / len(self.style_layers),) * len(self.style_layers)
        return dict(zip(self.style_layers, own, strict=True))


def gram_matrix(features: Float[Array, "b h w c"], guide: Float[Array, "b h w"] | None = None) -> Float[Array, "b c c"]:
    """Mean products of pairs of channels over the pixels: eq. 3 divided by the number of pixels M.

    Args:
      features: of any size.
      guide: how much each pixel counts, T of Gatys et al. 2017, not negative; None for all alike. It is divided by the
        root of its sum of squares, as the paper does (section 4.1), so that a guide of ones is none. Where it is 0
        everywhere, so is the matrix.
    """
    batch, height, width, channels = features.shape
    flat = features.reshape(batch, height * width, channels).astype(jnp.float32)
    if guide is None:
        return jnp.einsum("bic,bid->bcd", flat, flat, precision=jax.lax.Precision.HIGHEST) / (height * width)
    share = jnp.square(guide.astype(jnp.float32)).reshape(batch, height * width)
    share = share / jnp.maximum(share.sum(-1, keepdims=True), 1e-12)
    return jnp.einsum("bi,bic,bid->bcd", share, flat, flat, precision=jax.lax.Precision.HIGHEST)


def gram_distance(one: Float[Array, "#b c c"], other: Float[Array, "#b c c"]) -> Float[Array, " b"]:
    """The style loss of a layer, E_l of eq. 4: a quarter of the mean squared difference of Gram matrices over pixels.

    With matrices that are means over M pixels, 1 / (4 N² M²) of the paper's sums over M pixels is 1 / (4 N²).
    """
    return jnp.square(one - other).mean((1, 2)) / 4.0


def feature_distance(one: Float[Array, "b h w c"], other: Float[Array, "b h w c"]) -> Float[Array, " b"]:
    """The content loss of a layer: the mean squared difference of features, eq. 1 times 2 / (N M)."""
    return jnp.square(one - other).mean((1, 2, 3))


def content_loss(features: Features, target: Features, config: StyleLossConfig) -> Float[Array, " b"]:
    """The mean of the content losses of all content layers."""
    parts = [feature_distance(features[name], target[name]) for name in config.content_layers]
    return sum(parts[1:], parts[0]) / len(parts)


def style_loss(
    features: Features,
    grams: Mapping[str, Float[Array, "s _ _"]],
    config: StyleLossConfig,
    *,
    weights: Float[Array, " s"],
    guides: Mapping[str, Float[Array, "s _ _"]] | None = None,
) -> Float[Array, ""]:
    """The style loss of one image, eq. 5, summed over ``s`` styles.

    Args:
      features: of one image, b = 1.
      grams: Gram matrices of the styles, by layer.
      config: layers and their weights.
      weights: of the styles.
      guides: where each style applies, by layer, see :func:`guides_at`; None for everywhere.
    """
    total = jnp.float32(0.0)
    for name, weight in config.weights().items():
        if guides is None:
            found = gram_matrix(features[name])
        else:
            count, guide = len(grams[name]), guides[name]
            found = gram_matrix(jnp.broadcast_to(features[name], (count, *features[name].shape[1:])), guide)
        total = total + weight * jnp.sum(weights * gram_distance(found, grams[name]))
    return total


def guides_at(masks: Float[Array, "s h w"], features: Features) -> dict[str, Float[Array, "s _ _"]]:
    """Masks in [0, 1] of the image's size, reduced to the sizes of features by means over cells."""
    return {
        name: average_pool_to(masks[..., None], (of.shape[1], of.shape[2]))[..., 0] for name, of in features.items()
    }


def total_variation(images: Float[Array, "b h w c"]) -> Float[Array, " b"]:
    """The mean squared difference of neighbours in a column plus that in a row (Mahendran & Vedaldi 2015, beta 2)."""
    rows = jnp.square(images[:, 1:] - images[:, :-1]).mean((1, 2, 3))
    return rows + jnp.square(images[:, :, 1:] - images[:, :, :-1]).mean((1, 2, 3))
