"""Likelihoods of pixels: against scipy, sums over all values that a pixel can have, and draws against densities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vision.errors import UserError
from vision.tasks.likelihood import (
    Bernoulli,
    Gaussian,
    Likelihood,
    LikelihoodConfig,
    LogisticMixture,
    binarised,
    make_likelihood,
)

LEVELS = np.arange(256, dtype=np.float32) / 127.5 - 1.0


def random_outputs(likelihood, channels, shape=(2, 3, 3), seed=0, scale=1.0):
    outputs = scale * np.random.default_rng(seed).normal(size=(*shape, likelihood.outputs(channels)))
    return jnp.asarray(outputs, jnp.float32)


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian", "gaussian_learned", "logistic_mixture"])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_ranges_and_gradients(kind, channels):
    likelihood = make_likelihood(LikelihoodConfig(kind=kind, components=3))
    assert isinstance(likelihood, Likelihood)
    outputs = random_outputs(likelihood, channels)
    image = likelihood.draw(outputs, key=jax.random.key(0))
    assert image.shape == likelihood.mean(outputs).shape == (2, 3, 3, channels)
    assert jnp.abs(image).max() <= 1.0
    assert likelihood.log_density(outputs, image).shape == (2,)
    gradient = jax.grad(lambda o: likelihood.log_density(o, image).sum())(outputs)
    assert jnp.isfinite(gradient).all()
    # in colour, the coefficient of red for green is of no use to a component that is never right, all others are
    assert jnp.mean(gradient != 0.0) > 0.9


def test_bernoulli_against_scipy():
    outputs = random_outputs(Bernoulli(), 1)
    image = binarised(jnp.zeros_like(outputs), key=jax.random.key(1))
    assert set(np.unique(image)) == {-1.0, 1.0}
    want = stats.bernoulli.logpmf(np.asarray(image) > 0, jax.nn.sigmoid(outputs)).sum((1, 2, 3))
    np.testing.assert_allclose(Bernoulli().log_density(outputs, image), want, rtol=1e-5)
    extreme = jnp.full((1, 1, 1, 1), 200.0)  # a logit at which log(1 - sigmoid) is no number
    np.testing.assert_allclose(Bernoulli().log_density(extreme, -jnp.ones((1, 1, 1, 1))), -200.0)


def test_binarised_keeps_the_mean_and_the_ends():
    grey = jnp.broadcast_to(jnp.linspace(-1, 1, 5), (20_000, 5))[:, None, :, None]
    drawn = binarised(grey, key=jax.random.key(0))
    np.testing.assert_allclose(drawn.mean(0).ravel(), np.linspace(-1, 1, 5), atol=0.03)
    assert (drawn[:, :, 0] == -1).all()
    assert (drawn[:, :, -1] == 1).all()


def test_gaussian_against_scipy():
    image = jnp.asarray(np.random.default_rng(3).uniform(-1, 1, (2, 3, 3, 3)), jnp.float32)
    fixed, learned = Gaussian(0.3), Gaussian(learned=True)
    outputs = random_outputs(fixed, 3)
    want = stats.norm(outputs, 0.3).logpdf(image).sum((1, 2, 3))
    np.testing.assert_allclose(fixed.log_density(outputs, image), want, rtol=1e-5)
    outputs = random_outputs(learned, 3)
    mean, raw = np.split(np.asarray(outputs, np.float64), 2, axis=-1)
    low = np.log(learned.smallest)
    want = stats.norm(mean, np.exp(low + np.logaddexp(raw - low, 0.0))).logpdf(image).sum((1, 2, 3))
    np.testing.assert_allclose(learned.log_density(outputs, image), want, rtol=1e-4)
    # the bound holds: no pixel is surer than half a grey level
    sure = jnp.concatenate([image, jnp.full_like(image, -1e3)], axis=-1)
    most = -27 * (0.5 * np.log(2 * np.pi) + low)
    np.testing.assert_allclose(learned.log_density(sure, image), most, rtol=1e-5)


def test_mixture_of_a_grey_pixel_adds_up_to_one():
    """Over its 256 values, for wide, narrow and shifted components; and each against the difference of scipy's cdf."""
    likelihood = LogisticMixture(4)
    outputs = random_outputs(likelihood, 1, shape=(5, 1, 1), scale=3.0)
    log_mass = jax.vmap(lambda v: likelihood.log_density(outputs, jnp.full((5, 1, 1, 1), v)))(LEVELS)
    np.testing.assert_allclose(np.exp(np.asarray(log_mass, np.float64)).sum(0), 1.0, atol=2e-5)
    parts = np.asarray(outputs, np.float64).reshape(5, 4, 3)
    weights = np.exp(parts[..., 0]) / np.exp(parts[..., 0]).sum(-1, keepdims=True)
    scales = np.exp(np.maximum(parts[..., 2], -7.0))
    edges = np.concatenate([[-np.inf], LEVELS[:-1] + 1 / 255, [np.inf]])
    cdf = stats.logistic.cdf((edges[:, None, None] - parts[..., 1]) / scales)
    want = (weights * np.diff(cdf, axis=0)).sum(-1)
    close = np.abs(np.exp(np.asarray(log_mass, np.float64)) - want)
    assert close.max() < 2e-5


def test_mixture_of_colour_ties_channels_as_written_out():
    """Salimans et al. 2017, eq. 3, with numpy, component by component."""
    likelihood = LogisticMixture(2)
    outputs = random_outputs(likelihood, 3, shape=(4, 1, 1), seed=5)
    image = LEVELS[np.random.default_rng(6).integers(0, 256, (4, 1, 1, 3))]
    parts = np.asarray(outputs, np.float64).reshape(4, 2, 10)
    want = np.zeros(4)
    for row in range(4):
        logits = parts[row, :, 0]
        total = []
        for component in range(2):
            mean, scale = parts[row, component, 1:4].copy(), np.exp(np.maximum(parts[row, component, 4:7], -7.0))
            tie = np.tanh(parts[row, component, 7:10])
            red, green, _ = image[row, 0, 0]
            mean[1] += tie[0] * red
            mean[2] += tie[1] * red + tie[2] * green
            low = np.where(image[row, 0, 0] < -0.999, -np.inf, image[row, 0, 0] - 1 / 255)
            high = np.where(image[row, 0, 0] > 0.999, np.inf, image[row, 0, 0] + 1 / 255)
            mass = stats.logistic.cdf((high - mean) / scale) - stats.logistic.cdf((low - mean) / scale)
            total.append(np.prod(mass) * np.exp(logits[component]) / np.exp(logits).sum())
        want[row] = np.log(np.sum(total))
    np.testing.assert_allclose(likelihood.log_density(outputs, jnp.asarray(image)), want, rtol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_mixture_draws_what_it_says(channels):
    """The mean of -log p over draws rounded to 256 values is the entropy that another set of draws estimates."""
    likelihood = LogisticMixture(3)
    one = random_outputs(likelihood, channels, shape=(1, 1, 1), seed=8, scale=0.7) - 0.5
    outputs = jnp.broadcast_to(one, (40_000, 1, 1, one.shape[-1]))
    drawn = likelihood.draw(outputs, key=jax.random.key(2))
    levels = jnp.round((drawn + 1.0) * 127.5) / 127.5 - 1.0
    surprise = -likelihood.log_density(outputs, levels)
    if channels == 1:
        masses = np.exp(jax.vmap(lambda v: likelihood.log_density(one, jnp.full((1, 1, 1, 1), v))[0])(LEVELS))
        entropy = -np.sum(masses * np.log(np.maximum(masses, 1e-30)))
        assert surprise.mean() == pytest.approx(entropy, abs=float(5 * surprise.std() / 200))
        found = np.bincount(np.round((levels.ravel() + 1) * 127.5).astype(int), minlength=256) / 40_000
        assert np.abs(found - masses).max() < 0.01
    else:
        # draws from another distribution surprise more: those of the same channels in another order
        other = -likelihood.log_density(outputs, levels[..., ::-1])
        assert other.mean() > surprise.mean() + 0.01


def test_the_likeliest_component_is_shown():
    likelihood = LogisticMixture(2)
    outputs = jnp.array([[[[3.0, 0.5, -3.0, 1.0, -0.5, -3.0]]]])
    assert likelihood.mean(outputs).ravel() == pytest.approx([0.5])


@pytest.mark.parametrize("kind", ["gaussian_learned", "logistic_mixture"])
def test_no_pixel_is_surer_than_the_bound(kind):
    """A code that is exactly right cannot say more than the bound on scales lets it, which sharper ones reach."""
    image = jnp.zeros((1, 2, 2, 1)) + 1.0 / 255.0  # a grey level
    narrow, wide = (make_likelihood(LikelihoodConfig(kind=kind, components=1, smallest=s)) for s in (None, 0.05))
    parts = [image, jnp.full_like(image, -50.0)]  # the mean, and a raw scale as small as one likes
    outputs = jnp.concatenate(parts if kind == "gaussian_learned" else [jnp.zeros_like(image), *parts], axis=-1)
    if kind == "gaussian_learned":
        densest = stats.norm(0.0, 0.05).logpdf(0.0)
    else:
        densest = np.log(np.diff(stats.logistic(0.0, 0.05).cdf([-1 / 255, 1 / 255])).item())
    np.testing.assert_allclose(wide.log_density(outputs, image), 4 * densest, rtol=1e-5)
    assert narrow.log_density(outputs, image) > wide.log_density(outputs, image) + 4.0


def test_a_mixture_far_off_loses_no_digits():
    """P(x) about p(x) 2/255 where the logistic is wide, and its slope by the mean 0, however far a mean is off."""
    outputs = jnp.array([[[[0.0, 2e5, 5.0]]]])
    density = lambda o: LogisticMixture(1).log_density(o, jnp.full((1, 1, 1, 1), 1.0 / 255.0)).sum()
    scaled = 2e5 / np.exp(5.0)
    assert density(outputs) == pytest.approx(-scaled - 5.0 + np.log(2 / 255), rel=1e-6)
    np.testing.assert_allclose(jax.grad(density)(outputs).ravel(), [0.0, -np.exp(-5.0), scaled - 1.0], rtol=1e-5)


def test_a_bound_needs_scales_that_are_learned():
    with pytest.raises(UserError, match="kind gaussian has no scales that are learned"):
        make_likelihood(LikelihoodConfig(kind="gaussian", smallest=0.1))


@pytest.mark.parametrize(
    "config", [LikelihoodConfig(deviation=0.0), LikelihoodConfig(components=0), LikelihoodConfig(smallest=0.0)]
)
def test_mistakes(config):
    with pytest.raises(UserError, match=r"must be (more than 0|at least 1)"):
        make_likelihood(config)
