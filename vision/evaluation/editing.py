"""Edits of test scenes by a generator: success, preservation, seams, each next to its floor and its ceiling.

The floor is what the untouched original gets, in which no edit has happened; the ceiling is the true image after the
edit, which shows how well the reader of figures reads.
"""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from vision.data.editing.data import EditsData
from vision.data.shapes.edits import EDIT_KINDS, Edits
from vision.data.shapes.instructions import HELD_OUT
from vision.evaluation.caption_facts import Reader
from vision.evaluation.edited_scenes import EditScores, edit_scores
from vision.evaluation.generator import Generator, generate
from vision.report.grid import sample_grid
from vision.train.compile import Compiler
from vision.train.experiment import Evaluate, Evaluation, EvaluatorFactory
from vision.types import TrainState

WORDS: Mapping[str, str] = {
    "success": "share of edits after which what was asked for is there",
    "kept": "share of the untouched figures that are found again with an IoU over 0.7",
    "psnr": "decibels of the pixels outside of the mask against the true image, at most 100",
    "background": "difference of the background's median colour from that of the true image, in levels",
    "seam": "difference across the border of the mask minus that next to it, in levels",
}
"""What each number is."""


def edit_measures(
    generator: Generator, data: EditsData, *, count: int, batch: int, name: str = "edit"
) -> EvaluatorFactory:
    """The means of `vision.evaluation.edited_scenes.EditScores` over test triples.

    Args:
      generator: whose ``given`` conditions are those of the first test triples.
      data: with the triples.
      count: triples, from the first one on; the whole split where it has fewer.
      batch: images at a time.
      name: with which those of numbers begin.

    Numbers: "edit_success", "edit_kept", "edit_psnr", "edit_background" and "edit_seam"; success of each kind of edit,
    "edit_success_remove"; of held-out phrasings and figures, "edit_success_unseen_phrasing" and
    "edit_success_unseen_figure"; and the first five with "_original" for the untouched image and "_true" for the true
    one.
    """

    def factory(compiler: Compiler) -> Evaluate:
        size = min(count, len(data.source("test")))
        indices, read = np.arange(size), Reader(compiler)
        of = functools.cache(lambda: data.edits("test", indices))
        score = lambda images: edit_scores(of(), images, read(images))
        bounds = functools.cache(
            lambda: {
                **with_suffix(means(score(of().before["image"])), "original"),
                **with_suffix(means(score(of().after["image"])), "true"),
            }
        )
        words = f"{size:,} edits of {data.description('test')}; {read.protocol}"

        def evaluate(state: TrainState) -> Evaluation:
            condition = generator.condition(size)
            options: dict[str, Any] = {"count": size, "seed": 0, "batch": min(batch, size)}
            images = generate(compiler, generator, generator.variables(state), condition, **options)
            found = {**of_parts(score(images), of(), parts(of(), indices, data.held_out)), **bounds()}
            scalars = {which: value for which, value in found.items() if not np.isnan(value)}
            protocol = {which: protocol_of(which, words, generator.description) for which in scalars}
            named = lambda numbers: {f"{name}_{which}": value for which, value in numbers.items()}
            return Evaluation(named(scalars), {}, named(protocol))

        return evaluate

    return factory


def means(scores: EditScores) -> dict[str, float]:
    """The mean of each number, without those that are not a number."""
    return {name: _mean(getattr(scores, name)) for name in WORDS}


def of_parts(scores: EditScores, edits: Edits, of: Mapping[str, Bool[np.ndarray, " n"]]) -> dict[str, float]:
    """The means of all, and success of each kind of edit and of further parts that are not empty."""
    kinds = {name: edits.kind == place for place, name in enumerate(EDIT_KINDS)}
    chosen = {name: part for name, part in {**kinds, **of}.items() if part.any()}
    return {**means(scores), **{f"success_{name}": _mean(scores.success[part]) for name, part in chosen.items()}}


def parts(edits: Edits, indices: np.ndarray, held_out: tuple[str, ...]) -> dict[str, Bool[np.ndarray, " n"]]:
    """Which test triples have a phrasing, or a figure, that no training triple has."""
    return {"unseen_phrasing": indices % (HELD_OUT + 1) == HELD_OUT, "unseen_figure": edits.has(held_out)}


def with_suffix(numbers: Mapping[str, float], suffix: str) -> dict[str, float]:
    """The same numbers under longer names."""
    return {f"{name}_{suffix}": value for name, value in numbers.items()}


def protocol_of(name: str, words: str, generator: str) -> str:
    """What a number is, in words."""
    measure, _, part = name.partition("_")
    whose = {"original": "of the untouched image, the floor", "true": "of the true image, the ceiling"}
    which = f", {part.replace('_', ' ')} alone" if part and part not in whose else ""
    return f"{WORDS[measure]}{which}; {words}; {whose.get(part, generator)}"


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values.astype(np.float64))]
    return float(known.mean()) if len(known) else float("nan")


def edit_grid(generator: Generator, data: EditsData, *, count: int) -> EvaluatorFactory:
    """The sheet "edits": image, edit and true image of test triples, three columns each, under their sentences."""

    def factory(compiler: Compiler) -> Evaluate:
        size = min(max(count // 3, 1), len(data.source("test")))
        indices = np.arange(size)
        texts = functools.cache(lambda: data.sentences("test", indices))
        of = functools.cache(lambda: data.edits("test", indices))

        def evaluate(state: TrainState) -> Evaluation:
            variables = generator.variables(state)
            images = generate(compiler, generator, variables, generator.condition(size), count=size, seed=0)
            return Evaluation(images={"edits": edit_sheet(of(), images, texts())})

        return evaluate

    return factory


def edit_sheet(edits: Edits, images: UInt8[np.ndarray, "n h w 3"], texts: list[str]) -> UInt8[np.ndarray, "H W 3"]:
    """Rows of two edits each: the image, the edited one, the true one."""
    rows = np.stack([edits.before["image"], images, edits.after["image"]], axis=1)
    captions = [word for text in texts for word in (text, "edited", "true")]
    return sample_grid(rows.reshape(-1, *images.shape[1:]), columns=6, captions=captions)
