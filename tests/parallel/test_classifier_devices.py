"""One device equals eight for classifiers: losses, variables and averages of each kind of network.

By gradient descent with momentum, for the reason that test_one_equals_eight.py gives; with random depth and dropout.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vision.models.convnext import ConvNeXtConfig
from vision.models.mobilenet import MobileNetV2Config
from vision.models.resnet import ResNetConfig
from vision.models.vgg import VggConfig
from vision.models.vit import ViTConfig
from vision.ops.pixels import to_float
from vision.parallel import sharding
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.parallel.sharding import path_name
from vision.recipes.classifiers import network
from vision.tasks.classification import ClassificationConfig, classification_loss
from vision.train.compile import Compiler
from vision.train.state import network_state, variables
from vision.train.step import averaged, gradient, preprocessed

STEPS, SIZE, SIDE, CLASSES = 3, 16, 16, 4
NETWORKS = {
    "ConvNeXt": ConvNeXtConfig(depths=(1, 1), widths=(8, 16), layer_scale=0.5, stochastic_depth=0.3, classes=CLASSES),
    "ResNeXt": ResNetConfig(depths=(1, 1), width=16, groups=4, group_width=16, stem="cifar", classes=CLASSES),
    "MobileNetV2": MobileNetV2Config(
        expansions=(1, 2), widths=(8, 16), depths=(1, 2), strides=(1, 2), stem_width=8, last_width=16, classes=CLASSES
    ),
    "VGG": VggConfig(depths=(1, 2), widths=(8, 16), hidden=16, dropout=0.1, classes=CLASSES),
    "ViT": ViTConfig(patch=4, width=16, depth=2, heads=2, dropout=0.1, stochastic_depth=0.3, classes=CLASSES),
}


@pytest.fixture(autouse=True)
def tiny_arrays_are_sharded_too(monkeypatch):
    monkeypatch.setattr(sharding, "FSDP_MIN_ELEMENTS", 64)


def trained(name, devices):
    """(state, losses, initial parameters) after a few steps, on one device or on eight in every kind of division."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1]) if devices == 1 else make_mesh(MeshConfig(fsdp=2, tensor=2))
    chosen = network(NETWORKS[name])
    # rounding takes one of a ReLU's many inputs across zero now and then, which no tolerance of rounding covers
    model = chosen.model.clone(act=jax.nn.softplus) if name == "ResNeXt" else chosen.model
    compiler, optimizer = Compiler(mesh, chosen.rules), optax.sgd(0.5, momentum=0.9)

    def prepare(batch, *, key):
        return {"image": to_float(batch["image"]), "target": jax.nn.one_hot(batch["label"], CLASSES)}

    def init(key):
        made = model.init(key, jnp.zeros((1, SIDE, SIDE, 3)), train=False)
        # the head of a new ViT is zero; noise lets every layer take part from the first step on
        noise = jax.tree.map(lambda leaf: 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), made)
        return network_state(jax.tree.map(jnp.add, made, noise), optimizer=optimizer, key=key, averages=("ema",))

    loss = preprocessed(classification_loss(model, ClassificationConfig()), prepare)
    step = compiler.step(averaged(gradient(loss, optimizer), {"ema": 0.9}, of=variables), init)
    state, losses = compiler.init(init, key=jax.random.key(0)), []
    start = jax.device_get(state.params)
    for index in range(STEPS):
        rng = np.random.default_rng(index)
        image = rng.integers(0, 256, (SIZE, SIDE, SIDE, 3), np.uint8)
        label = rng.integers(0, CLASSES, SIZE).astype(np.int32)
        state, scalars = step(state, compiler.shard({"image": image, "label": label}))
        losses.append(jax.device_get(dict(scalars)))
    assert step.traces == 1
    return state, losses, start


@pytest.mark.parametrize("name", NETWORKS)
def test_eight_devices_are_one(name):
    (state, losses, _), (one_state, one_losses, start) = trained(name, 8), trained(name, 1)
    trees = [(losses, one_losses)]
    trees += [
        tuple(jax.device_get(getattr(s, part)) for s in (state, one_state))
        for part in ("params", "model_state", "opt_state", "ema")
    ]
    for found, expected in trees:
        for (path, leaf), other in zip(
            jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
        ):
            scale = np.abs(other).max()
            np.testing.assert_allclose(leaf, other, rtol=2e-4, atol=2e-5 * scale + 1e-7, err_msg=path_name(path))
    # the comparison means something: every parameter moved, and some are divided by tensor
    for (path, leaf), other in zip(
        jax.tree_util.tree_leaves_with_path(one_state.params), jax.tree.leaves(start), strict=True
    ):
        # where a block ends without activation, the normalisation behind the next 1x1 convolution removes its bias
        still = name == "MobileNetV2" and path_name(path).endswith("norm_out/bias")
        assert (np.abs(leaf - other).max() < 5e-4) == still, path_name(path)
    assert any("tensor" in leaf.sharding.spec for leaf in jax.tree.leaves(state.params))
