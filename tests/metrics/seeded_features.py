"""Features and probabilities that golden values are computed of, the same wherever they are made."""

import numpy as np


def uniform(seed, *shape):
    """Numbers in [0, 1): raw draws, whose stream numpy guarantees forever."""
    bits = np.random.Philox(np.random.SeedSequence(seed))
    return (bits.random_raw(int(np.prod(shape))) >> np.uint64(11)).reshape(shape) * 2.0**-53


def features(seed, count, size):
    """Features [count size] with correlated, unequal and skewed dimensions, as pooled activations are: 0 or more."""
    mixed = (uniform(seed, count, size) - 0.5) @ (uniform(1, size, size) - 0.3)
    return np.maximum(mixed + 0.3 * uniform(seed + 1000, size), 0.0)


def probabilities(seed, count, classes):
    """Rows of which some are confident of a class."""
    logits = 9.0 * uniform(seed, count, classes)
    rows = np.exp(logits)
    return rows / rows.sum(1, keepdims=True)


CASES = {"small": (16, 300, 260), "wide": (64, 500, 420)}
"""Name -> (dimensions, samples of the one set, of the other)."""


def pair(name):
    """The two sets of features of a case."""
    size, first, second = CASES[name]
    return features(10, first, size), 0.9 * features(20, second, size) + 0.02
