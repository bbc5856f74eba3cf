"""Random crops on the device, of a padded image or of a rectangle that is resized, independent for each sample."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from vision.ops.resize import Method, pad, window_weights
from vision.ops.windows import windows

PadMode = Literal["zeros", "reflect", "edge"]

# Rectangles sampled for each sample, of which the first that fits is taken; torchvision and timm sample ten, too.
_ATTEMPTS = 10


def pad_crop(
    images: Float[Array, "b h w c"], margin: int, *, mode: PadMode = "zeros", key: Key[Array, ""]
) -> Float[Array, "b h w c"]:
    """Pad by ``margin`` pixels and crop the original size at random (Krizhevsky et al. 2012; He et al. 2016 for CIFAR).

    Args:
      images: values in [-1, 1].
      margin: pixels on every side; each of the (2 margin + 1)^2 shifts is equally likely.
      mode: "zeros" pads with 0, mid-grey; "reflect" by reflection without repeating the border; "edge" by repeating the
        border.
      key: one for the batch.

    Raises:
      UserError: the margin is too large for "reflect".
    """
    shift = jax.random.randint(key, (images.shape[0], 2), 0, 2 * margin + 1)
    padded = pad(images, margin, mode="constant" if mode == "zeros" else mode)
    return windows(padded, shift, (images.shape[1], images.shape[2]))


def random_resized_crop(
    images: Float[Array, "b h w c"],
    size: tuple[int, int],
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    method: Method = "bilinear",
    key: Key[Array, ""],
) -> Float[Array, "b H W c"]:
    """Crop a rectangle of random area and aspect ratio and resize it to ``size`` (Szegedy et al. 2015, section 6).

    Resampling is antialiased: two products with a matrix per sample (see `vision.ops.resize`), which are fast on every
    backend and have static shapes.

    Args:
      images: values in [-1, 1].
      size: height and width of the result.
      scale: smallest and largest area of the rectangle as a share of the image's, sampled uniformly.
      ratio: smallest and largest width over height, sampled uniformly in its logarithm.
      method: the filter.
      key: one for the batch.

    Returns:
      images clipped to [-1, 1].
    """
    batch, height, width, _ = images.shape
    box = random_rectangles(batch, height, width, scale=scale, ratio=ratio, key=key)
    return crop_resize(images, box, size, method=method)


def crop_resize(
    images: Float[Array, "b h w c"], box: Int[Array, "b 4"], size: tuple[int, int], *, method: Method = "bilinear"
) -> Float[Array, "b H W c"]:
    """Each image's ``box`` (top, left, height, width in pixels) resized to ``size``, clipped to [-1, 1]."""
    top, left, tall, wide = box.T.astype(jnp.float32)
    rows = window_weights(top, tall, length=images.shape[1], size=size[0], method=method)
    columns = window_weights(left, wide, length=images.shape[2], size=size[1], method=method)
    precise = jax.lax.Precision.HIGHEST
    out = jnp.einsum("bhy,byxc->bhxc", rows, images, precision=precise)
    # Columns first in the result, so that each sample needs one plain matrix product; the transpose is cheaper
    out = jnp.einsum("bwx,bhxc->bwhc", columns, out, precision=precise)
    return jnp.clip(jnp.swapaxes(out, 1, 2), -1.0, 1.0)


def random_rectangles(
    count: int,
    height: int,
    width: int,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    key: Key[Array, ""],
) -> Int[Array, "{count} 4"]:
    """Rectangles (top, left, height, width) in pixels within an image, of random area, aspect ratio and position.

    The first of ten that fits into the image is taken. If none fits, it is the largest centred rectangle whose ratio is
    within bounds, as in torchvision.
    """
    area_key, ratio_key, place_key = jax.random.split(key, 3)
    area = height * width * jax.random.uniform(area_key, (count, _ATTEMPTS), minval=scale[0], maxval=scale[1])
    low, high = jnp.log(ratio[0]), jnp.log(ratio[1])
    ratios = jnp.exp(jax.random.uniform(ratio_key, (count, _ATTEMPTS), minval=low, maxval=high))
    tall = jnp.maximum(jnp.round(jnp.sqrt(area / ratios)), 1).astype(jnp.int32)
    wide = jnp.maximum(jnp.round(jnp.sqrt(area * ratios)), 1).astype(jnp.int32)
    fits = (tall <= height) & (wide <= width)
    first = jnp.argmax(fits, axis=1)[:, None]
    extent = jnp.concatenate([jnp.take_along_axis(of, first, axis=1) for of in (tall, wide)], axis=1)
    middle = min(max(width / height, ratio[0]), ratio[1])
    fallback = jnp.array([min(height, max(1, round(width / middle))), min(width, max(1, round(height * middle)))])
    room = jnp.array([height, width])
    found = jnp.any(fits, axis=1, keepdims=True)
    place = jax.random.randint(place_key, (count, 2), 0, room - extent + 1)
    corner = jnp.where(found, place, (room - fallback) // 2)
    return jnp.concatenate([corner, jnp.where(found, extent, fallback)], axis=1)
