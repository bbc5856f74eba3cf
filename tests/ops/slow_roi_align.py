"""RoIAlign by loops over boxes, bins and points, written from the definition of He et al. 2017, in float64."""

import numpy as np


def interpolated(features, y, x):
    """He et al. 2017, figure 3: one point, float64."""
    height, width, _ = features.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(features.shape[-1])
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    total = np.zeros(features.shape[-1])
    for row in range(height):
        for column in range(width):
            total += max(0, 1 - abs(y - row)) * max(0, 1 - abs(x - column)) * features[row, column]
    return total


def slow(features, boxes, *, size, scale, samples=2, aligned=False):
    """Of one image, in float64."""
    made = np.zeros((len(boxes), size, size, features.shape[-1]))
    for k, box in enumerate(np.float64(boxes)):
        x0, y0, x1, y1 = box * scale - (0.5 if aligned else 0.0)
        sides = [y1 - y0, x1 - x0] if aligned else [max(y1 - y0, 1), max(x1 - x0, 1)]
        for i, j in np.ndindex(size, size):
            for p, q in np.ndindex(samples, samples):
                y = y0 + (i + (p + 0.5) / samples) * sides[0] / size
                x = x0 + (j + (q + 0.5) / samples) * sides[1] / size
                made[k, i, j] += interpolated(np.float64(features), y, x) / samples**2
    return made
