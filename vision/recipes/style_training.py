"""What the recipes of networks that paint have in common: features, data, optimizer, evaluation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision.data.image_data import Data
from vision.data.photographs import PhotographsConfig, decoded_photographs
from vision.data.shapes.world import ShapesConfig
from vision.errors import UserError
from vision.evaluation.style import StyleNetworkMeasures
from vision.models.vgg import VggConfig
from vision.ops.tiling import TilingConfig
from vision.ranges import Pixels, PositiveInt
from vision.recipes.run_config import RunConfig
from vision.recipes.style_data import photographs
from vision.recipes.style_features import RANDOM_VGG, VGG16_FEATURES, StyleNetwork, perceptual_distance
from vision.tasks.style import StyleLossConfig
from vision.train.experiment import Intervals
from vision.train.optimizer import AdamConfig

QUICK_PHOTOGRAPHS = PhotographsConfig(
    name="shapes",
    patch=64,
    shapes_count=500,
    test_images=4,
    shapes=ShapesConfig(resolution=96, max_objects=4, min_size=0.2, max_size=0.5),
)
TINY_PHOTOGRAPHS = PhotographsConfig(
    name="shapes",
    patch=32,
    shapes_count=20,
    test_images=2,
    shapes=ShapesConfig(resolution=32, shapes=("circle", "star"), min_size=0.4, max_size=0.6),
)
TINY_VGG = VggConfig(depths=(1, 1, 1, 1), widths=(4, 4, 4, 4), classes=0)


QUICK_STYLE: dict[str, Any] = {
    "network": RANDOM_VGG,
    "data": QUICK_PHOTOGRAPHS,
    "evaluation_size": 96,
    "ema": 0.98,
    "tiling": TilingConfig(tile=192, margin=48, multiple=16),
}
"""``--quick`` of networks that paint, on scenes of the shapes world."""
TINY_STYLE: dict[str, Any] = {
    "network": TINY_VGG,
    "data": TINY_PHOTOGRAPHS,
    "evaluation_size": 32,
    "intervals": Intervals(log=8, evaluate=16, save=16),
    "images": 16,
    "batch_size": 8,
    "ema": 0.9,
    "tiling": TilingConfig(tile=32, margin=8, multiple=16),
}
"""Two steps, for tests."""


@dataclass(frozen=True, kw_only=True)
class StyleTrainingConfig(RunConfig):
    """What all networks that paint are trained with."""

    features: Path | None = None
    """A file of torchvision's weights of the network in whose features images are compared; None for random ones. The
    run remembers its content; the path may change."""
    network: VggConfig = VGG16_FEATURES
    """Its shape."""
    data: PhotographsConfig = PhotographsConfig(patch=256)
    reduce: PositiveInt = 1
    """How many times smaller on each side crops become before they are trained on, at least 1."""
    lpips_weights: Path | None = None
    """The weights of LPIPS' channels (lpips/weights/v0.1/vgg.pth), for VGG16; None for ones."""
    evaluation_size: Pixels = 256
    """The longer side, in pixels, of photographs and paintings in evaluation."""
    tiling: TilingConfig = TilingConfig(tile=384, margin=96, multiple=16)
    """How images to paint are cut."""
    optimizer: AdamConfig = AdamConfig(lr=1e-3)
    intervals: Intervals = Intervals(log=4_000, evaluate=80_000, save=40_000)
    images: int = 320_000
    batch_size: int = 8
    ema: float = 0.999


EVALUATION_ONLY = (
    *("evaluation_size", "lpips_weights", "tiling."),
    *("data.test_dir", "data.test_images", "data.test_multiple", "data.max_pixels"),
)
"""Fields that change how a state is evaluated or used."""


def checked_data(config: StyleTrainingConfig) -> Data:
    """Crops of photographs. Raises ``UserError`` where crops cannot be reduced."""
    if config.data.patch % (config.reduce * 16):
        raise UserError(
            f"data.patch {config.data.patch} must be a multiple of {config.reduce * 16}, 16 times reduce, since "
            "networks halve crops up to four times"
        )
    return photographs(config.data)


def network_measures(config: StyleTrainingConfig, network: StyleNetwork, loss: StyleLossConfig) -> StyleNetworkMeasures:
    """The features of the losses for measuring. Raises ``UserError`` for weights of LPIPS that do not fit."""
    distance = perceptual_distance(network, config.lpips_weights)
    return StyleNetworkMeasures(activations=network.activations, loss=loss, words=network.words, distance=distance)


def test_contents(config: StyleTrainingConfig, data: Data) -> Any:
    """Reads the test photographs."""
    return lambda: decoded_photographs(data.source("test"), count=config.data.test_images).images
