"""The score of images by a classifier: each of one class, and all classes equally often (Salimans et al. 2016).

With the probabilities of the published Inception network it is the Inception Score; with those of another classifier it
has a different name. It does not use real images; their score is reported separately.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Array, Float

from vision.errors import UserError


@dataclass(frozen=True)
class ClassifierScore:
    """Scores of the parts that the images were divided into."""

    mean: float
    """Their mean, between 1 (all images alike) and the number of classes (each image of one class, all equally
    often)."""
    deviation: float
    """Their standard deviation, with the number of parts in the denominator."""


def classifier_score(probabilities: Float[Array | np.ndarray, "n k"], *, splits: int = 10) -> ClassifierScore:
    """The exponential of the mean Kullback-Leibler divergence between the classes of an image and of its part.

    Args:
      probabilities: p(y|x), each row with the sum 1. Parts are consecutive images: shuffle sorted ones first.
      splits: parts of (nearly) equal size; the score of fewer images is lower, so that the number of images belongs to
        the protocol.

    Raises:
      UserError: there are fewer images than parts, or rows that are not probabilities.
    """
    rows = np.asarray(probabilities, np.float64)
    if splits < 1 or len(rows) < splits:
        raise UserError(f"{len(rows)} images cannot be divided into {splits} parts to be scored: generate more images")
    if not (np.all(rows >= 0) and np.allclose(rows.sum(1), 1.0, rtol=0, atol=1e-3)):
        raise UserError("a classifier is scored by its probabilities, but these are negative or have not the sum 1")
    bounds = [part * len(rows) // splits for part in range(splits + 1)]
    scores = [_score(rows[start:end]) for start, end in itertools.pairwise(bounds)]
    return ClassifierScore(float(np.mean(scores)), float(np.std(scores)))


def _score(rows: np.ndarray) -> float:
    from scipy.special import xlogy  # takes a quarter of a second to import, which no start should wait for

    marginal = rows.mean(0)
    # Salimans et al. 2016, section 4: exp(E_x KL(p(y|x) || p(y))), where 0 log 0 = 0
    return float(np.exp(np.mean(np.sum(xlogy(rows, rows) - xlogy(rows, marginal), axis=1))))
