"""The training loss on images that were not trained on, with noise that is the same for every state."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from vision.data.image_data import Data
from vision.train.compile import Compiler
from vision.train.experiment import Evaluate, Evaluation, EvaluatorFactory
from vision.types import TrainState


def held_out_loss(
    error: Callable[..., Any],
    data: Data,
    averages: Mapping[str, tuple[Callable[[TrainState], Any], str]],
    *,
    batch_size: int,
    limit: int,
    description: str,
) -> EvaluatorFactory:
    """The mean of an error over the first test images, for each kind of averaged weights.

    Args:
      error: (variables, batch, key=...) -> (sum of errors, count), where ``batch`` is one of ``data`` and has "mask"
        bool [b], False on padding.
      data: whose test images.
      averages: name of the number -> (state -> the variables that it is computed with, which these are in words).
      batch_size: images at a time, rounded up to a multiple of the devices.
      limit: largest number of images, a multiple of ``batch_size`` or the whole test split.
      description: what the number is, for the protocol: "mean squared error of the epsilon target".
    """

    def factory(compiler: Compiler) -> Evaluate:
        call = compiler.function(lambda values, batch, key: error(values, batch, key=key))
        size = compiler.rounded_up(batch_size)
        count = min(len(data.source("test")), limit)

        def limited(number: int, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            """The batch without the images beyond the limit; its share of the global batch is this process's."""
            share = len(batch["mask"])
            first = number * size + jax.process_index() * share
            return {**batch, "mask": batch["mask"] & (np.arange(first, first + share) < count)}

        def evaluate(state: TrainState) -> Evaluation:
            scalars, protocol = {}, {}
            for name, (variables, words) in averages.items():
                values, sums = variables(state), np.zeros(2)
                for number, batch in enumerate(itertools.islice(data.test_batches(size), -(-count // size))):
                    key = compiler.replicate(jax.random.fold_in(jax.random.key(0), number))
                    sums += jax.device_get(call(values, compiler.shard(limited(number, batch)), key))
                scalars[name] = float(sums[0] / sums[1])
                protocol[name] = f"{description} on {count} held-out images, one fixed time and noise each, {words}"
            return Evaluation(scalars, {}, protocol)

        return evaluate

    return factory
