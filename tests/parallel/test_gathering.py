"""What a step of several players exchanges where parameters are divided: each once, and no activation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vision.models.gan.networks import SHARDING_RULES, GanConfig, discriminator, generator
from vision.ops.pixels import to_float
from vision.parallel import sharding
from vision.parallel.collectives import collectives, summary
from vision.parallel.gathering import divided, gathered, on_every_device, over_samples, traced_on, whole
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.tasks.adversarial import HINGE, Players, discriminator_loss, generator_loss
from vision.train.compile import Compiler
from vision.train.state import create_state
from vision.train.step import alternate, gradient, preprocessed

CONFIG = GanConfig("sngan", 16, 3, 0, 16, 16, 16)
P = jax.sharding.PartitionSpec


@pytest.fixture(autouse=True)
def small_arrays_are_divided_too(monkeypatch):
    monkeypatch.setattr(sharding, "FSDP_MIN_ELEMENTS", 256)


def adversarial():
    """(step, init) of two players, whose discriminator normalises its kernels by power iterations."""
    players = Players(generator(CONFIG), discriminator(CONFIG), CONFIG.latent, CONFIG.classes)
    optimizer = optax.sgd(0.1)
    prepare = lambda batch, *, key: {"image": to_float(batch["image"])}
    losses = {"discriminator": discriminator_loss(players, HINGE), "generator": generator_loss(players, HINGE)}
    step = alternate(*(gradient(preprocessed(loss, prepare), optimizer, part=part) for part, loss in losses.items()))

    def init(key):
        noise, image = jnp.zeros((1, CONFIG.latent)), jnp.zeros((1, 16, 16, 3))
        made = {
            "generator": players.generator.init(key, noise, None, train=False),
            "discriminator": players.discriminator.init(key, image, None, train=False),
        }
        params = {part: dict(each).pop("params") for part, each in made.items()}
        rest = {part: {name: tree for name, tree in each.items() if name != "params"} for part, each in made.items()}
        return create_state(params=params, optimizer=dict.fromkeys(params, optimizer), key=key, model_state=rest)

    return step, init


def test_two_players_gather_each_parameter_once_in_each_turn():
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    compiler, (step, init) = Compiler(mesh, SHARDING_RULES), adversarial()
    shape, placed = compiler.state_shardings(init)
    batch = {"image": jax.ShapeDtypeStruct((32, 16, 16, 3), np.uint8)}
    found = collectives(compiler.step(step, init).program(shape, batch).compiled.as_text())

    def bytes_divided(part):
        leaves = zip(jax.tree.leaves(shape.params[part]), jax.tree.leaves(placed.params[part]), strict=True)
        return sum(4 * leaf.size for leaf, where in leaves if "fsdp" in where.spec)

    # the discriminator changes between its turn and the generator's
    expected = bytes_divided("generator") + 2 * bytes_divided("discriminator")
    assert sum(each.bytes * each.times for each in found if each.kind == "all-gather") == expected
    assert set(summary(found)) == {"all-gather", "all-reduce"}
    # gradients, statistics and losses; activations of a layer are 32 x 16 x 16 x 16 numbers
    assert max(each.bytes for each in found if each.kind == "all-reduce") < 32 * 16 * 16 * 16 * 4


def test_sampling_gathers_outside_of_its_loop():
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    compiler = Compiler(mesh)
    place = lambda array, spec: jax.device_put(array, jax.sharding.NamedSharding(mesh, spec))
    kernel = place(np.ones((16, 16), np.float32), P(None, "fsdp"))
    samples = place(np.ones((8, 16), np.float32), P(("data", "fsdp")))
    sample = lambda kernel, x: jax.lax.fori_loop(0, 10, lambda _, x: x @ kernel / 16, x)
    text = compiler.jitted(sample).lower(compiler.specs((kernel, samples)), kernel, samples).compile().as_text()
    gathers = [(each.bytes, each.times) for each in collectives(text) if each.kind == "all-gather"]
    assert sorted(gathers) == [(8 * 16 * 4, 1), (16 * 16 * 4, 1)]  # the results, and the kernel
    np.testing.assert_array_equal(compiler.function(sample)(kernel, samples), samples)


def test_without_fsdp_parameters_are_left_alone():
    mesh = make_mesh(MeshConfig(data=8))
    same = lambda x: divided(gathered(x, "params"), "params")
    assert "sharding" not in str(jax.make_jaxpr(traced_on(mesh, (), same))(np.ones((16, 16))))


def test_on_one_device_nothing_is_said(one_device):
    same = lambda x: over_samples(on_every_device(gathered(x, "params")))
    assert "sharding" not in str(jax.make_jaxpr(traced_on(one_device, (), same))(np.ones((16, 16))))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [(P("fsdp"), P(None)), (P("tensor", "fsdp"), P("tensor", None)), (P(("data", "fsdp")), P(("data", "fsdp")))],
)
def test_whole(spec, expected):
    assert whole(spec) == expected
