"""An evaluation is a list of evaluators: held-out loss, samples, distances, accuracy. Here they become one."""

from collections.abc import Sequence

from vision.train.compile import Compiler
from vision.train.experiment import Evaluate, Evaluation, EvaluatorFactory
from vision.types import TrainState


def merge(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Several evaluations of one state as one. Raises ``ValueError`` where two of them share the name of a number."""
    names = [name for each in evaluations for name in each.scalars]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"two evaluators report {', '.join(twice)}: their names must differ")
    return Evaluation(
        scalars={name: value for each in evaluations for name, value in each.scalars.items()},
        images={name: value for each in evaluations for name, value in each.images.items()},
        protocol={name: text for each in evaluations for name, text in each.protocol.items()},
        animations={name: frames for each in evaluations for name, frames in each.animations.items()},
    )


def combine(*factories: EvaluatorFactory) -> EvaluatorFactory:
    """Evaluators as one."""

    def factory(compiler: Compiler) -> Evaluate:
        evaluators = [make(compiler) for make in factories]

        def evaluate(state: TrainState) -> Evaluation:
            return merge([each(state) for each in evaluators])

        return evaluate

    return factory
