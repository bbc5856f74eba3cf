"""Inpainting of test images under masks of several kinds: error inside the mask, seam at its border, a sheet."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, UInt8

from vision.data.image_data import Data
from vision.evaluation.generator import Generator, generate
from vision.metrics.editing.preservation import seam, unmasked_psnr
from vision.ops.edit_masks import MASK_KINDS, MaskKind, random_masks
from vision.report.grid import sample_grid
from vision.train.compile import Compiler
from vision.train.experiment import Evaluate, Evaluation, EvaluatorFactory
from vision.types import TrainState


def inpainting_measures(
    generator: Generator,
    data: Data,
    *,
    count: int,
    shown: int,
    batch: int,
    no_words: int = 0,
    kinds: Sequence[MaskKind] = MASK_KINDS,
) -> EvaluatorFactory:
    """For each kind of mask the PSNR inside it and the seam at its border, and the sheet "inpainted".

    Args:
      generator: whose conditions are "image" and "mask", and "tokens" where ``no_words`` is above 0.
      data: whose first test images are inpainted.
      count: images for each kind of mask; the whole split where it has fewer.
      shown: images in the sheet, with masks of all kinds in turn.
      batch: images at a time.
      no_words: length of the tokens of nothing, all 0; 0 for a generator without words.
      kinds: of masks; those of one kind are the same in every evaluation.

    Numbers: "inpainted_psnr_thick", "inpainted_seam_thick" and so on, next to "inpainted_psnr_thick_mean" of an image
    that is filled with the mean colour of what is known, the floor, and "inpainted_seam_thick_true" of the image
    itself.
    """

    def factory(compiler: Compiler) -> Evaluate:
        source = data.source("test")
        size = min(count, len(source))
        images = functools.cache(lambda: np.stack([source[index]["image"] for index in range(size)]))
        masks = functools.cache(lambda kind: masks_of(kind, size, images().shape[1:3], compiler=compiler))
        bounds = functools.cache(lambda: _bounds(images(), masks, kinds))

        def evaluate(state: TrainState) -> Evaluation:
            variables, scalars, sheet = generator.variables(state), {}, []
            for kind in kinds:
                mask = masks(kind)
                condition: dict[str, np.ndarray] = {"image": images(), "mask": as_levels(mask)}
                if no_words:
                    condition["tokens"] = np.zeros((size, no_words), np.int32)
                options: dict[str, Any] = {"count": size, "seed": 0, "batch": min(batch, size)}
                made = generate(compiler, replace(generator, given=None), variables, condition, **options)
                scalars[f"psnr_{kind}"] = _mean(inside_psnr, made, images(), mask)
                scalars[f"seam_{kind}"] = _mean(lambda image, true, mask: seam(image, mask), made, images(), mask)
                holed = np.where(mask[..., None], np.uint8(128), images())
                sheet.append(np.stack([holed, made, images()], axis=1))
            # a mask of single lines or pixels has no neighbours next to its border
            scalars = {name: value for name, value in {**scalars, **bounds()}.items() if not np.isnan(value)}
            rows = np.stack([sheet[place % len(kinds)][place % size] for place in range(max(shown // 3, 1))])
            grid = sample_grid(rows.reshape(-1, *rows.shape[2:]), columns=6)
            words = f"the first {size:,} images of {data.description('test')}"
            protocol = {name: _protocol(name, words, generator.description) for name in scalars}
            named = lambda numbers: {f"inpainted_{name}": value for name, value in numbers.items()}
            return Evaluation(named(scalars), {"inpainted": grid}, named(protocol))

        return evaluate

    return factory


def masks_of(
    kind: MaskKind, count: int, size: tuple[int, int], *, compiler: Compiler | None = None
) -> Bool[np.ndarray, "{count} h w"]:
    """The masks of a kind that every evaluation uses; compiled as one program where there is a compiler."""
    key = jax.random.fold_in(jax.random.key(0), MASK_KINDS.index(kind))
    make = functools.partial(random_masks, count, size, kinds=(kind,))
    found = make(key=key) if compiler is None else compiler.function(lambda key: make(key=key))(compiler.replicate(key))
    return np.asarray(jax.device_get(found))[..., 0]


def as_levels(mask: Bool[np.ndarray, "n h w"]) -> UInt8[np.ndarray, "n h w 1"]:
    """0 and 255."""
    return np.where(mask, 255, 0).astype(np.uint8)[..., None]


def inside_psnr(
    image: UInt8[np.ndarray, "h w c"], true: UInt8[np.ndarray, "h w c"], mask: Bool[np.ndarray, "h w"]
) -> float:
    """Decibels of the pixels inside of a mask."""
    return unmasked_psnr(image, true, ~mask)


def filled_with_mean(image: UInt8[np.ndarray, "h w c"], mask: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w c"]:
    """The image with the mean colour of what is known inside of the mask."""
    return np.where(mask[..., None], image[~mask].mean(0).round().astype(np.uint8), image)


def _bounds(
    images: np.ndarray, masks: Callable[[MaskKind], np.ndarray], kinds: Sequence[MaskKind]
) -> Mapping[str, float]:
    found = {}
    for kind in kinds:
        mask = masks(kind)
        filled = np.stack([filled_with_mean(*each) for each in zip(images, mask, strict=True)])
        found[f"psnr_{kind}_mean"] = _mean(inside_psnr, filled, images, mask)
        found[f"seam_{kind}_true"] = _mean(lambda image, true, mask: seam(image, mask), images, images, mask)
    return found


def _mean(measure: Callable[..., float], *arrays: np.ndarray) -> float:
    values: Float[np.ndarray, " n"] = np.array([measure(*each) for each in zip(*arrays, strict=True)])
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _protocol(name: str, words: str, generator: str) -> str:
    measure, _, kind = name.partition("_")
    what = "decibels inside the mask" if measure == "psnr" else "levels across the mask's border minus those next to it"
    whose = generator
    if kind.endswith("_mean"):
        kind, whose = kind.removesuffix("_mean"), "the mean colour of what is known, the floor"
    if kind.endswith("_true"):
        kind, whose = kind.removesuffix("_true"), "the images themselves"
    return f"{what}, masks of the kind {kind}; {words}; {whose}"
