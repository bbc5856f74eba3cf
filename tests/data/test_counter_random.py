"""Counter-based random numbers: the published stream, independence of other samples, uniformity."""

import numpy as np
from scipy import stats

from vision.data.shapes.counter_random import _mix, sample_keys, uniform


def test_stream_is_splitmix64():
    states = np.uint64(1234567) + np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    # The first outputs of the published generator from the seed 1234567.
    assert _mix(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_numbers_of_a_sample_do_not_depend_on_its_company():
    keys = sample_keys(3, "train", np.arange(50))
    assert np.array_equal(uniform(keys, "size", 4)[7], uniform(sample_keys(3, "train", np.array([7])), "size", 4)[0])


def test_keys_are_distinct_over_samples_splits_and_seeds():
    keys = [sample_keys(seed, split, np.arange(5000)) for seed in (0, 1) for split in ("train", "validation", "test")]
    assert len(np.unique(np.concatenate(keys))) == 30_000


def test_numbers_are_uniform_and_uncorrelated():
    keys = sample_keys(0, "train", np.arange(4000))
    numbers = np.concatenate([uniform(keys, purpose, 5) for purpose in ("place", "size")], axis=1)
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > 0.001
    correlation = np.corrcoef(numbers.T) - np.eye(10)
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)
    assert abs(np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]) < 5 / np.sqrt(4000)
