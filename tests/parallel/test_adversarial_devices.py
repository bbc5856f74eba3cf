"""Two players on eight devices are two players on one: statistics, singular vectors, strength of augmentation and all.

By gradient descent with momentum, for the reason that test_one_equals_eight.py gives.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vision.data.augment.differentiable import brightness, differentiable_augment, translation
from vision.data.augment.image import flipped
from vision.models.gan.networks import SHARDING_RULES, GanConfig, discriminator, generator
from vision.ops.pixels import to_float
from vision.parallel import sharding
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.parallel.sharding import path_name
from vision.tasks import adversarial
from vision.tasks.adaptive_augmentation import AdaptiveConfig, adapted, augmentation_state
from vision.tasks.adversarial import (
    Augmentation,
    Players,
    discriminator_loss,
    generator_loss,
    generator_variables,
    sampler,
)
from vision.tasks.gradient_penalty import on_a_share, r1, weighted
from vision.train.compile import Compiler
from vision.train.state import create_state
from vision.train.step import alternate, averaged, gradient, preprocessed

STEPS, SIZE, SIDE = 3, 32, 8
CONFIG = GanConfig("sngan", SIDE, 3, 2, 8, 8, 8)
DECAYS = {"ema": 0.9}


@pytest.fixture(autouse=True)
def tiny_arrays_are_sharded_too(monkeypatch):
    monkeypatch.setattr(sharding, "FSDP_MIN_ELEMENTS", 64)


@functools.cache
def trained(devices):
    """(state, scalars, samples) after a few rounds on one device, or on eight in every kind of division."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1]) if devices == 1 else make_mesh(MeshConfig(fsdp=2, tensor=2))
    compiler = Compiler(mesh, SHARDING_RULES)
    players = Players(generator(CONFIG), discriminator(CONFIG), CONFIG.latent, CONFIG.classes)
    parts = (brightness, translation)
    change = lambda images, *, key, probability: differentiable_augment(images, parts, key=key, probability=probability)
    augmentation = Augmentation(change, functools.partial(adapted, config=AdaptiveConfig(images=100, interval=1)))
    penalty = on_a_share(weighted(r1, 0.1), 2)
    loss = adversarial.NON_SATURATING
    optimizer = optax.sgd(0.05, momentum=0.5)
    prepare = lambda batch, *, key: flipped({**batch, "image": to_float(batch["image"])}, key=key)
    judge = preprocessed(discriminator_loss(players, loss, penalty=penalty, augmentation=augmentation), prepare)
    make = preprocessed(generator_loss(players, loss, augmentation=augmentation), prepare)
    judging, making = (
        gradient(each, optimizer, part=part) for part, each in (("discriminator", judge), ("generator", make))
    )

    def init(key):
        label, image = jnp.zeros((1,), jnp.int32), jnp.zeros((1, SIDE, SIDE, 3))
        keys = jax.random.split(key)
        made = {
            "generator": players.generator.init(keys[0], jnp.zeros((1, CONFIG.latent)), label, train=False),
            "discriminator": players.discriminator.init(keys[1], image, label, train=False),
        }
        state = {part: {k: v for k, v in each.items() if k != "params"} for part, each in made.items()}
        return create_state(
            params={part: each["params"] for part, each in made.items()},
            optimizer={"generator": optimizer, "discriminator": optimizer},
            key=key,
            model_state={**state, "augmentation": augmentation_state(0.5)},
            ema=DECAYS,
            averaging=generator_variables,
        )

    rounds = averaged(alternate(judging, making, split=True), DECAYS, of=generator_variables)
    step = compiler.step(rounds, init)
    state, logged = compiler.init(init, key=jax.random.key(0)), []
    for index in range(STEPS):
        rng = np.random.default_rng(index)
        image = rng.integers(0, 256, (2 * SIZE, SIDE, SIDE, 3), np.uint8)
        label = rng.integers(0, 2, 2 * SIZE).astype(np.int32)
        state, scalars = step(state, compiler.shard({"image": image, "label": label}))
        logged.append(jax.device_get(dict(scalars)))
    assert step.traces == 1
    draw = compiler.function(sampler(players))
    index, key = compiler.replicate((np.arange(4, dtype=np.int32), jax.random.key(1)))
    labels = compiler.replicate(np.arange(4, dtype=np.int32) % 2)
    return state, logged, np.asarray(draw(state.ema["ema"], {"label": labels}, index, key), int)


def test_eight_devices_are_one():
    state, logged, samples = trained(8)
    one_state, one_logged, one_samples = trained(1)
    trees = [(logged, one_logged)]
    trees += [
        tuple(jax.device_get(getattr(s, part)) for s in (state, one_state))
        for part in ("params", "model_state", "opt_state", "ema")
    ]
    for found, expected in trees:
        for (path, leaf), other in zip(
            jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
        ):
            scale = np.abs(other).max()
            np.testing.assert_allclose(leaf, other, rtol=2e-3, atol=2e-4 * scale + 1e-6, err_msg=path_name(path))
    assert np.abs(samples - one_samples).max() <= 1


def test_the_comparison_means_something():
    """All that is carried has moved by more than the tolerance, and the three parts of the state are there."""
    state, logged, _ = trained(1)
    assert set(state.model_state) == {"generator", "discriminator", "augmentation"}
    assert set(state.model_state["generator"]) == {"batch_stats"}
    assert set(state.model_state["discriminator"]) == {"spectral"}
    assert float(state.model_state["augmentation"]["probability"]) != 0.5
    losses = [float(each["discriminator_loss"]) for each in logged]
    assert np.ptp(losses) > 0.05
    assert not np.allclose(
        state.ema["ema"]["batch_stats"]["norm_out"]["mean"],
        state.model_state["generator"]["batch_stats"]["norm_out"]["mean"],
        rtol=1e-3,
    )
