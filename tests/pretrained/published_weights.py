"""Weights for tests that need no file: a formula of the published name and shape, the same in every environment."""

import math
import zlib

import numpy as np


def uniform(name, shape):
    """Numbers in [-1, 1) in float64 by counter and name: splitmix64 (Steele et al. 2014) in wrapping integers."""
    with np.errstate(over="ignore"):
        counter = np.arange(1, math.prod(shape) + 1, dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 32)
        bits = counter * np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits ^= bits >> np.uint64(31)
    return ((bits >> np.uint64(11)) / 2.0**52 - 1.0).reshape(shape)


def published_array(name, shape, *, gain=1.0):
    """A float32 array for a parameter or a statistic of a PyTorch network, so that activations neither die nor grow.

    Statistics and scales are far from 0 and 1, so that a layer that forgets one gives other logits. ``gain`` multiplies
    the scales.
    """
    spread = uniform(name, shape)
    if name.endswith("running_mean"):
        array = 0.2 * spread
    elif name.endswith("running_var"):
        array = 1.0 + 0.5 * spread
    elif name.endswith(("layer_scale", "gamma")):
        array = 0.5 + 0.25 * spread
    elif len(shape) > 1:
        # uniform with the variance 2 / fan in
        array = spread * np.sqrt(6.0 / math.prod(shape[1:]))
    elif name.endswith("weight"):
        array = gain * (0.5 + 0.25 * spread)
    else:
        array = 0.1 * spread
    return array.astype(np.float32)


def golden_image(height, width):
    """Two images, float32 [2 h w 3], about as large as normalised ones."""
    return (2.0 * uniform("image", (2, height, width, 3))).astype(np.float32)
