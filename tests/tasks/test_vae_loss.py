"""Bounds on the likelihood: a linear model reaches the optimum that is known in closed form, and codes tighten it."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from vision.errors import UserError
from vision.nn.latent import Inferred, gaussian_kl, gaussian_log_density, standard_normal
from vision.tasks.likelihood import Gaussian
from vision.tasks.vae import (
    ObjectiveConfig,
    check,
    importance_weighted,
    rate_penalty,
    vae_loss,
)

DEVIATION = 0.3
COUNT, PIXELS, LATENT = 400, 6, 2


class LinearVae(nn.Module):
    """p(x|z) = N(Wz + m, DEVIATION^2), q(z|x) = N(V(x - m), diagonal): probabilistic PCA as a VAE."""

    @nn.compact
    def __call__(self, image, *, key):
        flat = image.reshape(image.shape[0], -1)
        centre = self.param("centre", nn.initializers.zeros, (PIXELS,))
        mean = nn.Dense(LATENT, use_bias=False, name="encode")(flat - centre)
        log_variance = jnp.broadcast_to(self.param("log_variance", nn.initializers.zeros, (LATENT,)), mean.shape)
        code = mean + jnp.exp(0.5 * log_variance) * standard_normal(mean.shape, key=key)
        outputs = (nn.Dense(PIXELS, use_bias=False, name="decode")(code) + centre).reshape(image.shape)
        ratio = gaussian_log_density(code, mean, log_variance) - gaussian_log_density(code, 0.0, 0.0)
        return Inferred(outputs, gaussian_kl(mean, log_variance), ratio.sum(-1), code)


def data():
    """Points of a plane with noise, as images of 2x3 pixels."""
    generator = np.random.default_rng(0)
    directions = np.linalg.qr(generator.normal(size=(PIXELS, LATENT)))[0] * [1.5, 0.8]
    points = generator.normal(size=(COUNT, LATENT)) @ directions.T + 0.2 * generator.normal(size=(COUNT, PIXELS))
    return (points + generator.normal(size=PIXELS)).reshape(COUNT, 2, 3, 1).astype(np.float32)


def optimum(points):
    """The mean log-likelihood of probabilistic PCA (Tipping & Bishop 1999, eq. 4 and 7) for a given deviation."""
    flat = points.reshape(COUNT, PIXELS).astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(flat.T, bias=True))
    large = vectors[:, -LATENT:] * np.sqrt(np.maximum(values[-LATENT:] - DEVIATION**2, 0.0))
    covariance = large @ large.T + DEVIATION**2 * np.eye(PIXELS)
    return stats.multivariate_normal(flat.mean(0), covariance).logpdf(flat).mean()


@pytest.fixture(scope="module")
def trained():
    """(parameters, points) after descent on the loss that experiments use."""
    points = jnp.asarray(data())
    model, config = LinearVae(), ObjectiveConfig()
    loss = vae_loss(model, Gaussian(DEVIATION), config, batch_size=COUNT)
    params = model.init(jax.random.key(0), points, key=jax.random.key(1))["params"]
    optimizer = optax.adam(optax.cosine_decay_schedule(0.02, 3000))

    def one(carry, number):
        params, state = carry
        key = jax.random.fold_in(jax.random.key(2), number)
        gradient = jax.grad(lambda p: loss(p, {}, {"image": points}, key=key, step=number)[0])(params)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    carry, _ = jax.jit(lambda carry: jax.lax.scan(one, carry, jnp.arange(3000)))((params, optimizer.init(params)))
    return carry[0], points


def mean_bound(params, points, *, samples, repeats=50):
    bound = jax.jit(
        lambda key: importance_weighted(
            LinearVae(), Gaussian(DEVIATION), {"params": params}, points, samples=samples, key=key
        ).mean()
    )
    values = np.array([bound(jax.random.key(100 + turn)) for turn in range(repeats)])
    return values.mean(), values.std() / np.sqrt(repeats)


def test_a_linear_model_reaches_the_known_optimum(trained):
    """The posterior of the best linear model is in the family of q, so the bound is tight there."""
    params, points = trained
    bound, error = mean_bound(params, points, samples=1)
    best = optimum(np.asarray(points))
    assert bound == pytest.approx(best, abs=0.03)
    assert bound <= best + 4 * error


def exact(params, points):
    """The log-likelihood of the model as it is, a Gaussian."""
    weights = np.asarray(params["decode"]["kernel"], np.float64).T
    covariance = weights @ weights.T + DEVIATION**2 * np.eye(PIXELS)
    flat = np.asarray(points, np.float64).reshape(COUNT, PIXELS)
    return stats.multivariate_normal(np.asarray(params["centre"], np.float64), covariance).logpdf(flat).mean()


def test_more_codes_tighten_the_bound_towards_the_likelihood(trained):
    """Burda et al. 2016, theorem 1, for a posterior that is too wide by a third and off by as much."""
    params, points = trained
    worse = {
        **params,
        "log_variance": params["log_variance"] + 1.0,
        "encode": {"kernel": 0.8 * params["encode"]["kernel"]},
    }
    bounds, errors = zip(*(mean_bound(worse, points, samples=k, repeats=20) for k in (1, 10, 100)), strict=True)
    truth = exact(worse, points)
    assert bounds[0] + 0.1 < bounds[1]
    assert bounds[1] < bounds[2]
    assert bounds[2] <= truth + 4 * errors[2]
    assert truth - bounds[2] < 0.1 * (truth - bounds[0])


def test_training_on_several_codes_is_the_same_bound(trained):
    """The loss with ``importance`` k is minus the bound that evaluations report, for as many codes."""
    params, points = trained
    loss = vae_loss(LinearVae(), Gaussian(DEVIATION), ObjectiveConfig(importance=5), batch_size=COUNT)
    value = jax.jit(lambda key: loss(params, {}, {"image": points}, key=key, step=0)[0])
    values = [float(value(jax.random.key(turn))) for turn in range(20)]
    bound, error = mean_bound(params, points, samples=5)
    assert -np.mean(values) == pytest.approx(bound, abs=6 * error + 0.01)


def test_what_is_logged(trained):
    params, points = trained
    loss = vae_loss(LinearVae(), Gaussian(DEVIATION), ObjectiveConfig(beta=3.0), batch_size=COUNT)
    value, (state, scalars) = loss(params, {}, {"image": points}, key=jax.random.key(0), step=jnp.int32(0))
    assert state == {}
    assert float(scalars["nats"]) == pytest.approx(float(scalars["distortion"] + scalars["rate"]))
    assert float(value) == pytest.approx(float(scalars["distortion"] + 3.0 * scalars["rate"]), rel=1e-5)
    assert scalars["active"] == LATENT


def test_penalties_by_hand():
    kl = jnp.array([[1.0, 0.0], [3.0, 0.2]])  # means 2 and 0.1
    penalty = lambda images=0, **fields: float(rate_penalty(kl, ObjectiveConfig(**fields), images=jnp.int32(images)))
    assert penalty() == pytest.approx(2.1)
    assert penalty(beta=4.0) == pytest.approx(8.4)
    assert penalty(warmup=1000) == 0.0
    assert penalty(250, warmup=1000, beta=2.0) == pytest.approx(0.25 * 2.0 * 2.1)
    assert penalty(5000, warmup=1000) == pytest.approx(2.1)
    assert penalty(free_bits=0.5) == pytest.approx(2.5)
    capacity = {"beta": 10.0, "capacity": 4.0, "capacity_images": 100}
    assert penalty(0, **capacity) == pytest.approx(21.0)
    assert penalty(50, **capacity) == pytest.approx(10 * 0.1)
    assert penalty(1000, **capacity) == pytest.approx(10 * 1.9)


def test_free_bits_leave_cheap_dimensions_alone():
    pull = jax.grad(lambda kl: rate_penalty(kl, ObjectiveConfig(free_bits=0.5), images=jnp.int32(0)))
    np.testing.assert_allclose(pull(jnp.array([[1.0, 0.0], [3.0, 0.2]])), [[0.5, 0.0], [0.5, 0.0]])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"beta": -1.0}, "beta must be at least 0, not -1"),
        ({"importance": 0}, "importance must be at least 1"),
        ({"importance": 2, "beta": 4.0}, "as it is"),
        ({"capacity": 1.0, "free_bits": 1.0}, "choose one"),
        ({"capacity": 1.0, "warmup": 100}, "choose one"),
        ({"capacity": 1.0, "capacity_images": 0}, "capacity_images must be at least 1, not 0"),
    ],
)
def test_objectives_that_contradict_themselves(fields, words):
    with pytest.raises(UserError, match=words):
        check(dataclasses.replace(ObjectiveConfig(), **fields))
    check(ObjectiveConfig())
