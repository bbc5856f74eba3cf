"""Embeddings that were sampled for texts, against the embeddings of the images that have these texts.

All are compared as directions: vectors are normalised first, and one of zeros stays so.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from vision.metrics.retrieval.recall import DEPTHS, ranks, recall


def directions(vectors: Float[np.ndarray, "n e"]) -> Float[np.ndarray, "n e"]:
    """Vectors of length 1, float64."""
    vectors = vectors.astype(np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def recalls(
    samples: Float[np.ndarray, "m e"], images: Float[np.ndarray, "n e"], own: Int[np.ndarray, " m"] | None = None
) -> dict[int, float]:
    """The share of samples to which their own image is among the k most similar of all n, by k.

    Of equal similarities the wrong images come first (``vision.metrics.retrieval.recall``).

    Args:
      samples: what is looked up.
      images: the embeddings of images.
      own: for each sample the row of its image; the same row by default.
    """
    right = [np.array([index]) for index in (range(len(images)) if own is None else own.tolist())]
    found = ranks(directions(samples), directions(images), right)
    return {depth: recall(found, depth) for depth in DEPTHS}


def chance(count: int) -> dict[int, float]:
    """The recalls of a random order of ``count`` images, by k."""
    return {depth: min(depth / count, 1.0) for depth in DEPTHS}


def cosine_margin(samples: Float[np.ndarray, "n e"], own: Float[np.ndarray, "n e"]) -> float:
    """The mean cosine of samples to their own images, minus that to the images of all other rows."""
    cosines = directions(samples) @ directions(own).T
    matched, count = np.trace(cosines), len(cosines)
    return float(matched / count - (cosines.sum() - matched) / (count * (count - 1)))


def variance_share(samples: Sequence[Float[np.ndarray, "_ e"]], real: Sequence[Float[np.ndarray, "_ e"]]) -> float:
    """The variance of samples of a text over that of the embeddings of real images of this text, pooled over texts.

    Args:
      samples: for each text its samples, at least two.
      real: for each text the embeddings of its images, likewise.

    Returns:
      The ratio of pooled unbiased variances, summed over channels.
    """
    return _pooled(samples) / _pooled(real)


def _pooled(groups: Sequence[np.ndarray]) -> float:
    units = [directions(each) for each in groups]
    total = sum(float(np.square(each - each.mean(0)).sum()) for each in units)
    return total / sum(len(each) - 1 for each in units)
