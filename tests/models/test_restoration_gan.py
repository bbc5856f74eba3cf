"""Discriminators of super-resolution, and the UNet as a restoration network: sizes, states, refusals."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.errors import UserError
from vision.models.gan.restoration import UNetDiscriminator, VggDiscriminator, patch_halvings
from vision.models.restoration.unet import UNET_RESTORATION, RestorationUNet, unet_multiple
from vision.platform import shapes_of

KEY = jax.random.key(0)


def parameters(module, side):
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    shapes = shapes_of(lambda x: module.init(KEY, x, train=False), image)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def test_sizes():
    # of BasicSR's UNetDiscriminatorSN, and of VGGStyleDiscriminator for patches of 128 pixels
    assert parameters(UNetDiscriminator(), 64) == 4_376_897
    convolutions = 0
    before = 3
    for index in range(5):
        width = 64 * min(2**index, 8)
        convolutions += 9 * before * width + 16 * width * width + width * (3 + (1 if index else 0))
        before = width
    assert parameters(VggDiscriminator(), 128) == convolutions + 512 * 16 * 100 + 100 + 101
    assert [patch_halvings(side) for side in (4, 16, 32, 128, 256)] == [0, 2, 3, 5, 5]


@pytest.mark.parametrize(
    ("module", "collection"), [(VggDiscriminator(4), "batch_stats"), (UNetDiscriminator(4), "spectral")]
)
def test_logits(module, collection):
    images = jnp.asarray(np.random.default_rng(0).random((2, 16, 16, 3), np.float32))
    variables = module.init(KEY, images, train=False)
    logits, moved = module.apply(variables, images, train=True, mutable=[collection])
    assert logits.shape[0] == 2
    assert logits.dtype == jnp.float32
    change = jax.tree.map(lambda a, b: np.abs(a - b).max(), dict(variables)[collection], moved[collection])
    assert max(jax.tree.leaves(change)) > 0


@pytest.mark.parametrize(("module", "side"), [(VggDiscriminator(4), 36), (UNetDiscriminator(4), 12)])
def test_patches_of_other_sizes(module, side):
    with pytest.raises(UserError, match=r"choose --data\.patch as a multiple of"):
        module.init(KEY, jnp.zeros((1, side, side, 3)), train=False)


def test_the_unet_starts_as_the_identity_at_any_size():
    config = replace(UNET_RESTORATION, width=8, multipliers=(1, 2))
    images = jnp.asarray(np.random.default_rng(0).random((1, 9, 14, 3), np.float32))
    module = RestorationUNet(config)
    variables = module.init(KEY, images, train=False)
    made = module.apply(variables, images, train=False)
    assert made.shape == images.shape
    assert unet_multiple(config) == 2
    np.testing.assert_allclose(made, images, atol=0.6)
    with pytest.raises(UserError, match="as many channels out as in, not 6"):
        RestorationUNet(replace(config, out_channels=6)).init(KEY, images, train=False)
