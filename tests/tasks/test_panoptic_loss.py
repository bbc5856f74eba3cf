"""Panoptic losses: gradients of all parameters, weights, void; what the detector gives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny_mask_rcnn import TINY
from tests.tasks.test_instances import FEW, SIDE, batch_of
from vision.models.instances.mask_rcnn import MaskRcnn
from vision.models.instances.panoptic import PanopticRcnn, PanopticRcnnConfig
from vision.parallel.sharding import path_name
from vision.tasks.instances import InstanceDetectorConfig, instance_detector, mask_rcnn_loss
from vision.tasks.panoptic import PanopticLossConfig, panoptic_detector, panoptic_loss
from vision.tasks.region_proposals import ProposalConfig

MODEL = PanopticRcnn(PanopticRcnnConfig(TINY, stuff=4, branch_width=8))
VOID = 255


@pytest.fixture(scope="module")
def variables():
    made = jax.jit(lambda key: MODEL.init(key, jnp.zeros((1, SIDE, SIDE, 3)), train=False))(jax.random.key(0))
    return jax.device_get(made)


@pytest.fixture(scope="module")
def losses():
    """Compiled: (variables, batch, two weights) -> ((loss, scalars), gradients)."""

    @partial(jax.jit, static_argnums=2)
    def run(variables, batch, weights):
        config = PanopticLossConfig(FEW, instance_weight=weights[0], semantic_weight=weights[1])
        state = {"batch_stats": variables["batch_stats"]}

        def of(params):
            own = panoptic_loss(MODEL, config, ignore=VOID)
            total, (_, scalars) = own(params, state, batch, key=jax.random.key(0), step=jnp.int32(0))
            return total, scalars

        return jax.value_and_grad(of, has_aux=True)(variables["params"])

    return run


def batch_with_stuff():
    semantic = np.random.default_rng(1).integers(0, 5, (2, SIDE, SIDE)).astype(np.uint8)
    semantic[:, :9] = VOID
    return {**batch_of(), "semantic": semantic}


def test_every_parameter_has_a_gradient_and_weights_weigh(variables, losses):
    batch = batch_with_stuff()
    run = lambda *weights: jax.device_get(losses(variables, batch, weights))
    (total, scalars), gradients = run(1.0, 0.5)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(leaf).all(), path_name(path)
        assert np.abs(leaf).max() > 0, path_name(path)
    things = sum(scalars[name] for name in ("objectness", "region_box", "class", "box", "mask"))
    np.testing.assert_allclose(total, things + 0.5 * scalars["semantic"], rtol=1e-5)
    (other, _), weighted = run(2.0, 0.0)
    np.testing.assert_allclose(other, 2 * things, rtol=1e-5)
    assert not any(leaf.any() for leaf in jax.tree.leaves(weighted["semantic"]))
    # published weights by default
    assert (PanopticLossConfig().instance_weight, PanopticLossConfig().semantic_weight) == (1.0, 0.5)


def test_instance_losses_are_those_of_mask_rcnn(variables, losses):
    batch = batch_with_stuff()
    (_, scalars), _ = jax.device_get(losses(variables, batch, (1.0, 0.5)))
    own = {name: each for name, each in variables["params"].items() if name != "semantic"}
    state = {"batch_stats": variables["batch_stats"]}
    loss = mask_rcnn_loss(MaskRcnn(TINY), FEW)
    run = jax.jit(lambda of: loss(own, state, of, key=jax.random.key(0), step=jnp.int32(0)))
    _, (_, expected) = jax.device_get(run(batch))
    for name, value in expected.items():
        np.testing.assert_allclose(scalars[name], value, rtol=1e-4, err_msg=name)


def test_void_pixels_do_not_count(variables, losses):
    batch = batch_with_stuff()
    of = lambda semantic: losses(variables, {**batch, "semantic": semantic}, (1.0, 0.5))
    run = lambda semantic: jax.device_get(of(semantic))[0][1]["semantic"]
    all_void = np.full_like(batch["semantic"], VOID)
    assert run(all_void) == 0
    one = all_void.copy()
    one[0, 20, 20] = 3
    other = all_void.copy()
    other[0, 20, 20] = 2
    assert 0 < run(one) != run(other) > 0
    # a class that is none is no silent target
    wrong = one.copy()
    wrong[0, 30, 30] = 7
    assert np.isnan(run(wrong))


def test_what_is_found(variables):
    config = InstanceDetectorConfig(proposals=ProposalConfig(before=20, after=10), confidence=0.0, max_detections=5)
    images = jnp.asarray(batch_of()["image"])
    own = {**variables, "params": {k: v for k, v in variables["params"].items() if k != "semantic"}}
    run = jax.jit(
        lambda x: (panoptic_detector(MODEL, config)(variables, x), instance_detector(MaskRcnn(TINY), config)(own, x))
    )
    found, expected = jax.device_get(run(images))
    assert found.semantic.shape == (2, SIDE, SIDE, 5)
    for one, other in zip(found.instances, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
