"""The game of two networks: its losses, its equilibrium, who changes what, and whether all modes are found."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.errors import UserError
from vision.models.gan.networks import GanConfig, discriminator, generator
from vision.tasks import adversarial
from vision.tasks.adaptive_augmentation import AdaptiveConfig, adapted, augmentation_state
from vision.tasks.adversarial import (
    Augmentation,
    Players,
    check_truncation,
    discriminator_loss,
    generator_loss,
    generator_variables,
    sample_latents,
    sampler,
)
from vision.tasks.gradient_penalty import r1, r2, total, weighted
from vision.train.state import create_state
from vision.train.step import alternate, averaged, gradient, repeated

LOSSES = {
    "minimax": adversarial.MINIMAX,
    "non_saturating": adversarial.NON_SATURATING,
    "hinge": adversarial.HINGE,
    "least_squares": adversarial.LEAST_SQUARES,
    "wasserstein": adversarial.WASSERSTEIN,
    "relativistic": adversarial.RELATIVISTIC,
}
logits = st.lists(st.floats(-20, 20, width=32), min_size=4, max_size=4).map(lambda x: np.array(x, np.float32))


@given(real=logits, fake=logits)
def test_losses_are_what_the_papers_say(real, fake):
    probability = lambda logit: 1.0 / (1.0 + np.exp(-logit.astype(np.float64)))
    log = lambda x: np.log(np.maximum(x, 1e-300))
    d, g = probability(real), probability(fake)
    value = log(d).mean() + log(1.0 / (1.0 + np.exp(fake.astype(np.float64)))).mean()
    expected = {
        "minimax": (-value, log(1.0 / (1.0 + np.exp(fake.astype(np.float64)))).mean()),
        "non_saturating": (-value, -log(g).mean()),
        "hinge": (np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean(), -fake.mean()),
        "least_squares": (0.5 * ((real - 1) ** 2).mean() + 0.5 * ((fake + 1) ** 2).mean(), 0.5 * (fake**2).mean()),
        "wasserstein": (fake.mean() - real.mean(), -fake.mean()),
        "relativistic": (-log(probability(real - fake)).mean(), -log(probability(fake - real)).mean()),
    }
    for name, loss in LOSSES.items():
        found = (
            loss.discriminator(jnp.asarray(real), jnp.asarray(fake)),
            loss.generator(jnp.asarray(real), jnp.asarray(fake)),
        )
        np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=1e-4, err_msg=name)


def test_the_discriminator_reaches_its_optimum():
    """Goodfellow et al. 2014, proposition 1: D = p / (p + q), and theorem 1: the value is 2 JSD(p, q) - log 4."""
    p, q = np.array([0.5, 0.3, 0.15, 0.05]), np.array([0.1, 0.2, 0.3, 0.4])
    mean = 0.5 * (p + q)
    divergence = 0.5 * np.sum(p * np.log(p / mean)) + 0.5 * np.sum(q * np.log(q / mean))

    def value(logits, p, q):
        # the loss is a mean over samples: a hundred of each distribution, in their exact shares
        often = lambda share: jnp.repeat(logits, jnp.asarray(np.round(100 * share), int), total_repeat_length=100)
        return adversarial.minimax_discriminator(often(p), often(q))

    def optimum(p, q):
        step = jax.jit(lambda logits: logits - 2.0 * jax.grad(value)(logits, p, q))
        logits = jnp.array([1.0, -1.0, 2.0, 0.5])
        for _ in range(400):
            logits = step(logits)
        return jax.nn.sigmoid(logits), -float(value(logits, p, q))

    found, game = optimum(p, q)
    np.testing.assert_allclose(found, p / (p + q), atol=1e-3)
    np.testing.assert_allclose(game, 2.0 * divergence - np.log(4.0), atol=1e-5)
    found, game = optimum(p, p)
    np.testing.assert_allclose(found, 0.5, atol=1e-3)
    np.testing.assert_allclose(game, -np.log(4.0), atol=1e-6)


class Line(nn.Module):
    """A generator in one dimension: a shift and a scale."""

    @nn.compact
    def __call__(self, latent, label=None, *, train):
        scale = self.param("scale", nn.initializers.ones, ())
        return scale * latent + self.param("shift", nn.initializers.zeros, ())


class Perceptron(nn.Module):
    """Two hidden layers, and an output of any size; a vector in, a logit out where ``outputs`` is 0."""

    outputs: int = 0
    width: int = 64

    @nn.compact
    def __call__(self, x, label=None, *, train):
        for index in range(2):
            x = nn.leaky_relu(nn.Dense(self.width, name=f"hidden_{index}")(x), 0.2)
        made = nn.Dense(max(self.outputs, 1), name="out")(x)
        return made if self.outputs else made[:, 0]


def play(players, loss, *, rates, b1=0.5, penalty=None, rounds, data, ema=None, dispatch=50):
    """The state after ``rounds`` rounds on batches ``data(key)``."""
    keys = jax.random.split(jax.random.key(0), 3)
    shape = jax.eval_shape(data, keys[0])
    params = {
        "generator": players.generator.init(keys[0], jnp.zeros((1, players.latent)), train=False)["params"],
        "discriminator": players.discriminator.init(keys[1], jnp.zeros((1, *shape.shape[1:])), train=False)["params"],
    }
    optimizers = {part: optax.adam(rate, b1=b1, b2=0.99) for part, rate in rates.items()}
    averages = {"ema": ema} if ema else {}
    state = create_state(params=params, optimizer=optimizers, key=keys[2], ema=averages, averaging=generator_variables)
    step = alternate(
        gradient(discriminator_loss(players, loss, penalty=penalty), optimizers["discriminator"], part="discriminator"),
        gradient(generator_loss(players, loss), optimizers["generator"], part="generator"),
    )
    step = jax.jit(repeated(averaged(step, averages, of=generator_variables), dispatch, unroll=False))
    draw = jax.jit(jax.vmap(data))
    for index in range(rounds // dispatch):
        images = draw(jax.random.split(jax.random.fold_in(jax.random.key(9), index), dispatch))
        state, scalars = step(state, {"image": images})
    return state, scalars


def test_the_game_ends_at_minus_log_four():
    """The generator finds N(3, 0.5^2), and the discriminator cannot tell: V = -log 4."""
    players = Players(Line(), Perceptron(width=16), latent=1)
    data = lambda key: 3.0 + 0.5 * jax.random.normal(key, (128, 1))
    state, scalars = play(
        players,
        adversarial.NON_SATURATING,
        rates={"generator": 5e-3, "discriminator": 1e-2},
        penalty=weighted(r1, 0.2),
        rounds=1500,
        data=data,
        ema=0.99,
    )
    found = state.ema["ema"]["params"]
    assert abs(float(found["shift"]) - 3.0) < 0.15
    assert abs(abs(float(found["scale"])) - 0.5) < 0.15
    np.testing.assert_allclose(-scalars["discriminator_loss"] + scalars["penalty"], -np.log(4.0), atol=0.03)


def grid(key, batch=256):
    """25 Gaussians of deviation 0.1 on the grid {-2, -1, 0, 1, 2}^2."""
    place_key, noise_key = jax.random.split(key)
    return jax.random.randint(place_key, (batch, 2), -2, 3) + 0.1 * jax.random.normal(noise_key, (batch, 2))


@pytest.mark.parametrize("name", ["non_saturating", "relativistic"])
def test_all_modes_of_a_grid_are_found(name):
    """A mode is found where at least ten of 5,000 points lie within three deviations of it."""
    players = Players(Perceptron(2, width=128), Perceptron(width=128), latent=2)
    state, _ = play(
        players,
        LOSSES[name],
        rates={"generator": 2e-3, "discriminator": 4e-3},
        penalty=weighted(total(r1, r2) if name == "relativistic" else r1, 0.02),
        rounds=3000,
        data=grid,
        ema=0.995,
    )
    codes = sample_latents(jnp.arange(5000), 2, key=jax.random.key(5))
    points = np.asarray(players.generator.apply(state.ema["ema"], codes, train=False))
    nearest = np.clip(np.round(points), -2, 2)
    close = np.linalg.norm(points - nearest, axis=1) < 0.3
    _, counts = np.unique(nearest[close], axis=0, return_counts=True)
    assert len(counts) == 25
    assert counts.min() >= 10
    assert close.mean() > 0.5  # evenly spread points would get 0.28


CONFIGS = {
    "dcgan": GanConfig("dcgan", 16, 1, 2, 3, 4, 4, "batch"),
    "sngan": GanConfig("sngan", 8, 1, 2, 3, 4, 4),
}


def made_state(config, optimizers, **more):
    players = Players(generator(config), discriminator(config), config.latent, config.classes)
    label = jnp.zeros((1,), jnp.int32)
    image = jnp.zeros((1, config.resolution, config.resolution, config.channels))
    made = {
        "generator": players.generator.init(jax.random.key(0), jnp.zeros((1, config.latent)), label, train=False),
        "discriminator": players.discriminator.init(jax.random.key(1), image, label, train=False),
    }
    carried = {part: {k: v for k, v in each.items() if k != "params"} for part, each in made.items()}
    params = {part: each["params"] for part, each in made.items()}
    model_state = {**carried, **more}
    return players, create_state(params=params, optimizer=optimizers, key=jax.random.key(2), model_state=model_state)


def batch_of(config, count=8):
    rng = np.random.default_rng(0)
    shape = (count, config.resolution, config.resolution, config.channels)
    image = jnp.asarray(rng.uniform(-1, 1, shape), jnp.float32)
    return {"image": image, "label": jnp.asarray(rng.integers(0, 2, count), jnp.int32)}


def equal(one, other):
    return jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), one, other))


@pytest.mark.parametrize("name", CONFIGS)
def test_each_player_leaves_the_other_untouched(name):
    config = CONFIGS[name]
    optimizers = {part: optax.adam(1e-2) for part in ("generator", "discriminator")}
    change = Augmentation(
        lambda images, *, key, probability: images * (1 + 0.1 * probability * jax.random.normal(key)),
        functools.partial(adapted, config=AdaptiveConfig(interval=1, images=80)),
    )
    players, state = made_state(config, optimizers, augmentation=augmentation_state(0.5))
    loss = adversarial.HINGE
    turns = {
        "discriminator": discriminator_loss(players, loss, augmentation=change),
        "generator": generator_loss(players, loss, augmentation=change),
    }
    other = {"generator": "discriminator", "discriminator": "generator"}
    for part, turn in turns.items():
        after, scalars = jax.jit(gradient(turn, optimizers[part], part=part))(state, batch_of(config))
        for tree in ("params", "opt_state"):
            before, now = getattr(state, tree), getattr(after, tree)
            assert equal(before[other[part]], now[other[part]]), (part, tree)
            assert not equal(before[part], now[part]), (part, tree)
        # statistics and singular vectors belong to their player, the strength of augmentation to the discriminator
        assert equal(state.model_state[other[part]], after.model_state[other[part]])
        assert not equal(state.model_state[part], after.model_state[part])
        moved = not equal(state.model_state["augmentation"], after.model_state["augmentation"])
        assert moved == (part == "discriminator")
        assert f"{part}_loss" in scalars
    assert set(generator_variables(state)) == {"params", "batch_stats"}


def test_a_player_learns_through_the_augmentation_and_only_the_paired_loss_looks_at_real_images():
    config = CONFIGS["sngan"]
    players, state = made_state(config, {}, augmentation=augmentation_state(1.0))
    black = Augmentation(lambda images, *, key, probability: images * (1.0 - probability))
    batch = batch_of(config)
    other = {**batch, "image": -batch["image"]}
    key, step = jax.random.key(0), jnp.int32(0)

    def slope(loss, batch, augmentation):
        value = generator_loss(players, loss, augmentation=augmentation)
        own = lambda own: value({**state.params, "generator": own}, state.model_state, batch, key=key, step=step)[0]
        return jax.jit(jax.grad(own))(state.params["generator"])

    assert all(not np.any(leaf) for leaf in jax.tree.leaves(slope(adversarial.HINGE, batch, black)))
    plain, turned = (slope(adversarial.HINGE, each, None) for each in (batch, other))
    assert equal(plain, turned)
    assert np.any(plain["project"]["kernel"])
    plain, turned = (slope(adversarial.RELATIVISTIC, each, None) for each in (batch, other))
    assert not equal(plain, turned)


def test_latents_are_functions_of_their_place_and_truncation_bounds_them():
    key = jax.random.key(0)
    codes = sample_latents(jnp.arange(2000), 8, key=key)
    np.testing.assert_array_equal(codes[:5], sample_latents(jnp.arange(5), 8, key=key))
    assert abs(float(codes.std()) - 1.0) < 0.02
    bounded = sample_latents(jnp.arange(2000), 8, key=key, truncation=0.5)
    assert float(jnp.abs(bounded).max()) <= 0.5
    # N(0, 1) cut at half a deviation is nearly even: its variance is known
    expected = 1.0 - 2 * 0.5 * np.exp(-0.125) / np.sqrt(2 * np.pi) / 0.38292492
    np.testing.assert_allclose(bounded.var(), expected, rtol=0.03)
    check_truncation(None)
    with pytest.raises(UserError, match=r"truncation is a positive number or None, not 0\.0"):
        check_truncation(0.0)


def test_images_are_drawn_as_bytes_and_by_their_place():
    config = CONFIGS["dcgan"]
    players, state = made_state(config, {})
    draw = jax.jit(sampler(players, truncation=1.0))
    labels, key = jnp.array([0, 1, 1, 0], jnp.int32), jax.random.key(0)
    images = draw(generator_variables(state), {"label": labels}, jnp.arange(4), key)
    assert images.shape == (4, 16, 16, 1)
    assert images.dtype == jnp.uint8
    codes = sample_latents(jnp.arange(4), 3, key=key, truncation=1.0)
    expected = players.generator.apply(generator_variables(state), codes, labels, train=False)
    np.testing.assert_allclose(images, (expected + 1) * 127.5, atol=0.51)
