"""The small versions of recipes: shapes worlds for ``--quick``, and configurations of two steps for tests."""

from dataclasses import replace
from typing import TypeVar

from vision.data.captions.data import CaptionedConfig
from vision.data.dataset import DataConfig
from vision.data.detection import DetectionConfig
from vision.data.labelled import LabelledConfig
from vision.data.shapes.world import ShapesConfig
from vision.recipes.run_config import RunConfig
from vision.train.experiment import Intervals

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
COLOURS = ("red", "yellow", "green", "blue", "purple", "pink")

GENERATION = DataConfig(
    name="shapes",
    shapes_count=30_000,
    shapes=ShapesConfig(
        shapes=SHAPES,
        colours=COLOURS,
        backgrounds=("solid", "gradient"),
        dark_share=0.0,
        min_size=0.65,
        max_size=0.85,
        max_rotation=10.0,
    ),
)
"""One large shape an image, six shapes in six colours, for generators."""

SILHOUETTES = replace(
    GENERATION,
    resolution=28,
    shapes_count=20_000,
    shapes=replace(GENERATION.shapes, colours=("yellow",), backgrounds=("solid",), dark_share=1.0, relief=0.0),
)
"""Bright shapes on black, as digits are."""

RECOGNITION = LabelledConfig(name="shapes", shapes_count=20_000, shapes=ShapesConfig(shapes=SHAPES, colours=COLOURS))
"""One shape an image, six shapes in six colours, on all backgrounds, for classifiers."""

CAPTIONED = CaptionedConfig(
    resolution=32,
    shapes_count=20_000,
    shapes=ShapesConfig(
        shapes=SHAPES,
        colours=COLOURS,
        backgrounds=("solid", "stripes"),
        dark_share=0.0,
        min_size=0.4,
        max_rotation=15.0,
    ),
)
"""One shape an image with captions, six shapes in six colours, for CLIP and its prior."""

DETECTION = DetectionConfig(
    name="shapes",
    resolution=128,
    max_boxes=16,
    shapes=ShapesConfig(resolution=128, shapes=("circle", "square", "star"), max_objects=4, min_size=0.2, max_size=0.5),
    shapes_count=4_000,
)
"""Scenes of up to four shapes with boxes, for detectors."""

PAIRS = CaptionedConfig(
    resolution=32,
    shapes_count=30_000,
    shapes=ShapesConfig(
        shapes=SHAPES,
        colours=COLOURS,
        backgrounds=("solid",),
        dark_share=0.0,
        max_objects=2,
        min_size=0.3,
        max_size=0.6,
        max_rotation=15.0,
        min_visible=1.0,
    ),
)
"""One figure or two that do not overlap, six shapes in six colours, with captions, for text-to-image models."""

Config = TypeVar("Config", bound=RunConfig)


Data = TypeVar("Data", bound=DataConfig)


def tiny_data(data: Data) -> Data:
    """Two shapes in two colours at 16 pixels, 64 images."""
    shapes = replace(data.shapes, shapes=("circle", "star"), colours=("red", "blue"), min_size=0.4)
    return replace(data, resolution=16, shapes_count=64, shapes=shapes)


def tiny_captions(data: CaptionedConfig) -> CaptionedConfig:
    """The same with captions, of one figure or two."""
    shapes = replace(data.shapes, shapes=("circle", "star"), colours=("red", "blue"), min_size=0.4, max_size=0.5)
    return replace(data, resolution=16, shapes_count=64, shapes=shapes)


def tiny(config: Config, **changes: object) -> Config:
    """``config`` with a budget of two steps of eight images, for tests, and with ``changes``."""
    intervals = Intervals(log=8, evaluate=16, save=16)
    return replace(config, batch_size=8, images=16, intervals=intervals, **changes)  # pyright: ignore[reportArgumentType]
