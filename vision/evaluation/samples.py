"""Generated images: a grid of them, and the share whose shape and colour are those requested."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from vision.data.dataset import DataConfig
from vision.data.shapes.world import ShapesConfig
from vision.evaluation.generator import Generator, compiled_sample
from vision.ops.pixels import to_float
from vision.pretrained.shape_classifier import compute, load_shape_classifier, merge
from vision.report.grid import sample_grid
from vision.train.compile import Compiler
from vision.train.experiment import Evaluate, Evaluation, EvaluatorFactory
from vision.types import TrainState


def sample_grid_evaluator(
    generator: Generator, data: DataConfig, *, count: int, classified: int = 0
) -> EvaluatorFactory:
    """``count`` samples as a grid, always of the same noise, and whether their classes are those requested.

    The accuracy is for class-conditional generators of the shapes world, whose samples the shape classifier recognises.

    Args:
      generator: what generates.
      data: the images that it was trained on.
      count: images in the grid.
      classified: at least as many samples are classified, in rounds of ``count``.
    """
    shapes = data.shapes if data.name == "shapes" and generator.classes else None
    rounds = max(math.ceil(classified / count), 1) if shapes is not None else 1
    in_order, columns = _layout(generator.classes, shapes, count)

    def factory(compiler: Compiler) -> Evaluate:
        call = compiled_sample(compiler, generator)
        classifier = compiler.replicate(load_shape_classifier()) if shapes is not None else None
        marks_of = compiler.function(
            lambda classifier, images, labels: classifier.accuracy(to_float(images), labels, shapes)
        )
        index = compiler.shard_padded(np.arange(count, dtype=np.int32))

        def evaluate(state: TrainState) -> Evaluation:
            variables, shown, sums = generator.variables(state), [], None
            condition = generator.condition(count * rounds)
            for number in range(rounds):
                rows = slice(number * count, (number + 1) * count)
                part = {name: np.sort(value[rows]) if in_order else value[rows] for name, value in condition.items()}
                spread = {name: compiler.shard_padded(value) for name, value in part.items()}
                key = compiler.replicate(jax.random.key(number))
                images = jax.device_get(call(variables, spread, index, key))[:count]
                shown = shown or [images]
                if classifier is not None:
                    marks = marks_of(classifier, *compiler.replicate((images, part["label"])))
                    sums = marks if sums is None else merge(sums, marks)
            scalars, protocol = _accuracy(
                sums, classifier, shapes, f"{rounds * count} samples, {generator.description}"
            )
            return Evaluation(scalars, {"samples": sample_grid(shown[0], columns=columns)}, protocol)

        return evaluate

    return factory


def _layout(classes: int, shapes: ShapesConfig | None, count: int) -> tuple[bool, int]:
    """(whether samples are shown sorted by class, columns of the grid)."""
    if shapes is not None and count % classes == 0:
        return True, count // len(shapes.shapes)  # a row for each shape
    if 2 <= classes <= 12:
        return False, classes  # a column for each class
    return classes > 0, math.ceil(math.sqrt(count))


def _accuracy(
    sums: Mapping[str, Any] | None, classifier: Any, shapes: ShapesConfig | None, samples: str
) -> tuple[dict[str, float], dict[str, str]]:
    if sums is None or shapes is None:
        return {}, {}
    scalars = compute(jax.device_get(sums))
    return scalars, dict.fromkeys(scalars, f"{classifier.protocol(shapes)}; {samples}")
