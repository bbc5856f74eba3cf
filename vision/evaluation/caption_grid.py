"""Samples for captions that were not trained on, each above its caption."""

import math

from vision.data.captions.data import CaptionedData
from vision.evaluation.generator import Generator, generate
from vision.report.grid import sample_grid
from vision.train.compile import Compiler
from vision.train.experiment import Evaluate, Evaluation, EvaluatorFactory
from vision.types import TrainState

_COLUMNS = 8


def caption_grid(generator: Generator, data: CaptionedData, *, count: int, name: str = "samples") -> EvaluatorFactory:
    """The grid ``name``: of the first captions of the first ``count`` test images, always with the same noise."""

    def factory(compiler: Compiler) -> Evaluate:
        known = data.captioned("test").first(count)
        captions = [known[index % len(known)][0] for index in range(count)]
        columns = min(_COLUMNS, math.ceil(math.sqrt(count)))

        def evaluate(state: TrainState) -> Evaluation:
            variables = generator.variables(state)
            images = generate(compiler, generator, variables, generator.condition(count), count=count, seed=0)
            return Evaluation(images={name: sample_grid(images, columns=columns, captions=captions)})

        return evaluate

    return factory
