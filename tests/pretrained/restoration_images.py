"""The images of restoration's golden arrays."""

import numpy as np
from published_weights import uniform


def golden_unit_image(height, width, channels):
    """Two images in [0, 1], float32 [2 h w c]."""
    return (0.5 + 0.5 * uniform("image", (2, height, width, channels))).astype(np.float32)
