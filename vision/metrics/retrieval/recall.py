"""Retrieval between images and texts: how far down the right one is, and the share of queries that find one in k.

A query may have several right candidates, of which the most similar counts (Karpathy & Fei-Fei 2015, section 4.1: of
five sentences of an image the first that is found). Wrong candidates that are exactly as similar count as more similar,
so that a model to which all is the same finds nothing.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

DEPTHS = (1, 5, 10)
"""k of the recalls that are reported."""


def ranks(
    queries: Float[np.ndarray, "n d"],
    candidates: Float[np.ndarray, "m d"],
    right: Sequence[Int[np.ndarray, " _"]],
    *,
    block: int = 512,
) -> Int[np.ndarray, " n"]:
    """The number of wrong candidates that are at least as similar to each query as its most similar right one.

    Args:
      queries: embeddings; similarity is their product, computed in float32.
      candidates: embeddings.
      right: indices of the right candidates of each query, at least one.
      block: queries at a time; affects only memory.

    Returns:
      int64 in [0, m).
    """
    found = np.empty(len(queries), np.int64)
    columns = candidates.astype(np.float32).T
    for start in range(0, len(queries), block):
        similar = queries[start : start + block].astype(np.float32) @ columns
        for row, own in enumerate(right[start : start + block]):
            best = similar[row, own].max()
            found[start + row] = np.count_nonzero(similar[row] >= best) - np.count_nonzero(similar[row, own] >= best)
    return found


def recall(ranks: Int[np.ndarray, " n"], depth: int) -> float:
    """The share of queries with a right candidate among the first ``depth``."""
    return float(np.mean(ranks < depth))
