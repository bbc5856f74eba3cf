"""How well the watermark survives JPEG, resizing, crops, blur, noise and colour, and how rarely it is seen by chance.

    python -m experiments.watermark_robustness                                scenes of the shapes world, a minute
    python -m experiments.watermark_robustness --images photographs/ --unmarked 10000
    python -m experiments.watermark_robustness --side 64 --watermark.spacing 60 --watermark.pilots 16 --watermark.low 4
        --watermark.high 16                                                   small images (vision/ops/watermark.py)

Every image gets a random message; bits are read from 8-bit files after each change. The threshold is the least number
of bits that agree by chance in one of a million images; ``--unmarked`` counts how often they do. Images are central
squares, and those without a mark random squares of any place and scale. watermark.json and watermark.png are written to
``--out``.
"""

import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tyro
from jaxtyping import UInt8
from PIL import Image

from vision.atomic import write_atomically
from vision.data.image_file import SUFFIXES, ImageError, opened, upright
from vision.data.listing import files_below
from vision.data.shapes.world import ShapesConfig, render_scenes
from vision.errors import UserError
from vision.evaluation.watermark import Robustness, most_agreement, robustness
from vision.home import expanded
from vision.launch.exit_code import exit_code
from vision.ops.watermark import WATERMARK, WatermarkConfig
from vision.ranges import NonNegativeInt, OpenFraction, Pixels, PositiveInt, Seed, check_ranges
from vision.report.lines import LinePlot, line_plots


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is measured."""

    images: Path | None = None
    """A folder of photographs. Default: scenes of the shapes world."""
    count: PositiveInt = 64
    """Images that are marked, at most."""
    side: Pixels = 256
    """Sides of the images."""
    unmarked: NonNegativeInt = 1_000
    """Images without a mark that are read."""
    watermark: WatermarkConfig = WATERMARK
    """The mark; its defaults are for images of 256 pixels and more."""
    false_positives: OpenFraction = 1e-6
    """Rate at which an unmarked image may be taken for marked."""
    out: Path = Path("watermark")
    """Folder of the results."""
    seed: Seed = 0


def measure(config: Config) -> Path:
    """Mark, change, read; prints a table and returns the folder. Raises ``UserError`` where there are no images."""
    check_ranges(config)
    if config.side < config.watermark.tile:
        raise UserError(f"--side {config.side} is smaller than the {config.watermark.tile} pixels of --watermark.tile")
    generator = np.random.default_rng(config.seed)
    images = list(_squares(config))
    messages = generator.integers(0, 2, (len(images), config.watermark.bits)).astype(bool)
    found = robustness(images, messages, config.watermark, false_positives=config.false_positives)
    counts = most_agreement(_without_mark(config, images), messages[0], config.watermark)
    false = sum(count >= found.threshold for count in counts)
    print(
        f"{len(images)} images of {config.side}x{config.side}: PSNR {found.psnr:.1f} dB, least {found.least_psnr:.1f}"
    )
    print(
        f"| change | level | bits right | worst image | detected ({found.threshold} of {config.watermark.bits} bits) |"
    )
    print("| --- | --- | --- | --- | --- |")
    for row in found.survival:
        level = f"{row.unit} {row.level:g}" if row.unit else ""
        print(f"| {row.change} | {level} | {row.bits:.3f} | {row.least:.3f} | {row.detected:.3f} |")
    print(f"{len(counts)} images without a mark: {false} taken for marked, at most {max(counts, default=0)} bits agree")
    out = expanded(config.out)
    out.mkdir(parents=True, exist_ok=True)
    stated = {"images": len(images), **asdict(found), "unmarked": len(counts), "false_positives": false}
    write_atomically(out / "watermark.json", (json.dumps(stated, indent=1) + "\n").encode())
    encoded = io.BytesIO()
    Image.fromarray(line_plots(_plots(found))).save(encoded, format="png")
    write_atomically(out / "watermark.png", encoded.getvalue())
    return out


def _photographs(config: Config) -> list[UInt8[np.ndarray, "h w 3"]]:
    """All images of the folder that are large enough."""
    assert config.images is not None
    folder = expanded(config.images)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give --images a folder of photographs")
    found = []
    for file in files_below(folder, SUFFIXES).files:
        try:
            with opened(file) as image:
                pixels = np.asarray(upright(image))
        except ImageError:
            continue
        if min(pixels.shape[:2]) >= config.side:
            found.append(pixels)
    if not found:
        raise UserError(f"{folder} has no image of {config.side}x{config.side} pixels or more: choose a smaller --side")
    return found


def _scenes(config: Config, count: int) -> UInt8[np.ndarray, "n h w 3"]:
    world = ShapesConfig(resolution=config.side)
    return render_scenes(world, seed=config.seed, indices=np.arange(count), split="test", fields=("image",))["image"]


def _squares(config: Config) -> Iterator[UInt8[np.ndarray, "s s 3"]]:
    """What is marked: the central square of each photograph, reduced to the side, or scenes."""
    if config.images is None:
        yield from _scenes(config, config.count)
        return
    for pixels in _photographs(config)[: config.count]:
        most = min(pixels.shape[:2])
        top, left = ((length - most) // 2 for length in pixels.shape[:2])
        yield _reduced(pixels[top : top + most, left : left + most], config.side)


def _without_mark(config: Config, images: Sequence[UInt8[np.ndarray, "s s 3"]]) -> Iterator[UInt8[np.ndarray, "s s 3"]]:
    """Random squares of photographs at random scales, flipped and turned; or further scenes."""
    if config.images is None:
        for first in range(0, config.unmarked, 64):
            part = range(first, min(first + 64, config.unmarked))
            world = ShapesConfig(resolution=config.side)
            yield from render_scenes(world, seed=config.seed, indices=np.array(part), fields=("image",))["image"]
        return
    generator = np.random.default_rng(config.seed + 1)
    photographs = _photographs(config)
    for _ in range(config.unmarked):
        pixels = photographs[generator.integers(len(photographs))]
        side = int(generator.integers(config.side, min(pixels.shape[:2]) + 1))
        top, left = (int(generator.integers(0, length - side + 1)) for length in pixels.shape[:2])
        square = _reduced(pixels[top : top + side, left : left + side], config.side)
        square = np.rot90(square, int(generator.integers(4)))
        yield np.ascontiguousarray(square[:, ::-1] if generator.integers(2) else square)


def _reduced(pixels: UInt8[np.ndarray, "h w 3"], side: int) -> UInt8[np.ndarray, "s s 3"]:
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize((side, side), Image.Resampling.BICUBIC))


def _plots(found: Robustness) -> list[LinePlot]:
    """A plot for each change: bits that are right, and images that are detected, against its level."""
    plots = []
    for name in dict.fromkeys(row.change for row in found.survival):
        rows = sorted((row for row in found.survival if row.change == name), key=lambda row: row.level)
        if len(rows) > 1:
            lines = {
                "bits right": [(row.level, row.bits, 0.0) for row in rows],
                "images detected": [(row.level, row.detected, 0.0) for row in rows],
            }
            plots.append(LinePlot(lines=lines, title=name, x=rows[0].unit, y="share", levels={"chance": 0.5}))
    return plots


def main(arguments: Sequence[str]) -> int:
    """Parse and measure; returns the exit code."""
    config = tyro.cli(Config, args=list(arguments), description=__doc__)
    return exit_code(lambda: print(measure(config)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
