import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.errors import UserError
from vision.pretrained.rules import (
    CONV,
    DENSE,
    POINTWISE,
    SAME,
    Rule,
    batch_norm_rules,
    conv_rules,
    dense_rules,
    from_published,
    named,
    renamed,
    surplus_prefix,
    to_published,
)

RULES = (
    *conv_rules("layer{stage}.{block}.conv", "stage_{stage}_block_{block}/conv"),
    *batch_norm_rules("layer{stage}.{block}.bn", "stage_{stage}_block_{block}/norm"),
    *dense_rules("se", "reduce", POINTWISE),
    *dense_rules("fc", "head"),
)
TARGET = {
    "params": {
        "stage_1_block_0": {
            "conv": {"kernel": jax.ShapeDtypeStruct((3, 2, 4, 5), jnp.float32)},
            "norm": {name: jax.ShapeDtypeStruct((5,), jnp.float32) for name in ("scale", "bias")},
        },
        "reduce": {
            "kernel": jax.ShapeDtypeStruct((5, 2), jnp.float32),
            "bias": jax.ShapeDtypeStruct((2,), jnp.float32),
        },
        "head": {
            "kernel": jax.ShapeDtypeStruct((5, 7), jnp.float32),
            "bias": jax.ShapeDtypeStruct((7,), jnp.float32),
        },
    },
    "batch_stats": {
        "stage_1_block_0": {"norm": {name: jax.ShapeDtypeStruct((5,), jnp.float32) for name in ("mean", "var")}}
    },
}
SHAPES = {
    "layer1.0.conv.weight": (5, 4, 3, 2),
    "layer1.0.bn.weight": (5,),
    "layer1.0.bn.bias": (5,),
    "layer1.0.bn.running_mean": (5,),
    "layer1.0.bn.running_var": (5,),
    "se.weight": (2, 5, 1, 1),
    "se.bias": (2,),
    "fc.weight": (7, 5),
    "fc.bias": (7,),
}


@pytest.fixture
def published():
    generator = np.random.default_rng(0)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def test_there_and_back(published):
    variables, left = from_published(published, TARGET, rules=RULES)
    assert left == ()
    block = variables["params"]["stage_1_block_0"]
    for o, i, h, w in np.ndindex(5, 4, 3, 2):
        assert block["conv"]["kernel"][h, w, i, o] == published["layer1.0.conv.weight"][o, i, h, w]
    np.testing.assert_array_equal(block["norm"]["scale"], published["layer1.0.bn.weight"])
    statistics = variables["batch_stats"]["stage_1_block_0"]["norm"]
    np.testing.assert_array_equal(statistics["var"], published["layer1.0.bn.running_var"])
    np.testing.assert_array_equal(variables["params"]["head"]["kernel"], published["fc.weight"].T)
    np.testing.assert_array_equal(variables["params"]["reduce"]["kernel"], published["se.weight"][:, :, 0, 0].T)
    back = to_published(variables, rules=RULES)
    assert set(back) == set(published)
    for name in published:
        np.testing.assert_array_equal(back[name], published[name], strict=True)


@given(shape=st.tuples(*[st.integers(1, 4)] * 4))
def test_layouts_are_inverses(shape):
    array = np.arange(np.prod(shape)).reshape(shape)
    for layout, value in (
        (SAME, array[0, 0, 0]),
        (CONV, array),
        (DENSE, array[0, 0]),
        (POINTWISE, array[:, :, :1, :1]),
    ):
        np.testing.assert_array_equal(layout.to_published(layout.to_ours(value)), value, strict=True)


def test_numbers_are_cast_to_the_target(published):
    half = {name: array.astype(jnp.bfloat16) for name, array in published.items()}
    variables, _ = from_published(half, TARGET, rules=RULES)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"extra.weight": (1,)}, "1 arrays that belong nowhere here: extra.weight$"),
        ({f"layer1.{i}.conv.weight": (1,) for i in range(1, 7)}, r"6 arrays .*layer1.1.conv.weight, .* and 3 more$"),
        ({"fc.bias": None}, "1 variables that nothing sets: params/head/bias$"),
        (
            {"fc.weight": (7, 6)},
            r"1 arrays that do not fit: fc.weight of shape \(7, 6\), where params/head/kernel needs \(7, 5\)$",
        ),
        ({"se.weight": (2, 5, 3, 3)}, r"se.weight of shape \(2, 5, 3, 3\), where .* needs \(2, 5, 1, 1\)"),
        ({"layer1.0.conv.weight": (5, 4)}, r"conv.weight of shape \(5, 4\), where .* needs \(5, 4, 3, 2\)"),
        ({"fc.bias": None, "fc.biass": (7,)}, "belong nowhere here: fc.biass; 1 variables that nothing sets: params/h"),
    ],
)
def test_both_directions_are_strict(published, changes, problem):
    for name, shape in changes.items():
        published.pop(name, None)
        if shape is not None:
            published[name] = np.zeros(shape, np.float32)
    with pytest.raises(UserError, match=problem):
        from_published(published, TARGET, rules=RULES)


def test_other_kinds_of_numbers_and_doubled_names(published):
    with pytest.raises(UserError, match=r"fc\.bias of int64, where params/head/bias is float32"):
        from_published({**published, "fc.bias": np.zeros(7, np.int64)}, TARGET, rules=RULES)
    with pytest.raises(UserError, match=r"1 arrays for what another array has set: linear\.bias"):
        from_published(
            {**published, "linear.bias": np.zeros(7, np.float32)},
            TARGET,
            rules=(*RULES, *dense_rules("linear", "head")),
        )


@pytest.mark.parametrize(
    ("number", "dtype"), [(np.nan, np.float32), (-np.inf, np.float16), (np.inf, jnp.bfloat16), (1e300, np.float64)]
)
def test_numbers_that_are_not_finite(published, number, dtype):
    """Also those that are too large for the variable."""
    weight = published["layer1.0.conv.weight"].astype(dtype)
    weight[1, 0, 0, :] = number
    with pytest.raises(
        UserError, match=r"1 arrays have numbers that are not finite: layer1\.0\.conv\.weight \(2 of 120 values\);"
    ):
        from_published({**published, "layer1.0.conv.weight": weight}, TARGET, rules=RULES)
    unused = {**published, "counter": np.array(np.nan)}
    from_published(unused, TARGET, rules=RULES, ignored=("^counter$",))


@pytest.mark.parametrize(
    "prefix", ["", "_orig_mod.", "module.", "model.", "backbone.", "module._orig_mod.", "_orig_mod.module.model."]
)
def test_prefixes_that_are_surplus(published, prefix):
    named_so = {f"{prefix}{name}": array for name, array in published.items()}
    of = lambda names: surplus_prefix(dict.fromkeys(names), TARGET, rules=RULES, ignored=("^counter$", "other"))
    assert of(named_so) == of([*named_so, "counter"]) == prefix
    # one name of another network is for from_published to refuse
    assert of([*named_so, f"{prefix}fd.weight"]) == prefix
    if prefix:
        # but names that do not all have it are not touched, nor those that are right with it
        assert of([*named_so, "fc.weight"]) == ""
        rules = [Rule(f"{prefix}{rule.published}", rule.ours) for rule in RULES]
        assert surplus_prefix(named_so, TARGET, rules=rules) == ""
    assert surplus_prefix({}, TARGET, rules=RULES) == ""
    assert of(["module.model.something"]) == ""


def test_ignored_names_need_no_rule(published):
    published["layer1.0.bn.num_batches_tracked"] = np.array(3)
    with pytest.raises(UserError, match="num_batches_tracked"):
        from_published(published, TARGET, rules=RULES)
    from_published(published, TARGET, rules=RULES, ignored=("num_batches_tracked$",))


@pytest.mark.parametrize("missing", [False, True])
def test_a_head_for_other_classes_stays_and_is_named(published, missing):
    target = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, np.float32), TARGET)
    target["params"]["head"] = {"kernel": np.full((5, 3), 0.25, np.float32), "bias": np.full(3, 0.25, np.float32)}
    if missing:
        del published["fc.weight"], published["fc.bias"]
    variables, left = from_published(published, target, rules=RULES, replaced=("^params/head/",))
    assert left == ("params/head/bias", "params/head/kernel")
    assert variables["params"]["head"]["kernel"] is target["params"]["head"]["kernel"]
    np.testing.assert_array_equal(variables["params"]["reduce"]["bias"], published["se.bias"])


def test_a_head_that_fits_is_loaded(published):
    variables, left = from_published(published, TARGET, rules=RULES, replaced=("^params/head/",))
    assert left == ()
    np.testing.assert_array_equal(variables["params"]["head"]["bias"], published["fc.bias"])


def test_writing_is_strict():
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), TARGET)
    with pytest.raises(UserError, match="1 variables have no published name: params/other"):
        to_published({**variables, "params": {**variables["params"], "other": np.zeros(1)}}, rules=RULES)
    with pytest.raises(UserError, match="1 variables have the published name of another: params/reduce/bias"):
        to_published(variables, rules=(Rule("fc.bias", "params/reduce/bias"), *RULES))


def test_words_of_names_are_whole_numbers_and_the_rest_is_literal():
    of = lambda name: renamed(name, pattern="a{x}.b{y}", template="{y}/{x}")
    assert of("a12.b3") == "3/12"
    for name in ("a1xb3", "a.b3", "ax.b3", "a1.b3.c", " a1.b3", "a-1.b3"):
        assert of(name) is None
    first = (Rule("w{i}", "one/{i}"), Rule("w1", "never"))
    variables, _ = from_published({"w1": np.ones(1)}, {"one": {"1": np.zeros(1)}}, rules=first)
    assert named(variables) == {"one/1": 1}
