"""The soft Dice loss against numpy and in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from vision.tasks.overlap_losses import dice

VOID = 255
_dice = jax.jit(jax.value_and_grad(lambda x, t: (lambda d: (jnp.sum(d), d))(dice(x, t, t != VOID)), has_aux=True))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_loss_is_that_of_its_definition(seed):
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(3, 4, 5, 4)).astype(np.float32)
    truth = generator.choice([0, 2, VOID], (3, 4, 5)).astype(np.int32)
    truth[1] = VOID
    truth[2] = 3
    (_, found), gradient = _dice(logits, truth)
    for image in range(3):
        known = truth[image] != VOID
        p, t = scipy.special.softmax(logits[image].astype(float), -1)[known], truth[image][known]
        terms = [1 - 2 * p[t == c, c].sum() / (p[:, c].sum() + (t == c).sum()) for c in np.unique(t)]
        np.testing.assert_allclose(found[image], np.mean(terms) if terms else 0.0, rtol=1e-5)
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[truth == VOID].any()


def test_cases_in_closed_form():
    truth = np.zeros((3, 4, 5), np.int32)
    truth[0, :2] = 1
    logits = np.zeros((3, 4, 5, 4), np.float32)
    logits[0, ..., 2] = 100  # of another class: no overlap
    logits[1, ..., 0] = 100  # right
    (_, found), _ = _dice(logits, truth)
    # a guess of four: 2 n/4 / (n/4 + n) = 2/5
    np.testing.assert_allclose(found, [1, 0, 1 - 2 / 5], atol=1e-6)
