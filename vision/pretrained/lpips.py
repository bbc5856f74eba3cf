"""The published parts of LPIPS (Zhang et al. 2018): features of VGG16 and AlexNet, and the weights of their channels.

A network's own weights are torchvision's (``vgg_rules``, ``alexnet_rules``). The weights of the channels come with the
package lpips (BSD-2-Clause), a file of some kilobytes for each network, lin0 to lin4; in published files they are not
negative.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vision.models.alexnet import AlexNetConfig, AlexNetFeatures
from vision.models.vgg import Vgg, VggConfig
from vision.pretrained.rules import CONV, Layout, Rule, dense_rules, from_published, surplus_prefix
from vision.pretrained.state_dict import read_state_dict

LEVELS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
"""The activations of VGG16 that are compared."""
IGNORED_OF_ALEXNET = (r"^classifier\.",)
"""The dense layers of torchvision's AlexNet, which the features do not have."""

_CHANNELS = Layout(lambda x: x[0, :, 0, 0], lambda x: x[None, :, None, None])

LPIPS_RULES: tuple[Rule, ...] = (
    Rule("lin{level}.model.1.weight", "params/level_{level}", _CHANNELS),
    Rule("lins.{level}.model.1.weight", "params/level_{level}", _CHANNELS),
)


def alexnet_rules() -> tuple[Rule, ...]:
    """The names of torchvision, which numbers convolutions, activations and pools in one list."""
    places = zip((0, 3, 6, 8, 10), range(1, 6), strict=True)
    return tuple(rule for at, number in places for rule in dense_rules(f"features.{at}", f"conv_{number}", CONV))


def lpips_widths(config: VggConfig | AlexNetConfig) -> tuple[int, ...]:
    """The channels of the five levels."""
    return tuple(config.widths)


def lpips_features(
    config: VggConfig | AlexNetConfig,
) -> Callable[[Any, Float[Array, "b h w 3"]], Sequence[Float[Array, "b _ _ _"]]]:
    """(variables, images) -> the features of the five levels that LPIPS compares.

    Args:
      config: a VGG16 or AlexNet; narrower ones serve for tests.
    """

    def features(variables: Any, images: Array) -> Sequence[Array]:
        if isinstance(config, AlexNetConfig):
            levels: Any = AlexNetFeatures(config).apply(variables, images, train=False)
            return levels
        found: Any = Vgg(config).apply(variables, images, LEVELS, method="activations")
        return [found[name] for name in LEVELS]

    return features


def read_lpips_weights(
    path: str | os.PathLike[str], config: VggConfig | AlexNetConfig
) -> tuple[Float[np.ndarray, " _"], ...]:
    """The weights of the channels of each level, from a file of the package lpips (weights/v0.1/vgg.pth or alex.pth).

    Raises:
      UserError: the file cannot be read, or is of another network.
    """
    tensors = read_state_dict(path)
    target = {"params": {f"level_{n}": jnp.zeros(width, jnp.float32) for n, width in enumerate(lpips_widths(config))}}
    prefix = surplus_prefix(tensors, target, rules=LPIPS_RULES)
    found, _ = from_published(
        {name.removeprefix(prefix): array for name, array in tensors.items()}, target, rules=LPIPS_RULES
    )
    return tuple(found["params"][f"level_{n}"] for n in range(len(lpips_widths(config))))
