"""Restoration of files: images of any size in tiles, pictures of before and after, and a page with a slider."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from vision.data.exact_image import ExactImage, read_exact, write_exact
from vision.data.image_file import MAX_PIXELS, ImageError
from vision.evaluation.detection_files import unique_stems
from vision.evaluation.image_files import nothing_to_predict, skipped, write_json
from vision.ops.imresize import imresize
from vision.ops.tiling import TilingConfig, tiled
from vision.report.comparison import Compared, write_comparison
from vision.report.grid import save_png
from vision.report.restoration import cut, detail_box, detail_row
from vision.train.compile import Compiler

DETAIL = 64
"""Side in pixels of the result of the detail that is shown enlarged."""
ON_PAGE, VIEW = 12, 720
"""Images on the page with the slider, and the largest side of what is shown of each."""


def restore_photographs(
    compiler: Compiler,
    restore: Callable[[Any, Array], Array],
    *,
    tiling: TilingConfig,
    scale: int,
    max_pixels: int = MAX_PIXELS,
) -> Callable[[Any, Sequence[Path], Path], list[str]]:
    """(variables, files, folder) -> a line a file; writes the restored images to the folder.

    The folder gets, for each file, ``NAME.png``, which is grey or RGB, with alpha or not and of 8 or 16 bits as the
    file is (16 bits of PNG, grey TIFF and PGM), and ``details/NAME.png``, the image with an enlarged detail before and
    after; and for all files ``restoration.json`` with sizes and formats, and ``comparison.html``, on which details of
    the first images are compared by a slider. Alpha is enlarged by bicubic interpolation.

    Memory is that of the file, of its result, and of a batch of tiles. Files that are not images are skipped and named.
    Raises ``UserError`` where none is an image.

    Args:
      compiler: of the model's mesh.
      restore: (variables, images [b h w c] in [0, 1], c 1 or 3) -> restored images.
      tiling: how images are cut.
      scale: how many times as long the sides become.
      max_pixels: limit of a file's width times height.
    """
    tiling = replace(tiling, batch=compiler.rounded_up(tiling.batch))
    plain = TilingConfig(tile=128, margin=8, batch=compiler.rounded_up(1))
    enlarged = lambda variables, images: images if scale == 1 else imresize(images, float(scale))

    def levels(function: Callable[[Any, Array], Array]) -> Callable[[Any, Array], Array]:
        """The function on whole numbers of 8 or 16 bits."""

        def on_levels(variables: Any, tiles: Array) -> Array:
            most = float(jnp.iinfo(tiles.dtype).max)
            made = function(variables, tiles.astype(jnp.float32) / most)
            return jnp.floor(jnp.clip(made, 0.0, 1.0) * most + 0.5).astype(tiles.dtype)

        return compiler.function(on_levels)

    restoring, enlarging = levels(restore), levels(enlarged)

    def in_tiles(function: Callable[[Any, Array], Array], variables: Any, image: np.ndarray, config: TilingConfig):
        apply = lambda tiles: function(variables, compiler.shard_padded(np.asarray(tiles)))
        return tiled(apply, image[None], config, scale=scale)[0]

    def predict(variables: Any, files: Sequence[Path], folder: Path) -> list[str]:
        lines: list[str] = []
        rows: list[dict[str, Any]] = []
        shown: list[Compared] = []
        first = jax.process_index() == 0
        for file, stem in zip(files, unique_stems(files), strict=True):
            try:
                image = read_exact(file, max_pixels=max_pixels)
            except ImageError as error:
                lines.append(skipped(file, error.reason))
                continue
            alpha = None if image.alpha is None else in_tiles(enlarging, (), image.alpha, plain)
            made = ExactImage(in_tiles(restoring, variables, image.pixels, tiling), alpha)
            place = folder / f"{stem}.png"
            sizes = [f"{x.pixels.shape[1]}x{x.pixels.shape[0]}" for x in (image, made)]
            lines.append(f"{file}: {' -> '.join(dict.fromkeys(sizes))} pixels, {made.words}: {place}")
            rows.append(
                {"file": str(file), "written": place.name, "from": sizes[0], "to": sizes[1], "kind": made.words}
            )
            enlarge = lambda crop: in_tiles(enlarging, (), crop, plain)
            if first:
                (folder / "details").mkdir(parents=True, exist_ok=True)
                write_exact(place, made)
            picture, compared = _pictures(image, made, enlarge, scale=scale, name=file.name)
            if first:
                save_png(folder / "details" / f"{stem}.png", picture)
            if len(shown) < ON_PAGE:
                shown.append(compared)
        if not rows:
            raise nothing_to_predict(files)
        if first:
            write_json(folder / "restoration.json", {"scale": scale, "images": rows})
            some = f" The first {len(shown)} of {len(rows)} images are shown." if len(rows) > len(shown) else ""
            write_comparison(
                folder / "comparison.html",
                shown,
                title="Before and after",
                description=f"Drag the line, or the slider below an image.{some}",
                labels=_labels(scale),
            )
        return [*lines, f"images, details, restoration.json and comparison.html: {folder}"]

    return predict


def _labels(scale: int) -> tuple[str, str]:
    return ("bicubic" if scale > 1 else "input", "restored")


def _pictures(
    image: ExactImage,
    made: ExactImage,
    enlarge: Callable[[np.ndarray], np.ndarray],
    *,
    scale: int,
    name: str,
) -> tuple[UInt8[np.ndarray, "h w 3"], Compared]:
    """The image with an enlarged detail before and after, and what the page shows of it."""
    whole = _shown(image.pixels)
    top, left, height, width = detail_box(whole, DETAIL // scale)
    box = (top * scale, left * scale, height * scale, width * scale)
    before = _shown(enlarge(cut(image.pixels, (top, left, height, width))))
    after = _shown(cut(made.pixels, box))
    row = detail_row(whole, (top, left, height, width), dict(zip(_labels(scale), (before, after), strict=True)))
    sides = [min(VIEW // scale, side) for side in image.pixels.shape[:2]]
    corner = [
        min(max(start + length // 2 - side // 2, 0), most - side)
        for start, length, side, most in zip((top, left), (height, width), sides, image.pixels.shape[:2], strict=True)
    ]
    view = (corner[0], corner[1], sides[0], sides[1])
    large = tuple(value * scale for value in view)
    note = f"{large[3]}x{large[2]} pixels of {made.pixels.shape[1]}x{made.pixels.shape[0]}, from column {large[1]} and "
    compared = Compared(
        name=name,
        before=_shown(enlarge(cut(image.pixels, view))),
        after=_shown(cut(made.pixels, (large[0], large[1], large[2], large[3]))),
        note=f"{note}row {large[0]}",
    )
    return row, compared


def _shown(pixels: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """In 8-bit RGB, for pictures."""
    eight = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
    return np.repeat(eight, 3, axis=-1) if eight.shape[-1] == 1 else eight
