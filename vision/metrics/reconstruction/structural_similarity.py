"""Structural similarity: Wang et al. 2004 (SSIM), and at five scales Wang et al. 2003 (MS-SSIM).

Two images are compared in a window of 11x11 pixels with Gaussian weights, at every place where it lies inside the image
("valid"), by their means, their variances and their covariance. Colour images are compared channel by channel, and the
mean over the channels is taken last, after the product over scales. Variances are means of squares under the weights,
without Bessel's correction. In scikit-image this is ``structural_similarity(..., gaussian_weights=True, sigma=1.5,
use_sample_covariance=False)``, whose mean leaves out the border too; in pytorch-msssim the default.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vision.errors import UserError

WINDOW, SIGMA = 11, 1.5
"""Size of the window in pixels, and deviation of its weights (Wang et al. 2004, section III.C)."""
K1, K2 = 0.01, 0.03
"""Shares of the range that keep quotients finite (ibid.)."""
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales, the finest first (Wang et al. 2003, section 3.2); as published, they sum to 1.0001."""
SMALLEST = WINDOW * 2 ** (len(SCALE_WEIGHTS) - 1)
"""The least height and width for five scales: the window must fit into a sixteenth."""


def structural_similarity(
    image: Float[Array, "b h w c"],
    reference: Float[Array, "b h w c"],
    *,
    value_range: tuple[float, float] = (-1.0, 1.0),
) -> Float[Array, " b"]:
    """SSIM of each image, in [-1, 1]; exactly 1 for equal images, and symmetric.

    Args:
      image: float32 in ``value_range``, with sides of 11 pixels at least.
      reference: what it is compared to.
      value_range: the lowest and the highest value a pixel can have. SSIM is defined for intensities from 0, so images
        are mapped from this range to [0, 1].

    Raises:
      UserError: a side is shorter.
    """
    return jnp.mean(similarity_map(image, reference, value_range=value_range), axis=(1, 2, 3))


def similarity_map(
    image: Float[Array, "b h w c"],
    reference: Float[Array, "b h w c"],
    *,
    value_range: tuple[float, float] = (-1.0, 1.0),
) -> Float[Array, "b H W c"]:
    """SSIM in each window, in [-1, 1]; the window at (y, x) begins there and has 11 pixels each way.

    The arguments and what is raised are those of :func:`structural_similarity`.
    """
    _at_least(image, WINDOW, "the window of SSIM")
    luminance, contrast = _compared(*_scaled(image, reference, value_range))
    return luminance * contrast


def multiscale_structural_similarity(
    image: Float[Array, "b h w c"],
    reference: Float[Array, "b h w c"],
    *,
    value_range: tuple[float, float] = (-1.0, 1.0),
) -> Float[Array, " b"]:
    """MS-SSIM of each image at five scales, in [0, 1]; exactly 1 for equal images, and symmetric.

    Each scale has half the sides of the one before it, by the mean of 2x2 pixels; a last odd row or column is left out.
    Negative means of a scale count as 0, since their power is undefined.

    Args:
      image: float32 in ``value_range``, with sides of 176 pixels at least.
      reference: what it is compared to.
      value_range: as for `structural_similarity`.

    Raises:
      UserError: a side is shorter.
    """
    _at_least(image, SMALLEST, f"{len(SCALE_WEIGHTS)} scales of MS-SSIM")
    image, reference = _scaled(image, reference, value_range)
    product = jnp.ones((image.shape[0], image.shape[-1]))
    for scale, weight in enumerate(SCALE_WEIGHTS):
        if scale:
            image, reference = _halved(image), _halved(reference)
        luminance, contrast = _compared(image, reference)
        # Wang et al. 2003, eq. 7: luminance is used only at the coarsest scale
        last = scale == len(SCALE_WEIGHTS) - 1
        mean = jnp.mean(luminance * contrast if last else contrast, axis=(1, 2))
        # 1 in place of what is not positive: the power's derivative at 0 is infinite
        positive = mean > 0.0
        product = product * jnp.where(positive, jnp.where(positive, mean, 1.0) ** weight, 0.0)
    return jnp.mean(product, axis=-1)


def _at_least(image: Array, side: int, what: str) -> None:
    height, width = image.shape[1:3]
    if min(height, width) < side:
        raise UserError(
            f"images of {height}x{width} pixels are too small for {what}, which needs {side} pixels on each side"
        )


def _scaled(image: Array, reference: Array, value_range: tuple[float, float]) -> tuple[Array, Array]:
    low, high = value_range
    return (image - low) / (high - low), (reference - low) / (high - low)


def _compared(
    x: Float[Array, "b h w c"], y: Float[Array, "b h w c"]
) -> tuple[Float[Array, "b H W c"], Float[Array, "b H W c"]]:
    """The maps of luminance l and of contrast with structure cs for images in [0, 1], for every complete windows.

    Wang et al. 2004, eq. 13 is l cs with l = (2 mu_x mu_y + C1) / (mu_x² + mu_y² + C1) and cs = (2 sigma_xy + C2) /
    (sigma_x² + sigma_y² + C2). With the difference d = x - y, 2 mu_x mu_y = mu_x² + mu_y² - mu_d² and 2 sigma_xy =
    sigma_x² + sigma_y² - sigma_d², so that equal images give exactly 1, and near ones lose no digits.
    """
    difference = x - y
    # variances do not change with a constant; about the middle of the range fewer digits cancel
    squares = jnp.square(x - 0.5) + jnp.square(y - 0.5)
    parts = jnp.concatenate([x, y, difference, squares, jnp.square(difference)], axis=-1)
    mean_x, mean_y, mean_d, square, square_d = jnp.split(_windowed(parts), 5, axis=-1)
    variance = square - jnp.square(mean_x - 0.5) - jnp.square(mean_y - 0.5)
    variance_d = square_d - jnp.square(mean_d)
    luminance = 1.0 - jnp.square(mean_d) / (jnp.square(mean_x) + jnp.square(mean_y) + K1**2)
    return luminance, 1.0 - variance_d / (variance + K2**2)


def _windowed(maps: Float[Array, "b h w c"]) -> Float[Array, "b H W c"]:
    """Weighted means over all complete windows: rows, then columns, as sums of shifted maps."""
    weights = np.exp(-0.5 * ((np.arange(WINDOW) - WINDOW // 2) / SIGMA) ** 2)
    weights = [float(weight) for weight in weights / weights.sum()]
    height, width = (side - WINDOW + 1 for side in maps.shape[1:3])
    add = lambda shifted: functools.reduce(jnp.add, [w * part for w, part in zip(weights, shifted, strict=True)])
    maps = add([maps[:, i : i + height] for i in range(WINDOW)])
    return add([maps[:, :, j : j + width] for j in range(WINDOW)])


def _halved(images: Float[Array, "b h w c"]) -> Float[Array, "b H W c"]:
    _, height, width, _ = images.shape
    images = images[:, : height // 2 * 2, : width // 2 * 2]
    rows = images[:, 0::2] + images[:, 1::2]
    return 0.25 * (rows[:, :, 0::2] + rows[:, :, 1::2])
