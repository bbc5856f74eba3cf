"""Resizing as prescribed by the protocols of generative metrics, bit for bit up to float32.

The Fréchet Inception Distance changes by several points with the method of resizing images to 299x299 pixels (Parmar et
al. 2022, "On Aliased Resizing and Surprising Subtleties in GAN Evaluation"), so that the method belongs to the metric's
name. The resizing of images of levels v in 0..255 and the scaling of network inputs in public packages:

================================  ==============================================================  ===================
package and mode                  resizing                                                        scaling
================================  ==============================================================  ===================
TTUR (Heusel et al. 2017),        ``legacy_tensorflow``: linear, pixel i at i * in / out, no      (v - 128) / 128
torch-fidelity 0.4                antialiasing, not rounded
clean-fid 0.1 "clean"             ``clean``: bicubic with antialiasing by Pillow on each          (v - 128) / 128
                                  channel in float32, clipped to 0..255, not rounded
pytorch-fid 0.3,                  linear, pixel i at (i + 1/2) * in / out - 1/2, no               (v - 127.5) / 127.5
clean-fid 0.1 "legacy_pytorch"    antialiasing; not offered here
================================  ==============================================================  ===================

All agree on images that have 299x299 pixels to begin with, up to the scaling.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from vision.errors import UserError
from vision.ops.resize import resize


def resize_legacy_tensorflow(images: Num[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b H W c"]:
    """TensorFlow 1's ``resize_bilinear`` with ``align_corners=False``: corners on corners, no antialiasing.

    Output pixel i lies at i * in / out, and between its two neighbours the value is linear; beyond the last pixel it is
    constant. Images are thus shifted towards the upper left, and reducing them skips pixels.

    Args:
      images: uint8 or float32 of any range.
      size: height and width of the result.

    Returns:
      float32 in the range of the images, not rounded.

    Raises:
      UserError: a side of ``size`` is less than 1.
    """
    if min(size) < 1:
        raise UserError(f"images cannot be resized to {size[0]}x{size[1]} pixels: both sides must be at least 1")
    out = images.astype(jnp.float32)
    # columns before rows, as in the original, for identical rounding
    for axis in (2, 1):
        length, wanted = images.shape[axis], size[axis - 1]
        # in float32, whose rounding decides where a pixel falls on another
        place = np.arange(wanted, dtype=np.float32) * np.float32(length / wanted)
        before = place.astype(np.int32)
        after = np.minimum(before + 1, length - 1)
        share = np.expand_dims(place - before.astype(np.float32), [n for n in range(4) if n != axis])
        low, high = (jnp.take(out, at, axis=axis) for at in (before, after))
        out = low + (high - low) * share
    return out


def resize_clean(images: Num[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b H W c"]:
    """Pillow's bicubic resizing of each channel as float32 (mode "F"), clipped to 0..255 and not rounded.

    Args:
      images: levels in 0..255, uint8 or float32.
      size: height and width of the result.

    Returns:
      float32 in [0, 255].

    Raises:
      UserError: a side of ``size`` is less than 1.
    """
    return jnp.clip(resize(images.astype(jnp.float32), size, method="bicubic"), 0.0, 255.0)
