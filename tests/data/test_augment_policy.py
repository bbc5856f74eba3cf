"""RandAugment and TrivialAugment: each operation against its function, and what is sampled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import vision.data.augment.policy as policy
from vision.data.augment.policy import OPERATIONS, WIDE, Ranges, apply_operation, randaugment, trivialaugment
from vision.ops import colour
from vision.ops.geometry import affine_warp, rotation, shear, translation

IMAGES = jax.random.uniform(jax.random.key(0), (3, 20, 24, 3), minval=-0.8, maxval=0.9)
STRENGTH = jnp.array([0.3, -0.7, 1.0])


@pytest.fixture(scope="module")
def applied():
    """The three images after an operation, with the two sets of ranges: compiled once."""
    run = lambda ranges: jax.jit(lambda x, op, strength: apply_operation(x, op, strength, ranges=ranges))
    return {ranges: run(ranges) for ranges in (Ranges(), WIDE)}


def _expected(name, ranges, s):
    """The operation according to the paper's table, by functions that are tested against Pillow and SciPy."""
    warp = lambda matrices: affine_warp(IMAGES, matrices)
    zero, factor, size = jnp.zeros_like(s), 1 + ranges.enhance * s, jnp.abs(s)
    far = 32.0 if ranges is WIDE else None
    return {
        "identity": lambda: IMAGES,
        "shear_x": lambda: warp(shear(zero, ranges.shear * s)),
        "shear_y": lambda: warp(shear(ranges.shear * s, zero)),
        "translate_x": lambda: warp(translation(zero, (far or 24 * 150 / 331) * s)),
        "translate_y": lambda: warp(translation((far or 20 * 150 / 331) * s, zero)),
        "rotate": lambda: warp(rotation(ranges.rotate * s, 20, 24)),
        "brightness": lambda: colour.brightness(IMAGES, factor),
        "saturation": lambda: colour.saturation(IMAGES, factor),
        "contrast": lambda: colour.contrast(IMAGES, factor),
        "sharpness": lambda: colour.sharpness(IMAGES, factor),
        "posterize": lambda: colour.posterize(IMAGES, 8 - jnp.round((8 - ranges.posterize) * size)),
        "solarize": lambda: colour.solarize(IMAGES, 256 - 256 * size),
        "autocontrast": lambda: colour.autocontrast(IMAGES),
        "equalize": lambda: colour.equalize(IMAGES),
    }[name]()


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_their_functions(name, applied):
    number = jnp.full(3, OPERATIONS.index(name))
    for ranges in (Ranges(), WIDE):
        out = applied[ranges](IMAGES, number, STRENGTH)
        expected = jax.jit(lambda s, ranges=ranges: _expected(name, ranges, s))(STRENGTH)
        if name == "solarize":  # a level at the threshold itself is a matter of rounding
            assert np.mean(np.abs(np.asarray(out - expected)) > 1e-4) < 0.002
        else:
            np.testing.assert_allclose(out, expected, atol=2e-4)
        changed = np.abs(np.asarray(out - IMAGES)).max((1, 2, 3)) > 0.01
        assert changed.any() == (name != "identity")
    # At strength 0 an operation that has one does nothing; posterize rounds to levels
    if name not in ("autocontrast", "equalize"):
        still = applied[Ranges()](IMAGES, number, jnp.zeros(3))
        np.testing.assert_allclose(still, IMAGES, atol=0.5 / 127.5 + 1e-5 if name == "posterize" else 1e-5)


def test_each_sample_has_an_operation_of_its_own(applied):
    names = ("rotate", "saturation", "equalize")
    out = applied[Ranges()](IMAGES, jnp.array([OPERATIONS.index(name) for name in names]), STRENGTH)
    for i, name in enumerate(names):
        np.testing.assert_allclose(out[i], _expected(name, Ranges(), STRENGTH)[i], atol=1e-4)


@pytest.fixture
def sampled(monkeypatch):
    """A policy's operations and strengths, instead of what they do to images."""
    calls = []

    def record(images, operation, strength, **options):
        calls.append((np.asarray(operation), np.asarray(strength), options))
        return images

    monkeypatch.setattr(policy, "apply_operation", record)
    return calls


MANY = jnp.zeros((7000, 1, 1, 3))


def test_randaugment_samples_operations_and_signs_uniformly(sampled):
    randaugment(MANY, operations=3, magnitude=7.0, interpolation="nearest", key=jax.random.key(0))
    assert len(sampled) == 3
    for operation, strength, options in sampled:
        assert options == {"interpolation": "nearest"}
        assert stats.chisquare(np.bincount(operation, minlength=14)).pvalue > 1e-6
        np.testing.assert_allclose(np.abs(strength), 0.7, atol=1e-6)
        assert stats.binomtest(int((strength > 0).sum()), len(strength), 0.5).pvalue > 1e-6
    assert (sampled[0][0] != sampled[1][0]).mean() > 0.9
    assert abs(np.corrcoef(sampled[0][0], sampled[0][1])[0, 1]) < 0.06


def test_randaugments_magnitude_varies_as_configured(sampled):
    randaugment(MANY, operations=1, magnitude=5.0, magnitude_std=1.5, key=jax.random.key(1))
    randaugment(MANY, operations=1, magnitude=9.0, magnitude_std=2.0, key=jax.random.key(1))
    randaugment(MANY, operations=1, magnitude=9.0, magnitude_std=float("inf"), key=jax.random.key(1))
    randaugment(MANY, operations=1, magnitude=9.0, full_magnitude=30.0, key=jax.random.key(1))
    normal, clipped, even, thirty = (np.abs(strength) for _, strength, _ in sampled)
    inner = normal[(normal > 0) & (normal < 1)]
    assert stats.kstest(inner, stats.truncnorm(-10 / 3, 10 / 3, 0.5, 0.15).cdf).pvalue > 1e-4
    # P(9 + 2 z > 10) = P(z > 1/2)
    assert clipped.max() == 1
    assert abs((clipped == 1).mean() - stats.norm.sf(0.5)) < 0.03
    assert stats.kstest(even, "uniform").pvalue > 1e-4
    np.testing.assert_allclose(thirty, 0.3, atol=1e-6)


def test_trivialaugment_samples_uniformly(sampled):
    trivialaugment(MANY, key=jax.random.key(2))
    ((operation, strength, options),) = sampled
    assert options == {"ranges": WIDE, "interpolation": "bilinear"}
    assert stats.chisquare(np.bincount(operation, minlength=14)).pvalue > 1e-6
    level = np.round(np.abs(strength) * 30).astype(int)
    np.testing.assert_allclose(np.abs(strength), level / 30, atol=1e-6)
    assert stats.chisquare(np.bincount(level, minlength=31)).pvalue > 1e-6
    signed = strength[level > 0] > 0
    assert stats.binomtest(int(signed.sum()), len(signed), 0.5).pvalue > 1e-6


def test_the_layers_follow_each_other():
    """Two operations are the second one done to the result of the first, of every pair that is sampled."""
    key = jax.random.key(3)
    run = lambda operations, key: jax.jit(lambda x: randaugment(x, operations=operations, key=key))
    images = jnp.tile(IMAGES, (4, 1, 1, 1))
    together = run(2, key)(images)
    by_hand = images
    for own in jax.random.split(key, 2):
        operation_key, _, sign_key = jax.random.split(own, 3)
        operation = jax.random.randint(operation_key, (12,), 0, 14)
        strength = 0.9 * jax.random.rademacher(sign_key, (12,), jnp.float32)
        by_hand = jax.jit(apply_operation)(by_hand, operation, strength)
    differing = np.abs(np.asarray(together - by_hand)) > 1e-3
    assert differing.mean() < 0.002
