"""One device equals eight, however they are arranged: losses, parameters, averages, samples of diffusion networks.

The optimizer is gradient descent with momentum, not Adam: where a gradient is nearly zero, Adam divides its rounding
error by its size, so that two correct programs part after one step. All else is the real thing: dropout, flips, class
dropout, attention, two averages.
"""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vision.data.augment.image import flipped
from vision.diffusion.conditions import label_conditioning
from vision.models.dit import SHARDING_RULES as DIT_RULES
from vision.models.dit import DiT, DiTConfig
from vision.models.unet import SHARDING_RULES as UNET_RULES
from vision.models.unet import UNet, UNetConfig
from vision.ops.pixels import to_float
from vision.parallel import sharding
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.parallel.sharding import path_name
from vision.tasks.diffusion import DiffusionConfig, diffusion_loss, make_process
from vision.tasks.sampling import SamplingConfig, sampler
from vision.train.compile import Compiler
from vision.train.state import create_state
from vision.train.step import accumulate, averaged, gradient, preprocessed, warmed_up

STEPS, SIZE, SIDE = 4, 16, 16
UNET = UNetConfig(width=16, multipliers=(1, 2), blocks=1, attention=(), heads=2, dropout=0.1, classes=3, patch=4)
NETWORKS = {
    "UNet": (UNet(UNET), UNET_RULES),
    # one level is enough for microbatches, and compiles in half the time
    "small UNet": (UNet(replace(UNET, multipliers=(1,))), UNET_RULES),
    "DiT": (DiT(DiTConfig(patch=4, width=16, depth=2, heads=2, classes=3)), DIT_RULES),
}
DECAYS = {"ema": warmed_up(0.99), "short": 0.5}
MESHES = {
    "8 data": MeshConfig(),
    "2 data x 4 fsdp": MeshConfig(fsdp=4),
    "2 data x 2 fsdp x 2 tensor": MeshConfig(fsdp=2, tensor=2),
}


@pytest.fixture(autouse=True)
def tiny_arrays_are_sharded_too(monkeypatch):
    monkeypatch.setattr(sharding, "FSDP_MIN_ELEMENTS", 64)


@functools.cache
def trained(network, mesh_name, microbatches):
    """(state on its devices, losses, samples) after a few steps on the same batches."""
    one = mesh_name == "one device"
    mesh = make_mesh(MeshConfig(), jax.devices()[:1]) if one else make_mesh(MESHES[mesh_name])
    model, rules = NETWORKS[network]
    compiler = Compiler(mesh, rules)
    process = DiffusionConfig(schedule="cosine", prediction="v")
    schedule, conditioning = make_process(process), label_conditioning(3)
    prepare = lambda batch, *, key: flipped({**batch, "image": to_float(batch["image"])}, key=key)
    loss = accumulate(
        preprocessed(diffusion_loss(model, process, schedule, conditioning=conditioning), prepare), microbatches
    )
    optimizer = optax.sgd(0.3, momentum=0.9)

    def init(key):
        image, time = jnp.zeros((1, SIDE, SIDE, 3)), jnp.zeros((1,), jnp.int32)
        shapes = jax.eval_shape(lambda: model.init(key, image, time, {"label": time}, train=False)["params"])
        # A new network is zero at its end; noise lets every layer take part from the first step on.
        leaves = jax.tree_util.tree_leaves_with_path(shapes)
        noise = 0.1 * jax.random.normal(key, (sum(leaf.size for _, leaf in leaves),))
        starts = np.cumsum([0, *(leaf.size for _, leaf in leaves)])
        filled = [
            noise[at : at + leaf.size].reshape(leaf.shape) + ("scale" in path_name(path))
            for at, (path, leaf) in zip(starts, leaves, strict=False)
        ]
        params = jax.tree.unflatten(jax.tree.structure(shapes), filled)
        return create_state(params=params, optimizer=optimizer, key=key, ema=DECAYS)

    step = compiler.step(averaged(gradient(loss, optimizer), DECAYS), init)
    state, losses = compiler.init(init, key=jax.random.key(0)), []
    for index in range(STEPS):
        rng = np.random.default_rng(index)
        image = rng.integers(0, 256, (SIZE, SIDE, SIDE, 3), np.uint8)
        label = rng.integers(0, 3, SIZE).astype(np.int32)
        state, scalars = step(state, compiler.shard({"image": image, "label": label}))
        losses.append(jax.device_get(dict(scalars)))
    assert step.traces == 1
    samples = None
    if microbatches == 1:
        sampling, shape = SamplingConfig(steps=4, guidance=2.0), (SIDE, SIDE, 3)
        sample = sampler(model, process, schedule, sampling, conditioning=conditioning, image_shape=shape)
        compiled = compiler.function(
            lambda params, labels, key: sample({"params": params}, {"label": labels}, labels, key)
        )
        samples = compiled(state.ema["ema"], *compiler.replicate((np.arange(3, dtype=np.int32), jax.random.key(1))))
    return state, losses, samples


def assert_equal_up_to_rounding(found, expected):
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        # float32 has 7 digits; sums over 16 images in another order, four times over, leave more than 4
        scale = np.abs(other).max()
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5 * scale + 1e-7, err_msg=path_name(path))


@pytest.mark.parametrize(
    ("network", "mesh", "microbatches"),
    [
        *(("UNet", name, 1) for name in MESHES),
        ("small UNet", "2 data x 2 fsdp x 2 tensor", 2),
        ("DiT", "2 data x 4 fsdp", 1),
        ("DiT", "2 data x 2 fsdp x 2 tensor", 1),
    ],
)
def test_eight_devices_are_one(network, mesh, microbatches):
    state, losses, samples = trained(network, mesh, microbatches)
    one_state, one_losses, one_samples = trained(network, "one device", microbatches)
    assert_equal_up_to_rounding(losses, one_losses)
    for part in ("params", "ema", "opt_state"):
        assert_equal_up_to_rounding(
            *(jax.device_get(getattr(s, part)) for s in (state, one_state)),
        )
    if samples is not None:
        np.testing.assert_allclose(samples, one_samples, atol=1e-3)
        assert np.abs(np.asarray(samples)).max() <= 1

    # the comparison means something: the parameters moved, and by more than the tolerance
    start = np.asarray(one_state.ema["ema"]["stem"]["kernel"])
    assert np.abs(start - np.asarray(one_state.params["stem"]["kernel"])).max() > 1e-3


@pytest.mark.parametrize("mesh", ["2 data x 4 fsdp", "2 data x 2 fsdp x 2 tensor"])
def test_parameters_live_in_shards(mesh):
    state, _, _ = trained("UNet", mesh, 1)
    config = MESHES[mesh]
    shard = lambda leaf: leaf.sharding.shard_shape(leaf.shape)

    large = [leaf for leaf in jax.tree.leaves(state.params) if leaf.size >= 64]
    if config.fsdp > 1:  # every large array is divided by fsdp at least, but those with no axis that divides
        divisible = [leaf for leaf in large if any(side % config.fsdp == 0 for side in leaf.shape)]
        assert len(divisible) / len(large) > 0.95
        assert all(np.prod(shard(leaf)) * config.fsdp <= leaf.size for leaf in divisible)

    kernel = state.params["down_1_block_0"]["conv_in"]["kernel"]
    assert kernel.shape == (3, 3, 16, 32)
    assert shard(kernel)[-1] == 32 // config.tensor // (config.fsdp if config.tensor == 1 else 1)
    query = state.params["mid_attention"]["query"]["kernel"]
    assert shard(query)[1] == query.shape[1] // config.tensor // (config.fsdp if config.tensor == 1 else 1)
    out = state.params["mid_attention"]["out"]["kernel"]
    if config.tensor > 1:
        assert shard(out)[0] == out.shape[0] // config.tensor

    # optimizer state and averages are divided as the parameters are
    for other in (state.ema["ema"], state.ema["short"], state.opt_state[0].trace):
        assert [shard(leaf) for leaf in jax.tree.leaves(other)] == [
            shard(leaf) for leaf in jax.tree.leaves(state.params)
        ]
    held = sum(np.prod(shard(leaf)) for leaf in jax.tree.leaves(state.params))
    total = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert held / total < {"2 data x 4 fsdp": 0.27, "2 data x 2 fsdp x 2 tensor": 0.45}[mesh]
