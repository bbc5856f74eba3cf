"""How restoration is measured and used: conditions, what is compared, LPIPS, files, and the function for export."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vision.data.image_data import Data
from vision.errors import UserError
from vision.evaluation.classic_filters import best_filters
from vision.evaluation.restoration import Baseline, Condition, RestorationTask
from vision.home import expanded
from vision.metrics.reconstruction.lpips import lpips
from vision.metrics.reconstruction.super_resolution import ReconstructionProtocol
from vision.models.alexnet import ALEXNET, AlexNetFeatures
from vision.models.vgg import VGG16, Vgg, VggConfig
from vision.ops.degradations.degradation import (
    BicubicDegradation,
    Degradation,
    NoiseDegradation,
    degraded,
    evaluation_levels,
    level_name,
    level_words,
)
from vision.ops.imresize import imresize
from vision.platform import shapes_of
from vision.pretrained.initial import read_initial_values
from vision.pretrained.lpips import IGNORED_OF_ALEXNET, LEVELS, alexnet_rules, lpips_features, read_lpips_weights
from vision.pretrained.rules import named
from vision.pretrained.vgg import vgg_rules
from vision.recipes.restoration_networks import Network
from vision.tasks.restoration import network_view
from vision.train.compile import Compiler
from vision.train.state import with_values

CROPS, CROP = 4, 96
"""Crops of training images on which settings of classic filters are chosen, and their side."""


@dataclass(frozen=True)
class LpipsConfig:
    """LPIPS (Zhang et al. 2018), measured where both files are given; it needs a network of colours."""

    network: Literal["vgg16", "alexnet"] = "alexnet"
    """In whose features images are compared."""
    features: Path | None = None
    """Weights of the network, torchvision's."""
    weights: Path | None = None
    """Weights of its channels, of the package lpips: weights/v0.1/alex.pth or vgg.pth."""


def restoration_task(
    degradation: Degradation, network: Network, data: Data, lpips_config: LpipsConfig
) -> RestorationTask:
    """What is restored, and how it is measured.

    Raises ``UserError`` where only a part of what LPIPS needs is given, or a file cannot be read.
    """
    scale, channels = network.scale, network.channels

    def degrade(image: Array, level: Array, key: Array) -> Array:
        return degraded(image, degradation, level, scale=scale, key=key)

    return RestorationTask(
        view=functools.partial(network_view, channels=channels, scale=scale),
        degrade=degrade,
        conditions=conditions(degradation, scale=scale, channels=channels),
        baselines=functools.partial(baselines, degradation, network, data),
        distance=lpips_distance(lpips_config, channels=channels),
    )


def conditions(degradation: Degradation, *, scale: int, channels: int) -> tuple[Condition, ...]:
    """What is measured at which levels.

    Images that are reduced alone are measured twice: not rounded by the luma that is not rounded, as most papers do,
    and rounded to 8 bits, as files are, by protocols of 8 bits.
    """
    border = scale if scale > 1 else 0
    files = ("luma of colours", "colours") if channels == 3 and scale > 1 else ("colours",)
    eight = tuple(ReconstructionProtocol(name, border) for name in (files if channels == 3 else ("luma of 8 bits",)))
    if isinstance(degradation, BicubicDegradation):
        return (
            Condition(0.0, "", level_words(degradation, 0.0), (ReconstructionProtocol("luma", border),)),
            Condition(1.0, "", level_words(degradation, 1.0), eight),
        )
    levels = evaluation_levels(degradation)
    return tuple(
        Condition(level, level_name(degradation, level), level_words(degradation, level), eight) for level in levels
    )


def baselines(degradation: Degradation, network: Network, data: Data, compiler: Compiler) -> dict[str, Baseline]:
    """Bicubic enlargement, or the degraded image; and for noise the best classic filters."""
    scale = network.scale
    if scale > 1:
        enlarge = lambda images, level: imresize(images, float(scale))
        return {"bicubic": Baseline(enlarge, "MATLAB's bicubic enlargement")}
    same = {"input": Baseline(lambda images, level: images, "the degraded image itself")}
    if not isinstance(degradation, NoiseDegradation):
        return same

    def degrade(images: Array, level: Array) -> Array:
        return degraded(images, degradation, level, scale=1, key=jax.random.key(0))

    crops = jnp.asarray(_training_crops(data), jnp.float32) / 255.0
    view = np.asarray(network_view(crops, channels=network.channels, scale=scale))
    best = best_filters(compiler, view, degrade=degrade, levels=evaluation_levels(degradation))
    how = f"of the settings tried the best for {len(crops)} crops of training images"
    return same | {
        name: Baseline(lambda images, level, each=each: each.function(images, level / 255.0), f"{each.words} ({how})")
        for name, each in best.items()
    }


def _training_crops(data: Data) -> np.ndarray:
    """Squares uint8 [n s s 3] from the middle of the first training images, continued by mirror images if small."""
    source = data.source("train")
    crops = []
    for index in range(min(CROPS, len(source))):
        image = np.asarray(source[index]["image"])
        more = [max(CROP - side, 0) for side in image.shape[:2]]
        image = np.pad(image, ((0, more[0]), (0, more[1]), (0, 0)), mode="symmetric")
        top, left = ((side - CROP) // 2 for side in image.shape[:2])
        crops.append(image[top : top + CROP, left : left + CROP])
    return np.stack(crops)


def lpips_distance(config: LpipsConfig, *, channels: int) -> Callable[[Array, Array], Array] | None:
    """LPIPS of images in [0, 1]; None where no weights are given. Raises ``UserError``, see `restoration_task`."""
    if config.features is None and config.weights is None:
        return None
    if config.features is None or config.weights is None:
        raise UserError("LPIPS needs lpips.features and lpips.weights: set both, or neither")
    if channels != 3:
        raise UserError("LPIPS compares colours, and this network knows luma alone: leave lpips.features out")
    variables = feature_variables(config)
    shape: Any = VGG16 if config.network == "vgg16" else ALEXNET
    weights = read_lpips_weights(expanded(config.weights), shape)
    features = functools.partial(lpips_features(shape), variables)

    @jax.jit
    def distance(made: Array, truth: Array) -> Array:
        return lpips(2.0 * made - 1.0, 2.0 * truth - 1.0, features=features, weights=weights)

    return distance


def feature_variables(config: LpipsConfig) -> Any:
    """The variables of the network of LPIPS; raises ``UserError`` where the file does not have them."""
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    if config.network == "vgg16":
        return vgg_variables(config.features, VGG16, LEVELS)
    module = AlexNetFeatures(ALEXNET)
    shapes = shapes_of(lambda x: module.init(jax.random.key(0), x, train=False), image)
    assert config.features is not None
    values = read_initial_values(
        expanded(config.features), shapes, published=alexnet_rules(), ignored=IGNORED_OF_ALEXNET
    )
    return with_values(shapes, values)


def vgg_shapes(config: VggConfig, layers: Sequence[str]) -> Any:
    """Shapes of the variables that a VGG needs for these activations."""
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return shapes_of(lambda x: Vgg(config).init(jax.random.key(0), x, layers, method="activations"), image)


def vgg_variables(path: Path | None, config: VggConfig, layers: Sequence[str]) -> Mapping[str, Any]:
    """The variables of a VGG for these activations, from a file; raises ``UserError`` where it does not have them."""
    assert path is not None
    shapes = vgg_shapes(config, layers)
    rules, wanted = vgg_rules(config), named(shapes)
    needed = "|".join(re.escape(rule.published) for rule in rules if rule.ours in wanted)
    # what comes after the layers is not needed
    ignored = (rf"^(?!(?:{needed})$)(?:features|classifier)\.",)
    values = read_initial_values(expanded(path), shapes, published=rules, ignored=ignored)
    return with_values(shapes, values)
