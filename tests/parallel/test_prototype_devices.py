"""One device equals eight for a network with prototypes: the losses of a step and the parameters after it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from test_classifier_devices import tiny_arrays_are_sharded_too  # noqa: F401 - a fixture

from vision.models.instances.prototypes import SHARDING_RULES, PrototypeConfig, PrototypeYolo
from vision.models.yolo import YoloConfig, scaled_anchors
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.parallel.sharding import path_name
from vision.tasks.prototypes import PrototypeLossConfig, prototype_loss
from vision.train.compile import Compiler
from vision.train.state import network_state
from vision.train.step import gradient

SIDE, IMAGES, BOXES = 64, 8, 5
MODEL = PrototypeConfig(
    YoloConfig(depth=0.33, width=0.125, classes=3, anchors=scaled_anchors(160)), prototypes=4, width=64
)
LOSS = PrototypeLossConfig(positives=6, mask=1.0)


def trained(devices):
    """(state, losses) after a step, on one device or on eight in every kind of division."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1]) if devices == 1 else make_mesh(MeshConfig(fsdp=2, tensor=2))
    network, optimizer = PrototypeYolo(MODEL), optax.sgd(0.1)
    compiler = Compiler(mesh, SHARDING_RULES)

    def init(key):
        made = network.init(key, jnp.zeros((1, SIDE, SIDE, 3)), train=False)
        return network_state(made, optimizer=optimizer, key=key, averages=())

    step = compiler.step(gradient(prototype_loss(network, MODEL, LOSS), optimizer), init)
    random = np.random.default_rng(0)
    low = random.uniform(0, 40, (IMAGES, BOXES, 2))
    batch = {
        "image": random.normal(size=(IMAGES, SIDE, SIDE, 3)).astype(np.float32),
        "boxes": np.concatenate([low, low + random.uniform(8, 24, low.shape)], axis=-1).astype(np.float32),
        "labels": random.integers(0, 3, (IMAGES, BOXES)).astype(np.int32),
        "valid": np.arange(BOXES)[None] < np.arange(IMAGES)[:, None],
        "instances": random.integers(0, BOXES, (IMAGES, SIDE, SIDE)).astype(np.uint8),
    }
    state, scalars = step(compiler.init(init, key=jax.random.key(0)), compiler.shard(batch))
    return state, jax.device_get(dict(scalars))


def test_eight_devices_are_one():
    (state, losses), (one_state, one_losses) = trained(8), trained(1)
    assert losses["mask"] > 0.1
    pairs = ((losses, one_losses), (state.params, one_state.params), (state.model_state, one_state.model_state))
    for found, expected in jax.device_get(pairs):
        for (path, leaf), other in zip(
            jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
        ):
            scale = np.abs(other).max()
            np.testing.assert_allclose(leaf, other, rtol=2e-4, atol=2e-5 * scale + 1e-7, err_msg=path_name(path))
    assert any("tensor" in leaf.sharding.spec for leaf in jax.tree.leaves(state.params))
