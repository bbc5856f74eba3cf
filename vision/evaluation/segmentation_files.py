"""Semantic segmentation of files: overlays, masks with indices, and a table of what is in each image."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vision.data.annotations.index_masks import save_mask
from vision.data.image_file import MAX_PIXELS
from vision.data.semantic import PAD, fitted_size, placed
from vision.evaluation.detection_files import unique_stems
from vision.evaluation.image_files import nothing_to_predict, opened_or_reason, skipped, write_json
from vision.evaluation.segmentation import Segment
from vision.ops.resize import resize_weights
from vision.report.grid import save_png
from vision.report.segmentation import labelled_overlay
from vision.train.compile import Compiler

LISTED = 5
"""Classes in a line."""


def segment_files(
    compiler: Compiler,
    segment: Segment,
    *,
    class_names: Sequence[str],
    colours: UInt8[np.ndarray, "k 3"],
    canvas: tuple[int, int],
    max_pixels: int = MAX_PIXELS,
) -> Callable[[Any, Sequence[Path], Path], list[str]]:
    """(variables, files, folder) -> a line a file with the shares of its classes; writes images to the folder.

    The folder gets, for each file, ``NAME.png``, the image under the colours of its classes with a legend, and
    ``masks/NAME.png``, the index of the class of each pixel at the size of the image, with a palette; and for all files
    ``segmentation.json`` with the names of the classes and the share of each in each image. Images that are larger than
    the canvas are reduced for the network, and its probabilities are enlarged again.

    Files that are not images are skipped and named. Raises ``UserError`` where none is an image.

    Args:
      compiler: of the model's mesh.
      segment: the network.
      class_names: one for each class.
      colours: one for each class.
      canvas: height and width of the images that the network takes.
      max_pixels: limit of an image's width times height.
    """
    compiled = compiler.function(lambda values, images: segment(values, images).astype(jnp.float32))

    def classes_of(variables: Any, image: Image.Image) -> UInt8[np.ndarray, "h w"]:
        height, width = fitted_size((image.height, image.width), canvas)
        reduced = image
        if (width, height) != image.size:
            reduced = image.resize((width, height), Image.Resampling.BILINEAR)
        padded = placed(np.asarray(reduced), canvas, PAD)[None]
        found = jax.device_get(compiled(variables, compiler.shard_padded(padded)))[0, :height, :width]
        return likeliest(found, (image.height, image.width))

    def predict(variables: Any, files: Sequence[Path], folder: Path) -> list[str]:
        lines: list[str] = []
        rows: list[dict[str, Any]] = []
        first = jax.process_index() == 0
        for file, stem in zip(files, unique_stems(files), strict=True):
            image = opened_or_reason(file, max_pixels)
            if isinstance(image, str):
                lines.append(skipped(file, image))
                continue
            mask = classes_of(variables, image)
            shares = np.bincount(mask.reshape(-1), minlength=len(class_names)) / mask.size
            order = [int(i) for i in np.argsort(-shares, kind="stable") if shares[i] > 0]
            lines.append(f"{file}: " + ", ".join(f"{class_names[i]} {shares[i]:.1%}" for i in order[:LISTED]))
            rows.append({"file": str(file), "shares": {class_names[i]: round(float(shares[i]), 6) for i in order}})
            if first:
                (folder / "masks").mkdir(parents=True, exist_ok=True)
                save_png(folder / f"{stem}.png", labelled_overlay(np.asarray(image), mask, class_names, colours))
                save_mask(folder / "masks" / f"{stem}.png", mask, colours)
        if not rows:
            raise nothing_to_predict(files)
        if first:
            table = {"class_names": list(class_names), "images": rows}
            write_json(folder / "segmentation.json", table)
        return [*lines, f"overlays, masks and segmentation.json: {folder}"]

    return predict


def likeliest(scores: np.ndarray, size: tuple[int, int]) -> UInt8[np.ndarray, "H W"]:
    """The likeliest class of each pixel at another size, from scores float32 [h w k], which are resized bilinearly."""
    if scores.shape[:2] != size:
        rows, columns = (resize_weights(n, m, "bilinear") for n, m in zip(scores.shape[:2], size, strict=True))
        best = np.full(size, -np.inf, np.float32)
        chosen = np.zeros(size, np.uint8)
        for label in range(scores.shape[-1]):  # one class at a time, so that large images need little memory
            made = rows @ scores[..., label] @ columns.T
            better = made > best
            best, chosen = np.where(better, made, best), np.where(better, np.uint8(label), chosen)
        return chosen
    return np.argmax(scores, axis=-1).astype(np.uint8)
