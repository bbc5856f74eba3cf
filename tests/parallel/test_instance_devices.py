"""One device equals eight for Mask R-CNN: the losses of a step and the parameters after it.

One step and not several: where two proposals are nearly as likely, rounding may change which of them comes first.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from test_classifier_devices import tiny_arrays_are_sharded_too  # noqa: F401 - a fixture

from tests.models.tiny_mask_rcnn import TINY
from vision.models.instances.mask_rcnn import SHARDING_RULES, MaskRcnn
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.parallel.sharding import path_name
from vision.tasks.instances import InstanceLossConfig, mask_rcnn_loss
from vision.tasks.region_proposals import ProposalConfig
from vision.train.compile import Compiler
from vision.train.state import network_state
from vision.train.step import gradient

SIDE, IMAGES, BOXES = 64, 8, 5
LOSS = InstanceLossConfig(proposals=ProposalConfig(before=12, after=10), anchors=32, regions=12, region_positive=0.5)


def trained(devices):
    """(state, losses) after a step, on one device or on eight in every kind of division."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1]) if devices == 1 else make_mesh(MeshConfig(fsdp=2, tensor=2))
    model, optimizer = MaskRcnn(TINY), optax.sgd(0.1)
    compiler = Compiler(mesh, SHARDING_RULES)

    def init(key):
        made = model.init(key, jnp.zeros((1, SIDE, SIDE, 3)), train=False)
        return network_state(made, optimizer=optimizer, key=key, averages=())

    step = compiler.step(gradient(mask_rcnn_loss(model, LOSS), optimizer), init)
    random = np.random.default_rng(0)
    low = random.uniform(0, 40, (IMAGES, BOXES, 2))
    batch = {
        "image": random.normal(size=(IMAGES, SIDE, SIDE, 3)).astype(np.float32),
        "size": np.full((IMAGES, 2), SIDE, np.int32),
        "boxes": np.concatenate([low, low + random.uniform(8, 24, low.shape)], axis=-1).astype(np.float32),
        "labels": random.integers(0, 3, (IMAGES, BOXES)).astype(np.int32),
        "valid": np.arange(BOXES)[None] < np.arange(IMAGES)[:, None],
        "masks": random.integers(0, 2, (IMAGES, BOXES, SIDE, SIDE)).astype(bool),
    }
    state, scalars = step(compiler.init(init, key=jax.random.key(0)), compiler.shard(batch))
    return state, jax.device_get(dict(scalars))


def test_eight_devices_are_one():
    (state, losses), (one_state, one_losses) = trained(8), trained(1)
    pairs = ((losses, one_losses), (state.params, one_state.params), (state.model_state, one_state.model_state))
    for found, expected in jax.device_get(pairs):
        for (path, leaf), other in zip(
            jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
        ):
            scale = np.abs(other).max()
            np.testing.assert_allclose(leaf, other, rtol=2e-4, atol=2e-5 * scale + 1e-7, err_msg=path_name(path))
    assert any("tensor" in leaf.sharding.spec for leaf in jax.tree.leaves(state.params))
