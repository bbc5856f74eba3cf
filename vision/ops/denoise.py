"""Classical denoising: the median, the bilateral filter, non-local means and total variation, as pure functions.

Windows see images extended by reflection with the border repeated (b a | a b c | c b), so that no new values appear.
Their work grows with the number of pixels in the window, memory only for the median.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vision.errors import UserError

Strength = float | Float[Array, ""]
"""A number above 0, which may be traced."""


def median_filter(images: Float[Array, "b h w c"], size: int) -> Float[Array, "b h w c"]:
    """The median of the ``size`` x ``size`` window around each pixel, channel by channel; values of any range.

    Raises:
      UserError: ``size`` is not odd and positive, or the image is smaller than half the window.
    """
    if size < 1 or size % 2 == 0:
        raise UserError(f"a median needs a window with a middle: an odd size, got {size}")
    height, width = images.shape[1:3]
    padded = _mirrored(images, size // 2)
    window = [padded[:, i : i + height, j : j + width] for i in range(size) for j in range(size)]
    return jnp.sort(jnp.stack(window), axis=0)[size * size // 2]


def bilateral_filter(
    images: Float[Array, "b h w c"], *, radius: int, sigma_space: float, sigma_range: Strength
) -> Float[Array, "b h w c"]:
    """A mean over nearby pixels of similar colour (Tomasi & Manduchi 1998, section 2).

    Args:
      images: values of any range.
      radius: of the square window, in pixels; pixels farther than that have no weight.
      sigma_space: deviation of the Gaussian of the distance between pixels, in pixels.
      sigma_range: deviation of the Gaussian of the Euclidean distance between colours, in units of the image.

    Raises:
      UserError: a radius or a deviation that is not positive, or an image smaller than the radius.
    """
    _positive(radius=radius, sigma_space=sigma_space, sigma_range=sigma_range)
    height, width = images.shape[1:3]
    padded = _mirrored(images, radius)

    def add(offset: Array) -> tuple[Array, Array]:
        other = jax.lax.dynamic_slice_in_dim(padded, offset[0] + radius, height, axis=1)
        other = jax.lax.dynamic_slice_in_dim(other, offset[1] + radius, width, axis=2)
        distance = jnp.sum((other - images) ** 2, axis=-1, keepdims=True)
        # Tomasi & Manduchi 1998, section 2.1: closeness c times similarity s, both Gaussian
        closeness = jnp.sum(offset**2) / (2 * sigma_space**2)
        weight = jnp.exp(-closeness - distance / (2 * sigma_range**2))
        return weight, other

    return _weighted_mean(images, radius, add)


def non_local_means(
    images: Float[Array, "b h w c"], *, patch_radius: int, search_radius: int, strength: Strength
) -> Float[Array, "b h w c"]:
    """A mean over pixels with similar surroundings (Buades et al. 2005, section 3).

    Two pixels are compared by their square patches: the squared differences are averaged over channels and, with a
    Gaussian of deviation max(patch_radius, 1) / 2, over the patch. A pixel's weight for itself is 1.

    Args:
      images: values of any range.
      patch_radius: of the patches that are compared, in pixels; 0 compares single pixels.
      search_radius: of the square window in which similar pixels are searched (the paper's is 10).
      strength: h of the paper, the scale of differences in units of the image; about the deviation of the noise, and
        more for more smoothing.

    Raises:
      UserError: a search radius or a strength that is not positive, a negative patch radius, or an image smaller than
        patch and search radius together.
    """
    _positive(search_radius=search_radius, strength=strength)
    if patch_radius < 0:
        raise UserError(f"patch_radius must not be negative, got {patch_radius}")
    height, width = images.shape[1:3]
    margin = patch_radius + search_radius
    padded = _mirrored(images, margin)
    near = padded[:, search_radius : -search_radius or None, search_radius : -search_radius or None]
    taps = np.exp(-(np.arange(-patch_radius, patch_radius + 1.0) ** 2) / (2 * (max(patch_radius, 1) / 2) ** 2))
    taps = jnp.asarray(taps / taps.sum(), images.dtype)

    def add(offset: Array) -> tuple[Array, Array]:
        start = offset + search_radius
        far = jax.lax.dynamic_slice_in_dim(padded, start[0], near.shape[1], axis=1)
        far = jax.lax.dynamic_slice_in_dim(far, start[1], near.shape[2], axis=2)
        distance = jnp.mean((far - near) ** 2, axis=-1, keepdims=True)
        columns = jnp.stack([distance[:, i : i + height] for i in range(len(taps))])
        distance = jnp.tensordot(taps, columns, axes=1)
        rows = jnp.stack([distance[:, :, i : i + width] for i in range(len(taps))])
        distance = jnp.tensordot(taps, rows, axes=1)
        # Buades et al. 2005, section 3: w(i, j) = exp(-||v(N_i) - v(N_j)||^2_{2,a} / h^2) / Z(i)
        weight = jnp.exp(-distance / strength**2)
        inner = far[:, patch_radius : patch_radius + height, patch_radius : patch_radius + width]
        return weight, inner

    return _weighted_mean(images, search_radius, add)


def total_variation(images: Float[Array, "b h w c"], *, weight: Strength, steps: int = 100) -> Float[Array, "b h w c"]:
    """The image u that minimises |u - f|² / 2 + weight TV(u) for the image f (Rudin et al. 1992, by Chambolle 2004).

    TV(u) is the sum over pixels of the norm of the gradient, by differences to the next pixel and over all channels
    together, so that edges are at one place in all of them (Bresson & Chan 2008).

    Args:
      images: values of any range.
      weight: in units of the image, about the deviation of the noise; more for more smoothing.
      steps: of the projected iteration.

    Raises:
      UserError: a weight or a number of steps that is not positive.
    """
    _positive(weight=weight, steps=steps)

    def step(dual: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        slope = _gradient(_divergence(dual) - images / weight)
        norm = jnp.sqrt(jnp.sum(jnp.square(slope[0]) + jnp.square(slope[1]), axis=-1, keepdims=True))
        # Chambolle 2004, eq. 9, with the step of 1/8 for which theorem 3.1 proves convergence
        moved = tuple((p + 0.125 * s) / (1.0 + 0.125 * norm) for p, s in zip(dual, slope, strict=True))
        return (moved[0], moved[1]), None

    start = (jnp.zeros_like(images), jnp.zeros_like(images))
    dual, _ = jax.lax.scan(step, start, None, length=steps)
    return images - weight * _divergence(dual)


def _gradient(images: Array) -> tuple[Array, Array]:
    """Differences to the next pixel below and to the right, 0 at the last one."""
    below = jnp.pad(images[:, 1:] - images[:, :-1], ((0, 0), (0, 1), (0, 0), (0, 0)))
    right = jnp.pad(images[:, :, 1:] - images[:, :, :-1], ((0, 0), (0, 0), (0, 1), (0, 0)))
    return below, right


def _divergence(field: tuple[Array, Array]) -> Array:
    """Minus the adjoint of the gradient, of fields that are 0 at the last pixel."""
    down, right = field
    rows = down - jnp.pad(down[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0)))
    return rows + right - jnp.pad(right[:, :, :-1], ((0, 0), (0, 0), (1, 0), (0, 0)))


def _weighted_mean(images: Array, radius: int, add: Callable[[Array], tuple[Array, Array]]) -> Array:
    """The mean over all offsets of a square window, where ``add`` gives (weights [b h w 1], values) of an offset."""
    side = np.arange(-radius, radius + 1)
    offsets = jnp.asarray(np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2))

    def step(sums: tuple[Array, Array], offset: Array) -> tuple[tuple[Array, Array], None]:
        weight, value = add(offset)
        return (sums[0] + weight, sums[1] + weight * value), None

    start = (jnp.zeros_like(images[..., :1]), jnp.zeros_like(images))
    (total, weighted), _ = jax.lax.scan(step, start, offsets)
    return weighted / total


def _mirrored(images: Array, margin: int) -> Array:
    """The image extended by reflection, with the border repeated."""
    height, width = images.shape[1:3]
    if margin > min(height, width):
        raise UserError(f"images of {height}x{width} pixels are too small for a window of {margin} pixels to each side")
    return jnp.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="symmetric")


def _positive(**numbers: Strength) -> None:
    for name, number in numbers.items():
        if not isinstance(number, jax.Array) and not number > 0:
            raise UserError(f"{name} must be positive, got {number}")
