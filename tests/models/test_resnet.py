"""ResNets: their sizes against published and written-out counts, their gradients, and the equality of variants."""

import dataclasses
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.errors import UserError
from vision.models import resnet
from vision.models.resnet import (
    SHARDING_RULES,
    BasicBlock,
    BottleneckBlock,
    ResNet,
    ResNetConfig,
    Shortcut,
    cifar_resnet,
)
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.parallel.sharding import shardings
from vision.recipes.classifiers import CLASSIFIERS

BASIC = ResNetConfig(depths=(1, 1), block="basic", width=8, stem="cifar", classes=3)
EVERYTHING = ResNetConfig(
    depths=(1, 2),
    width=8,
    stem="deep",
    shortcut="average",
    groups=2,
    group_width=32,
    squeeze_excite=1 / 8,
    classes=3,
    channels=2,
    zero_init=False,
)
VARIATIONS = {
    "basic": BASIC,
    "remat": dataclasses.replace(BASIC, remat=True),
    "identity": dataclasses.replace(BASIC, shortcut="identity"),
    "everything": EVERYTHING,
}
PUBLISHED = {
    "RESNET18": 11_689_512,
    "RESNET34": 21_797_672,
    "RESNET50": 25_557_032,
    "RESNET101": 44_549_160,
    "RESNET152": 60_192_808,
    "RESNET50_D": 25_576_264,
    "RESNEXT50_32X4D": 25_028_904,
    "WIDE_RESNET50_2": 68_883_240,
    "SE_RESNET50": 28_088_024,
    "CIFAR_RESNET18": 11_173_962,
}


def _image(config, side=16):
    return jax.random.normal(jax.random.key(0), (4, side, side, config.channels))


@cache
def _shapes(config, side=16):
    """Shapes of all variables; nothing is computed."""
    image = jax.ShapeDtypeStruct((4, side, side, config.channels), jnp.float32)
    return jax.eval_shape(lambda image: ResNet(config).init(jax.random.key(0), image, train=False), image)


@cache
def _random_variables(config):
    """Variables none of which is zero, with positive scales and variances."""
    return _random_like(_shapes(config))


def _random_like(shapes):
    generator = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key in ("scale", "var"):
            return jnp.asarray(generator.uniform(0.5, 1.5, leaf.shape), jnp.float32)
        return jnp.asarray(generator.normal(size=leaf.shape) / np.sqrt(max(np.prod(leaf.shape[:-1]), 4)), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def _count(config):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(_shapes(config, side=64)["params"]))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    assert _count(getattr(resnet, name)) == PUBLISHED[name]


@pytest.mark.parametrize(
    ("depth", "parameters"), [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962)]
)
def test_sizes_of_cifar_networks(depth, parameters):
    """As the layers add up, which rounded are 0.27, 0.46, 0.66, 0.85 and 1.7 million in table 6 of He et al. 2016."""
    n = (depth - 2) // 6
    conv = lambda inputs, outputs: 9 * inputs * outputs + 2 * outputs
    total = conv(3, 16) + 2 * n * conv(16, 16)
    total += conv(16, 32) + (2 * n - 1) * conv(32, 32) + conv(32, 64) + (2 * n - 1) * conv(64, 64)
    total += 64 * 10 + 10
    assert _count(cifar_resnet(depth)) == total == parameters
    assert CLASSIFIERS[f"resnet{depth}"] == cifar_resnet(depth)


@pytest.mark.parametrize("depth", [2, 18, 21])
def test_depths_that_no_cifar_network_has(depth):
    with pytest.raises(UserError, match=f"depth {depth}: choose 6n"):
        cifar_resnet(depth)


def test_basic_blocks_have_no_groups():
    with pytest.raises(UserError, match=r"basic blocks have neither groups .* \(groups=2, group_width=64\)"):
        _shapes(dataclasses.replace(BASIC, groups=2))


def _training_loss(config, params, key):
    variables = {**_random_variables(config), "params": params}
    logits, _ = ResNet(config).apply(
        variables, _image(config), train=True, rngs={"dropout": key}, mutable=["batch_stats"]
    )
    return jnp.sum(jnp.sin(logits * jnp.arange(1, 13).reshape(4, 3)))


@pytest.fixture(scope="module")
def gradients():
    """(value, gradient) of one scalar of the logits in training, for each variation, each compiled once."""

    @cache
    def of(name):
        config = VARIATIONS[name]
        function = jax.jit(jax.value_and_grad(partial(_training_loss, config)))
        return function(_random_variables(config)["params"], jax.random.key(1))

    return of


@pytest.mark.parametrize("name", VARIATIONS)
def test_every_parameter_has_a_gradient(name, gradients):
    _, grads = gradients(name)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        where = jax.tree_util.keystr(path)
        assert leaf.dtype == jnp.float32, where
        assert np.isfinite(leaf).all(), where
        assert np.abs(leaf).max() > 1e-5, where


def test_remat_equals_plain(gradients):
    for plain, remat in zip(jax.tree.leaves(gradients("basic")), jax.tree.leaves(gradients("remat")), strict=True):
        np.testing.assert_allclose(remat, plain, rtol=1e-4, atol=1e-4)
    text = {
        name: str(
            jax.make_jaxpr(partial(_training_loss, VARIATIONS[name]))(
                _random_variables(BASIC)["params"], jax.random.key(0)
            )
        )
        for name in ("basic", "remat")
    }
    assert [text[name].count("remat2[") + text[name].count("checkpoint[") for name in text] == [0, 2]


@pytest.fixture(scope="module")
def forward():
    """Logits of EVERYTHING, with the running statistics."""
    return np.asarray(
        jax.jit(lambda v: ResNet(EVERYTHING).apply(v, _image(EVERYTHING), train=False))(_random_variables(EVERYTHING))
    )


def test_bfloat16_is_close_to_float32(forward):
    config = dataclasses.replace(EVERYTHING, dtype="bfloat16")
    run = lambda v: ResNet(config).apply(v, _image(config), train=False)
    half = jax.jit(run)(_random_variables(EVERYTHING))
    assert half.dtype == jnp.float32
    error = float(np.sqrt(np.mean((half - forward) ** 2) / np.mean(forward**2)))
    assert 0 < error < 0.03
    leaves = jax.tree.leaves(_shapes(config))
    assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}
    features = lambda v: ResNet(config).apply(v, _image(config), train=False, method="features")
    levels = jax.eval_shape(features, _shapes(config))
    assert {name: level.dtype.name for name, level in levels.items()} == {
        "c1": "bfloat16",
        "c2": "bfloat16",
        "c3": "bfloat16",
        "pooled": "float32",
    }


@pytest.mark.parametrize(
    ("config", "sides", "channels"),
    [
        (resnet.RESNET50, (32, 16, 8, 4, 2), (64, 256, 512, 1024, 2048)),
        (dataclasses.replace(resnet.RESNET18, stem="deep"), (32, 16, 8, 4, 2), (64, 64, 128, 256, 512)),
        (resnet.CIFAR_RESNET18, (64, 64, 32, 16, 8), (64, 64, 128, 256, 512)),
        (cifar_resnet(20), (64, 64, 32, 16), (16, 16, 32, 64)),
    ],
    ids=["50", "deep stem", "cifar 18", "cifar 20"],
)
def test_levels_of_features(config, sides, channels):
    shapes = _shapes(config, side=64)
    image = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    levels = jax.eval_shape(lambda v, x: ResNet(config).apply(v, x, train=False, method="features"), shapes, image)
    expected = {f"c{i + 1}": (2, side, side, c) for i, (side, c) in enumerate(zip(sides, channels, strict=True))}
    assert {name: level.shape for name, level in levels.items()} == {**expected, "pooled": (2, channels[-1])}


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_dilation_keeps_what_strides_skip(block):
    """Features of strides 32 are every second and every fourth of those of a dilated network with equal weights."""
    config = ResNetConfig(depths=(1, 1, 2, 3), block=block, width=8, classes=0)
    variables = _random_variables(config)
    image = jax.random.normal(jax.random.key(0), (2, 77, 64, 3))
    run = lambda stride: ResNet(dataclasses.replace(config, output_stride=stride)).apply(
        variables, image, train=False, method="levels"
    )
    plain, middle, fine = jax.jit(lambda: tuple(run(stride) for stride in (32, 16, 8)))()
    for levels, (third, fourth) in ((plain, (1, 1)), (middle, (1, 2)), (fine, (2, 4))):
        np.testing.assert_array_equal(levels["c3"], plain["c3"])
        for name, factor in (("c4", third), ("c5", fourth)):
            every = levels[name][:, ::factor, ::factor]
            np.testing.assert_allclose(every, plain[name], rtol=1e-4, atol=1e-4 * np.abs(every).max(), err_msg=name)
    assert fine["c5"].shape[1:3] == fine["c4"].shape[1:3] == fine["c3"].shape[1:3] == (10, 8)
    assert [ResNet(dataclasses.replace(config, output_stride=stride)).output_stride for stride in (8, 16, 32)] == [
        *(8, 16, 32)
    ]


def test_dilation_changes_neither_parameters_nor_that_there_is_a_classifier():
    dilated = dataclasses.replace(resnet.RESNET50, output_stride=8)
    assert jax.tree.map(jnp.shape, _shapes(dilated, 64)) == jax.tree.map(jnp.shape, _shapes(resnet.RESNET50, 64))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"stem": "cifar"}, "of 4 stages with the stem cifar has features of stride 8 at most"),
        ({"depths": (1, 1)}, "of 2 stages with the stem imagenet has features of stride 8 at most"),
    ],
)
def test_strides_that_a_network_cannot_have(changes, sentence):
    config = dataclasses.replace(resnet.RESNET18, output_stride=16, **changes)
    with pytest.raises(UserError, match=f"{sentence} and cannot have output_stride=16: choose output_stride=32"):
        _shapes(config, 64)


def test_without_classes_the_output_is_the_pooled_features(forward):
    config = dataclasses.replace(EVERYTHING, classes=0)
    assert "head" not in _shapes(config)["params"]
    variables = _random_variables(EVERYTHING)

    @jax.jit
    def run(variables):
        head = variables["params"]["head"]
        headless = {**variables, "params": {k: v for k, v in variables["params"].items() if k != "head"}}
        pooled = ResNet(config).apply(headless, _image(config), train=False)
        levels = ResNet(config).apply(headless, _image(config), train=False, method="features")
        return pooled, levels, pooled @ head["kernel"] + head["bias"]

    pooled, levels, logits = run(variables)
    np.testing.assert_array_equal(pooled, levels["pooled"])
    np.testing.assert_allclose(pooled, levels["c3"].mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(logits, forward, rtol=1e-4, atol=1e-5)


def test_training_moves_the_statistics_and_evaluation_does_not():
    variables, image = _random_variables(BASIC), 2 * _image(BASIC) + 1

    @jax.jit
    def run(variables):
        apply = partial(ResNet(BASIC).apply, variables, image, mutable=["batch_stats"])
        first = nn.Conv(8, (3, 3), use_bias=False).apply({"params": variables["params"]["stem_conv"]}, image)
        return apply(train=True)[1]["batch_stats"], apply(train=False)[1], first

    moved, still, first = run(variables)
    before = variables["batch_stats"]
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(moved), strict=True):
        assert (np.asarray(old) != np.asarray(new)).all()
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(still["batch_stats"]), strict=True):
        np.testing.assert_array_equal(old, new)
    # Ioffe & Szegedy 2015, algorithm 1, and a tenth of the way to the statistics of the batch
    old, new = before["stem_norm"], moved["stem_norm"]
    np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * first.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * first.var((0, 1, 2)), rtol=1e-4)


def test_variants_are_composed():
    """Another normalisation and another activation, everywhere, without an option for either."""
    norm = lambda *, train, scale_init=nn.initializers.ones, **of: nn.GroupNorm(2, scale_init=scale_init, **of)
    model = ResNet(EVERYTHING, norm=norm, act=jnp.tanh)
    image = _image(EVERYTHING)
    variables = _random_like(jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False)))
    assert set(variables) == {"params"}
    levels = jax.jit(lambda v: model.apply(v, image, train=True, method="features"))(variables)
    assert levels["pooled"].shape == (4, 64)
    for name in ("c1", "c2", "c3"):
        assert -1 <= levels[name].min() < -0.1 < 0.1 < levels[name].max() <= 1


@pytest.mark.parametrize("make", [partial(BasicBlock, 8), partial(BottleneckBlock, 8, 4)])
def test_residual_branches_begin_closed_or_open(make):
    features = jnp.zeros((2, 4, 4, 8))
    init = lambda zero_init: make(zero_init=zero_init).init(jax.random.key(1), features, False)["params"]
    # Only these leaves are computed
    scales = jax.jit(lambda: {zero: init(zero)["norm_out"]["scale"] for zero in (True, False)})()
    np.testing.assert_array_equal(scales[True], np.zeros(8))
    np.testing.assert_array_equal(scales[False], np.ones(8))


def test_initial_weights():
    """Convolutions normal of variance 2 / fan out, the head uniform within 1 / sqrt(fan in), as in torchvision."""
    init = lambda: ResNet(resnet.CIFAR_RESNET18).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)

    @jax.jit
    def chosen():
        params = init()["params"]
        return params["stage_2_block_0"]["conv_in"]["kernel"], params["head"]["kernel"]

    kernel, head = map(np.asarray, chosen())
    assert abs(kernel.std() / np.sqrt(2 / (9 * 128)) - 1) < 0.02
    assert np.abs(kernel).max() > 3.5 * kernel.std()
    assert 0.99 / np.sqrt(512) < np.abs(head).max() <= 1 / np.sqrt(512)


def test_shortcuts_by_hand():
    """Identity: every other pixel, zeros around the channels. Average: means of what there is in each 2x2 square."""
    features = jnp.arange(2 * 5 * 3 * 2, dtype=jnp.float32).reshape(2, 5, 3, 2)
    found = Shortcut(6, 2, kind="identity").apply({}, features, False)
    expected = np.zeros((2, 3, 2, 6), np.float32)
    expected[..., 2:4] = features[:, ::2, ::2]
    np.testing.assert_array_equal(found, expected)

    module = Shortcut(2, 2, kind="average", norm=lambda **_: lambda x: x)
    found = module.apply({"params": {"conv": {"kernel": jnp.eye(2)[None, None]}}}, features, False)
    for row, column in np.ndindex(3, 2):
        square = features[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        np.testing.assert_allclose(found[:, row, column], square.mean((1, 2)), rtol=1e-6)
    same = Shortcut(2, 1, kind="projection").apply({}, features, False)
    np.testing.assert_array_equal(same, features)


def test_stochastic_depth_and_dropout_act_only_in_training():
    """With all samples equal, those whose branch was left out differ; the last branch goes most often."""
    config = ResNetConfig(
        depths=(2,), block="basic", width=8, stem="cifar", stochastic_depth=0.5, classes=0, zero_init=False
    )
    norm = lambda *, train, dtype, name: nn.GroupNorm(2, name=name)
    image = jnp.broadcast_to(jax.random.normal(jax.random.key(0), (1, 4, 4, 3)), (256, 4, 4, 3))
    model = ResNet(config, norm=norm)

    variables = _random_like(jax.eval_shape(lambda: model.init(jax.random.key(0), image[:1], train=False)))
    draw = lambda v: model.apply(v, image, train=True, rngs={"dropout": jax.random.key(2)})
    still, drawn = jax.jit(lambda v: (model.apply(v, image[:1], train=False), draw(v)))(variables)
    assert still.shape == (1, 8)
    kinds, counts = np.unique(np.round(drawn, 4), axis=0, return_counts=True)
    # Rates 1/4 and 1/2: the four outcomes have the probabilities 1/8, 1/8, 3/8, 3/8
    assert len(kinds) == 4
    expected = 256 * np.array([1, 1, 3, 3]) / 8
    assert np.abs(np.sort(counts) - expected).max() < 4 * np.sqrt(256 * 3 / 8 * 5 / 8)

    dropping = dataclasses.replace(BASIC, dropout=0.5)
    variables = _random_variables(dropping)
    one = jnp.broadcast_to(_image(dropping)[:1], (4, 16, 16, 3))
    run = lambda train: ResNet(dropping, norm=lambda *, train, **of: nn.BatchNorm(True, **of)).apply(
        variables, one, train=train, rngs={"dropout": jax.random.key(0)}
    )
    kept, dropped = jax.jit(lambda: (run(False), run(True)))()
    assert np.abs(kept - kept[:1]).max() < 1e-5
    assert len(np.unique(np.round(dropped, 4), axis=0)) == 4


@pytest.mark.parametrize("tensor", [2, 4])
def test_sharding_rules_hold(tensor):
    """For every parameter of the published networks; rules are strict."""
    mesh = make_mesh(MeshConfig(tensor=tensor))
    configs = [getattr(resnet, name) for name in PUBLISHED if name not in ("RESNET34", "RESNET101", "RESNET152")]
    for config in (*configs, cifar_resnet(20), cifar_resnet(110)):
        placed = shardings(_shapes(config, side=64), mesh=mesh, rules=SHARDING_RULES)
        first = placed["params"]["stage_1_block_0"]
        assert first["conv_in"]["kernel"].spec[-1] == first["conv_out"]["kernel"].spec[-1] == "tensor"
        assert len(first["conv_in"]["kernel"].spec) == 4
        assert len(first["conv_out"]["kernel"].spec) == 3


def test_sharded_equals_whole(forward):
    """One network divided among tensor=2 gives the logits of one device."""
    mesh = make_mesh(MeshConfig(data=1, tensor=2), jax.devices()[:2])
    variables = _random_variables(EVERYTHING)
    placed = jax.device_put(variables, shardings(variables, mesh=mesh, rules=SHARDING_RULES))
    kernel = placed["params"]["stage_2_block_0"]["conv_mid"]["kernel"]
    assert kernel.addressable_shards[0].data.shape[-1] == kernel.shape[-1] // 2
    found = jax.jit(lambda v: ResNet(EVERYTHING).apply(v, _image(EVERYTHING), train=False))(placed)
    np.testing.assert_allclose(found, forward, rtol=1e-4, atol=1e-5)
