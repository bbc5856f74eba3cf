"""Which parameters a pattern finds; frozen ones; decay of weights alone; learning rates by layer."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vision.errors import UserError
from vision.models.resnet import ResNetConfig, layer_of, layers
from vision.parallel.sharding import path_name
from vision.train.parameter_groups import frozen, layerwise, matching, scaled_by, weights_alone

SHAPES = {
    "stem_conv/kernel": (3, 3, 1, 4),
    "stem_norm/scale": (4,),
    "stage_1_block_0/conv_in/kernel": (3, 3, 4, 4),
    "stage_2_block_0/norm_in/bias": (8,),
    "head/kernel": (8, 2),
    "head/bias": (2,),
}


def tree(seed):
    """Numbers of these shapes, nested as parameters are."""
    generator, nested = np.random.default_rng(seed), {}
    for path, shape in SHAPES.items():
        *modules, name = path.split("/")
        at = nested
        for module in modules:
            at = at.setdefault(module, {})
        at[name] = jnp.asarray(generator.normal(size=shape), jnp.float32)
    return nested


def flat(nested):
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(nested)}


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        ((), ()),
        (("stem",), ("stem_conv/kernel", "stem_norm/scale")),
        (
            ("stage_[12]", "^head/bias$"),
            ("stage_1_block_0/conv_in/kernel", "stage_2_block_0/norm_in/bias", "head/bias"),
        ),
        (("kernel$", "head"), ("stem_conv/kernel", "stage_1_block_0/conv_in/kernel", "head/kernel", "head/bias")),
    ],
)
def test_patterns_are_found_anywhere_in_the_path(patterns, found):
    assert {name for name, chosen in flat(matching(tree(0), patterns)).items() if chosen} == set(found)


def test_patterns_that_find_nothing_or_are_none():
    with pytest.raises(UserError, match=r"no parameter has 'stage_3' in its path; there are .*, .*, .* and 3 more$"):
        matching(tree(0), ("stem", "stage_3"))
    with pytest.raises(UserError, match=r"there are w$"):
        matching({"w": jnp.zeros(2)}, ("stem",))
    with pytest.raises(UserError, match=r"'stage_\[' is no regular expression: "):
        matching(tree(0), ("stage_[",))


def test_frozen_parameters_stay_bit_for_bit_and_take_no_state():
    still = ("stem", "norm")
    optimizer, plain = frozen(optax.adamw(0.1, weight_decay=0.3), still), optax.adamw(0.1, weight_decay=0.3)
    params = others = before = tree(0)
    state, other_state = optimizer.init(params), plain.init(params)
    kept = {name for name, chosen in flat(matching(params, still)).items() if chosen}
    assert kept == {"stem_conv/kernel", "stem_norm/scale", "stage_2_block_0/norm_in/bias"}
    assert not [name for name in flat(state) if any(each in name for each in kept)]
    # two moments of every parameter that is trained, and of no other
    sizes = lambda state: sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
    assert sizes(state) == 2 * sum(leaf.size for name, leaf in flat(params).items() if name not in kept)
    assert sizes(other_state) == 2 * sum(leaf.size for leaf in jax.tree.leaves(params))

    @partial(jax.jit, static_argnums=0)
    def step(optimizer, params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for seed in (1, 2, 3):
        grads = tree(seed)
        others, other_state = step(plain, others, other_state, grads)
        # not even a gradient that is not finite moves what is frozen
        broken = jax.tree.map(lambda g, off: jnp.full_like(g, jnp.nan) if off else g, grads, matching(grads, still))
        params, state = step(optimizer, params, state, broken)
    for name, leaf in flat(params).items():
        np.testing.assert_array_equal(leaf, flat(before if name in kept else others)[name])


def test_an_optimizer_without_frozen_parameters_is_itself():
    optimizer = optax.sgd(0.1)
    assert frozen(optimizer, ()) is optimizer


def test_weights_are_what_has_more_than_one_axis():
    decayed = {name for name, chosen in flat(weights_alone(tree(0))).items() if chosen}
    assert decayed == {name for name in SHAPES if name.endswith("kernel")}


def test_updates_scale_with_the_path():
    transformation = scaled_by(lambda name: 3.0 if name.startswith("head") else 0.5)
    updates, _ = transformation.update(tree(1), transformation.init(tree(0)), tree(0))
    for name, leaf in flat(updates).items():
        np.testing.assert_array_equal(leaf, (3.0 if "head" in name else 0.5) * flat(tree(1))[name])


def test_learning_rates_fall_with_every_layer_away_from_the_head():
    """Stem, two blocks of the first stage, one of the second, head: layers 0 to 4."""
    config = ResNetConfig(depths=(2, 1))
    transformation = optax.chain(optax.sgd(0.1), layerwise(0.5, partial(layer_of, config), layers(config) - 1))
    updates, _ = transformation.update(tree(1), transformation.init(tree(0)), tree(0))
    depth = {"stem_conv": 4, "stem_norm": 4, "stage_1_block_0": 3, "stage_2_block_0": 1, "head": 0}
    for name, leaf in flat(updates).items():
        np.testing.assert_allclose(leaf, -0.1 * 0.5 ** depth[name.split("/")[0]] * flat(tree(1))[name], rtol=1e-6)


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.5])
def test_layer_wise_decay_is_a_share(decay):
    with pytest.raises(UserError, match=rf"layer-wise decay is a factor within \(0, 1\], not {decay}"):
        layerwise(decay, lambda name: 0, 1)
