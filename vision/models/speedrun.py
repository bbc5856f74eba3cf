"""A small convolutional network that learns CIFAR-10 quickly, after the speed-run literature.

Page 2019 ("How to Train Your ResNet") and Jordan 2024 ("94% on CIFAR-10 in 3.29 Seconds on a Single GPU",
arXiv:2404.00498, section 3): a fixed convolution that whitens 2x2 patches, three blocks of two convolutions each, a
global maximum, and a linear head with small logits; about 2.0 M parameters at the published widths.

The whitening kernel is data, not a parameter. It is in the collection "constants", next to "batch_stats", so that
optimizers do not see it and checkpoints keep it. A new network has a kernel for white images; before training set

    variables["constants"]["whitening"] = whitening_kernel(images)
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import MinLen
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, PRNGKeyArray

from vision.nn.batch_norm import batch_norm
from vision.nn.convolution import Conv, convolve
from vision.nn.dense import Dense, add_bias
from vision.nn.initializers import fan_in_uniform
from vision.nn.pooling import max_pool_2x2
from vision.nn.window import Window
from vision.ranges import Channels, NoneOrMoreClasses, PositiveFloat


@dataclass(frozen=True)
class SpeedrunConfig:
    """The architecture of the network. The defaults are Jordan 2024 for CIFAR-10."""

    widths: Annotated[tuple[Channels, ...], MinLen(1)] = (64, 256, 256)
    """Channels of each block; each halves the resolution."""
    classes: NoneOrMoreClasses = 10
    """Number of logits; 0 for no head, and pooled features as the output."""
    channels: Channels = 3
    """Channels of the image."""
    scale: PositiveFloat = 1 / 9
    """Factor of the logits."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations and convolutions; parameters, statistics and the head stay float32."""


# As in the ResNets: a block's first convolution is sharded over its outputs, its second over its inputs.
SHARDING_RULES: tuple[tuple[str, P], ...] = (
    (r"block_\d+/conv_in/kernel$", P(None, None, None, "tensor")),
    (r"block_\d+/conv_out/kernel$", P(None, None, "tensor", None)),
    (r"block_\d+/norm_in/(bias|mean|var)$", P("tensor")),
    (r"head/kernel$", P("tensor", None)),
)

# Statistics that adapt within a few steps, and no learned scale (Jordan 2024, section 3.1 and listing). The paper's
# epsilon of 1e-12 would turn rounding errors of a constant channel into noise of unit variance.
speedrun_norm = partial(batch_norm, momentum=0.6, use_scale=False)


def whitening_kernel(images: Float[Array, "n h w c"], eps: float = 5e-4) -> Float[Array, "2 2 c {8*images.shape[3]}"]:
    """The kernel of a convolution whose first half of outputs are uncorrelated with unit variance.

    Args:
      images: training images, as the network gets them; a few thousand are enough.
      eps: added to the variances, so that directions without variance are not amplified.

    Returns:
      Eigenvectors of the covariance of all 2x2 patches, largest variance first, divided by sqrt(variance + eps);
      then the same negated, so that the following activation loses no direction (Jordan 2024, section 3.2).
    """
    channels = images.shape[-1]
    height, width = images.shape[1] - 1, images.shape[2] - 1
    corners = [images[:, i : i + height, j : j + width] for i in (0, 1) for j in (0, 1)]
    patches = jnp.concatenate(corners, axis=-1).reshape(-1, 4 * channels).astype(jnp.float32)
    patches = patches - patches.mean(0)
    covariance = jnp.matmul(patches.T, patches, precision="highest") / len(patches)
    variances, vectors = jnp.linalg.eigh(covariance)
    filters = (vectors / jnp.sqrt(jnp.maximum(variances, 0.0) + eps))[:, ::-1]
    return jnp.concatenate([filters, -filters], axis=1).reshape(2, 2, channels, 8 * channels)


def dirac_init(key: PRNGKeyArray, shape: Sequence[int], dtype: Any = jnp.float32) -> Float[Array, "kh kw i o"]:
    """Initial weights of a convolution that passes its input on (Jordan 2024, section 3.3).

    The first outputs are copies of the inputs; the others are initialised uniformly in +-1/sqrt(fan in).
    """
    height, width, inputs, outputs = shape
    kernel = fan_in_uniform(key, shape, dtype)
    passed = min(inputs, outputs)
    kernel = kernel.at[..., :passed].set(0.0)
    index = jnp.arange(passed)
    return kernel.at[height // 2, width // 2, index, index].set(1.0)


class SpeedrunBlock(nn.Module):
    """conv 3x3, 2x2 max pool, norm, act, conv 3x3, norm, act."""

    channels: int
    norm: Callable[..., nn.Module] = speedrun_norm
    act: Callable[[Array], Array] = nn.gelu
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"], train: bool) -> Float[Array, "b H W channels"]:
        """Transform ``features``; sides are halved and rounded down."""
        conv = partial(Conv, self.channels, use_bias=False, winograd=True, dtype=self.dtype, kernel_init=dirac_init)
        norm = partial(self.norm, train=train, dtype=self.dtype)
        hidden = max_pool_2x2(conv(name="conv_in")(features))
        hidden = self.act(norm(name="norm_in")(hidden))
        hidden = conv(name="conv_out")(hidden)
        return self.act(norm(name="norm_out")(hidden))


class SpeedrunNet(nn.Module):
    """Classify small images, or return features. Sides of at least 2 ** blocks + 1: 28 and 32 are usual.

    ``norm`` is called with train, dtype and name (see :func:`batch_norm`).
    """

    config: SpeedrunConfig = SpeedrunConfig()
    norm: Callable[..., nn.Module] = speedrun_norm
    act: Callable[[Array], Array] = nn.gelu

    def setup(self):
        """The head, which :meth:`features` does not need."""
        if self.config.classes > 0:
            self.head = Dense(self.config.classes, use_bias=False, kernel_init=fan_in_uniform)

    def __call__(self, image: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b d"]:
        """Logits in float32, [b classes]; pooled features where ``config.classes`` is 0.

        Args:
          image: images with the scaling of those that the whitening kernel was computed from.
          train: whether to use the statistics of the batch, with ``mutable=["batch_stats"]``.
        """
        pooled = self.features(image, train=train)["pooled"]
        return self.head(pooled) * self.config.scale if self.config.classes > 0 else pooled

    @nn.compact
    def features(self, image: Float[Array, "b h w c"], *, train: bool) -> dict[str, Array]:
        """Features of all levels: ``model.apply(variables, image, train=False, method="features")``.

        Returns:
          "c1": the whitened image after its activation, of stride 1; "c2", "c3", ...: each block's output, of half the
          resolution of the one before; "pooled": the maximum of the last over its pixels, [b d] in float32.
        """
        dtype = jnp.dtype(self.config.dtype)
        channels = self.config.channels
        # Images of independent pixels with unit variance are white already.
        white = lambda: jnp.concatenate([jnp.eye(4 * channels), -jnp.eye(4 * channels)], 1).reshape(2, 2, channels, -1)
        kernel = self.variable("constants", "whitening", white).value
        bias = self.param("whitening_bias", nn.initializers.zeros, (8 * channels,))
        hidden = convolve(image.astype(dtype), kernel, Window())
        hidden = self.act(add_bias(hidden, bias))
        levels = {"c1": hidden}
        for index, width in enumerate(self.config.widths):
            block = SpeedrunBlock(width, norm=self.norm, act=self.act, dtype=dtype, name=f"block_{index}")
            hidden = block(hidden, train)
            levels[f"c{index + 2}"] = hidden
        return {**levels, "pooled": hidden.max((1, 2)).astype(jnp.float32)}


def layers(config: SpeedrunConfig) -> int:
    """Layers for learning rates by depth: the whitening, every block, the head."""
    return len(config.widths) + 2


def layer_of(config: SpeedrunConfig, path: str) -> int:
    """The layer of the parameter at ``path``, from 0 for the whitening to ``layers(config) - 1`` for the head."""
    block = re.search(r"block_(\d+)", path)
    if block is not None:
        return int(block.group(1)) + 1
    return layers(config) - 1 if "head" in path else 0
