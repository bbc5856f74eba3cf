"""Changes of colour, brightness and sharpness, as in Pillow's ImageEnhance and ImageOps, for images in [-1, 1].

Levels are Pillow's 0 to 255 = (x + 1) 127.5. The functions agree with Pillow to one level: Pillow rounds or truncates
between its steps, these functions do not. A strength is one number, or one for each sample.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from vision.errors import UserError

Strength = Float[Array, " #b"] | Float[Array, ""] | float
"""One number for all samples, or one for each."""

_LUMA = (0.299, 0.587, 0.114)


def greyscale(images: Float[Array, "b h w c"]) -> Float[Array, "b h w 1"]:
    """Luma of ITU-R Recommendation BT.601, 0.299 R + 0.587 G + 0.114 B, of any range; a single channel is unchanged.

    Raises:
      UserError: images that have neither one nor three channels.
    """
    if images.shape[-1] == 1:
        return images
    if images.shape[-1] != 3:
        raise UserError(f"colour needs images of 1 or 3 channels, got {images.shape[-1]}")
    red, green, blue = jnp.split(images, 3, axis=-1)
    return _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue


def mean_luma(images: Float[Array, "b h w c"]) -> Float[Array, "b 1 1 1"]:
    """The mean of each image's :func:`greyscale`."""
    return greyscale(jnp.mean(images, axis=(1, 2), keepdims=True))


def brightness(images: Float[Array, "b h w c"], factor: Strength) -> Float[Array, "b h w c"]:
    """Levels times ``factor``, clipped to [-1, 1]: 0 is black, 1 the image."""
    return blend(jnp.full((1, 1, 1, 1), -1.0), images, factor)


def contrast(images: Float[Array, "b h w c"], factor: Strength) -> Float[Array, "b h w c"]:
    """Deviation from the image's mean luma times ``factor``: 0 is a uniform grey, 1 the image."""
    return blend(mean_luma(images), images, factor)


def saturation(images: Float[Array, "b h w c"], factor: Strength) -> Float[Array, "b h w c"]:
    """Deviation from each pixel's luma times ``factor``, Pillow's "Color": 0 is a grey image, 1 the image."""
    return blend(greyscale(images), images, factor)


def sharpness(images: Float[Array, "b h w c"], factor: Strength) -> Float[Array, "b h w c"]:
    """Deviation from the :func:`smooth` image times ``factor``: 0 is smoothed, 1 the image, 2 sharpened."""
    return blend(smooth(images), images, factor)


def smooth(images: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Pillow's SMOOTH, of any range: 3x3 weights of 1 with 5 in the middle, over 13; the border is unchanged."""
    if min(images.shape[1:3]) < 3:
        return images
    rows = images[:, :-2] + images[:, 1:-1] + images[:, 2:]
    inner = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4.0 * images[:, 1:-1, 1:-1]
    return images.at[:, 1:-1, 1:-1].set(inner / 13.0)


def blend(
    reference: Float[Array, "#b #h #w #c"], images: Float[Array, "b h w c"], factor: Strength
) -> Float[Array, "b h w c"]:
    """``reference`` at factor 0, the image at 1, on the line through both, clipped to [-1, 1]."""
    return jnp.clip(reference + _each(factor) * (images - reference), -1.0, 1.0)


def _each(strength: Array | float) -> Array:
    """A strength that broadcasts over [b h w c]."""
    return jnp.reshape(jnp.asarray(strength), (-1, 1, 1, 1))


def _levels(images: Array) -> Array:
    """The nearest of 0, 1, ..., 255, in float32."""
    return jnp.round((jnp.clip(images, -1.0, 1.0) + 1.0) * 127.5)


def hue(images: Float[Array, "b h w 3"], shift: Strength) -> Float[Array, "b h w 3"]:
    """Rotate the hue by ``shift`` turns of the colour circle: 1/3 maps red to green, and whole numbers do nothing."""
    hsv = rgb_to_hsv((images + 1.0) / 2.0)
    rotated = hsv[..., :1] + _each(shift)
    return 2.0 * hsv_to_rgb(jnp.concatenate([rotated, hsv[..., 1:]], axis=-1)) - 1.0


def rgb_to_hsv(rgb: Float[Array, "*shape 3"]) -> Float[Array, "*shape 3"]:
    """Hue in turns [0, 1), saturation and value, of red, green and blue in [0, 1] (Smith 1978); grey has hue 0."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    # a reduction over three elements takes several times as long on CPUs
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    divisor = jnp.where(chroma > 0, chroma, 1.0)
    # How far the colour is from red, green or blue, whichever is largest, in sixths of a turn
    sextant = jnp.where(
        value == red,
        (green - blue) / divisor,
        jnp.where(value == green, 2.0 + (blue - red) / divisor, 4.0 + (red - green) / divisor),
    )
    turn = jnp.where(chroma > 0, _fraction(sextant / 6.0), 0.0)
    return jnp.stack([turn, chroma / jnp.where(value > 0, value, 1.0), value], axis=-1)


def hsv_to_rgb(hsv: Float[Array, "*shape 3"]) -> Float[Array, "*shape 3"]:
    """The inverse of :func:`rgb_to_hsv`; the hue may be any number of turns."""
    turn, saturated, value = hsv[..., 0:1], hsv[..., 1:2], hsv[..., 2:3]
    # Each channel is a trapezium of the hue: full within a sixth of its own colour, empty beyond a third
    peaks = jnp.array([0.0, 1 / 3, 2 / 3], hsv.dtype)
    distance = jnp.abs(_fraction(turn - peaks + 0.5) - 0.5)
    share = jnp.clip(2.0 - 6.0 * distance, 0.0, 1.0)
    return value * (1.0 - saturated * (1.0 - share))


def _fraction(x: Array) -> Array:
    """X modulo 1; the operator % becomes a call for each element on CPUs, 20 times slower."""
    return x - jnp.floor(x)


def invert(images: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """The negative: level v becomes 255 - v."""
    return -images


def posterize(
    images: Float[Array, "b h w c"], bits: Num[Array, " #b"] | Num[Array, ""] | int
) -> Float[Array, "b h w c"]:
    """Keep the upper ``bits``, 0 to 8, of every level; the image is first rounded to levels."""
    step = 2.0 ** (8.0 - _each(bits))
    return jnp.floor(_levels(images) / step) * step / 127.5 - 1.0


def solarize(images: Float[Array, "b h w c"], threshold: Strength) -> Float[Array, "b h w c"]:
    """Invert all values whose level is at least ``threshold``: 0 inverts everything, 256 nothing."""
    return jnp.where(_levels(images) >= _each(threshold), -images, images)


def autocontrast(images: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Stretch each channel of each image so that it reaches from -1 to 1; a channel of one value is kept."""
    low, high = (of(images, axis=(1, 2), keepdims=True) for of in (jnp.min, jnp.max))
    stretched = 2.0 * (images - low) / jnp.where(high > low, high - low, 1.0) - 1.0
    return jnp.where(high > low, stretched, images)


def equalize(images: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Equalise the levels of each channel of each image so that all are about equally frequent.

    As in Pillow, which rounds down twice: with N pixels, N' of them not of the highest level that occurs, the step is
    s = floor(N' / 255), and level v becomes floor((floor(s / 2) + pixels below v) / s). A channel with s = 0, such as
    one of a single level or an image of fewer than 256 pixels, is only rounded to levels.
    """
    _, height, width, channels = images.shape

    # By vmap rather than over the complete batch in one scatter, which a batch sharded over devices would have to
    # gather
    def one(image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        # A table of 256 levels for each channel, one after the other
        place = 256 * jnp.arange(channels) + _levels(image).astype(jnp.int32)
        counts = jnp.zeros(256 * channels).at[place].add(1.0, mode="promise_in_bounds").reshape(channels, 256)
        # Whole numbers in float32, which divides faster; exact for images of up to a million pixels
        below = jnp.cumsum(counts, axis=-1) - counts
        not_highest = jnp.max(jnp.where(below < height * width, below, 0.0), axis=-1, keepdims=True)
        step = jnp.floor(not_highest / 255.0)
        equal = jnp.minimum(jnp.floor((jnp.floor(step / 2.0) + below) / jnp.maximum(step, 1.0)), 255.0)
        value = jnp.where(step > 0, equal, jnp.arange(256.0)) / 127.5 - 1.0
        return value.reshape(-1).at[place].get(mode="promise_in_bounds")

    return jax.vmap(one)(images)
