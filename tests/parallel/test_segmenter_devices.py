"""One device equals eight for segmentation networks: losses, gradients, statistics and parameters, of each decoder.

By gradient descent with momentum, whose memory is the gradient after the first step; with dropout, an auxiliary head,
and images that differ in how much of them is void.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_classifier_devices import tiny_arrays_are_sharded_too  # noqa: F401 - a fixture

from vision.data.annotations.index_masks import VOID
from vision.models import resnet
from vision.models.resnet import ResNet, ResNetConfig
from vision.models.segmentation.deeplab import DeepLabConfig
from vision.models.segmentation.feature_pyramid import PyramidConfig
from vision.models.segmentation.segmenter import SHARDING_RULES, Segmenter
from vision.models.segmentation.unet_decoder import UNetDecoderConfig
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.parallel.sharding import path_name
from vision.tasks.segmentation import SegmentationLossConfig, segmentation_loss
from vision.train.compile import Compiler
from vision.train.state import network_state
from vision.train.step import gradient

IMAGES, SIDE, CLASSES = 8, 32, 3
DECODERS = {
    "DeepLabV3+": DeepLabConfig(plus=True, width=8, fine_width=4, rates=(2, 4)),
    "UNet": UNetDecoderConfig(width=16),
    "pyramid": PyramidConfig(width=8, branch_width=8),
}
BACKBONE = ResNetConfig(depths=(1, 1, 1, 1), block="basic", width=8, zero_init=False, output_stride=16, classes=0)


def trained(decoder, devices):
    """(state, losses, initial parameters) after a step, on one device or on eight in every kind of division."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1]) if devices == 1 else make_mesh(MeshConfig(fsdp=2, tensor=2))
    model = Segmenter(partial(ResNet, BACKBONE), DECODERS[decoder], CLASSES, auxiliary=True)
    compiler, optimizer = Compiler(mesh, (*SHARDING_RULES, *resnet.SHARDING_RULES)), optax.sgd(0.1, momentum=0.9)

    def init(key):
        made = model.init(key, jnp.zeros((1, SIDE, SIDE, 3)), train=False)
        return network_state(made, optimizer=optimizer, key=key, averages=())

    loss = segmentation_loss(model, SegmentationLossConfig(dice=1.0, lovasz=1.0), classes=CLASSES, ignore=VOID)
    step = compiler.step(gradient(loss, optimizer), init)
    random = np.random.default_rng(0)
    truth = random.integers(0, CLASSES, (IMAGES, SIDE, SIDE)).astype(np.int32)
    for index, rows in enumerate(range(0, SIDE, SIDE // IMAGES)):
        truth[index, :rows] = VOID
    batch = {"image": random.normal(size=(IMAGES, SIDE, SIDE, 3)).astype(np.float32), "semantic": truth}
    state = compiler.init(init, key=jax.random.key(0))
    start = jax.device_get(state.params)
    state, scalars = step(state, compiler.shard(batch))
    return state, jax.device_get(dict(scalars)), start


@pytest.mark.parametrize("decoder", DECODERS)
def test_eight_devices_are_one(decoder):
    (state, losses, _), (one_state, one_losses, start) = trained(decoder, 8), trained(decoder, 1)
    trees = [(losses, one_losses)]
    trees += [
        tuple(jax.device_get(getattr(s, part)) for s in (state, one_state))
        for part in ("params", "model_state", "opt_state")
    ]
    for found, expected in trees:
        for (path, leaf), other in zip(
            jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
        ):
            scale = np.abs(other).max()
            np.testing.assert_allclose(leaf, other, rtol=2e-4, atol=2e-5 * scale + 1e-7, err_msg=path_name(path))
    # the comparison means something: parameters moved, and some of the decoder are divided by tensor
    for (path, leaf), other in zip(
        jax.tree_util.tree_leaves_with_path(one_state.params), jax.tree.leaves(start), strict=True
    ):
        assert np.abs(leaf - other).max() > 1e-5, path_name(path)
    assert any("tensor" in leaf.sharding.spec for leaf in jax.tree.leaves(state.params["decoder"]))
