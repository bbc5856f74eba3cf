"""Painting of files: images of any size in tiles that are normalised as the whole image is.

A network with instance normalisation sees the statistics of its whole image, and tiles have others. Here they are taken
from the whole image, reduced where it is large ("thumbnail instance normalisation", Chen et al. 2022), so that tiles
fit together.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, UInt8

from vision.evaluation.detection_files import unique_stems
from vision.evaluation.image_files import nothing_to_predict, opened_or_reason, skipped, write_json
from vision.evaluation.style import fitted, resized
from vision.ops.tiling import TilingConfig, tiled
from vision.report.grid import save_png
from vision.report.style import style_sheet
from vision.train.compile import Compiler

ON_SHEET = 12
"""Files on the sheet."""

Thumbnail = Callable[[Any, Array, Any], Any]
"""(variables, the whole image uint8 [1 h w 3], targets) -> the statistics that tiles need."""
Tile = Callable[[Any, Array, Any, Any], Array]
"""(variables, tiles uint8 [b t t 3 + k] with k planes of masks, targets, statistics) -> painted uint8 [b t t 3]."""


class Painter:
    """A network on whole images of any size, in tiles of one size."""

    def __init__(self, compiler: Compiler, thumbnail: Thumbnail, tile: Tile, tiling: TilingConfig):
        """Args: of the model's mesh; the two functions; how images are cut."""
        self._compiler = compiler
        self._tiling = replace(tiling, batch=compiler.rounded_up(tiling.batch))
        self._thumbnail, self._tile = compiler.function(thumbnail), compiler.function(tile)

    def __call__(
        self, variables: Any, image: UInt8[np.ndarray, "h w 3"], targets: Any, masks: np.ndarray | None = None
    ) -> UInt8[np.ndarray, "h w 3"]:
        """The painted image; ``masks`` uint8 [h w k] are further channels of the tiles."""
        compiler, tiling = self._compiler, self._tiling
        # sides that no stride cuts a pixel from, and few different ones
        small = fitted(image, tiling.tile) if max(image.shape[:2]) > tiling.tile else image
        sides = [max(16, -(-side // 16) * 16) for side in small.shape[:2]]
        small = resized(small, (sides[0], sides[1]))
        statistics = self._thumbnail(variables, compiler.replicate(small[None]), targets)
        planes = image if masks is None else np.concatenate([image, masks], axis=-1)
        apply = lambda tiles: self._tile(variables, compiler.shard_padded(np.asarray(tiles)), targets, statistics)
        return tiled(apply, planes[None], tiling)[0]


def paint_photographs(
    painter: Painter,
    *,
    paintings: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    targets: Callable[[Any], Any],
    masks: Callable[[tuple[int, int]], np.ndarray | None],
    max_pixels: int,
) -> Callable[[Any, Sequence[Path], Path], list[str]]:
    """(variables, files, folder) -> a line a file; writes ``NAME.png``, ``style.json`` and ``sheet.png``.

    The sheet has the first files next to what became of them, below the paintings. Images become RGB on white. Files
    that are not images are skipped and named; raises ``UserError`` where none is an image.

    Args:
      painter: of the run.
      paintings: for the sheet.
      targets: variables -> what the style is; called once.
      masks: (height, width) -> masks of that size.
      max_pixels: limit of a file's width times height.
    """

    def predict(variables: Any, files: Sequence[Path], folder: Path) -> list[str]:
        lines, rows, shown = [], [], []
        first, style = jax.process_index() == 0, None
        for file, stem in zip(files, unique_stems(files), strict=True):
            found = opened_or_reason(file, max_pixels)
            if isinstance(found, str):
                lines.append(skipped(file, found))
                continue
            image = np.asarray(found)
            style = targets(variables) if style is None else style
            made = painter(variables, image, style, masks((image.shape[0], image.shape[1])))
            place = folder / f"{stem}.png"
            if first:
                folder.mkdir(parents=True, exist_ok=True)
                save_png(place, made)
            lines.append(f"{file}: {image.shape[1]}x{image.shape[0]} pixels: {place}")
            rows.append({"file": str(file), "written": place.name, "size": [image.shape[1], image.shape[0]]})
            if len(shown) < ON_SHEET:
                shown.append((fitted(image, 256), fitted(made, 256)))
        if not rows:
            raise nothing_to_predict(files)
        if first:
            write_json(folder / "style.json", {"images": rows})
            results = {(number, 0): made for number, (_, made) in enumerate(shown)}
            columns = [fitted(each, 256) for each in paintings]
            sheet = style_sheet([image for image, _ in shown], columns, results, cell=256)
            save_png(folder / "sheet.png", sheet)
        return [*lines, f"images, style.json and sheet.png: {folder}"]

    return predict
