"""Interpolation along great circles, which keeps the length of vectors likely."""

import numpy as np
from jaxtyping import Float


def slerp(
    first: Float[np.ndarray, "*#b d"], last: Float[np.ndarray, "*#b d"], share: Float[np.ndarray, "*#b"] | float
) -> Float[np.ndarray, "*b d"]:
    """Vectors on the great circle from ``first`` (share 0) to ``last`` (share 1): spherical linear interpolation.

    Shoemake 1985, "Animating rotation with quaternion curves"; of the latents of generators White 2016, section 2.1.
    Between nearly parallel vectors, and opposite ones, which no single great circle joins, on the straight line. The
    arrays are broadcast; computed in float64, the result is float32. A vector of zeros raises ``ValueError``.
    """
    first, last = first.astype(np.float64), last.astype(np.float64)
    share = np.asarray(share, np.float64)[..., None]
    lengths = np.linalg.norm(first, axis=-1, keepdims=True) * np.linalg.norm(last, axis=-1, keepdims=True)
    if not (lengths > 0.0).all():
        raise ValueError("a vector of zeros has no direction to interpolate from")
    angle = np.arccos(np.clip(np.sum(first * last, axis=-1, keepdims=True) / lengths, -1.0, 1.0))
    near = np.sin(angle) < 1e-6
    sine = np.where(near, 1.0, np.sin(angle))
    before = np.where(near, 1.0 - share, np.sin((1.0 - share) * angle) / sine)
    after = np.where(near, share, np.sin(share * angle) / sine)
    return (before * first + after * last).astype(np.float32)
