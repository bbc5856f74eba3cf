"""The best classic filters of noise, with which networks are compared: settings are chosen on training images.

Each filter has a few settings, whose strength is in multiples of the noise's deviation; the one with the highest mean
PSNR over crops of training images and over all levels of noise is used for all test images.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vision.metrics.reconstruction.signal_to_noise import peak_signal_to_noise
from vision.ops.denoise import bilateral_filter, median_filter, non_local_means, total_variation
from vision.train.compile import Compiler

Sigma = Float[Array, ""]
"""Deviation of the noise, where the range of images is 1."""
Filter = Callable[[Float[Array, "b h w c"], Sigma], Float[Array, "b h w c"]]

SMALLEST = 9
"""Pixels that images have at least on each side: half of the largest window."""
_RADIUS, _PATCH = 7, 1


@dataclass(frozen=True)
class Setting:
    """A filter with its numbers."""

    words: str
    """In words, for protocols: "median of 3x3 pixels"."""
    function: Filter


def _median(images: Array, sigma: Array, *, size: int) -> Array:
    del sigma
    return median_filter(images, size)


def _bilateral(images: Array, sigma: Array, *, space: float, factor: float) -> Array:
    return bilateral_filter(images, radius=5, sigma_space=space, sigma_range=factor * sigma)


def _non_local(images: Array, sigma: Array, *, factor: float) -> Array:
    return non_local_means(images, patch_radius=_PATCH, search_radius=_RADIUS, strength=factor * sigma)


def _variation(images: Array, sigma: Array, *, factor: float) -> Array:
    return total_variation(images, weight=factor * sigma, steps=60)


FILTERS: Mapping[str, Sequence[Setting]] = {
    "median": [Setting(f"median of {size}x{size} pixels", partial(_median, size=size)) for size in (3, 5)],
    "bilateral": [
        Setting(
            f"bilateral filter of deviations {space:g} pixels and {factor:g} sigma",
            partial(_bilateral, space=space, factor=factor),
        )
        for space in (1.5, 3.0)
        for factor in (2.0, 3.5)
    ],
    "non_local_means": [
        Setting(
            f"non-local means of 3x3 patches among 15x15, strength {factor:g} sigma", partial(_non_local, factor=factor)
        )
        for factor in (0.6, 0.8, 1.0)
    ],
    "total_variation": [
        Setting(f"total variation of weight {factor:g} sigma", partial(_variation, factor=factor))
        for factor in (0.5, 0.75, 1.0, 1.5)
    ],
}
"""Settings of each filter."""


def best_filters(
    compiler: Compiler,
    images: Float[np.ndarray, "n s s c"],
    *,
    degrade: Callable[[Array, Array], Array],
    levels: Sequence[float],
) -> dict[str, Setting]:
    """The best setting of each filter.

    Args:
      compiler: of the mesh.
      images: crops of training images in [0, 1].
      degrade: (images, level [n]) -> noisy images.
      levels: deviations of the noise in levels of 255.
    """

    def quality(function: Filter, images: Array, level: Array) -> Array:
        noisy = degrade(images, jnp.full(len(images), level))
        made = jnp.clip(function(noisy, level / 255.0), 0.0, 1.0)
        return jnp.mean(peak_signal_to_noise(made, images, value_range=(0.0, 1.0)))

    def score(setting: Setting, placed: Any) -> float:
        compiled = compiler.function(partial(quality, setting.function))
        found = [compiled(placed, compiler.replicate(np.float32(level))) for level in levels]
        return float(np.mean(jax.device_get(found)))

    placed = compiler.replicate(images)
    return {name: max(settings, key=lambda each: score(each, placed)) for name, settings in FILTERS.items()}
