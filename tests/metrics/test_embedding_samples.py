"""Samples of embeddings against those of images: recalls, margins and variances against brute force."""

import numpy as np
import pytest

from vision.metrics.retrieval.samples import chance, cosine_margin, directions, recalls, variance_share

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.normal(size=(40, 6))
SAMPLES = IMAGES + 0.8 * GENERATOR.normal(size=(40, 6))


def cosine(one, other):
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_recalls_by_brute_force():
    found = recalls(SAMPLES, IMAGES)
    for depth in (1, 5, 10):
        inside = 0
        for index, sample in enumerate(SAMPLES):
            order = sorted(range(40), key=lambda other, sample=sample: -cosine(sample, IMAGES[other]))
            inside += index in order[:depth]
        assert found[depth] == inside / 40
    assert 0 < found[1] < found[10] < 1
    assert recalls(SAMPLES[[7, 3]], IMAGES, np.array([7, 3]))[10] == np.mean(
        [recalls(SAMPLES[[index]], IMAGES, np.array([index]))[10] for index in (7, 3)]
    )


def test_what_says_nothing_finds_nothing():
    zeros = np.zeros_like(IMAGES)
    assert set(recalls(zeros, IMAGES).values()) == {0.0}
    assert cosine_margin(zeros, IMAGES) == 0.0
    assert chance(40) == {1: 1 / 40, 5: 1 / 8, 10: 1 / 4}
    assert chance(3)[5] == 1.0
    many = np.mean([recalls(GENERATOR.normal(size=IMAGES.shape), IMAGES)[5] for _ in range(100)])
    assert many == pytest.approx(chance(40)[5], abs=0.02)


def test_margin_by_brute_force():
    own = np.mean([cosine(one, other) for one, other in zip(SAMPLES, IMAGES, strict=True)])
    others = [cosine(SAMPLES[i], IMAGES[j]) for i in range(40) for j in range(40) if i != j]
    assert cosine_margin(SAMPLES, IMAGES) == pytest.approx(own - np.mean(others), abs=1e-12)
    assert cosine_margin(3.0 * SAMPLES, IMAGES) == pytest.approx(cosine_margin(SAMPLES, IMAGES))


def test_variances_by_brute_force():
    real = [GENERATOR.normal(size=(count, 6)) + 4 for count in (3, 5)]
    made = [GENERATOR.normal(size=(4, 6)) + 4 for _ in range(2)]

    def variance(groups):
        total = count = 0
        for group in groups:
            unit = np.stack([each / np.linalg.norm(each) for each in group])
            total += sum(np.var(unit[:, channel], ddof=1) for channel in range(6)) * (len(group) - 1)
            count += len(group) - 1
        return total / count

    assert variance_share(made, real) == pytest.approx(variance(made) / variance(real))
    assert variance_share(real, real) == pytest.approx(1.0)
    assert variance_share([np.ones((4, 6))] * 2, real) == pytest.approx(0.0)


def test_directions():
    made = directions(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32))
    np.testing.assert_allclose(made, [[0.6, 0.8], [0.0, 0.0]])
