"""Pairs of images for tests that need no file: a formula, the same in every environment."""

import numpy as np


def pairs(height, width, channels):
    """(image, reference), float32 [3 h w c] in [0, 1]: waves and shifted, flatter and noisy versions."""
    y, x = np.arange(height)[:, None, None], np.arange(width)[None, :, None]
    c = np.arange(channels)
    reference = 0.5 + 0.25 * np.sin(0.31 * x + 0.11 * y + c) + 0.2 * np.cos(0.07 * (x - 2.0 * y) * (1.0 + 0.3 * c))
    # digits far behind the point, as noise
    noise = np.modf(1e4 * np.sin(12.9898 * x + 78.233 * y + 37.719 * c))[0]
    changed = (
        reference + 0.05 + 0.03 * np.sin(0.5 * x),
        0.5 + 0.4 * (reference - 0.5),
        reference + 0.3 * noise,
    )
    image = np.stack(changed).clip(0, 1).astype(np.float32)
    return image, np.stack([reference.clip(0, 1).astype(np.float32)] * 3)
