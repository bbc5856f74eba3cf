"""One device equals eight for a panoptic network: the losses of a step and the parameters after it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from test_classifier_devices import tiny_arrays_are_sharded_too  # noqa: F401 - a fixture
from test_instance_devices import BOXES, IMAGES, LOSS, SIDE

from tests.models.tiny_mask_rcnn import TINY
from vision.models.instances.panoptic import SHARDING_RULES, PanopticRcnn, PanopticRcnnConfig
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.parallel.sharding import path_name
from vision.tasks.panoptic import PanopticLossConfig, panoptic_loss
from vision.train.compile import Compiler
from vision.train.state import network_state
from vision.train.step import gradient

VOID = 255


def trained(devices):
    """(state, losses) after a step, on one device or on eight in every kind of division."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1]) if devices == 1 else make_mesh(MeshConfig(fsdp=2, tensor=2))
    model, optimizer = PanopticRcnn(PanopticRcnnConfig(TINY, stuff=3, branch_width=8)), optax.sgd(0.1)
    compiler = Compiler(mesh, SHARDING_RULES)

    def init(key):
        made = model.init(key, jnp.zeros((1, SIDE, SIDE, 3)), train=False)
        return network_state(made, optimizer=optimizer, key=key, averages=())

    loss = panoptic_loss(model, PanopticLossConfig(LOSS), ignore=VOID)
    step = compiler.step(gradient(loss, optimizer), init)
    random = np.random.default_rng(0)
    low = random.uniform(0, 40, (IMAGES, BOXES, 2))
    semantic = random.integers(0, 4, (IMAGES, SIDE, SIDE)).astype(np.uint8)
    for place in range(IMAGES):  # each image has another share of void
        semantic[place, : 8 * place] = VOID
    batch = {
        "image": random.normal(size=(IMAGES, SIDE, SIDE, 3)).astype(np.float32),
        "size": np.full((IMAGES, 2), SIDE, np.int32),
        "boxes": np.concatenate([low, low + random.uniform(8, 24, low.shape)], axis=-1).astype(np.float32),
        "labels": random.integers(0, 3, (IMAGES, BOXES)).astype(np.int32),
        "valid": np.arange(BOXES)[None] < np.arange(IMAGES)[:, None],
        "masks": random.integers(0, 2, (IMAGES, BOXES, SIDE, SIDE)).astype(bool),
        "semantic": semantic,
    }
    state, scalars = step(compiler.init(init, key=jax.random.key(0)), compiler.shard(batch))
    return state, jax.device_get(dict(scalars))


def test_eight_devices_are_one():
    (state, losses), (one_state, one_losses) = trained(8), trained(1)
    assert losses["semantic"] > 0
    pairs = ((losses, one_losses), (state.params, one_state.params), (state.model_state, one_state.model_state))
    for found, expected in jax.device_get(pairs):
        for (path, leaf), other in zip(
            jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
        ):
            scale = np.abs(other).max()
            np.testing.assert_allclose(leaf, other, rtol=2e-4, atol=2e-5 * scale + 1e-7, err_msg=path_name(path))
