"""What an edit should leave alone, and how well its border is hidden."""

import numpy as np
from jaxtyping import Bool, UInt8

MOST = 100.0
"""Decibels that stand for no difference at all, which has no logarithm."""


def unmasked_psnr(
    image: UInt8[np.ndarray, "h w c"], reference: UInt8[np.ndarray, "h w c"], mask: Bool[np.ndarray, "h w"]
) -> float:
    """Peak signal-to-noise ratio in decibels of the pixels outside of ``mask``, at most `MOST`; NaN without any."""
    if mask.all():
        return float("nan")
    apart = (image.astype(np.float64) - reference.astype(np.float64))[~mask]
    error = float(np.mean(apart**2))
    return MOST if error == 0.0 else min(MOST, float(10.0 * np.log10(255.0**2 / error)))


def seam(image: UInt8[np.ndarray, "h w c"], mask: Bool[np.ndarray, "h w"]) -> float:
    """How much more neighbours differ across the border of ``mask`` than next to it, in levels of 0..255.

    The mean absolute difference of pairs of neighbours of which one lies inside, less the mean of the pairs one pixel
    further inside and one pixel further outside in the same direction. About 0 where the border cannot be seen,
    negative where it is smoother than what it divides; NaN where the mask has no border. A true border of a figure
    along that of the mask counts as one, so that the number is read next to that of a real image.
    """
    across, adjacent = [], []
    for axis in (0, 1):
        pixels = np.moveaxis(image.astype(np.float64), axis, 0)
        inside = np.moveaxis(mask, axis, 0)
        steps = np.abs(np.diff(pixels, axis=0)).mean(-1)  # between pixel i and i + 1
        border = inside[1:] != inside[:-1]
        across.append(steps[border])
        # the pairs before and after in the same line, where they are no border themselves
        for shift in (-1, 1):
            other = np.roll(border, shift, axis=0)
            if shift == 1:
                other[0] = False
            else:
                other[-1] = False
            adjacent.append(steps[other & ~border])
    crossing, near = np.concatenate(across), np.concatenate(adjacent)
    if not len(crossing) or not len(near):
        return float("nan")
    return float(crossing.mean() - near.mean())
