"""The Lovász extension by brute force: at vertices, as a convex closure, over all orders; and of degenerate masks."""

from itertools import permutations, product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from vision.tasks.lovasz import lovasz_jaccard, lovasz_softmax

PIXELS, VOID = 5, 255
_extension = jax.jit(jax.vmap(lovasz_jaccard))


def jaccard_loss(wrong, truth):
    """|M| / |truth or M| of a set M of mispredicted pixels; 0 for none (equation 5)."""
    wrong = np.asarray(wrong, bool)
    return wrong.sum() / (truth | wrong).sum() if wrong.any() else 0.0


@pytest.mark.parametrize("number", range(2**PIXELS))
def test_at_hard_predictions_it_is_the_jaccard_loss(number):
    truth = np.array([number >> bit & 1 for bit in range(PIXELS)], bool)
    vertices = np.array(list(product([0, 1], repeat=PIXELS)), np.float32)
    found = _extension(vertices, np.tile(truth, (32, 1)), np.ones((32, PIXELS), bool))
    np.testing.assert_allclose(found, [jaccard_loss(each, truth) for each in vertices], rtol=1e-6)


def _random(seed):
    generator = np.random.default_rng(seed)
    errors = generator.random((32, PIXELS)).astype(np.float32)
    errors[::4] = np.round(errors[::4] * 2) / 2  # ties
    return errors, generator.random((32, PIXELS)) < 0.5


@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_the_largest_over_all_orders(seed):
    """Of a submodular function the extension is the maximum over orders of sum m (increment): its base polytope."""
    errors, truth = _random(seed)
    found = _extension(errors, truth, np.ones_like(truth))
    for value, each, true in zip(found, errors, truth, strict=True):
        totals = []
        for order in permutations(range(PIXELS)):
            joined, total, before = np.zeros(PIXELS, bool), 0.0, 0.0
            for pixel in order:
                joined[pixel] = True
                after = jaccard_loss(joined, true)
                total += each[pixel] * (after - before)
                before = after
            totals.append(total)
        np.testing.assert_allclose(value, max(totals), rtol=1e-5)


@pytest.mark.parametrize("seed", [2, 3])
def test_it_is_the_convex_closure(seed):
    """The least mean of the loss over distributions of sets whose expected indicator is m."""
    errors, truth = _random(seed)
    sets = np.array(list(product([0, 1], repeat=PIXELS)))
    found = _extension(errors, truth, np.ones_like(truth))
    for value, each, true in zip(found, errors, truth, strict=True):
        cost = [jaccard_loss(row, true) for row in sets]
        solved = linprog(cost, A_eq=np.vstack([sets.T, np.ones(len(sets))]), b_eq=[*each, 1.0])
        np.testing.assert_allclose(value, solved.fun, rtol=1e-5, atol=1e-7)


def test_pixels_that_do_not_count_change_nothing():
    errors, truth = _random(4)
    counted = np.random.default_rng(4).random(truth.shape) < 0.6
    spoiled = np.where(counted, errors, 0.9)
    found = _extension(spoiled, truth, counted)
    for value, each, true, some in zip(found, errors, truth, counted, strict=True):
        alone = lovasz_jaccard(*map(jnp.asarray, (each[some], true[some], some[some]))) if some.any() else 0.0
        np.testing.assert_allclose(value, alone, rtol=1e-6)


def test_increments_keep_their_digits_among_many_pixels():
    """The last of 2**20 pixels adds about 2**-20, which a difference of float32 losses has no digits for."""
    n = 2**20
    errors, truth = np.linspace(1, 0, n, dtype=np.float32), np.arange(n) % 2 == 0
    steps = jax.grad(lambda m: lovasz_jaccard(m, jnp.asarray(truth), jnp.ones(n, bool)))(jnp.asarray(errors))
    left, union = n // 2 - np.cumsum(truth), n // 2 + np.cumsum(~truth)
    losses = np.concatenate([[0.0], 1 - left / union])
    # the losses themselves are near 1, and have no more digits
    np.testing.assert_allclose(steps, np.diff(losses), rtol=1e-5, atol=4e-16)


def _softmax(logits, truth):
    losses = lovasz_softmax(logits, truth, truth != VOID)
    return jnp.sum(losses), losses


_both = jax.jit(jax.value_and_grad(_softmax, has_aux=True))


def _slow(logits, truth):
    """Of one image, by differences of losses."""
    known = truth != VOID
    p, t = scipy.special.softmax(logits.astype(float), -1)[known], truth[known]
    terms = []
    for c in np.unique(t):
        m = np.where(t == c, 1 - p[:, c], p[:, c])
        order = np.argsort(-m)
        losses = [0.0]
        for count in range(1, len(order) + 1):
            wrong = np.zeros(len(t), bool)
            wrong[order[:count]] = True
            losses.append(jaccard_loss(wrong, t == c))
        terms.append((m[order] * np.diff(losses)).sum())
    return np.mean(terms) if terms else 0.0


@st.composite
def _maps(draw):
    """Classes of two images: of one class, of one pixel of another, at the border, of noise, with void or all void."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    truth = np.zeros((2, 4, 5), np.int32)
    for image in truth:
        kind = draw(st.sampled_from(["one class", "pixel", "border", "noise", "void"]))
        if kind == "pixel":
            image[generator.integers(0, 4), generator.integers(0, 5)] = 2
        elif kind == "border":
            image[:, -1] = image[0] = 1
        elif kind == "noise":
            image[:] = generator.choice([0, 1, 2, VOID], image.shape)
        elif kind == "void":
            image[:] = VOID
    scale = draw(st.sampled_from([0.0, 1.0, 200.0]))
    return (generator.normal(size=(2, 4, 5, 3)) * scale).astype(np.float32), truth


@settings(max_examples=40)
@given(_maps())
def test_the_softmax_form_of_any_image(maps):
    logits, truth = maps
    (_, found), gradient = _both(logits, truth)
    np.testing.assert_allclose(found, [_slow(*each) for each in zip(logits, truth, strict=True)], rtol=1e-4, atol=1e-6)
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[truth == VOID].any()


def test_hard_predictions_have_one_minus_the_mean_iou():
    generator = np.random.default_rng(0)
    truth, predicted = generator.integers(0, 3, (2, 2, 4, 5)).astype(np.int32)
    (_, found), _ = _both(200 * np.eye(3, dtype=np.float32)[predicted], truth)
    iou = [
        np.mean([((p == c) & (t == c)).sum() / ((p == c) | (t == c)).sum() for c in range(3)])
        for p, t in zip(predicted, truth, strict=True)
    ]
    np.testing.assert_allclose(found, 1 - np.array(iou), rtol=1e-5)
