r"""Photographs in the style of paintings, by optimising the image itself: Gatys et al. 2016.

Every photograph with every painting; L-BFGS on the pixels, from coarse to fine, in the features of a VGG whose weights
are a file of yours (torchvision's names). Without a file the network has random weights, with which textures and
colours pass over and little else does. Nothing is trained. The same command goes on where it was stopped.

    python -m experiments.style_gatys --quick
    python -m experiments.style_gatys --content photographs --style paintings --features vgg16.safetensors
    python -m experiments.style_gatys --content me.jpg --style wave.jpg scream.jpg --features vgg16.safetensors \
        --together --style-weights 1 0.5 --masks left.png right.png --size 768 --scales 3
    python -m experiments.style_gatys --content me.jpg --style wave.jpg --features vgg16.safetensors --colour luma

``--content`` and ``--style`` are files, folders or patterns. Written to the folder: in pairs/ for each pair result.png,
optimisation.gif and its numbers; for all sheet.png (photographs down, paintings across), curves.png (what is minimised
against seconds), optimisation.gif of the first pair, and style.json with all numbers and what they mean.
"""

import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vision.atomic import write_atomically
from vision.data.image_file import opened, upright
from vision.data.shapes.world import ShapesConfig, ShapesSource
from vision.data.textures import PALETTES, texture
from vision.errors import UserError
from vision.evaluation.detection_files import unique_stems
from vision.home import expanded
from vision.launch.exit_code import exit_code
from vision.launch.files import files_of
from vision.launch.options import RunOptions, parse
from vision.recipes.style_features import RANDOM_VGG
from vision.recipes.style_pairs import FinishedPair, NamedPicture, StylePairs, StylePairsConfig
from vision.report.grid import save_png
from vision.report.lines import LinePlot, line_plots
from vision.report.style import style_sheet
from vision.tasks.style import StyleLossConfig
from vision.tasks.style_optimisation import PARTS

SCENES = 3
"""Scenes of the shapes world that stand for photographs where none are given."""


@dataclass(frozen=True, kw_only=True)
class Config(StylePairsConfig):
    """The recipe."""

    content: tuple[str, ...] = ()
    """Photographs: files, folders or patterns; none for scenes of the shapes world."""
    style: tuple[str, ...] = ()
    """Paintings: files, folders or patterns; none for textures made by rules."""


QUICK = Config(
    network=RANDOM_VGG,
    loss=StyleLossConfig(content_layers=("relu3_2",)),
    size=128,
    iterations=(40, 20),
)
TINY = replace(QUICK, network=replace(RANDOM_VGG, widths=(4, 4, 4, 4)), size=32, scales=1, iterations=(4,))


def stylise(config: Config, folder: Path) -> list[str]:
    """Make all images and the files about all of them; returns lines to print. Raises ``UserError``."""
    contents = pictures(config.content) if config.content else scenes(config.size)
    styles = pictures(config.style) if config.style else textures(config.size)
    masks = pictures(config.masks)
    plain = StylePairsConfig(**{name: getattr(config, name) for name in StylePairsConfig.__dataclass_fields__})
    pairs = StylePairs(plain, contents, styles, folder, masks=masks, say=lambda line: print(line, flush=True))
    found = pairs.run()
    columns = 1 if config.together else len(styles)
    results = {(number // columns, number % columns): pair.picture for number, pair in enumerate(found)}
    shown = styles[:columns]
    sheet = style_sheet([each.pixels for each in contents], [each.pixels for each in shown], results)
    save_png(folder / "sheet.png", sheet)
    write_atomically(folder / "curves.png", _encoded(curves(found)))
    first = folder / "pairs" / f"{found[0].content}--{found[0].style}" / "optimisation.gif"
    write_atomically(folder / "optimisation.gif", first.read_bytes())
    scalars = pairs.measures.summary([pair.measured for pair in found])
    scalars["seconds"] = float(np.mean([pair.curve[-1, 0] for pair in found]))
    what = f"mean over {len(found)} images of at most {config.size} pixels on a side"
    protocol = pairs.measures.protocol(what) | {"seconds": f"of optimisation, {what}"}
    stated = {"scalars": scalars, "protocol": {name: protocol[name] for name in scalars if name in protocol}}
    write_atomically(folder / "style.json", (json.dumps(stated, indent=1) + "\n").encode())
    return [*(f"{name} {value:.6g}  ({protocol[name]})" for name, value in scalars.items()), f"all files: {folder}"]


def pictures(patterns: Sequence[str | Path]) -> list[NamedPicture]:
    """Image files with names of their own; raises ``UserError`` where one is no image."""
    files = files_of([str(pattern) for pattern in patterns])
    found = []
    for file, name in zip(files, unique_stems(files), strict=True):
        with opened(file, adjustable=False) as image:
            found.append(NamedPicture(name, np.asarray(upright(image))))
    return found


def scenes(size: int) -> list[NamedPicture]:
    """Scenes of the shapes world."""
    config = ShapesConfig(resolution=size, max_objects=4, min_size=0.2, max_size=0.5)
    source = ShapesSource(config=config, size=SCENES, split="test")
    return [NamedPicture(f"scene_{number}", np.asarray(source[number]["image"])) for number in range(SCENES)]


def textures(size: int) -> list[NamedPicture]:
    """Textures made by rules."""
    return [NamedPicture(name, texture(name, size)) for name in PALETTES]


def curves(pairs: Sequence[FinishedPair]) -> np.ndarray:
    """What is minimised and its parts against seconds, a line a pair, of the first eight."""
    plots = []
    for place, name in enumerate(PARTS[:3], start=3):
        lines = {
            f"{pair.content}, {pair.style}": [(float(row[0]), max(float(row[place]), 1e-9), 0.0) for row in pair.curve]
            for pair in pairs[:8]
        }
        plots.append(LinePlot(lines=lines, title=name, x="seconds", y="", y_log=name != "content"))
    return line_plots(plots)


def _encoded(picture: np.ndarray) -> bytes:
    written = io.BytesIO()
    Image.fromarray(picture).save(written, "PNG")
    return written.getvalue()


def main(arguments: Sequence[str]) -> int:
    """Parse and stylise; returns the exit code."""

    def run() -> None:
        parsed = parse(
            "python -m experiments.style_gatys",
            default=Config(),
            quick=QUICK,
            description=__doc__ or "",
            arguments=arguments,
        )
        own: dict[str, Any] = {"quick": parsed.run.quick, "workdir": parsed.run.workdir}
        if parsed.run != RunOptions(**own):
            raise UserError("style_gatys trains nothing: of the options of runs it has --quick and --workdir alone")
        default = Path("runs") / "style_gatys" / ("quick" if parsed.run.quick else "default")
        print("\n".join(stylise(parsed.config, expanded(parsed.run.workdir or default))))

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
