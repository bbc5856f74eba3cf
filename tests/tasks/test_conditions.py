"""Generators that know more than labels: images, texts and vectors as conditions, trained, guided and sampled."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vision.data.shapes.captions import captions
from vision.data.shapes.world import ShapesConfig, render_scenes
from vision.data.text.training import trained_tokenizer
from vision.diffusion.conditions import Conditioning, batch_field
from vision.diffusion.schedules import cosine
from vision.models.dit import DiT, DiTConfig
from vision.models.unet import UNet, UNetConfig
from vision.ops.pixels import to_float
from vision.tasks.diffusion import DiffusionConfig, diffusion_loss, held_out_error
from vision.tasks.sampling import SamplingConfig, sampler

SIZE, COUNT = 16, 8
SHAPES = ShapesConfig(resolution=SIZE, max_objects=1, min_size=0.5)
TOKENIZER = trained_tokenizer(
    captions(render_scenes(SHAPES, seed=1, indices=np.arange(64)), SHAPES), kind="words", vocabulary=40, length=12
)
SCHEDULE = cosine(100)
NULLS = {"image": 0.0, "tokens": 0, "embedding": 0.0}
FIELDS = {
    "image": {"condition_channels": 3},
    "tokens": {"vocabulary": TOKENIZER.vocabulary, "tokens": TOKENIZER.length},
    "embedding": {"embedding": 6},
}
CONDITIONING = {name: Conditioning({name: null}) for name, null in NULLS.items()}
CASES = [(network, name) for network in ("unet", "dit") for name in NULLS]


@cache
def batch(name):
    """Images of the shapes world with one condition: the flipped image, the caption, or random numbers."""
    scenes = render_scenes(SHAPES, seed=0, indices=np.arange(COUNT))
    image = np.asarray(to_float(jnp.asarray(scenes["image"])))
    condition = {
        "image": image[:, :, ::-1],
        "tokens": TOKENIZER.encode(captions(scenes, SHAPES)),
        "embedding": np.random.default_rng(0).normal(size=(COUNT, 6)).astype(np.float32),
    }[name]
    return {"image": jnp.asarray(image), batch_field(name): jnp.asarray(condition)}


def network(kind, name):
    if kind == "unet":
        return UNet(UNetConfig(width=8, multipliers=(1,), blocks=1, attention=(), dropout=0.0, patch=4, **FIELDS[name]))
    return DiT(DiTConfig(patch=4, width=16, depth=1, heads=2, **FIELDS[name]))


def output(kind, name, params, condition):
    """The network's output for the same noise."""
    noisy = jax.random.normal(jax.random.key(9), (COUNT, SIZE, SIZE, 3))
    time = jnp.arange(COUNT) * 10
    return jax.jit(partial(network(kind, name).apply, train=False))({"params": params}, noisy, time, condition)


@cache
def trained(kind, name):
    """(initial parameters, parameters after two steps, losses); the first step opens what starts at zero."""
    loss = diffusion_loss(network(kind, name), DiffusionConfig(), SCHEDULE, conditioning=CONDITIONING[name])
    optimizer = optax.adam(1e-2)
    inputs = jnp.zeros((1, SIZE, SIZE, 3)), jnp.zeros(1), CONDITIONING[name].of(batch(name))
    inputs = (*inputs[:2], jax.tree.map(lambda value: value[:1], inputs[2]))
    first = jax.jit(partial(network(kind, name).init, train=False))(jax.random.key(0), *inputs)["params"]

    @jax.jit
    def step(state, key):
        params, opt_state = state
        value, grads = jax.value_and_grad(
            lambda params: loss(params, {}, batch(name), key=key, step=jnp.zeros((), jnp.int32))[0]
        )(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), value

    state, losses = (first, optimizer.init(first)), []
    for index in range(2):
        state, value = step(state, jax.random.key(index))
        losses.append(float(value))
    return first, state[0], losses


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_two_steps_of_training_let_the_condition_change_the_output(kind, name):
    first, last, losses = trained(kind, name)
    assert np.isfinite(losses).all()
    condition = CONDITIONING[name].of(batch(name))
    null = CONDITIONING[name].null(condition)
    new, with_condition, without = (
        output(kind, name, params, given) for params, given in ((first, condition), (last, condition), (last, null))
    )
    np.testing.assert_array_equal(new, np.zeros_like(new))
    assert (np.abs(with_condition - without).max((1, 2, 3)) > 1e-6).all()


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_dropout_of_one_is_training_on_nulls(kind, name):
    _, params, _ = trained(kind, name)
    conditioning, full = CONDITIONING[name], batch(name)
    nulls = {batch_field(name): conditioning.null(conditioning.of(full))[name]}

    def value(dropout, batch):
        loss = diffusion_loss(
            network(kind, name), DiffusionConfig(condition_dropout=dropout), SCHEDULE, conditioning=conditioning
        )
        run = jax.jit(lambda batch: loss(params, {}, batch, key=jax.random.key(3), step=jnp.zeros((), jnp.int32))[0])
        return float(run(batch))

    always = value(1.0, full)
    assert always == pytest.approx(value(0.0, {**full, **nulls}), rel=1e-6)
    assert always != value(0.0, full)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_guidance_and_sampling(kind, name):
    """Scale 1 is the conditional network, scale 0 the unconditional one; samples follow condition and number."""
    _, params, _ = trained(kind, name)
    conditioning = CONDITIONING[name]
    condition = conditioning.of(batch(name))
    null = conditioning.null(condition)

    def sample(scale, condition, index):
        sampling = SamplingConfig(steps=3, guidance=scale, threshold="none")
        run = sampler(
            network(kind, name),
            DiffusionConfig(),
            SCHEDULE,
            sampling,
            conditioning=conditioning,
            image_shape=(SIZE, SIZE, 3),
        )
        return np.asarray(jax.jit(run)({"params": params}, condition, index, jax.random.key(0)))

    index = jnp.arange(COUNT)
    conditional, unconditional = sample(1.0, condition, index), sample(1.0, null, index)
    assert conditional.shape == (COUNT, SIZE, SIZE, 3)
    assert np.isfinite(conditional).all()
    scale = np.abs(conditional).max()
    assert np.abs(conditional - unconditional).max() > 1e-6 * scale
    np.testing.assert_allclose(sample(0.0, condition, index), unconditional, atol=1e-5 * scale)
    reverse = {name: value[::-1] for name, value in condition.items()}
    np.testing.assert_allclose(sample(1.0, reverse, index[::-1])[::-1], conditional, atol=1e-5 * scale)
    guided = sample(3.0, condition, index)
    assert np.isfinite(guided).all()
    assert np.abs(guided - conditional).max() > np.abs(sample(1.0, condition, index) - conditional).max()


@pytest.mark.parametrize("name", NULLS)
def test_held_out_error_is_under_the_true_conditions(name):
    _, params, _ = trained("dit", name)
    conditioning, full = CONDITIONING[name], {**batch(name), "mask": jnp.arange(COUNT) < 5}
    run = jax.jit(held_out_error(network("dit", name), DiffusionConfig(), SCHEDULE, conditioning=conditioning))
    total, count = run({"params": params}, full, key=jax.random.key(0))
    nulls = {batch_field(name): conditioning.null(conditioning.of(full))[name]}
    without, _ = run({"params": params}, {**full, **nulls}, key=jax.random.key(0))
    assert int(count) == 5
    assert np.isfinite(float(total))
    assert float(total) != float(without)
