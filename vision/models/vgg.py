"""VGG: Simonyan & Zisserman 2015, "Very Deep Convolutional Networks for Large-Scale Image Recognition".

Configurations D and E of table 1, without normalisation; the initial values are those of He et al. 2015, since the
paper's own need a shallower network to begin with. Its activations by name are what style transfer (Gatys et al. 2016)
and perceptual losses (Johnson et al. 2016) compare.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import MinLen
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from vision.errors import UserError
from vision.nn.convolution import Conv
from vision.nn.dense import Dense
from vision.nn.initializers import he_fan_out
from vision.nn.pooling import average_pool_to, max_pool_2x2
from vision.ranges import Channels, Depth, DropRate, NoneOrMoreClasses

GRID = 7
"""Sides of the features that the dense layers see, whatever the image's are."""


@dataclass(frozen=True)
class VggConfig:
    """The architecture of a VGG. The defaults are VGG16 for ImageNet."""

    depths: Annotated[tuple[Depth, ...], MinLen(1)] = (2, 2, 3, 3, 3)
    """Convolutions of each stage, at least 1; a max pool that halves the resolution ends each stage."""
    widths: Annotated[tuple[Channels, ...], MinLen(1)] = (64, 128, 256, 512, 512)
    """Channels of each stage, at least 1; as many as there are stages."""
    hidden: Channels = 4096
    """Features of the two dense layers before the head, at least 1."""
    dropout: DropRate = 0.5
    """Probability, in [0, 1), of dropping a feature of a dense layer in training."""
    classes: NoneOrMoreClasses = 1000
    """Number of logits, not negative; 0 for no dense layers, and pooled features as the output."""
    channels: Channels = 3
    """Channels of the image, at least 1."""
    remat: bool = False
    """Recompute the inside of stages in the backward pass: less memory, a third more compute."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations and of all layers but the head; parameters and the head stay float32."""


VGG16 = VggConfig()
VGG19 = VggConfig(depths=(2, 2, 4, 4, 4))

# Shoeybi et al. 2019: of two layers, split the outputs of the first and the inputs of the second; of three convolutions
# in a stage the outputs of the last are gathered.
SHARDING_RULES: tuple[tuple[str, P], ...] = (
    (r"stage_\d+/conv_\d*[13579]/kernel$", P(None, None, None, "tensor")),
    (r"stage_\d+/conv_\d*[13579]/bias$", P("tensor")),
    (r"stage_\d+/conv_\d*[02468]/kernel$", P(None, None, "tensor", None)),
    (r"dense_1/kernel$", P(None, "tensor")),
    (r"dense_1/bias$", P("tensor")),
    (r"dense_2/kernel$", P("tensor", None)),
    (r"head/kernel$", P("tensor", None)),
)


class Stage(nn.Module):
    """3x3 convolutions, each followed by a ReLU."""

    channels: int
    depth: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: Float[Array, "b h w c"], wanted: tuple[str, ...]
    ) -> tuple[Float[Array, "b h w channels"], dict[str, Float[Array, "b h w channels"]]]:
        """The last features, and those ``wanted``: "conv_N" before and "relu_N" after the ReLU of convolution N."""
        found: dict[str, Array] = {}
        for number in range(1, self.depth + 1):
            conv = Conv(self.channels, kernel_init=he_fan_out, dtype=self.dtype, name=f"conv_{number}")
            before = conv(features)
            features = nn.relu(before)
            found |= {f"conv_{number}": before, f"relu_{number}": features}
        return features, {name: found[name] for name in wanted}


class Vgg(nn.Module):
    """Classify images, or return features of several resolutions, or any activations."""

    config: VggConfig = VGG16

    @property
    def output_stride(self) -> int:
        """The stride of the last features."""
        return 2 ** len(self.config.depths)

    def setup(self):
        """The parts after the features, which :meth:`features` does not need."""
        config = self.config
        if config.classes > 0:
            how: dict[str, Any] = {"kernel_init": nn.initializers.normal(0.01), "dtype": jnp.dtype(config.dtype)}
            self.dense_1 = Dense(config.hidden, **how)
            self.dense_2 = Dense(config.hidden, **how)
            self.dropout = nn.Dropout(config.dropout)
            self.head = Dense(config.classes, kernel_init=nn.initializers.normal(0.01))

    def __call__(self, image: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b d"]:
        """Logits in float32, [b classes]; pooled features where ``config.classes`` is 0.

        Args:
          image: images of about zero mean and unit variance, of any size that the pools leave a pixel of: 32 pixels for
            five stages. The last features are averaged to a grid of 7x7 before the dense layers.
          train: whether dropout is active, which needs the "dropout" random stream where its rate is not 0.

        Raises:
          UserError: if depths and widths are not equally many, or the image is too small.
        """
        if self.config.classes == 0:
            return self.features(image, train=train)["pooled"]
        last = self.levels(image, train=train)[f"c{len(self.config.depths)}"]
        hidden = average_pool_to(last, (GRID, GRID))
        hidden = hidden.reshape(len(hidden), -1)
        for dense in (self.dense_1, self.dense_2):
            hidden = self.dropout(nn.relu(dense(hidden)), deterministic=not train)
        return self.head(hidden)

    def features(self, image: Float[Array, "b h w c"], *, train: bool) -> dict[str, Array]:
        """Features of all levels: ``model.apply(variables, image, train=False, method="features")``.

        Returns:
          what :meth:`levels` returns, and "pooled": the mean of the last over its pixels, [b d] in float32.
        """
        levels = self.levels(image, train=train)
        return {**levels, "pooled": levels[f"c{len(self.config.depths)}"].mean((1, 2), dtype=jnp.float32)}

    def levels(self, image: Float[Array, "b h w c"], *, train: bool) -> dict[str, Float[Array, "b _ _ _"]]:
        """Features of every resolution, with which detectors begin.

        Returns:
          "c0", "c1", ...: the last activations of each stage before its pool, and at the end those after the last pool;
          "cN" with the stride 2**N, in ``config.dtype``.
        """
        del train
        depths = self.config.depths
        names = [*(f"relu{stage}_{depth}" for stage, depth in enumerate(depths, start=1)), f"pool{len(depths)}"]
        found = self.activations(image, names)
        return {f"c{level}": found[name] for level, name in enumerate(names)}

    @nn.compact
    def activations(self, image: Float[Array, "b h w c"], names: Sequence[str]) -> dict[str, Float[Array, "b _ _ _"]]:
        """Activations by name: ``model.apply(variables, image, ["relu3_3"], method="activations")``.

        Nothing after the last stage that is asked for is computed.

        Args:
          image: images of about zero mean and unit variance.
          names: "conv3_2" for the second convolution of stage 3 before its ReLU, "relu3_2" after it (what many papers
            call conv3_2), "pool3" after the pool that ends the stage.

        Returns:
          the activations by these names, in ``config.dtype``.

        Raises:
          UserError: a name that the network does not have; or as for calling the network.
        """
        config = self.config
        if len(config.depths) != len(config.widths):
            raise UserError(
                f"a VGG with {len(config.depths)} depths cannot have {len(config.widths)} widths: give each stage one "
                "of both"
            )
        wanted = [_parsed(name, config.depths) for name in names]
        last = max((stage for stage, _ in wanted), default=0)
        make = nn.remat(Stage, static_argnums=(2,)) if config.remat else Stage
        hidden = image
        found: dict[str, Array] = {}
        for stage, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True), start=1):
            if stage > last:
                break
            own = [(name, part) for name, (at, part) in zip(names, wanted, strict=True) if at == stage]
            taps = tuple(dict.fromkeys(part for _, part in own if part != "pool"))
            hidden, tapped = make(width, depth, jnp.dtype(config.dtype), name=f"stage_{stage}")(hidden, taps)
            if stage < last or any(part == "pool" for _, part in own):
                if min(hidden.shape[1:3]) < 2:
                    raise UserError(
                        f"images of {image.shape[1]}x{image.shape[2]} pixels are too small for {last} stages of a VGG, "
                        f"each of which halves them: choose images of at least {2**last} pixels"
                    )
                hidden = max_pool_2x2(hidden)
            found |= {name: hidden if part == "pool" else tapped[part] for name, part in own}
        return {name: found[name] for name in names}


def layers(config: VggConfig) -> int:
    """Layers for learning rates by depth: every convolution, the two dense layers, the head."""
    return sum(config.depths) + 3


def layer_of(config: VggConfig, path: str) -> int:
    """The layer of the parameter at ``path``, from 0 for the first convolution to ``layers(config) - 1``, the head."""
    if match := re.search(r"stage_(\d+)/conv_(\d+)", path):
        return sum(config.depths[: int(match[1]) - 1]) + int(match[2]) - 1
    if match := re.search(r"dense_(\d)", path):
        return sum(config.depths) + int(match[1]) - 1
    return layers(config) - 1


def _parsed(name: str, depths: tuple[int, ...]) -> tuple[int, str]:
    """The stage of an activation, and what it is there: "conv_N", "relu_N" or "pool"."""
    match = re.fullmatch(r"(?:(conv|relu)(\d+)_(\d+)|pool(\d+))", name)
    stage, number = (int(match[2] or match[4]), int(match[3] or 1)) if match else (0, 0)
    if match is None or not 1 <= stage <= len(depths) or not 1 <= number <= depths[stage - 1]:
        raise UserError(
            f"a VGG whose stages have {', '.join(map(str, depths))} convolutions has no activations {name!r}: choose "
            "such as conv3_2 (before its ReLU), relu3_2 (after it) or pool3"
        )
    return stage, f"{match[1]}_{number}" if match[1] else "pool"
