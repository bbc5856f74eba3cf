"""Blur kernels of blind super-resolution: Gaussians and their generalisations, and the sinc filter.

Wang et al. 2021, "Real-ESRGAN" (arXiv:2107.10833), sections 3.1 and 3.4, and Liu et al. 2020 for the two
generalisations. Every image has a kernel of its own, and of its own size: kernels are computed on one grid, and are 0
outside of their size.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Each = Float[Array, " b"]
"""A number for each image."""
Kernels = Float[Array, "b k k"]
"""A kernel for each image, whose sum is 1."""


def gaussian_kernels(
    sigma: Float[Array, "b 2"],
    angle: Each,
    *,
    sizes: Int[Array, " b"],
    grid: int,
    shape: Each | None = None,
    plateau: bool = False,
) -> Kernels:
    """Gaussian kernels along two perpendicular axes, and their generalisations by a shape beta.

    With q = x^T S^-1 x for the covariance S, the kernel is proportional to exp(-q^beta / 2), or for a plateau to
    1 / (1 + q^beta); beta = 1 and no plateau is the Gaussian.

    Args:
      sigma: deviations along both axes, in pixels, above 0; equal ones make an isotropic kernel.
      angle: of the first axis, in radians.
      sizes: sides of the kernels, odd and at most ``grid``.
      grid: side of the result, odd.
      shape: beta, above 0; 1 where there is none.
      plateau: which of the generalisations.
    """
    x, y = _offsets(grid)
    cosine, sine = jnp.cos(angle)[:, None, None], jnp.sin(angle)[:, None, None]
    along, across = cosine * x + sine * y, cosine * y - sine * x
    form = jnp.square(along / sigma[:, 0, None, None]) + jnp.square(across / sigma[:, 1, None, None])
    if shape is not None:
        # 0 has no logarithm, of which the power's gradient is made
        form = jnp.where(form > 0.0, jnp.where(form > 0.0, form, 1.0) ** shape[:, None, None], 0.0)
    return _normalised(1.0 / (1.0 + form) if plateau else jnp.exp(-0.5 * form), sizes)


def sinc_kernels(cutoff: Each, *, sizes: Int[Array, " b"], grid: int) -> Kernels:
    """Ideal circular low-pass filters, which make ringing: w J1(w r) / (2 pi r) with the Bessel function J1.

    Args:
      cutoff: w, in radians per pixel, in (0, pi].
      sizes: sides of the kernels, odd and at most ``grid``.
      grid: side of the result, odd.
    """
    x, y = _offsets(grid)
    radius = np.hypot(x, y)
    away = np.where(radius > 0, radius, 1.0)
    cutoff = cutoff[:, None, None]
    kernel = cutoff * bessel_j1(cutoff * away) / (2.0 * np.pi * away)
    # its limit in the middle, J1(x) ~ x / 2
    return _normalised(jnp.where(radius > 0, kernel, jnp.square(cutoff) / (4.0 * np.pi)), sizes)


def bessel_j1(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The Bessel function of the first kind of order 1, for 0 <= x <= 80, to about 1e-6.

    The mean of cos(t - x sin t) over a turn (Bessel's integral); for a periodic function a sum over equal steps
    converges faster than any power of their number.
    """
    turn = 2.0 * np.pi * np.arange(256) / 256
    return jnp.mean(jnp.cos(turn - x[..., None] * np.sin(turn)), axis=-1)


def identity_kernels(batch: int, grid: int) -> Kernels:
    """Kernels that change nothing."""
    return jnp.zeros((batch, grid, grid)).at[:, grid // 2, grid // 2].set(1.0)


def _offsets(grid: int) -> tuple[Float[np.ndarray, "k k"], Float[np.ndarray, "k k"]]:
    """X and y of a grid's pixels from its middle."""
    side = np.arange(grid) - (grid - 1) / 2
    y, x = np.meshgrid(side, side, indexing="ij")
    return x, y


def _normalised(kernels: Array, sizes: Array) -> Array:
    x, y = _offsets(kernels.shape[-1])
    within = np.maximum(abs(x), abs(y)) <= (sizes[:, None, None] - 1) / 2
    kernels = jnp.where(within, kernels, 0.0)
    return kernels / kernels.sum((1, 2), keepdims=True)
