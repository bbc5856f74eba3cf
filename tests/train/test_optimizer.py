"""Each optimizer against its formula in numpy, over two steps of a schedule; who is spared weight decay; schedules."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vision.errors import UserError
from vision.models.resnet import ResNetConfig, layer_of, layers
from vision.train.optimizer import AdamConfig, OptimizerConfig, learning_rate, make_optimizer

GOLDEN = Path(__file__).parents[1] / "golden"
NETWORK = ResNetConfig(depths=(1,))
BUDGET = {"steps": 10, "batch_size": 4}
DECAY = 0.1
NAMES = ("kernel", "vector", "zero")


def make(config, **budget):
    return make_optimizer(config, **{**BUDGET, **budget}, layer_of=partial(layer_of, NETWORK), layers=layers(NETWORK))


def arrays(seed):
    """The kernel of a convolution, taller than wide as a matrix, and two vectors, of which one starts at zero."""
    generator = np.random.default_rng(seed)
    shapes = {"kernel": (3, 3, 2, 8), "vector": (5,), "zero": (4,)}
    return {name: generator.normal(size=shape) * (seed > 0 or name != "zero") for name, shape in shapes.items()}


def nested(flat):
    """As parameters: the kernel in the stem, the vectors in the head."""
    leaf = lambda name: jnp.asarray(flat[name], jnp.float32)
    return {"stem_conv": {"kernel": leaf("kernel")}, "head": {"vector": leaf("vector"), "zero": leaf("zero")}}


def found(config, steps=2, start=0, **budget):
    """Parameters after each of ``steps`` steps with gradients arrays(1), arrays(2), ..., in float64."""
    optimizer = make(config, **budget)

    @jax.jit
    def run(params, grads):
        state, passed = optimizer.init(params), []
        for gradient in grads:
            updates, state = optimizer.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
            passed.append(params)
        return passed

    passed = run(nested(arrays(start)), [nested(arrays(1 + index)) for index in range(steps)])
    return [{**each["stem_conv"], **each["head"]} for each in jax.device_get(passed)]


def by_formula(update, rates, decay):
    """Parameters after each step of ``update(memory, gradient, weight, rate, decay of this weight)``."""
    weights, memory, passed = arrays(0), {name: {} for name in NAMES}, []
    for index, rate in enumerate(rates):
        gradients = arrays(1 + index)
        for name in NAMES:
            weights[name] = weights[name] - update(
                memory[name], gradients[name], weights[name], rate, decay if name == "kernel" else 0.0
            )
        passed.append(dict(weights))
    return passed


def assert_same(one, other, **tolerance):
    for left, right in zip(one, other, strict=True):
        for name in NAMES:
            np.testing.assert_allclose(left[name], right[name], **{"rtol": 1e-5, "atol": 1e-6, **tolerance})


def sgd(memory, gradient, weight, rate, decay):
    """Nesterov momentum 0.8: the decay is part of the gradient, and of the momentum."""
    gradient = gradient + decay * weight
    memory["m"] = 0.8 * memory.get("m", 0.0) + gradient
    return rate * (gradient + 0.8 * memory["m"])


def adam(memory, gradient, *, b2, eps):
    """Kingma & Ba 2015, algorithm 1."""
    memory["t"] = memory.get("t", 0) + 1
    memory["m"] = 0.9 * memory.get("m", 0.0) + 0.1 * gradient
    memory["v"] = b2 * memory.get("v", 0.0) + (1 - b2) * gradient**2
    first, second = memory["m"] / (1 - 0.9 ** memory["t"]), memory["v"] / (1 - b2 ** memory["t"])
    return first / (np.sqrt(second) + eps)


def adamw(memory, gradient, weight, rate, decay):
    """Loshchilov & Hutter 2019, algorithm 2, with the decay scaled by the learning rate."""
    return rate * (adam(memory, gradient, b2=0.95, eps=1e-8) + decay * weight)


def lamb(memory, gradient, weight, rate, decay):
    """You et al. 2020, algorithm 2, with the trust ratio where the decay is, as in timm."""
    update = adam(memory, gradient, b2=0.95, eps=1e-6) + decay * weight
    return rate * (np.linalg.norm(weight) / np.linalg.norm(update) if decay else 1.0) * update


FORMULAS = {"sgd": sgd, "adamw": adamw, "lamb": lamb}
LINEAR = {name: OptimizerConfig(name=name, lr=0.05, momentum=0.8, b2=0.95, weight_decay=DECAY, schedule="linear")
          for name in ("sgd", "adamw", "lamb", "muon")}  # fmt: skip


@pytest.mark.parametrize("name", FORMULAS)
def test_two_steps_by_the_formula(name):
    """A linear fall over ten steps: rates 0.05 and 0.045. Vectors are not decayed."""
    assert_same(found(LINEAR[name]), by_formula(FORMULAS[name], [0.05, 0.045], DECAY))


def test_lamb_goes_where_timms_goes():
    """Thirty steps, also of a vector that starts at zero; tests/golden/make_lamb_golden.py made them with timm."""
    golden = np.load(GOLDEN / "lamb.npz")
    of = lambda prefix: {name: golden[f"{prefix}_{name}"] for name in NAMES}
    config = OptimizerConfig(name="lamb", lr=0.01, b2=0.95, weight_decay=0.02, schedule="constant")
    optimizer = make(config, steps=30)
    update = jax.jit(optimizer.update)
    params = nested(of("start"))
    state = optimizer.init(params)
    for step in range(30):
        updates, state = update(nested({name: array[step] for name, array in of("gradients").items()}), state, params)
        params = optax.apply_updates(params, updates)
        for name, array in {**params["stem_conv"], **params["head"]}.items():
            np.testing.assert_allclose(array, golden[f"passed_{name}"][step], rtol=1e-4, atol=1e-6, err_msg=name)
    assert np.abs(params["head"]["zero"]).mean() > 0.05  # a ratio of its own would leave it near 1e-4


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb", "muon"])
def test_vectors_decay_when_asked_to(name):
    plain = found(LINEAR[name], steps=1)[0]
    decayed = found(replace(LINEAR[name], decay_vectors=True), steps=1)[0]
    np.testing.assert_allclose(decayed["kernel"], plain["kernel"], rtol=1e-6)
    if name == "lamb":  # the decay goes into the trust ratio too
        assert np.abs(decayed["vector"] - plain["vector"]).max() > 1e-4
        return
    # sgd: the decay is in the gradient twice, once as momentum
    share = DECAY * (1.8 if name == "sgd" else 1.0)
    np.testing.assert_allclose(decayed["vector"] - plain["vector"], -0.05 * share * arrays(0)["vector"], rtol=2e-4)


def newton_schulz(gradient):
    """Jordan et al. 2024: five steps of X <- a X + (b A + c A A) X with A = X X^T, from X of unit norm."""
    x = gradient.reshape(-1, gradient.shape[-1]).T
    x = x / np.linalg.norm(x)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T


def muon(memory, gradient, weight, rate, decay):
    """Kernels by the orthogonal matrix next to the momentum. Of the momentum only the direction counts."""
    if gradient.ndim == 1:
        return 0.0
    memory["m"] = 0.8 * memory.get("m", 0.0) + 0.2 * gradient
    memory["t"] = memory.get("t", 0) + 1
    # Dozat 2016: the momentum that the next step will have, each part corrected for its start at zero
    ahead = 0.8 * memory["m"] / (1 - 0.8 ** (memory["t"] + 1)) + 0.2 * gradient / (1 - 0.8 ** memory["t"])
    update = newton_schulz(ahead).reshape(gradient.shape)  # [18, 8]: no more outputs than inputs, so a factor of 1
    return rate * (update + decay * weight)


def test_muon_moves_kernels_by_orthogonal_matrices():
    states = found(LINEAR["muon"])
    expected = by_formula(muon, [0.05, 0.045], DECAY)
    for state, other in zip(states, expected, strict=True):
        np.testing.assert_allclose(state["kernel"], other["kernel"], atol=2e-4)
    moved = (arrays(0)["kernel"] * (1 - 0.05 * DECAY) - states[0]["kernel"]) / 0.05
    values = np.linalg.svd(moved.reshape(18, 8), compute_uv=False)
    assert values.min() > 0.6
    assert values.max() < 1.3
    # over the same axes as the gradient's own singular vectors
    left, _, right = np.linalg.svd(arrays(1)["kernel"].reshape(18, 8), full_matrices=False)
    aligned = left.T @ moved.reshape(18, 8) @ right.T
    np.testing.assert_allclose(aligned, np.diag(np.diag(aligned)), atol=1e-2)


def test_muon_moves_vectors_as_adamw_with_nesterov_momentum():
    states = found(LINEAR["muon"])
    rate = learning_rate(LINEAR["muon"], **BUDGET)
    reference = optax.nadamw(rate, b2=0.95, weight_decay=0.0)
    params = {"vector": jnp.asarray(arrays(0)["vector"], jnp.float32)}
    state = reference.init(params)
    for index, own in enumerate(states):
        gradient = {"vector": jnp.asarray(arrays(1 + index)["vector"], jnp.float32)}
        updates, state = reference.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(own["vector"], params["vector"], rtol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb", "muon"])
def test_frozen_layers_stay_and_the_others_go_on_as_alone(name):
    config = replace(LINEAR[name], frozen=("^stem",))
    states, alone = found(config), found(LINEAR[name])
    np.testing.assert_array_equal(states[-1]["kernel"], np.float32(arrays(0)["kernel"]))
    np.testing.assert_allclose(states[-1]["vector"], alone[-1]["vector"], rtol=1e-6)


def test_gradients_are_clipped_by_the_norm_of_what_is_trained():
    config = OptimizerConfig(lr=1.0, momentum=0.0, weight_decay=0.0, schedule="constant", clip=0.5)
    gradient, start = arrays(1), arrays(0)
    for still, trained in (((), NAMES), (("^stem",), ("vector", "zero"))):
        norm = np.sqrt(sum((gradient[name] ** 2).sum() for name in trained))
        assert norm > 0.5
        moved = found(replace(config, frozen=still), steps=1)[0]
        for name in trained:
            np.testing.assert_allclose(start[name] - moved[name], gradient[name] * 0.5 / norm, rtol=1e-5, atol=1e-6)


def test_layers_far_from_the_head_learn_slower():
    """Stem, one block, head: the stem is two layers away."""
    config = replace(LINEAR["adamw"], layer_decay=0.5)
    start, slow, plain = arrays(0), found(config, steps=1)[0], found(LINEAR["adamw"], steps=1)[0]
    np.testing.assert_allclose(slow["kernel"] - start["kernel"], (plain["kernel"] - start["kernel"]) / 4, atol=1e-6)
    np.testing.assert_array_equal(slow["vector"], plain["vector"])


@pytest.mark.parametrize(
    ("schedule", "middle", "end"),
    [("cosine", 0.25, 0.0), ("linear", 0.25, 0.0), ("polynomial", 0.5 * 0.5**0.9, 0.0), ("constant", 0.5, 0.5)],
)
def test_schedules_at_their_start_peak_middle_and_end(schedule, middle, end):
    config = OptimizerConfig(lr=0.5, schedule=schedule, warmup=40)
    rate = learning_rate(config, steps=14, batch_size=10)
    values = [float(rate(step)) for step in (0, 1, 2, 4, 9, 14, 1000)]
    np.testing.assert_allclose(values, [0, 0.125, 0.25, 0.5, middle, end, end], atol=1e-7)
    # a warm-up of less than a batch is none
    at_once = learning_rate(replace(config, warmup=9), steps=10, batch_size=10)
    np.testing.assert_allclose([float(at_once(step)) for step in (0, 5, 10)], [0.5, middle, end], atol=1e-7)


def test_an_inverse_square_root_falls_from_a_number_of_images_on():
    """The rate of Karras et al. 2024, with a linear warm-up: t counts from the start."""
    config = AdamConfig(lr=0.5, schedule="inverse_sqrt", warmup=40, decay_after=100)
    rate = learning_rate(config, steps=14, batch_size=10)
    expected = [0.5 * min(t / 4, 1.0) / np.sqrt(max(t / 10, 1.0)) for t in range(1000)]
    np.testing.assert_allclose([float(rate(t)) for t in (*range(20), 999)], [*expected[:20], expected[-1]], rtol=1e-5)
    # no schedule of it depends on the budget
    assert float(learning_rate(config, steps=1000, batch_size=10)(300)) == float(rate(300))
    at_once = learning_rate(replace(config, warmup=0), steps=14, batch_size=10)
    np.testing.assert_allclose([float(at_once(t)) for t in (0, 10, 40)], [0.5, 0.5, 0.25], rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "cosine", "decay_after": 5}, r"decay_after is for optimizer\.schedule inverse_sqrt, not cosine"),
        ({"schedule": "inverse_sqrt"}, r"decay_after = 0 images: set it to the end of the warm-up .* \(10\)"),
        ({"schedule": "inverse_sqrt", "warmup": 40, "decay_after": 39}, r"decay_after = 39 images: .* \(40\)"),
    ],
)
def test_an_inverse_square_root_must_know_where_it_falls(changes, message):
    with pytest.raises(UserError, match=message):
        learning_rate(OptimizerConfig(**changes), steps=14, batch_size=10)


def test_a_cosine_is_one():
    rate = learning_rate(OptimizerConfig(lr=2.0), steps=12, batch_size=1)
    steps = np.arange(13)
    np.testing.assert_allclose([float(rate(s)) for s in steps], 1 + np.cos(np.pi * steps / 12), atol=1e-6)


def test_a_warm_up_beyond_the_budget_only_rises():
    rate = learning_rate(OptimizerConfig(lr=1.0, warmup=40), steps=5, batch_size=4)
    np.testing.assert_allclose([float(rate(step)) for step in (0, 5)], [0, 0.5], atol=1e-7)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb", "muon"])
def test_numbers_may_be_traced(name):
    """As --sweep traces them: one program for all learning rates and decays."""
    params, gradient = nested(arrays(0)), nested(arrays(1))

    @jax.jit
    def swept(lr, decay):
        optimizer = make(replace(LINEAR[name], lr=lr, weight_decay=decay, warmup=8))
        state = optimizer.init(params)
        _, state = optimizer.update(gradient, state, params)
        return optimizer.update(gradient, state, params)[0]

    optimizer = make(replace(LINEAR[name], warmup=8))
    state = optimizer.init(params)
    _, state = optimizer.update(gradient, state, params)
    expected, _ = optimizer.update(gradient, state, params)
    assert float(jnp.abs(expected["stem_conv"]["kernel"]).max()) > 1e-4
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), swept(0.05, DECAY), expected)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layer_decay": 0.0}, r"within \(0, 1\], not 0.0"),
        ({"frozen": ("stage_9",)}, "no parameter has 'stage_9' in its path"),
        ({"frozen": ("(",)}, r"'\(' is no regular expression"),
    ],
)
def test_numbers_that_cannot_be(values, message):
    with pytest.raises(UserError, match=message):
        make(OptimizerConfig(**values)).init(nested(arrays(0)))
