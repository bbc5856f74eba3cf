"""Inception-v3 as in the graph that TensorFlow published in December 2015, which defines FID.

Szegedy et al. 2016 ("Rethinking the Inception Architecture for Computer Vision", arXiv:1512.00567), table 1 with the
blocks of its figures 5, 6, 7 and 10. Heusel et al. 2017 take the pooled features of this one graph for the Fréchet
Inception Distance, Salimans et al. 2016 its classes for the Inception Score. It differs from the networks that were
trained later under the same name:

- average pools inside blocks divide by the number of pixels under the window, without padding;
- the last block has a maximum where all others of its kind have an average;
- batch normalisation adds 1e-3 to the variance. It has the scale of the published weights;
- there are 1008 classes, of which 1000 have names, and no auxiliary classifier.

The network is fixed: it has no training mode and no options. Products are in full float32 on every backend, since the
lower precision that accelerators use by default changes the features. Published weights are loaded by
``vision/pretrained/inception.py``; images are prepared as in the protocols by
``vision/pretrained/inception_features.py``.
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vision.errors import UserError
from vision.nn.batch_norm import batch_norm
from vision.nn.convolution import Conv, PointwiseConv

SIDE = 299
"""Height and width of the images that the protocols use."""
SMALLEST = 75
"""The least height and width that leave one pixel to pool over."""
FEATURES, CLASSES = 2048, 1008


class InceptionOutput(NamedTuple):
    """The output of the network for a batch of images, float32."""

    pool: Float[Array, "b 2048"]
    """Features, the mean over the last map: TensorFlow's ``pool_3``, which FID and KID compare."""
    unbiased_logits: Float[Array, "b 1008"]
    """Logits without the bias, as in the code of the Inception Score."""
    logits: Float[Array, "b 1008"]
    """Logits with the bias, as in the graph."""


class Unit(nn.Module):
    """Convolution without bias, batch normalisation by the running statistics, rectifier."""

    channels: int
    kernel: tuple[int, int] = (1, 1)
    strides: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b H W channels"]:
        """Sizes are kept, or reduced with padding "VALID"."""
        if self.kernel == (1, 1):
            made = PointwiseConv(self.channels, name="conv")(features)
        else:
            conv = Conv(self.channels, self.kernel, self.strides, self.padding, use_bias=False, name="conv")
            made = conv(features)
        return nn.relu(batch_norm(train=False, epsilon=1e-3, name="norm")(made))


Halved = partial(Unit, kernel=(3, 3), strides=2, padding="VALID")

_halved_maximum = partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2), padding="VALID")
_mean_around = partial(nn.avg_pool, window_shape=(3, 3), padding="SAME", count_include_pad=False)
_maximum_around = partial(nn.max_pool, window_shape=(3, 3), padding="SAME")


class Block35(nn.Module):
    """Figure 5, on maps of 35x35: one 1x1; one 5x5; two 3x3 in turn; a pool. ``pooled`` channels of the pool."""

    pooled: int

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """The concatenated branches."""
        single = Unit(64, name="conv_1x1")(features)
        five = Unit(48, name="conv_5x5_1")(features)
        five = Unit(64, (5, 5), name="conv_5x5_2")(five)
        double = Unit(64, name="double_3x3_1")(features)
        double = Unit(96, (3, 3), name="double_3x3_2")(double)
        double = Unit(96, (3, 3), name="double_3x3_3")(double)
        pool = Unit(self.pooled, name="pool_1x1")(_mean_around(features))
        return jnp.concatenate([single, five, double, pool], axis=-1)


class Reduction35(nn.Module):
    """Figure 10, from 35x35 to 17x17: one 3x3; two 3x3 in turn; a maximum."""

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b H W d"]:
        """The concatenated branches."""
        single = Halved(384, name="conv_3x3")(features)
        double = Unit(64, name="double_3x3_1")(features)
        double = Unit(96, (3, 3), name="double_3x3_2")(double)
        double = Halved(96, name="double_3x3_3")(double)
        return jnp.concatenate([single, double, _halved_maximum(features)], axis=-1)


class Block17(nn.Module):
    """Figure 6 with n = 7, on maps of 17x17: a 7x7 as a row and a column, with ``inner`` channels between them."""

    inner: int

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """The concatenated branches."""
        row, column = (1, 7), (7, 1)
        single = Unit(192, name="conv_1x1")(features)
        seven = Unit(self.inner, name="conv_7x7_1")(features)
        seven = Unit(self.inner, row, name="conv_7x7_2")(seven)
        seven = Unit(192, column, name="conv_7x7_3")(seven)
        double = Unit(self.inner, name="double_7x7_1")(features)
        double = Unit(self.inner, column, name="double_7x7_2")(double)
        double = Unit(self.inner, row, name="double_7x7_3")(double)
        double = Unit(self.inner, column, name="double_7x7_4")(double)
        double = Unit(192, row, name="double_7x7_5")(double)
        pool = Unit(192, name="pool_1x1")(_mean_around(features))
        return jnp.concatenate([single, seven, double, pool], axis=-1)


class Reduction17(nn.Module):
    """From 17x17 to 8x8: a 3x3; a 7x7 as row and column, then a 3x3; a maximum."""

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b H W d"]:
        """The concatenated branches."""
        three = Unit(192, name="conv_3x3_1")(features)
        three = Halved(320, name="conv_3x3_2")(three)
        seven = Unit(192, name="conv_7x7x3_1")(features)
        seven = Unit(192, (1, 7), name="conv_7x7x3_2")(seven)
        seven = Unit(192, (7, 1), name="conv_7x7x3_3")(seven)
        seven = Halved(192, name="conv_7x7x3_4")(seven)
        return jnp.concatenate([three, seven, _halved_maximum(features)], axis=-1)


class Block8(nn.Module):
    """Figure 7, on maps of 8x8: a row and a column in parallel, not in sequence. ``maximum``: the pool is a maximum."""

    maximum: bool

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """The concatenated branches."""
        row, column = (1, 3), (3, 1)
        single = Unit(320, name="conv_1x1")(features)
        three = Unit(384, name="conv_3x3_1")(features)
        double = Unit(448, name="double_3x3_1")(features)
        double = Unit(384, (3, 3), name="double_3x3_2")(double)
        pool = _maximum_around(features) if self.maximum else _mean_around(features)
        branches = [
            single,
            Unit(384, row, name="conv_3x3_row")(three),
            Unit(384, column, name="conv_3x3_column")(three),
            Unit(384, row, name="double_3x3_row")(double),
            Unit(384, column, name="double_3x3_column")(double),
            Unit(192, name="pool_1x1")(pool),
        ]
        return jnp.concatenate(branches, axis=-1)


class Inception(nn.Module):
    """The whole network, 23,850,960 parameters; ``batch_stats`` are part of its weights."""

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"]) -> InceptionOutput:
        """Features and logits.

        Args:
          image: pixel values v in 0..255 as (v - 128) / 128, which is what the graph does to them. 299x299 in every
            protocol; the network takes any sides from 75 on.

        Raises:
          UserError: a side is shorter.
        """
        height, width = image.shape[1:3]
        if min(height, width) < SMALLEST:
            raise UserError(
                f"images of {height}x{width} pixels are too small for Inception-v3, which needs {SMALLEST}: "
                f"resize them to {SIDE}x{SIDE} first"
            )
        with jax.default_matmul_precision("highest"):
            hidden = Halved(32, name="stem_1")(image)
            hidden = Unit(32, (3, 3), padding="VALID", name="stem_2")(hidden)
            hidden = Unit(64, (3, 3), name="stem_3")(hidden)
            hidden = _halved_maximum(hidden)
            hidden = Unit(80, name="stem_4")(hidden)
            hidden = Unit(192, (3, 3), padding="VALID", name="stem_5")(hidden)
            hidden = _halved_maximum(hidden)
            for index, pooled in enumerate((32, 64, 64)):
                hidden = Block35(pooled, name=f"block_35_{index}")(hidden)
            hidden = Reduction35(name="reduction_35")(hidden)
            for index, inner in enumerate((128, 160, 160, 192)):
                hidden = Block17(inner, name=f"block_17_{index}")(hidden)
            hidden = Reduction17(name="reduction_17")(hidden)
            for index, maximum in enumerate((False, True)):
                hidden = Block8(maximum, name=f"block_8_{index}")(hidden)
            pool = hidden.mean((1, 2))
            kernel = self.param("head_kernel", nn.initializers.lecun_normal(), (FEATURES, CLASSES))
            bias = self.param("head_bias", nn.initializers.zeros, (CLASSES,))
            unbiased = pool @ kernel
            return InceptionOutput(pool, unbiased, unbiased + bias)
