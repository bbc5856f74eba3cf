"""Resizing with antialiasing, as in Pillow, and other operations that bring images to a network's resolution.

A resized line of pixels is a matrix times the line, and an image is resized by one matrix for its rows and one for
its columns. The weights follow from the filter: output pixel i depends on the input around its centre (i + 1/2) r,
where r is the factor of reduction; a filter that would be narrower than r is widened to it, which is the antialiasing;
and the weights of each output pixel are divided by their sum. With one matrix for each sample the same product cuts out
and resizes a different rectangle of every image, in a program of static shapes.
"""

from types import ModuleType
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num, Shaped

from vision.errors import UserError

Method = Literal["nearest", "box", "bilinear", "bicubic", "lanczos3"]
PadMode = Literal["constant", "reflect", "edge"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation of ImageNet's red, green and blue in [0, 1], as in torchvision's documentation, originally from
the ResNet training code in Torch; published weights expect them."""
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Likewise of the images of CLIP, as in its code (Radford et al. 2021); published weights expect them."""
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Mean and deviation of the 50,000 training images of CIFAR-10 (Krizhevsky 2009), over all pixels."""
CIFAR100_MEAN, CIFAR100_STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
"""Mean and deviation of the 50,000 training images of CIFAR-100."""


def resize(
    images: Num[Array, "b h w c"], size: tuple[int, int], *, method: Method = "bilinear"
) -> Num[Array, "b H W c"]:
    """Resize to ``size`` with antialiasing, equal to Pillow's ``Image.resize``.

    Args:
      images: float32 of any range, or uint8.
      size: height and width of the result.
      method: the filter: "nearest" (the pixel under the centre, never antialiased), "box" (area average), "bilinear"
        (triangle), "bicubic" (Keys 1981 with a = -1/2), or "lanczos3" (Duchon 1979).

    Returns:
      the same dtype. Floats are not clipped, and bicubic and lanczos3 overshoot at edges; uint8 is rounded and clipped
      after a line's pixels and again after the lines, as in Pillow, to one level. Pillow 13 uses the opposite order
      where that is less work, so that clipped overshoots of bicubic and lanczos3 may differ by more.

    Raises:
      UserError: a side of ``size`` is less than 1.
    """
    if min(size) < 1:
        raise UserError(f"images cannot be resized to {size[0]}x{size[1]} pixels: both sides must be at least 1")
    rows, columns = (jnp.asarray(resize_weights(n, m, method)) for n, m in zip(images.shape[1:3], size, strict=True))
    whole = images.dtype == jnp.uint8
    out = images.astype(jnp.float32) if whole else images
    for product, weights in (("wx,byxc->bywc", columns), ("hy,bywc->bhwc", rows)):
        out = jnp.einsum(product, weights.astype(out.dtype), out, precision=jax.lax.Precision.HIGHEST)
        out = jnp.clip(jnp.floor(out + 0.5), 0, 255) if whole else out
    return out.astype(images.dtype)


def resize_region(
    images: Float[Array, "b h w c"],
    sizes: Int[Array, "b 2"],
    targets: Int[Array, "b 2"],
    *,
    size: tuple[int, int],
    method: Literal["bilinear", "bicubic", "area"] | Int[Array, " b"] = "bilinear",
) -> Float[Array, "b H W c"]:
    """The upper left part of each image, of a height and width of its own, resized to another, in a canvas of ``size``.

    Without antialiasing, as PyTorch's ``interpolate(part, mode=method, align_corners=False)``: for logits and
    probabilities, whose labels have a size of their own, and for degradations by random factors.

    Args:
      images: any range.
      sizes: height and width of the part of each image, at least 1.
      targets: the height and width that it gets, at least 1 and at most ``size``.
      size: height and width of the result; outside of ``targets`` the border is repeated.
      method: "bilinear"; "bicubic" with a = -3/4, which overshoots; "area", the mean of all pixels that a pixel of the
        result touches; or for each image the number of one of these in ``REGION_METHODS``.
    """
    made = images
    for axis, product in ((0, "bhy,byxc->bhxc"), (1, "bwx,bhxc->bhwc")):
        extent, target = (each[:, axis, None] for each in (sizes, targets))
        weights = _region_weights(extent, target, images.shape[1 + axis], size[axis], method).astype(images.dtype)
        made = jnp.einsum(product, weights, made, precision=jax.lax.Precision.HIGHEST)
    return made


REGION_METHODS = ("bilinear", "bicubic", "area")
"""Filters of :func:`resize_region` by number."""


def _region_weights(extent: Array, target: Array, length: int, size: int, method: str | Array) -> Array:
    """[b size length] for parts of ``extent`` [b 1] pixels that become ``target`` [b 1]."""
    if not isinstance(method, str):
        each = [_region_weights(extent, target, length, size, name) for name in REGION_METHODS]
        return jnp.select([(method == number)[:, None, None] for number in range(len(each))], each)
    pixel = jnp.arange(length)
    if method == "area":
        place = jnp.minimum(jnp.arange(size), target - 1)
        # in whole numbers, which rounding does not move across a pixel's border
        first, last = place * extent // target, -(-(place + 1) * extent // target)
        inside = ((pixel >= first[..., None]) & (pixel < last[..., None])).astype(jnp.float32)
        return inside / inside.sum(-1, keepdims=True)
    extent, target = extent.astype(jnp.float32), target.astype(jnp.float32)
    centre = (jnp.minimum(jnp.arange(size), target - 1.0) + 0.5) * (extent / target) - 0.5
    if method == "bilinear":
        centre = jnp.clip(centre, 0.0, extent - 1.0)
        return jnp.maximum(1.0 - jnp.abs(pixel - centre[..., None]), 0.0)
    before = jnp.floor(centre)
    share = centre - before
    weights = jnp.zeros((*centre.shape, length))
    # beyond the border its pixel counts
    for offset in (-1, 0, 1, 2):
        source = jnp.clip(before + offset, 0.0, extent - 1.0)[..., None]
        weights = weights + jnp.where(pixel == source, _cubic(share - offset)[..., None], 0.0)
    return weights


def _cubic(x: Array) -> Array:
    """Keys 1981 with a = -3/4, up to 2 pixels from the centre."""
    a, x = -0.75, jnp.abs(x)
    near = (a + 2.0) * x**3 - (a + 3.0) * x**2 + 1.0
    return jnp.where(x <= 1.0, near, a * (x**3 - 5.0 * x**2 + 8.0 * x - 4.0))


def resize_weights(length: int, size: int, method: Method) -> Float[np.ndarray, "{size} {length}"]:
    """The matrix, float32, that resizes a line of ``length`` pixels to ``size`` pixels; its rows sum to 1."""
    if method == "nearest":
        # Pillow steps from centre to centre; where a centre falls between two pixels, the sum's rounding decides.
        steps = np.full(size, length / size)
        steps[0] /= 2
        return (np.floor(np.cumsum(steps))[:, None] == np.arange(length)).astype(np.float32)
    return _weights(np, 0.0, float(length), length, size, method).astype(np.float32)


def window_weights(
    start: Float[Array, " b"], extent: Float[Array, " b"], *, length: int, size: int, method: Method
) -> Float[Array, "b {size} {length}"]:
    """Matrices that crop ``extent`` pixels of a line from ``start`` and resize them to ``size`` pixels.

    The same as cropping first and then resizing with :func:`resize_weights`: pixels outside the window have no weight.

    Args:
      start: first pixel of each sample's window, a whole number.
      extent: its length in pixels, a whole number of at least 1; start + extent is at most ``length``.
      length: pixels of the line.
      size: pixels of the result.
      method: as in :func:`resize`.
    """
    if method == "nearest":
        centres = start[:, None] + (jnp.arange(size) + 0.5) * (extent / size)[:, None]
        return (jnp.floor(centres)[:, :, None] == jnp.arange(length)).astype(jnp.float32)
    return _weights(jnp, start[:, None, None], extent[:, None, None], length, size, method)


def _weights(xp: ModuleType, start: Any, extent: Any, length: int, size: int, method: Method) -> Any:
    """[... size length], in numpy (float64, static windows) or jax.numpy (float32, traced ones) as ``xp`` says."""
    reduction = extent / size
    scale = xp.maximum(reduction, 1.0)
    centre = start + (xp.arange(size)[:, None] + 0.5) * reduction
    pixel = xp.arange(length)
    inside = (pixel >= start) & (pixel < start + extent)
    if method == "box" and xp is np:
        # Where a pixel's centre lies on the border of the box, rounding decides, as in Pillow: here and below
        half = 0.5 * scale
        inside = inside & (pixel >= np.floor(centre - half + 0.5)) & (pixel < np.floor(centre + half + 0.5))
    weights = xp.where(inside, filter_value(xp, (pixel - centre + 0.5) * (1.0 / scale), method), 0.0)
    return weights / weights.sum(-1, keepdims=True)


SUPPORT = {"box": 0.5, "bilinear": 1.0, "bicubic": 2.0, "lanczos3": 3.0}
"""Pixels to each side of its centre beyond which a filter is 0."""


def filter_value(xp: ModuleType, x: Any, method: Method) -> Any:
    """The value of the filter ``x`` pixels from its centre, in numpy or jax.numpy as ``xp`` says."""
    if method == "box":
        return xp.where((x > -0.5) & (x <= 0.5), 1.0, 0.0)
    x = abs(x)
    if method == "bilinear":
        return xp.maximum(1.0 - x, 0.0)
    if method == "lanczos3":
        return xp.where(x < 3.0, xp.sinc(x) * xp.sinc(x / 3.0), 0.0)
    # Keys 1981, cubic convolution with a = -1/2
    near = 1.5 * x**3 - 2.5 * x**2 + 1.0
    far = -0.5 * x**3 + 2.5 * x**2 - 4.0 * x + 2.0
    return xp.where(x < 1.0, near, xp.where(x < 2.0, far, 0.0))


def resize_shorter(images: Num[Array, "b h w c"], side: int, *, method: Method = "bilinear") -> Num[Array, "b H W c"]:
    """:func:`resize` so that the shorter side has ``side`` pixels; the longer one keeps the aspect ratio, rounded."""
    height, width = images.shape[1:3]
    scale = side / min(height, width)
    return resize(images, (max(side, round(height * scale)), max(side, round(width * scale))), method=method)


def centre_crop(images: Shaped[Array, "b h w c"], size: tuple[int, int]) -> Shaped[Array, "b H W c"]:
    """The middle ``size`` (height, width) of the images; half a pixel to the upper left where it does not divide.

    Raises:
      UserError: the images are smaller than that.
    """
    height, width = images.shape[1:3]
    if size[0] > height or size[1] > width:
        raise UserError(
            f"{size[0]}x{size[1]} pixels cannot be cut out of images of {height}x{width}: resize them first"
        )
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return images[:, top : top + size[0], left : left + size[1]]


def pad(
    images: Shaped[Array, "b h w c"], margin: int, *, mode: PadMode = "constant", value: float = 0.0
) -> Shaped[Array, "b H W c"]:
    """Add ``margin`` pixels on every side.

    Args:
      images: any dtype and range.
      margin: not negative.
      mode: "constant" adds ``value``, which is mid-grey for images in [-1, 1]; "reflect" mirrors the image without
        repeating its border (c b | a b c | b a); "edge" repeats its border (a a | a b c | c c).
      value: what "constant" adds.

    Raises:
      UserError: the margin is negative, or too large to be mirrored.
    """
    if margin < 0 or (mode == "reflect" and margin >= min(images.shape[1:3])):
        height, width = images.shape[1:3]
        raise UserError(f'images of {height}x{width} pixels cannot be padded by {margin} with mode "{mode}"')
    widths = ((0, 0), (margin, margin), (margin, margin), (0, 0))
    if mode == "constant":
        return jnp.pad(images, widths, constant_values=value)
    return jnp.pad(images, widths, mode=mode)


def normalise(
    images: Float[Array, "b h w c"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "b h w c"]:
    """Images in [-1, 1] to zero mean and unit deviation, by a ``mean`` and ``std`` [c] of values in [0, 1]."""
    return ((images + 1.0) / 2.0 - jnp.asarray(mean)) / jnp.asarray(std)
