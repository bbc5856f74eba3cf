"""What ``--quick`` of the experiments of editing shares, and their configurations of two steps for tests."""

from dataclasses import replace
from typing import Any

from vision.data.editing.data import EditsConfig
from vision.data.shapes.world import ShapesConfig
from vision.models.unet import UNetConfig
from vision.recipes.generative import QUICK_GENERATION
from vision.recipes.quick_data import COLOURS, SHAPES
from vision.tasks.diffusion import DiffusionConfig
from vision.train.experiment import Intervals

WORLD = ShapesConfig(
    resolution=32,
    shapes=SHAPES,
    colours=COLOURS,
    backgrounds=("solid", "stripes"),
    dark_share=0.5,
    max_objects=3,
    min_size=0.3,
    max_size=0.5,
    max_rotation=15.0,
    min_visible=1.0,
)
"""One to three figures that do not hide one another, on four kinds of backgrounds."""
EDITS = EditsConfig(resolution=64, shapes=replace(WORLD, resolution=64), shapes_count=200_000)
QUICK_EDITS = EditsConfig(resolution=32, shapes=WORLD, shapes_count=60_000)

SMALL_EDITING_UNET = UNetConfig(
    width=96,
    multipliers=(1, 2),
    blocks=1,
    attention=(8,),
    heads=4,
    dropout=0.0,
    conditioning="scale_shift",
    patch=4,
)
"""What ``--quick`` trains at 32x32 pixels."""
QUICK_EDITING: dict[str, Any] = {
    **QUICK_GENERATION,
    "model": SMALL_EDITING_UNET,
    "data": QUICK_EDITS,
    "diffusion": DiffusionConfig(schedule="cosine", prediction="x0", weighting="truncated_snr"),
    "intervals": Intervals(log=3_200, evaluate=60_000, save=20_000),
    "images": 180_000,
    "samples": 72,
    "edited": 200,
}
"""Edits of the shapes world at 32x32 pixels."""
TINY_EDITING: dict[str, Any] = {
    "model": replace(SMALL_EDITING_UNET, width=16, multipliers=(1,), attention=(), heads=2),
    "data": replace(
        QUICK_EDITS,
        resolution=16,
        shapes_count=64,
        shapes=replace(
            WORLD, shapes=("circle", "star"), colours=("red", "blue"), min_size=0.4, max_size=0.5, max_objects=2
        ),
    ),
    "diffusion": replace(QUICK_EDITING["diffusion"], steps=20),
    "samples": 6,
    "edited": 4,
    "held_out": 8,
}
"""Changes to it for tests."""
