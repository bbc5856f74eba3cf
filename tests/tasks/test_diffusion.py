"""The diffusion loss against expectations in closed form, its random choices against their laws, and sampling."""

from dataclasses import replace
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vision.diffusion.conditions import Conditioning, label_conditioning
from vision.diffusion.schedules import linear
from vision.diffusion.training_times import stratified_times
from vision.errors import UserError
from vision.tasks.diffusion import DiffusionConfig, diffusion_loss, evaluated, held_out_error
from vision.tasks.sampling import SamplingConfig, check, sampler

SCHEDULE = linear()
ABAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


UNCONDITIONAL = Conditioning({})
LABELS = label_conditioning(7)


class Zero(nn.Module):
    """Predicts zero."""

    def __call__(self, image, time, condition=None, *, train):
        """Zeros."""
        return 0 * image


class Label(nn.Module):
    """Predicts its label, plus one hundred for what dropout lets through of a constant."""

    @nn.compact
    def __call__(self, image, time, condition, *, train):
        """The label everywhere, 100 more where an activation survives dropout."""
        kept = nn.Dropout(0.5, deterministic=not train)(jnp.ones(image.shape)) if train else 0.0
        return 0 * image + condition["label"][:, None, None, None] + 100.0 * kept


class Quiet(nn.Module):
    """Predicts its label."""

    def __call__(self, image, time, condition, *, train):
        """The label everywhere."""
        return 0 * image + condition["label"][:, None, None, None]


class Affine(nn.Module):
    """The least network with parameters that sees image, time and label."""

    classes: int = 0

    @nn.compact
    def __call__(self, image, time, condition, *, train):
        """A mix of channels, shifted by functions of time and label."""
        out = nn.Dense(image.shape[-1])(image) + nn.Dense(1)(time[:, None] / 1000)[:, None, None]
        if self.classes:
            out = out + nn.Embed(self.classes + 1, 1)(condition["label"])[:, None, None]
        return out


# The whole of a loss in one program: less to compile than its parts.


@cache
def _program(model, config, conditioning):
    loss = diffusion_loss(model, config, SCHEDULE, conditioning=conditioning)
    return jax.jit(lambda params, batch, key: loss(params, {"kept": 1}, batch, key=key, step=jnp.zeros((), jnp.int32)))


def _loss(model, config, batch, seed=0):
    conditioning = LABELS if "label" in batch else UNCONDITIONAL
    return _program(model, config, conditioning)({}, batch, jax.random.key(seed))


@cache
def _held_out(model, config, conditioning):
    return jax.jit(held_out_error(model, config, SCHEDULE, conditioning=conditioning))


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
@pytest.mark.parametrize("weighting", ["simple", "min_snr"])
def test_zero_network_loses_the_power_of_its_target(prediction, weighting):
    """E[target^2] is 1 for eps, x^2 for the image and abar + (1 - abar) x^2 for v; weighted, averaged over t."""
    image = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (4000, 2, 2, 3)), jnp.float32)
    power = float(jnp.mean(image**2))
    loss, (model_state, scalars) = _loss(
        Zero(), DiffusionConfig(prediction=prediction, weighting=weighting), {"image": image}
    )
    snr = ABAR / (1 - ABAR)
    target = {"epsilon": np.ones(1000), "x0": np.full(1000, power), "v": ABAR + (1 - ABAR) * power}[prediction]
    per_x0 = {"epsilon": snr, "x0": np.ones(1000), "v": snr + 1}[prediction]
    weight = np.ones(1000) if weighting == "simple" else np.minimum(snr, 5) / per_x0
    assert float(loss) == pytest.approx((weight * target).mean(), rel=0.03)
    assert float(scalars["mse"]) == pytest.approx(target.mean(), rel=0.03)
    assert model_state == {"kept": 1}


def test_squared_error_of_one_batch_by_hand():
    generator = np.random.default_rng(1)
    image, eps = generator.normal(size=(2, 3, 2, 2, 1)).astype(np.float32)
    time = np.array([5, 400, 990])
    a, s = (f[:, None, None, None] for f in (np.sqrt(ABAR[time]), np.sqrt(1 - ABAR[time])))
    model = Affine()
    variables = model.init(jax.random.key(0), jnp.asarray(image), jnp.asarray(time), {}, train=False)
    noisy = jnp.asarray(a * image + s * eps, jnp.float32)
    output = model.apply(variables, noisy, jnp.asarray(time), {}, train=False)
    expected = ((np.asarray(output) - (a * eps - s * image)) ** 2).mean((1, 2, 3))
    found, _, _ = evaluated(
        model,
        variables,
        DiffusionConfig(prediction="v"),
        SCHEDULE,
        jnp.asarray(image),
        jnp.asarray(eps),
        jnp.asarray(time),
        {},
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_every_sample_has_noise_of_its_own():
    """Equal images at neighbouring times: only noise can tell their errors apart."""
    batch = {"image": jnp.ones((6, 4, 4, 1)), "mask": jnp.ones(6, bool)}
    total, count = _held_out(Zero(), DiffusionConfig(), UNCONDITIONAL)({}, batch, key=jax.random.key(0))
    alone = [
        _held_out(Zero(), DiffusionConfig(), UNCONDITIONAL)(
            {}, {**batch, "mask": jnp.arange(6) == i}, key=jax.random.key(0)
        )
        for i in range(6)
    ]
    values = [float(value) for value, _ in alone]
    assert len(set(values)) == 6
    assert [int(n) for _, n in alone] == [1] * 6
    assert sum(values) == pytest.approx(float(total), rel=1e-5)
    assert int(count) == 6


_times = jax.jit(stratified_times, static_argnums=(0, 1))


@given(count=st.sampled_from([1, 3, 64]), seed=st.integers(0, 2**31))
def test_exactly_one_time_in_every_stratum(count, seed):
    times = np.sort(_times(count, 1000, key=jax.random.key(seed)))
    edges = np.arange(count + 1) * 1000 / count
    assert (times >= np.floor(edges[:-1])).all()
    assert (times <= edges[1:]).all()
    assert times.max() <= 999


def test_times_are_uniform_wherever_they_stand():
    """Chi-square over many keys: of all times, and of the first sample's alone; and the order is shuffled."""
    keys = jax.random.split(jax.random.key(0), 4000)
    times = np.asarray(jax.jit(jax.vmap(lambda key: stratified_times(7, 20, key=key)))(keys))
    for sample in (times.ravel(), times[:, 0], times[:, -1]):
        assert stats.chisquare(np.bincount(sample, minlength=20)).pvalue > 1e-6
    ascending = (np.diff(times, axis=1) >= 0).all(1).mean()
    assert ascending < 0.02


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
def test_condition_dropout_rate_and_null_label(rate):
    """Images of zeros and label 0: the error is 7^2 where the label was replaced by 7, and 0 elsewhere."""
    batch = {"image": jnp.zeros((4000, 1, 1, 1)), "label": jnp.zeros(4000, jnp.int32)}
    config = DiffusionConfig(prediction="x0", condition_dropout=rate)
    replaced = round(float(_loss(Quiet(), config, batch)[0]) / 49 * 4000)
    assert stats.binomtest(replaced, 4000, rate).pvalue > 1e-6
    if rate in (0.0, 1.0):
        assert replaced == 4000 * rate


def test_other_labels_reach_the_network():
    batch = {"image": jnp.zeros((64, 1, 1, 1)), "label": jnp.arange(64) % 7}
    config = DiffusionConfig(prediction="x0", condition_dropout=0.0)
    assert float(_loss(Quiet(), config, batch)[0]) == pytest.approx(((np.arange(64) % 7) ** 2).mean(), rel=1e-6)
    total, _ = _held_out(Quiet(), replace(config, condition_dropout=1.0), LABELS)(
        {}, {**batch, "mask": jnp.ones(64, bool)}, key=jax.random.key(0)
    )
    assert float(total) == pytest.approx(((np.arange(64) % 7) ** 2).sum(), rel=1e-6)


def test_dropout_is_active_in_training_alone_and_keyed_by_the_step():
    batch = {"image": jnp.zeros((8, 4, 4, 1)), "label": jnp.zeros(8, jnp.int32), "mask": jnp.ones(8, bool)}
    config = DiffusionConfig(prediction="x0", condition_dropout=0.0)
    first, again, other = (float(_loss(Label(), config, batch, seed)[0]) for seed in (1, 1, 2))
    assert first == again != other
    assert first == pytest.approx(0.5 * 200**2, rel=0.5)
    held_out, _ = _held_out(Label(), config, LABELS)({}, batch, key=jax.random.key(0))
    assert float(held_out) == 0


@pytest.mark.parametrize("classes", [0, 3])
def test_gradient_of_the_loss_reaches_every_parameter(classes):
    model, conditioning = Affine(classes), label_conditioning(classes)
    batch = {"image": jax.random.normal(jax.random.key(3), (16, 2, 2, 2)), "label": jnp.arange(16) % 3}
    inputs = batch["image"], jnp.arange(16), conditioning.of(batch)
    params = jax.jit(partial(model.init, train=False))(jax.random.key(0), *inputs)["params"]
    config = DiffusionConfig(condition_dropout=0.3, weighting="min_snr")
    loss = diffusion_loss(model, config, SCHEDULE, conditioning=conditioning)
    value = lambda params: loss(params, {}, batch, key=jax.random.key(0), step=jnp.zeros((), jnp.int32))[0]
    grads = jax.jit(jax.grad(value))(params)
    assert all((jnp.abs(leaf) > 0).all() for leaf in jax.tree.leaves(grads))


@pytest.fixture(scope="module")
def affine():
    model, condition = Affine(3), {"label": jnp.zeros(1, jnp.int32)}
    return model, model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 2)), jnp.zeros(1), condition, train=False)


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingConfig(steps=6),
        SamplingConfig(steps=6, guidance=3.0),
        SamplingConfig(method="ancestral", steps=6, variance="beta"),
    ],
    ids=["ddim", "guided", "ancestral"],
)
def test_sampler_keeps_range_and_follows_key_and_label(affine, sampling):
    model, variables = affine
    run = jax.jit(
        sampler(model, DiffusionConfig(), SCHEDULE, sampling, conditioning=label_conditioning(3), image_shape=(4, 4, 2))
    )
    sample = lambda labels, index, seed: run(variables, {"label": labels}, index, jax.random.key(seed))
    labels, index = jnp.array([0, 1, 2, 1, 0]), jnp.arange(5)
    images = sample(labels, index, 1)
    assert images.shape == (5, 4, 4, 2)
    assert images.dtype == jnp.float32
    assert float(jnp.abs(images).max()) <= 1
    np.testing.assert_array_equal(images, sample(labels, index, 1))
    assert float(jnp.abs(images - sample(labels, index, 2)).max()) > 0.1
    relabelled = sample(labels.at[0].set(2), index, 1)
    np.testing.assert_allclose(relabelled[1:], images[1:], atol=1e-6)
    assert float(jnp.abs(relabelled[0] - images[0]).max()) > 1e-4
    assert float(jnp.abs(images[1] - images[3]).max()) > 0.1
    # sample i is a function of (key, index i, label i) alone
    np.testing.assert_allclose(sample(labels[3:0:-1], index[3:0:-1], 1), images[3:0:-1], atol=1e-6)


def test_noise_of_the_first_samples_is_that_of_one_array():
    """An ancestral step from a constant: the added noise, by the key of the step, is what JAX gives for all samples."""
    sampling = SamplingConfig(method="ancestral", steps=2, variance="beta", threshold="none")
    sample = sampler(Zero(), DiffusionConfig(), SCHEDULE, sampling, conditioning=UNCONDITIONAL, image_shape=(2, 3, 1))
    images = sample({}, {}, jnp.arange(4), jax.random.key(5))
    start_key, walk_key = jax.random.split(jax.random.key(5))
    start = np.stack([jax.random.normal(jax.random.fold_in(start_key, i), (2, 3, 1)) for i in range(4)])
    noise = np.asarray(jax.random.normal(jax.random.fold_in(walk_key, 0), (4, 2, 3, 1)))
    # epsilon 0: x_s = a_s / a_t x_t + sqrt(beta) z from T-1 to 0, and x_0 = x_s / a_s
    now, then = ABAR[999], ABAR[0]
    expected = (np.sqrt(then / now) * start + np.sqrt(1 - now / then) * noise) / np.sqrt(then)
    np.testing.assert_allclose(images, expected, rtol=1e-3, atol=1e-4)


def test_guidance_extrapolates_from_the_null_label():
    """One step, x0 prediction, no clipping: the image is null + scale (label - null), with null = 7."""
    sampling, config = SamplingConfig(steps=1, guidance=2.5, threshold="none"), DiffusionConfig(prediction="x0")
    sample = sampler(Quiet(), config, SCHEDULE, sampling, conditioning=LABELS, image_shape=(1, 1, 1))
    images = sample({}, {"label": jnp.array([0, 3])}, jnp.arange(2), jax.random.key(0))
    np.testing.assert_allclose(images.ravel(), [7 + 2.5 * (0 - 7), 7 + 2.5 * (3 - 7)], rtol=1e-6)


def test_guidance_plays_no_part_without_conditions():
    images = [
        sampler(
            Zero(),
            DiffusionConfig(),
            SCHEDULE,
            SamplingConfig(steps=3, guidance=guidance),
            conditioning=UNCONDITIONAL,
            image_shape=(2, 2, 1),
        )({}, {}, jnp.arange(2), jax.random.key(0))
        for guidance in (1.0, 4.0)
    ]
    np.testing.assert_array_equal(*images)
    check(DiffusionConfig(condition_dropout=0.0), SamplingConfig(guidance=4.0), conditioning=UNCONDITIONAL)


def test_a_sampler_needs_the_conditions_of_its_network():
    sample = sampler(
        Quiet(), DiffusionConfig(), SCHEDULE, SamplingConfig(steps=2), conditioning=LABELS, image_shape=(1, 1, 1)
    )
    with pytest.raises(ValueError, match="the conditions are label, and not none"):
        sample({}, {}, jnp.arange(2), jax.random.key(0))


class Narrow(nn.Module):
    """Returns one channel."""

    def __call__(self, image, time, condition, *, train):
        """The first channel."""
        return image[..., :1]


def test_a_prediction_of_another_shape_is_an_error():
    with pytest.raises(ValueError, match=r"shape \(4, 2, 2, 1\) for images of shape \(4, 2, 2, 3\)"):
        _loss(Narrow(), DiffusionConfig(), {"image": jnp.zeros((4, 2, 2, 3))})


@pytest.mark.parametrize(
    ("diffusion", "sampling", "message"),
    [
        ({"steps": 5}, {"steps": 5}, "5 steps is too short"),
        ({"steps": 100}, {"steps": 101}, "choose 1 to 100"),
        ({"condition_dropout": 1.5}, {}, "condition_dropout must be at least 0 and at most 1, not 1.5"),
        ({"gamma": 0.0}, {}, "gamma must be more than 0, not 0"),
        ({}, {"eta": -0.1}, "eta must be at least 0 and at most 1, not -0.1"),
        ({"condition_dropout": 0.0}, {"guidance": 2.0}, "trained without conditions too"),
        ({"weighting": "truncated_snr"}, {}, "almost 0 at the last times"),
    ],
)
def test_configurations_that_cannot_be(diffusion, sampling, message):
    with pytest.raises(UserError, match=message):
        check(DiffusionConfig(**diffusion), SamplingConfig(**sampling), conditioning=LABELS)
    check(DiffusionConfig(), SamplingConfig(), conditioning=UNCONDITIONAL)
