"""Stateless random numbers: each is a pure function of a key, a purpose and a counter.

A data set that renders its samples needs numbers that do not depend on which samples were rendered before, and for many
samples at once, for which a generator object per sample would be too slow. Keys and streams are those of SplitMix64
(Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
"""

import math
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int, UInt64

Split = Literal["train", "validation", "test"]


def _mix(z: UInt64[np.ndarray, "..."]) -> UInt64[np.ndarray, "..."]:
    """The bijective finaliser of SplitMix64 (Steele et al. 2014, figure 16: mix64variant13)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def sample_keys(seed: int, split: Split, indices: Int[np.ndarray, "n"]) -> UInt64[np.ndarray, "n"]:
    """One key per sample. No two samples of the same seed share a key, in any split: `_mix` is bijective."""
    number = indices.astype(np.uint64) * np.uint64(len(get_args(Split))) + np.uint64(get_args(Split).index(split))
    return _mix(_mix(np.full(1, seed, np.uint64)) + number)


def uniform(keys: UInt64[np.ndarray, "n"], purpose: str, *shape: int) -> Float[np.ndarray, "n ..."]:
    """Independent float64 numbers, uniform on [0, 1), for each key.

    A different `purpose`, a word of at most eight letters, gives different numbers.
    """
    stream = _mix(keys ^ np.uint64(int.from_bytes(purpose.encode()[:8], "little")))
    steps = np.arange(1, math.prod(shape) + 1, dtype=np.uint64)
    bits = _mix(stream[:, None] + steps * np.uint64(0x9E3779B97F4A7C15))
    return ((bits >> np.uint64(11)) * 2.0**-53).reshape(len(keys), *shape)
