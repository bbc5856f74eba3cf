"""Mixup and CutMix: what is mixed with what, in what shares, and with what weights of the targets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vision.data.augment.mixing import cutmix, mix, mixup

COUNT = 1200
# Image i is i everywhere, and its class is i: a result tells which images it is made of
IMAGES = jnp.broadcast_to(jnp.arange(COUNT, dtype=jnp.float32)[:, None, None, None], (COUNT, 8, 12, 1))
TARGETS = jnp.eye(COUNT)


def _run(function, key=0, **options):
    run = jax.jit(lambda x, y, key: function(x, y, key=key, **options))
    return map(np.asarray, run(IMAGES, TARGETS, jax.random.key(key)))


def _partners(targets):
    """(own weight, partner) of each sample, by its target; a sample of a single class is its own partner."""
    own = targets[np.arange(COUNT), np.arange(COUNT)]
    others = targets.copy()
    others[np.arange(COUNT), np.arange(COUNT)] = 0
    assert ((others > 0).sum(1) <= 1).all()
    partner = np.where(others.any(1), others.argmax(1), np.arange(COUNT))
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
    return own, partner


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_is_a_convex_combination_by_a_beta_law(alpha):
    images, targets = _run(mixup, alpha=alpha)
    own, partner = _partners(targets)
    expected = own * np.arange(COUNT) + (1 - own) * partner
    np.testing.assert_allclose(
        images, np.broadcast_to(expected[:, None, None, None], images.shape), rtol=1e-5, atol=1e-3
    )
    alone = partner == np.arange(COUNT)
    assert alone.mean() < (0.5 if alpha < 1 else 0.02)
    sampled = np.where(alone & (own == 1), np.nan, own)
    sampled = sampled[~np.isnan(sampled)]
    if alpha >= 1:  # below, many are 0 or 1 to float32's rounding
        assert stats.kstest(sampled, stats.beta(alpha, alpha).cdf).pvalue > 1e-4
    else:
        for level in (0.1, 0.5, 0.9):
            share = np.mean(np.where(alone, 1.0, own) < level)
            assert abs(share - stats.beta(alpha, alpha).cdf(level)) < 0.06


def test_partners_are_a_permutation():
    _, targets = _run(mixup, alpha=4.0)
    _, partner = _partners(targets)
    assert sorted(partner) == list(range(COUNT))
    assert (partner != np.arange(COUNT)).mean() > 0.99


@pytest.mark.parametrize("function", [mixup, cutmix])
def test_one_share_for_the_batch(function):
    _, targets = _run(function, key=2, alpha=1.0, per_sample=False)
    own, partner = _partners(targets)
    shares = own[partner != np.arange(COUNT)]
    assert 0 < shares[0] < 1
    np.testing.assert_array_equal(shares, np.full_like(shares, shares[0]))


def _rectangle(cut):
    """(top, left, height, width) of the pixels that were replaced, which must be a rectangle."""
    rows, columns = np.flatnonzero(cut.any(1)), np.flatnonzero(cut.any(0))
    assert (cut == np.outer(cut.any(1), cut.any(0))).all()
    assert rows.tolist() == list(range(rows[0], rows[-1] + 1))
    assert columns.tolist() == list(range(columns[0], columns[-1] + 1))
    return rows[0], columns[0], len(rows), len(columns)


def test_cutmix_replaces_a_rectangle_and_weighs_targets_by_pixels():
    images, targets = _run(cutmix, alpha=1.0)
    own, partner = _partners(targets)
    inner = []
    for i in range(COUNT):
        cut = images[i, :, :, 0] != i
        assert (images[i, :, :, 0][cut] == partner[i]).all()
        assert abs(own[i] - (1 - cut.mean())) < 1e-6 or partner[i] == i
        if cut.any() and not cut.all():
            top, left, tall, wide = _rectangle(cut)
            if top > 0 and left > 0 and top + tall < 8 and left + wide < 12:  # not clipped
                inner.append(tall / wide)
    # Of the image's aspect ratio, up to the rounding of its sides to pixels
    assert len(inner) > 80
    assert abs(np.median(inner) - 8 / 12) < 0.1


def test_cutmix_rectangles_have_uniform_middles_and_areas_of_the_beta_law():
    """On a large image, where rounding is small: the kept share before clipping is lambda."""
    side, count = 64, 2000
    images = jnp.zeros((count, side, side, 1)).at[:, :, :, 0].set(jnp.arange(count)[:, None, None])
    run = jax.jit(lambda x: cutmix(x, jnp.ones((count, 1)), alpha=1.0, key=jax.random.key(5))[0])
    cut = np.asarray(run(images))[..., 0] != np.arange(count)[:, None, None]
    # Beta(1, 1) is uniform; the mean of what is cut after clipping, from many samples by the definition
    generator = np.random.default_rng(0)
    extent = np.round(side * np.sqrt(generator.uniform(size=(200_000, 1)))).repeat(2, 1)
    start = generator.integers(0, side, (200_000, 2)) - extent // 2
    covered = np.minimum(start + extent, side) - np.maximum(start, 0)
    expected = covered.prod(1) / side**2
    assert stats.ks_2samp(cut.mean((1, 2)), expected).pvalue > 1e-4
    for pixel in ((0, 0), (32, 32), (63, 0)):
        inside = ((start <= pixel) & (pixel < start + extent)).all(1).mean()
        assert abs(cut[:, pixel[0], pixel[1]].mean() - inside) < 0.05


def test_mix_switches_and_keeps_at_random():
    images, targets = _run(mix, mixup_alpha=4.0, cutmix_alpha=1.0, probability=0.6, switch_probability=0.3)
    own, partner = _partners(targets)
    spread = np.ptp(images, axis=(1, 2, 3)) > 0
    whole = [(images[i] == i).all() for i in range(COUNT)]
    swapped = [(images[i] == partner[i]).all() and partner[i] != i for i in range(COUNT)]
    blended = ~spread & ~np.array(whole) & ~np.array(swapped)
    # CutMix may cut nothing or all, so that its count is between two bounds
    assert stats.binomtest(int(blended.sum()), COUNT, 0.6 * 0.7).pvalue > 1e-4
    assert abs(spread.mean() - 0.6 * 0.3) < 0.06
    for i in np.flatnonzero(blended):
        np.testing.assert_allclose(images[i], own[i] * i + (1 - own[i]) * partner[i], rtol=1e-5, atol=1e-3)
    for i in np.flatnonzero(spread):
        assert abs((images[i] == i).mean() - own[i]) < 1e-6


def test_mix_for_the_batch_and_with_one_of_the_two():
    kinds = set()
    run = jax.jit(
        lambda key: mix(IMAGES, TARGETS, mixup_alpha=1.0, cutmix_alpha=1.0, probability=0.7, per_sample=False, key=key)
    )
    for key in range(12):
        images, targets = map(np.asarray, run(jax.random.key(key)))
        own, partner = _partners(targets)
        others = partner != np.arange(COUNT)
        if not others.any():
            kinds.add("none")
            continue
        shares = own[others]
        np.testing.assert_allclose(shares, shares[0], atol=1e-6)
        spread = np.ptp(images[others], axis=(1, 2, 3)) > 0
        assert spread.all() or not spread.any()
        kinds.add("cutmix" if spread.all() else "mixup")
    assert kinds == {"none", "cutmix", "mixup"}
    images, _ = _run(mix, mixup_alpha=1.0)
    assert np.ptp(images, axis=(1, 2, 3)).max() == 0
    images, _ = _run(mix, cutmix_alpha=1.0)
    assert (images == np.round(images)).all()
    assert (np.ptp(images, axis=(1, 2, 3)) > 0).mean() > 0.5
    images, targets = _run(mix, probability=1.0)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(targets, TARGETS)
