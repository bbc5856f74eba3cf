"""Blocks of detectors: the stem against the convolution that it is, pools against windows, shapes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vision.nn.conv_norm_act import StemConv
from vision.nn.csp import Bottleneck, CSPBlock, PyramidPool, yolo_conv


def test_the_stem_is_a_convolution_of_6x6():
    images = jax.random.normal(jax.random.key(0), (2, 12, 16, 3))
    variables = StemConv(5).init(jax.random.key(1), images)
    assert jax.tree.map(jnp.shape, variables) == {"params": {"kernel": (6, 6, 3, 5)}}
    plain = nn.Conv(5, (6, 6), 2, padding=2, use_bias=False)
    np.testing.assert_allclose(StemConv(5).apply(variables, images), plain.apply(variables, images), atol=1e-5)


def test_the_pyramid_has_maxima_of_three_windows():
    features = jax.random.normal(jax.random.key(0), (2, 9, 7, 4))

    class Same(nn.Module):
        """In place of the convolutions: leaves its input as it is, so that the maxima are seen."""

        channels: int

        @nn.compact
        def __call__(self, x, *, train):
            return x

    found = PyramidPool(16, conv=Same).apply({}, features, train=False)
    pool = lambda n: nn.max_pool(features, (n, n), padding=((n // 2, n // 2),) * 2)
    np.testing.assert_array_equal(found, jnp.concatenate([features, pool(5), pool(9), pool(13)], -1))


def test_blocks_count_and_keep_the_resolution():
    features = jnp.zeros((2, 8, 6, 24))
    for depth, shortcut in ((1, True), (3, False)):
        block = CSPBlock(16, depth, shortcut)
        variables = jax.eval_shape(lambda key, block=block: block.init(key, features, train=False), jax.random.key(0))
        # through, past and mix, and a 1x1 and a 3x3 of 8 channels in each bottleneck; two vectors a normalisation
        expected = 2 * (24 * 8 + 16) + (16 * 16 + 32) + depth * (8 * 8 + 16 + 9 * 8 * 8 + 16)
        assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == expected
        out = jax.eval_shape(lambda v, block=block: block.apply(v, features, train=False), variables)
        assert out.shape == (2, 8, 6, 16)


def test_a_shortcut_adds_the_features():
    """A bottleneck whose second convolution is 0 leaves them as they are, or nothing."""
    features = jax.random.normal(jax.random.key(0), (1, 4, 4, 8))

    def through(shortcut):
        block = Bottleneck(8, shortcut, yolo_conv)
        variables = block.init(jax.random.key(0), features, False)
        variables["params"]["conv_3x3"]["conv"]["kernel"] *= 0.0
        return block.apply(variables, features, False)

    np.testing.assert_array_equal(through(True), features)
    np.testing.assert_array_equal(through(False), 0 * features)
