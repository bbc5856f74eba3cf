"""MeanFlow's loss against differences computed by hand, and its sampler on Gaussians with known average velocities."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.diffusion.conditions import label_conditioning
from vision.diffusion.continuous import Flow
from vision.diffusion.training_times import training_times
from vision.errors import UserError
from vision.models.unet import UNet, UNetConfig
from vision.tasks.mean_flow import (
    MeanFlowConfig,
    MeanFlowSamplingConfig,
    check,
    held_out_error,
    mean_flow_loss,
    mean_flow_sampler,
)

NONE, LABELS = label_conditioning(0), label_conditioning(3)
MEAN, DEVIATION = 0.4, 0.3
STEP = jnp.zeros((), jnp.int32)


def smooth(z, t, length, label):
    """A function of all that the network is given; times in [0, 1]."""
    return np.sin(1.3 * z) * np.cos(2.0 * t) + 0.5 * z * t * length + 0.3 * length**2 + 0.1 * label


class Smooth(nn.Module):
    """The same as a network, which finds its times in thousandths."""

    @nn.compact
    def __call__(self, z, time, condition, *, train):
        """Evaluate it."""
        spread = lambda value: value.astype(jnp.float32)[:, None, None, None]
        t, length = spread(time) / 1000, spread(condition["duration"]) / 1000
        label = spread(condition["label"]) if "label" in condition else 0.0
        bias = self.param("bias", nn.initializers.zeros, ())
        return jnp.sin(1.3 * z) * jnp.cos(2.0 * t) + 0.5 * z * t * length + 0.3 * length**2 + 0.1 * label + bias


def sampled(config, image, seed=0, rate=0.0):
    """The times, noise and dropped conditions of the loss, by its keys."""
    keys = jax.random.split(jax.random.key(seed), 6)
    count = len(image)
    times = partial(training_times, Flow(), "log_normal", count, mean=config.time_mean, deviation=config.time_deviation)
    first, second = (np.asarray(times(key=keys[number]), np.float64) for number in (0, 1))
    eps = np.asarray(jax.random.normal(keys[2], image.shape), np.float64)
    without = np.asarray(jax.random.bernoulli(keys[3], rate, (count,)))
    apart = np.arange(count) % 4 < config.apart
    t, r = np.where(apart, np.maximum(first, second), first), np.where(apart, np.minimum(first, second), first)
    return t, r, eps, without


def expected_errors(config, image, label=None, *, rate=0.0, null=3):
    """Squared errors of samples, summed over an image, with du/dt by central differences in float64."""
    t, r, eps, without = sampled(config, image, rate=rate)
    spread = lambda value: np.asarray(value, np.float64)[:, None, None, None]
    t, r = spread(t), spread(r)
    own = 0.0 if label is None else spread(np.where(without, null, label))
    z, v = (1 - t) * image + t * eps, eps - image
    if label is not None and config.guidance != 1.0:
        mixing = config.guidance_mixing
        conditional = (1 - mixing) * config.guidance * v + mixing * smooth(z, t, 0 * t, spread(label))
        guided = conditional + (1 - mixing) * (1 - config.guidance) * smooth(z, t, 0 * t, null)
        outside = (t < config.guidance_range[0]) | (t > config.guidance_range[1])
        v = np.where((spread(without) > 0) | outside, v, guided)
    tangent = smooth(z, t, 0 * t, own) if config.tangent == "network" else v
    h = 1e-5
    u = lambda at: smooth(z + (at - t) * tangent, at, at - r, own)
    derivative = (u(t + h) - u(t - h)) / (2 * h)
    return ((smooth(z, t, t - r, own) - (v - (t - r) * derivative)) ** 2).sum((1, 2, 3))


@pytest.mark.parametrize("apart", [1, 3, 4])
@pytest.mark.parametrize("tangent", ["data", "network"])
def test_the_target_is_the_identity_of_the_paper(apart, tangent):
    """Equation 6 with du/dt = v du/dz + du/dt at fixed r, for every sample."""
    image = np.random.default_rng(0).normal(size=(16, 2, 2, 2))
    config = MeanFlowConfig(apart=apart, tangent=tangent, power=0.0)
    loss = mean_flow_loss(Smooth(), config, conditioning=NONE)
    batch = {"image": jnp.asarray(image, jnp.float32)}
    value, (_, scalars) = loss({"bias": jnp.zeros(())}, {}, batch, key=jax.random.key(0), step=STEP)
    expected = expected_errors(config, image)
    assert float(value) == pytest.approx(expected.mean(), rel=1e-4)
    assert float(scalars["mse"]) == pytest.approx(expected.mean() / 8, rel=1e-4)


def test_adaptive_weights():
    """Equation 22: errors of samples divided by (error + c)^p, through which nothing flows."""
    image = np.random.default_rng(0).normal(size=(16, 2, 2, 2))
    config = MeanFlowConfig(power=0.75, offset=0.5)
    loss = mean_flow_loss(Smooth(), config, conditioning=NONE)
    batch = {"image": jnp.asarray(image, jnp.float32)}
    errors = expected_errors(config, image)
    of = lambda bias: loss({"bias": bias}, {}, batch, key=jax.random.key(0), step=STEP)[0]
    value, gradient = jax.value_and_grad(of)(jnp.zeros(()))
    assert float(value) == pytest.approx((errors / (errors + 0.5) ** 0.75).mean(), rel=1e-4)
    # the target is fixed: a bias b adds b to u alone, and the gradient is that of the weighted squares
    t, r, eps, _ = sampled(config, image)
    at = lambda b: ((errors + 2 * b * _residual(config, image, t, r, eps) + 8 * b**2) / (errors + 0.5) ** 0.75).mean()
    assert float(gradient) == pytest.approx((at(1e-4) - at(-1e-4)) / 2e-4, rel=1e-3)


def _residual(config, image, t, r, eps):
    """The sum over an image of u minus its target."""
    t, r = t[:, None, None, None], r[:, None, None, None]
    z, v, h = (1 - t) * image + t * eps, eps - image, 1e-5
    u = lambda at: smooth(z + (at - t) * v, at, at - r, 0.0)
    return (u(t) - (v - (t - r) * (u(t + h) - u(t - h)) / (2 * h))).sum((1, 2, 3))


@pytest.mark.parametrize(
    ("guidance", "mixing", "between"), [(1.0, 0.0, (0, 1)), (2.5, 0.0, (0, 1)), (2.5, 0.8, (0.3, 0.6))]
)
def test_guidance_is_learned(guidance, mixing, between):
    """Equations 19 and 21 with the network's own velocities, except without conditions and outside the range."""
    image = np.random.default_rng(0).normal(size=(32, 2, 2, 2))
    label = np.arange(32) % 3
    config = MeanFlowConfig(
        guidance=guidance, guidance_mixing=mixing, guidance_range=between, power=0.0, condition_dropout=0.3
    )
    loss = mean_flow_loss(Smooth(), config, conditioning=LABELS)
    batch = {"image": jnp.asarray(image, jnp.float32), "label": jnp.asarray(label)}
    value = loss({"bias": jnp.zeros(())}, {}, batch, key=jax.random.key(0), step=STEP)[0]
    assert float(value) == pytest.approx(expected_errors(config, image, label, rate=0.3).mean(), rel=1e-4)


class Exact(nn.Module):
    """The average velocity of data N(m, d^2), whose flow keeps z in z_t = (1 - t) m + sqrt((1 - t)^2 d^2 + t^2) z."""

    @nn.compact
    def __call__(self, z, time, condition, *, train):
        """(z_t - z_r) / (t - r), and its limit for r = t."""
        spread = lambda value: value[:, None, None, None] / 1000
        t = spread(time)
        length = jnp.maximum(spread(condition["duration"]), 1e-3)
        width = lambda t: jnp.sqrt(((1 - t) * DEVIATION) ** 2 + t**2)
        r = t - length
        return (z - ((1 - r) * MEAN + width(r) / width(t) * (z - (1 - t) * MEAN))) / length


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_any_number_of_steps_is_exact_for_the_average_velocity(steps):
    sample = mean_flow_sampler(
        Exact(), MeanFlowConfig(), MeanFlowSamplingConfig(steps=steps, threshold="none"), image_shape=(2, 2, 1)
    )
    index, key = jnp.arange(64), jax.random.key(3)
    found = sample({}, {}, index, key)
    start = jnp.stack([jax.random.normal(jax.random.fold_in(key, i), (2, 2, 1)) for i in index])
    np.testing.assert_allclose(found, MEAN + DEVIATION * start, atol=1e-5)
    np.testing.assert_allclose(sample({}, {}, index[5:9], key), found[5:9], atol=1e-6)


class ExactImage(Exact):
    """The image that stands for the average velocity: z - t u."""

    @nn.compact
    def __call__(self, z, time, condition, *, train):
        """Evaluate it."""
        return z - time[:, None, None, None] / 1000 * super().__call__(z, time, condition, train=train)


def test_images_in_place_of_velocities():
    """The same samples, and the same loss but for the times below a twentieth."""
    image = jax.random.normal(jax.random.key(0), (32, 2, 2, 1)) * DEVIATION + MEAN
    losses, found = [], []
    for model, prediction in ((Exact(), "velocity"), (ExactImage(), "x0")):
        config = MeanFlowConfig(prediction=prediction, power=0.0, time_mean=1.0, time_deviation=0.5)
        loss = mean_flow_loss(model, config, conditioning=NONE)
        losses.append(float(loss({}, {}, {"image": image}, key=jax.random.key(0), step=STEP)[0]))
        sampling = MeanFlowSamplingConfig(steps=3, threshold="none")
        sample = mean_flow_sampler(model, config, sampling, image_shape=(2, 2, 1))
        found.append(sample({}, {}, jnp.arange(8), jax.random.key(3)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    np.testing.assert_allclose(*found, atol=1e-5)


def test_static_threshold():
    sampling = MeanFlowSamplingConfig(steps=2)
    sample = mean_flow_sampler(Smooth(), MeanFlowConfig(), sampling, image_shape=(2, 2, 1))
    found = sample({"params": {"bias": 5.0}}, {}, jnp.arange(4), jax.random.key(0))
    assert float(jnp.abs(found).max()) <= 1


def test_held_out_error_is_that_of_the_velocity():
    image = jax.random.normal(jax.random.key(0), (64, 2, 2, 1)) * DEVIATION + MEAN
    batch = {"image": image, "mask": jnp.arange(64) < 48}
    total, count = held_out_error(Exact(), MeanFlowConfig(), conditioning=NONE)({}, batch, key=jax.random.key(1))
    assert int(count) == 48
    worse = held_out_error(Smooth(), MeanFlowConfig(), conditioning=NONE)(
        {"params": {"bias": jnp.zeros(())}}, batch, key=jax.random.key(1)
    )[0]
    assert float(total) < 0.5 * float(worse)


def test_gradient_reaches_every_parameter():
    config = UNetConfig(width=16, multipliers=(1,), blocks=1, attention=(), classes=3, durations=True, dropout=0.0)
    model, batch = (
        UNet(config),
        {"image": jax.random.normal(jax.random.key(0), (8, 8, 8, 3)), "label": jnp.arange(8) % 3},
    )
    condition = {"label": batch["label"], "duration": jnp.ones(8)}
    params = jax.jit(partial(model.init, train=False))(jax.random.key(0), batch["image"], jnp.ones(8), condition)[
        "params"
    ]
    params = jax.tree.map(lambda x: x + 0.05 * jax.random.normal(jax.random.key(x.size), x.shape), params)
    loss = mean_flow_loss(model, MeanFlowConfig(guidance=2.0, condition_dropout=0.3), conditioning=LABELS)
    value = lambda params: loss(params, {}, batch, key=jax.random.key(0), step=STEP)[0]
    gradients = jax.jit(jax.grad(value))(params)
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradients))


def test_refusals():
    with pytest.raises(UserError, match="MeanFlow divides batches by 4, and a batch has 6"):
        check(MeanFlowConfig(), conditioning=NONE, batch_size=6)
    with pytest.raises(UserError, match="trained without conditions too"):
        check(MeanFlowConfig(guidance=2.0, condition_dropout=0.0), conditioning=LABELS, batch_size=8)
    with pytest.raises(UserError, match="apart must be at least 1 and at most 4, not 5"):
        check(MeanFlowConfig(apart=5), conditioning=NONE, batch_size=8)
