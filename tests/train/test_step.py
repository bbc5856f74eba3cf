import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.parallel.mesh import MeshConfig, make_mesh
from vision.train.compile import Compiler
from vision.train.state import create_state, variables
from vision.train.step import accumulate, alternate, averaged, gradient, preprocessed, repeated, warmed_up


def perceptron(key):
    first, second = jax.random.split(key)
    return {
        "first": {"w": jax.random.normal(first, (5, 8)), "b": jnp.zeros(8)},
        "second": {"w": jax.random.normal(second, (8, 2))},
    }


def loss(params, model_state, batch, *, key, step):
    """Squared error of a perceptron; its model state counts samples, and keeps an average as BatchNorm does."""
    del key, step
    hidden = jnp.tanh(batch["x"] @ params["first"]["w"] + params["first"]["b"])
    out = hidden @ params["second"]["w"]
    state = {"seen": model_state["seen"] + out.shape[0], "mean": 0.5 * model_state["mean"] + 0.5 * hidden.mean()}
    return jnp.square(out - batch["y"]).mean(), (state, {"absolute": jnp.abs(out - batch["y"]).mean()})


def convolution_loss(params, model_state, batch, *, key, step):
    del key, step
    hidden = batch["x"]
    for name in sorted(params):
        hidden = jax.lax.conv_general_dilated(
            jnp.tanh(hidden), params[name], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    return jnp.square(hidden - batch["y"]).mean(), (model_state, {"mean": hidden.mean()})


def drawing_loss(params, model_state, batch, *, key, step):
    """Logs what it draws."""
    del step
    value = jnp.square(params["w"] - batch["x"]).mean()
    return value, (model_state, {"draw": jax.random.uniform(key)})


def batch_of(size, *, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "x": jnp.asarray(rng.normal(size=(size, 5)), jnp.float32),
        "y": jnp.asarray(rng.normal(size=(size, 2)), jnp.float32),
    }


def start(optimizer, **options):
    model_state = {"seen": jnp.zeros((), jnp.int32), "mean": jnp.zeros(())}
    params = perceptron(jax.random.key(0))
    return create_state(params=params, optimizer=optimizer, key=jax.random.key(1), model_state=model_state, **options)


def scalar_state(**options):
    params = {"w": jnp.zeros(())}
    return create_state(params=params, optimizer=optax.sgd(0.1), key=jax.random.key(3), **options)


def assert_close(tree, other, **tolerance):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for one, two in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        if jax.dtypes.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, two = jax.random.key_data(one), jax.random.key_data(two)
        np.testing.assert_allclose(one, two, **{"rtol": 1e-5, "atol": 1e-6, **tolerance})


def assert_same(tree, other):
    assert_close(tree, other, rtol=0, atol=0)


def test_gradient_is_an_optax_loop():
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(1e-2))
    state, step = start(optimizer), jax.jit(gradient(loss, optimizer))
    params, opt_state = state.params, state.opt_state
    model_state = state.model_state
    for index in range(5):
        batch = batch_of(6, seed=index)
        state, scalars = step(state, batch)

        (value, (model_state, _)), grads = jax.value_and_grad(
            lambda p, m=model_state, b=batch: loss(p, m, b, key=None, step=None), has_aux=True
        )(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        assert_close(
            dict(scalars), {"loss": value, "gradient_norm": optax.tree.norm(grads), "absolute": scalars["absolute"]}
        )
    assert_close((state.params, state.opt_state, state.model_state), (params, opt_state, model_state))
    assert int(state.step) == 5
    assert int(state.model_state["seen"]) == 30


def test_gradient_norm_is_infinite_where_only_a_gradient_is():
    root = lambda params, model_state, batch, *, key, step: (jnp.sqrt(params["w"]), (model_state, {}))
    _, scalars = gradient(root, optax.sgd(0.1))(scalar_state(), {"x": jnp.zeros(1)})
    assert float(scalars["loss"]) == 0.0
    assert not np.isfinite(scalars["gradient_norm"])


@pytest.mark.parametrize("microbatches", [1, 2])
def test_part_leaves_the_other_player_untouched(microbatches):
    optimizers = {"first": optax.adam(1e-2), "second": optax.adam(1e-3)}
    state = start(optimizers)
    step = jax.jit(gradient(accumulate(loss, microbatches), optimizers["second"], part="second"))
    after, scalars = step(state, batch_of(6))
    assert_same(after.params["first"], state.params["first"])
    assert_same(after.opt_state["first"], state.opt_state["first"])
    assert not np.array_equal(after.params["second"]["w"], state.params["second"]["w"])
    assert int(after.opt_state["second"][0].count) == 1
    assert scalars.keys() == {"second_loss", "second_gradient_norm", "absolute"}

    # the moves of one player alone are those of all, in its own sub-tree
    everything = optax.adam(1e-3)
    together, _ = jax.jit(gradient(loss, everything))(start(everything), batch_of(6))
    assert_close(after.params["second"], together.params["second"])


def test_a_player_without_an_optimizer_is_frozen():
    optimizers = {"second": optax.adam(1e-3)}
    state = start(optimizers)
    after, _ = jax.jit(gradient(loss, optimizers["second"], part="second"))(state, batch_of(6))
    assert after.opt_state.keys() == {"second"}
    assert_same(after.params["first"], state.params["first"])


def test_alternate_counts_rounds_and_gives_each_turn_its_own_randomness():
    turn = gradient(drawing_loss, optax.sgd(0.1))
    renamed = [
        lambda state, batch, n=n: (lambda after, s: (after, {f"draw{n}": s["draw"], "loss": s["loss"]}))(
            *turn(state, batch)
        )
        for n in range(3)
    ]
    step = jax.jit(alternate(*renamed))
    state, batch = scalar_state(), {"x": jnp.ones(3)}
    draws = []
    for _ in range(4):
        state, scalars = step(state, batch)
        draws += [float(scalars[f"draw{n}"]) for n in range(3)]
    assert len(set(draws)) == 12
    assert int(state.step) == 4
    assert_same(state.key, scalar_state().key)
    # a name that occurs in every turn keeps the value of the last: three updates a round were taken by then
    alone = scalar_state()
    for _ in range(12):
        alone, last = turn(alone, batch)
    assert_close(scalars["loss"], last["loss"])
    assert_close(state.params, alone.params)


def test_alternate_splits_the_batch_into_equal_shares():
    seen = []
    turn = lambda state, batch: (seen.append(np.asarray(batch["x"])), (state, {}))[1]
    alternate(turn, turn, split=True)(scalar_state(), {"x": jnp.arange(6.0)})
    assert [len(share) for share in seen] == [3, 3]
    assert sorted(np.concatenate(seen)) == list(range(6))
    with pytest.raises(ValueError, match="x of 5 samples cannot be cut into 2"):
        alternate(turn, turn, split=True)(scalar_state(), {"x": jnp.arange(5.0)})


@pytest.mark.parametrize("unroll", [True, False])
@pytest.mark.parametrize("remat", ["no", "inside", "outside"])
def test_accumulated_equals_the_big_batch(unroll, remat):
    state, batch = start(optax.sgd(0.1)), batch_of(12)
    inner = jax.checkpoint(loss) if remat == "inside" else loss
    parts = accumulate(inner, 4, unroll=unroll)
    parts = jax.checkpoint(parts) if remat == "outside" else parts

    def both(loss):
        # three times the loss, so that the backward pass is given a cotangent other than 1
        def tripled(params):
            value, aux = loss(params, state.model_state, batch, key=jax.random.key(0), step=jnp.zeros((), jnp.int32))
            return 3 * value, aux

        return jax.jit(jax.value_and_grad(tripled, has_aux=True))(state.params)

    (value, (model_state, scalars)), grads = both(parts)
    (big_value, (_, big_scalars)), big_grads = both(loss)
    assert_close((value, scalars, grads), (big_value, big_scalars, big_grads))

    expected = state.model_state
    for index in range(4):  # every microbatch takes every fourth sample, and the model's state passes through
        part = {name: leaf[index::4] for name, leaf in batch.items()}
        _, (expected, _) = loss(state.params, expected, part, key=None, step=None)
    assert_close(model_state, expected)
    assert int(model_state["seen"]) == 12


@pytest.mark.parametrize("unroll", [True, False])
def test_microbatches_draw_different_randomness(unroll):
    def spread(params, model_state, batch, *, key, step):
        draw = jax.random.uniform(key)
        return params["w"], (model_state, {"mean": draw, "square": draw**2})

    parts = accumulate(spread, 4, unroll=unroll)
    _, (_, scalars) = parts(
        {"w": jnp.ones(())}, {}, {"x": jnp.ones(4)}, key=jax.random.key(0), step=jnp.zeros((), jnp.int32)
    )
    assert float(scalars["square"]) - float(scalars["mean"]) ** 2 > 1e-3


def test_accumulate_refuses_unequal_parts():
    with pytest.raises(ValueError, match="x of 6 samples cannot be cut into 4 equal microbatches"):
        gradient(accumulate(loss, 4), optax.sgd(0.1))(start(optax.sgd(0.1)), batch_of(6))


@pytest.mark.parametrize("unroll", [True, False])
def test_accumulated_convolutions_on_eight_devices_equal_the_big_batch_on_one(unroll, one_device):
    rng = np.random.default_rng(0)
    batch = {name: rng.normal(size=(32, 6, 6, 3)).astype(np.float32) for name in ("x", "y")}
    kernels = {name: rng.normal(size=(3, 3, 3, 3)).astype(np.float32) / 5 for name in ("a", "b")}
    optimizer = optax.sgd(0.1, momentum=0.9)

    def after_two(loss, mesh):
        compiler = Compiler(mesh)
        init = lambda key: create_state(params=jax.tree.map(jnp.asarray, kernels), optimizer=optimizer, key=key)
        step, state = compiler.step(gradient(loss, optimizer), init), compiler.init(init, key=jax.random.key(0))
        for _ in range(2):
            state, scalars = step(state, compiler.shard(batch))
        return jax.device_get((state.params, state.opt_state, dict(scalars)))

    parts = after_two(accumulate(convolution_loss, 4, unroll=unroll), make_mesh(MeshConfig()))
    assert_close(parts, after_two(convolution_loss, one_device))


@given(decay=st.floats(0.0, 1.0), seed=st.integers(0, 100))
def test_averages_have_their_closed_form(decay, seed):
    path = np.random.default_rng(seed).normal(size=6)
    walk = lambda state, batch: (state.replace(step=state.step + 1, params={"w": batch["w"]}), {})
    decays = {"constant": decay, "warm": warmed_up(decay)}
    state, step = scalar_state(ema=decays), averaged(walk, decays)
    for value in path:
        state, _ = step(state, {"w": jnp.float32(value)})
    # sum over t of (1 - d_t) p_t times the product of all later d, and the start, 0, times the product of all
    for name, keep in {
        "constant": [decay] * 6,
        "warm": [min(decay, (1 + t) / (10 + t)) for t in range(6)],
    }.items():
        expected = sum((1 - keep[t]) * path[t] * np.prod(keep[t + 1 :]) for t in range(6))
        np.testing.assert_allclose(state.ema[name]["w"], expected, atol=1e-5)


def test_an_average_of_what_stands_still_is_exact():
    still = lambda state, batch: (state.replace(step=state.step + 1), {})
    optimizer = optax.sgd(0.1)
    state = start(optimizer, ema={"ema": 0.999})
    after, _ = averaged(still, {"ema": 0.999})(state, {})
    assert_same(after.ema["ema"], state.params)


def test_players_can_have_averages_of_their_own():
    still = lambda state, batch: (state.replace(step=state.step + 1), {})
    params = {"one": {"w": jnp.ones(())}, "two": {"w": jnp.ones(()) * 2}}
    state = create_state(params=params, optimizer={}, key=jax.random.key(0))
    state = state.replace(ema={"one": {"w": jnp.zeros(())}, "two": {"w": jnp.zeros(())}})
    step = averaged(
        averaged(still, {"one": 0.5}, of=lambda s: s.params["one"]), {"two": 0.75}, of=lambda s: s.params["two"]
    )
    after, _ = step(state, {})
    assert jax.tree.map(float, after.ema) == {"one": {"w": 0.5}, "two": {"w": 0.5}}


def test_an_average_of_all_variables_has_statistics_too():
    """Batch statistics are averaged with the parameters; a counter is copied."""

    def counting(state, batch):
        more = {"batch_stats": {"mean": state.model_state["batch_stats"]["mean"] + 4.0}, "seen": {"n": jnp.int32(7)}}
        return state.replace(step=state.step + 1, params={"w": jnp.ones(()) * 3}, model_state=more), {}

    state = create_state(
        params={"w": jnp.ones(())},
        optimizer=optax.identity(),
        key=jax.random.key(0),
        model_state={"batch_stats": {"mean": jnp.zeros(2)}, "seen": {"n": jnp.int32(0)}},
        ema={"ema": None},
        averaging=variables,
    )
    after, _ = averaged(counting, {"ema": 0.75}, of=variables)(state, {})
    assert jax.tree.map(lambda x: x.tolist(), after.ema["ema"]) == {
        "params": {"w": 1.5},
        "batch_stats": {"mean": [1.0, 1.0]},
        "seen": {"n": 7},
    }


@pytest.mark.parametrize("unroll", [True, False])
def test_repeated_is_single_steps(unroll):
    optimizer = optax.adam(1e-2)
    single = averaged(gradient(loss, optimizer), {"ema": 0.9})
    state = start(optimizer, ema={"ema": 0.9})
    batches = [batch_of(6, seed=index) for index in range(3)]
    together, means = jax.jit(repeated(single, 3, unroll=unroll))(
        state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
    )
    collected, single = [], jax.jit(single)
    for batch in batches:
        state, scalars = single(state, batch)
        collected.append(scalars)
    assert_close(together, state)
    assert_close(dict(means), {name: np.mean([s[name] for s in collected]) for name in means})


@pytest.mark.parametrize("unroll", [True, False])
def test_one_bad_step_of_several_shows(unroll):
    optimizer = optax.sgd(0.1)
    batches = {"x": jnp.array([[1.0], [np.nan], [1.0]])}
    forgetful = lambda state, batch: (scalar_state(), gradient(drawing_loss, optimizer)(state, batch)[1])
    _, scalars = repeated(forgetful, 3, unroll=unroll)(scalar_state(), batches)
    assert np.isnan(scalars["loss"])


def test_preprocessing_is_keyed_by_the_step_and_apart_from_the_loss():
    def transform(batch, *, key):
        return {**batch, "noise": jax.random.uniform(key)}

    def inner(params, model_state, batch, *, key, step):
        return params["w"], (model_state, {"noise": batch["noise"], "draw": jax.random.uniform(key)})

    step = jax.jit(gradient(preprocessed(inner, transform), optax.sgd(0.1)))
    state, found = scalar_state(), []
    for _ in range(3):
        state, scalars = step(state, {"x": jnp.ones(1)})
        found += [float(scalars["noise"]), float(scalars["draw"])]
    assert len(set(found)) == 6


def test_randomness_is_a_function_of_the_step_alone():
    step = jax.jit(gradient(drawing_loss, optax.sgd(0.1)))
    state, draws = scalar_state(), []
    for _ in range(4):
        state, scalars = step(state, {"x": jnp.ones(1)})
        draws.append(float(scalars["draw"]))
    other = scalar_state().replace(step=jnp.int32(2), params={"w": jnp.float32(7.0)})
    _, scalars = step(other, {"x": jnp.zeros(1)})
    assert float(scalars["draw"]) == draws[2]
    assert len(set(draws)) == 4


def test_two_players_learn_a_distribution():
    """Goodfellow et al. 2014 in one dimension, with the penalty of Mescheder et al. 2018, eq. 9 (R1)."""
    real = lambda key: 3.0 + 0.5 * jax.random.normal(key, (128,))
    generated = lambda params, key: params["shift"] + params["scale"] * jax.random.normal(key, (128,))
    logit = lambda params, x: params["linear"] * x + params["square"] * x**2 + params["bias"]

    def critic_loss(params, model_state, batch, *, key, step):
        critic = params["critic"]
        fake = generated(params["generator"], key)
        slope = jax.vmap(jax.grad(lambda x: logit(critic, x)))(batch["x"])
        value = jax.nn.softplus(-logit(critic, batch["x"])) + jax.nn.softplus(logit(critic, fake))
        return jnp.mean(value + 0.5 * slope**2), (model_state, {})

    def generator_loss(params, model_state, batch, *, key, step):
        fake = generated(params["generator"], key)
        return jax.nn.softplus(-logit(params["critic"], fake)).mean(), (model_state, {"spread": fake.std()})

    generator = lambda state: state.params["generator"]
    params = {
        "generator": {"shift": jnp.zeros(()), "scale": jnp.ones(())},
        "critic": {"linear": jnp.zeros(()), "square": jnp.zeros(()), "bias": jnp.zeros(())},
    }
    optimizers = {"generator": optax.adam(0.01, b1=0.5), "critic": optax.adam(0.05, b1=0.5)}
    state = create_state(
        params=params, optimizer=optimizers, key=jax.random.key(0), ema={"ema": None}, averaging=generator
    )
    rounds = alternate(
        gradient(critic_loss, optimizers["critic"], part="critic"),
        gradient(generator_loss, optimizers["generator"], part="generator"),
    )
    step = jax.jit(repeated(averaged(rounds, {"ema": 0.995}, of=generator), 100, unroll=False))
    for index in range(20):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(9), index), 100)
        state, scalars = step(state, {"x": jax.vmap(real)(keys)})
    assert int(state.step) == 2000
    assert scalars.keys() == {
        "critic_loss",
        "critic_gradient_norm",
        "generator_loss",
        "generator_gradient_norm",
        "spread",
    }
    assert abs(float(state.ema["ema"]["shift"]) - 3.0) < 0.15
    assert abs(abs(float(state.ema["ema"]["scale"])) - 0.5) < 0.2


def test_a_batch_of_boxes_in_several_sizes(one_device):
    """A detector's batch: boxes padded to a fixed number, a mask, and images of two sizes."""
    boxes_a_picture = 4

    def detect(params, model_state, batch, *, key, step):
        pooled = batch["image"].mean((1, 2))
        boxes = (pooled @ params["w"]).reshape(-1, boxes_a_picture, 4)
        error = jnp.abs(boxes - batch["boxes"]).sum(-1) * batch["mask"]
        return error.sum() / batch["mask"].sum(), (model_state, {"boxes": batch["mask"].sum()})

    optimizer = optax.sgd(1e-2)
    init = lambda key: create_state(
        params={"w": jax.random.normal(key, (3, 4 * boxes_a_picture))}, optimizer=optimizer, key=key
    )
    compiler = Compiler(one_device)
    step = compiler.step(gradient(detect, optimizer), init, shapes=2)
    state = compiler.init(init, key=jax.random.key(0))

    def pictures(side, garbage):
        rng = np.random.default_rng(side)
        mask = np.arange(boxes_a_picture) < np.array([[1], [4]])
        boxes = np.where(mask[..., None], rng.uniform(size=(2, boxes_a_picture, 4)), garbage).astype(np.float32)
        image = rng.normal(size=(2, side, side, 3)).astype(np.float32)
        return compiler.shard({"image": image, "boxes": boxes, "mask": mask})

    kept = jax.device_get(state.params)
    for side in (8, 12, 8, 12, 8):
        state, scalars = step(state, pictures(side, garbage=0.0))
        assert int(scalars["boxes"]) == 5
    assert step.traces == 2
    with pytest.raises(RuntimeError, match="more than 2 batch shapes"):
        step(state, pictures(16, garbage=0.0))

    losses = []
    for garbage in (0.0, 1e6):  # padding counts for nothing
        fresh = compiler.init(init, key=jax.random.key(0))
        assert_same(jax.device_get(fresh.params), kept)
        fresh, scalars = step(fresh, pictures(8, garbage))
        losses.append((float(scalars["loss"]), np.asarray(fresh.params["w"]).tolist()))
    assert losses[0] == losses[1]
