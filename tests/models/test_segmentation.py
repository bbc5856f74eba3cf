"""Segmentation networks: sizes, every decoder on every kind of backbone, gradients, recomputation, sharding."""

import dataclasses
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.errors import UserError
from vision.models.convnext import ConvNeXt, ConvNeXtConfig
from vision.models.mobilenet import MobileNetV2, MobileNetV2Config
from vision.models.resnet import RESNET50, RESNET101, ResNet, ResNetConfig, cifar_resnet
from vision.models.segmentation.deeplab import DeepLabConfig
from vision.models.segmentation.fcn import FcnConfig
from vision.models.segmentation.feature_pyramid import PyramidConfig
from vision.models.segmentation.segmenter import SHARDING_RULES, Segmenter
from vision.models.segmentation.unet_decoder import UNetDecoderConfig
from vision.models.vgg import Vgg, VggConfig
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.parallel.sharding import path_name, shardings

RESNET = ResNetConfig(depths=(1, 1, 1, 1), width=8, classes=0)
BACKBONES = {
    "resnet": partial(ResNet, RESNET),
    "resnet of stride 8": partial(ResNet, dataclasses.replace(RESNET, block="basic", output_stride=8)),
    "convnext": partial(ConvNeXt, ConvNeXtConfig(depths=(1, 1, 1, 1), widths=(8, 16, 24, 32))),
    "mobilenet": partial(
        MobileNetV2,
        MobileNetV2Config(
            expansions=(1, 2, 2, 2, 2),
            widths=(8, 8, 16, 16, 24),
            depths=(1,) * 5,
            strides=(1, 2, 2, 2, 2),
            stem_width=8,
            last_width=32,
        ),
    ),
    "vgg": partial(Vgg, VggConfig(depths=(1,) * 5, widths=(4, 8, 8, 8, 8))),
}
DECODERS = {
    "fcn": FcnConfig(dropout=0.0),
    "deeplab": DeepLabConfig(width=8, dropout=0.0),
    "deeplab plus": DeepLabConfig(plus=True, width=8, fine_width=4, dropout=0.0),
    "deeplab separable": DeepLabConfig(plus=True, separable=True, width=8, fine_width=4, dropout=0.0),
    "unet": UNetDecoderConfig(width=16, narrowest=4),
    "pyramid": PyramidConfig(width=8, branch_width=8),
}
CLASSES = 3
SIZE = (50, 37)


class Pooled(nn.Module):
    """A backbone whose features are means of the image, without parameters: decoders are compiled quickly."""

    output_stride: int = 16

    def levels(self, image, *, train):
        """Features of strides 2, 4, 8, 16 and, as if dilated, 16."""
        found = {}
        for number in range(1, 6):
            if number < 5:
                # one row and one column more where a side is odd, as strided convolutions with padding make them
                odd = ((0, image.shape[1] % 2), (0, image.shape[2] % 2))
                image = nn.avg_pool(image, (2, 2), (2, 2), odd, count_include_pad=False)
            found[f"c{number}"] = jnp.sin(jnp.concatenate([image, 2 * image, image + number], -1))
        return found


def image(size=SIZE, count=4):
    return jax.random.normal(jax.random.key(0), (count, *size, 3))


def shapes(model, size=SIZE):
    """Shapes of all variables; nothing is computed."""
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *size, 3)), train=False))


def filled(tree):
    """Variables none of which is zero, with positive scales and variances."""
    generator = np.random.default_rng(0)

    def values(path, leaf):
        if path[-1].key in ("scale", "var"):
            return jnp.asarray(generator.uniform(0.5, 1.5, leaf.shape), jnp.float32)
        spread = generator.normal(size=leaf.shape) / np.sqrt(max(np.prod(leaf.shape[:-1]), 4))
        return jnp.asarray(spread, jnp.float32)

    return jax.tree_util.tree_map_with_path(values, tree)


@pytest.mark.parametrize("decoder", ["unet", "fcn"])
def test_features_of_full_resolution(decoder):
    """Of a stem for CIFAR: c1 and c2 of stride 1, then 2 and 4; of the decoders that take any strides."""
    model = Segmenter(partial(ResNet, dataclasses.replace(cifar_resnet(8, classes=0), width=4)), DECODERS[decoder], 3)
    variables = filled(shapes(model))
    logits = jax.jit(partial(model.apply, train=False))(variables, image()).logits
    assert logits.shape == (4, *SIZE, CLASSES)
    if decoder == "unet":  # a pixel is seen at its place: logits are not merely upsampled
        assert len(np.unique(np.round(np.diff(logits[0, 10, :, 0], 2), 4))) > SIZE[1] // 2


def count(model):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes(model, (64, 64))["params"]))


# counted in torchvision 0.28, 21 classes
@pytest.mark.parametrize(
    ("backbone", "decoder", "auxiliary", "parameters"),
    [
        (RESNET50, FcnConfig(), False, 32_957_013),
        (RESNET50, FcnConfig(), True, 35_322_218),
        (RESNET50, DeepLabConfig(), False, 39_638_869),
        (RESNET50, DeepLabConfig(), True, 42_004_074),
        (RESNET101, DeepLabConfig(), True, 60_996_202),
    ],
)
def test_published_sizes(backbone, decoder, auxiliary, parameters):
    dilated = dataclasses.replace(backbone, output_stride=8)
    assert count(Segmenter(partial(ResNet, dilated), decoder, auxiliary=auxiliary)) == parameters


def test_sizes_of_decoders_by_hand():
    """As the papers' layers add up, on a ResNet-50 with 21 classes; c2 to c5 have 256 to 2048 channels, c1 64."""
    conv = lambda inputs, outputs, size=3: size**2 * inputs * outputs + 2 * outputs
    encoder = 23_508_032
    logits = lambda inputs: inputs * 21 + 21
    of = lambda decoder: count(Segmenter(partial(ResNet, RESNET50), decoder)) - encoder
    pyramid = conv(2048, 256, 1) + 3 * conv(2048, 256) + conv(2048, 256, 1) + conv(1280, 256, 1)
    assert of(DeepLabConfig(plus=True)) == pyramid + conv(256, 48, 1) + conv(304, 256) + conv(256, 256) + logits(256)
    steps = ((2048 + 1024, 256), (256 + 512, 128), (128 + 256, 64), (64 + 64, 32))
    assert of(UNetDecoderConfig()) == sum(conv(a, b) + conv(b, b) for a, b in steps) + logits(32)
    laterals = sum(inputs * 256 + 256 + 9 * 256 * 256 + 256 for inputs in (256, 512, 1024, 2048))
    branches = sum(conv(256, 128) + (halvings - 1) * conv(128, 128) for halvings in (1, 1, 2, 3))
    assert of(PyramidConfig()) == laterals + branches + logits(128)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder_on_every_backbone_gives_logits_of_every_pixel(decoder, backbone):
    """Also where sides are no multiples of the stride; and one network takes images of all sizes."""
    model = Segmenter(BACKBONES[backbone], DECODERS[decoder], CLASSES, auxiliary=True, dtype=jnp.bfloat16)
    init = partial(model.init_with_output, jax.random.key(0), train=False)
    of = lambda size: jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    made, variables = jax.eval_shape(init, of(SIZE))
    assert {"backbone", "decoder", "auxiliary"} == set(variables["params"])
    other = jax.eval_shape(partial(model.apply, train=False), variables, of((64, 32)))
    for size, found in ((SIZE, made), ((64, 32), other)):
        assert found.logits.shape == found.auxiliary.shape == (2, *size, CLASSES)
        assert found.logits.dtype == found.auxiliary.dtype == jnp.float32


@cache
def gradients(decoder, remat=False):
    """(logits, gradients) in training with the statistics of the batch, of a decoder alone."""
    config = DECODERS[decoder]
    config = dataclasses.replace(config, remat=True) if remat else config
    model = Segmenter(Pooled, config, CLASSES)
    variables = filled(shapes(model))

    def loss(params):
        made, _ = model.apply({**variables, "params": params}, image(), train=True, mutable=["batch_stats"])
        assert made.auxiliary is None
        return jnp.sum(jnp.sin(made.logits)), made.logits

    grads, logits = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    return logits, grads


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_parameter_has_a_gradient(decoder):
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients(decoder)[1]):
        assert np.isfinite(leaf).all(), path_name(path)
        assert np.abs(leaf).max() > 1e-5, path_name(path)


@pytest.mark.parametrize("decoder", ["deeplab", "unet", "pyramid"])
def test_remat_equals_plain(decoder):
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(b).max())
    jax.tree.map(close, gradients(decoder, remat=True), gradients(decoder))
    config = dataclasses.replace(DECODERS[decoder], remat=True)
    model = Segmenter(Pooled, config, CLASSES)
    text = str(jax.make_jaxpr(lambda v: model.apply(v, image(), train=False))(filled(shapes(model))))
    assert text.count("remat2[") + text.count("checkpoint[") == {"deeplab": 1, "unet": 4, "pyramid": 4}[decoder]


def test_a_whole_network_in_training():
    """Every parameter of the backbone, the decoder and the auxiliary head has a gradient; statistics move."""
    dilated = dataclasses.replace(RESNET, output_stride=8, zero_init=False)
    model = Segmenter(partial(ResNet, dilated), FcnConfig(), CLASSES, auxiliary=True)
    variables = filled(shapes(model))

    def loss(params, key):
        made, state = model.apply(
            {**variables, "params": params}, image(), train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )
        return jnp.sum(jnp.sin(made.logits)) + jnp.sum(jnp.sin(made.auxiliary)), (made.logits, state)

    run = jax.jit(jax.grad(loss, has_aux=True))
    grads, (logits, state) = run(variables["params"], jax.random.key(0))
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        assert np.abs(leaf).max() > 1e-5, path_name(path)
    for old, new in zip(jax.tree.leaves(variables["batch_stats"]), jax.tree.leaves(state["batch_stats"]), strict=True):
        assert (np.asarray(old) != np.asarray(new)).any()
    assert np.abs(run(variables["params"], jax.random.key(1))[1][0] - logits).max() > 1e-3, "dropout is active"


@pytest.mark.parametrize("decoder", DECODERS)
def test_sharding_rules_hold(decoder):
    """For every parameter; rules are strict."""
    mesh = make_mesh(MeshConfig(data=4, tensor=2))
    model = Segmenter(Pooled, DECODERS[decoder], 5, auxiliary=True)
    placed = shardings(shapes(model), mesh=mesh, rules=SHARDING_RULES)["params"]
    assert placed["auxiliary"]["mix"]["conv"]["kernel"].spec[-1] == "tensor"
    assert any("tensor" in leaf.spec for leaf in jax.tree.leaves(placed["decoder"]))


def test_features_that_are_missing_are_named():
    class Few(Pooled):
        def levels(self, image, *, train):
            found = super().levels(image, train=train)
            return {"c3": found["c3"]}

    with pytest.raises(UserError, match="DeepLabV3\\+ needs features c2, and the backbone has c3: choose a backbone"):
        shapes(Segmenter(Few, DECODERS["deeplab plus"], CLASSES))
    with pytest.raises(UserError, match="an auxiliary head needs features c4, and the backbone has c3"):
        shapes(Segmenter(Few, DECODERS["unet"], CLASSES, auxiliary=True))
    with pytest.raises(UserError, match="a feature pyramid needs features c2"):
        shapes(Segmenter(Few, DECODERS["pyramid"], CLASSES))
