"""A generator as evaluation and sampling see it: a function of variables, conditions and noise to images."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, UInt8

from vision.errors import UserError
from vision.train.compile import Compiler
from vision.train.experiment import Sample
from vision.types import Sampler, SampleRequest, Samples, TrainState


@dataclass(frozen=True, kw_only=True, eq=False)
class Generator:
    """What generates images, whatever it is."""

    sample: Sampler
    """(variables, condition, index, key) -> images uint8 [n h w c]."""
    variables: Callable[[TrainState], Any]
    """Of a state, the variables that are sampled from: usually its averages."""
    description: str
    """How, for protocols: "ddim, 50 steps, guidance 2, EMA 0.9999"."""
    classes: int = 0
    """Number of classes that it is conditioned on; 0 for none."""

    given: Callable[[int], Mapping[str, np.ndarray]] | None = None
    """Number of images -> conditions that evaluation asks for, where they are no classes: of the first test images."""

    def condition(self, count: int, labels: Sequence[int] = ()) -> dict[str, np.ndarray]:
        """Conditions of ``count`` images: the labels, repeated; without any, every class in turn, or ``given``."""
        if self.given is not None:
            return dict(self.given(count))
        if not self.classes:
            return {}
        chosen = np.asarray(labels if len(labels) else np.arange(self.classes), np.int32)
        return {"label": np.resize(chosen, count)}


@functools.lru_cache(maxsize=16)
def compiled_sample(compiler: Compiler, generator: Generator) -> Callable[..., Array]:
    """The generator's function, compiled; evaluators of one generator share it."""
    return compiler.function(generator.sample)


def generate(
    compiler: Compiler,
    generator: Generator,
    variables: Any,
    condition: Mapping[str, np.ndarray],
    *,
    count: int,
    seed: int,
    batch: int = 256,
    same_noise: bool = False,
) -> UInt8[np.ndarray, "n h w c"]:
    """``count`` images, in batches of one size, so that one program of bounded memory generates all.

    Args:
      compiler: of the mesh.
      generator: what generates.
      variables: of the generator.
      condition: arrays of ``count`` rows; {} for none.
      count: images.
      seed: of the noise; every batch has a key of its own.
      batch: largest number of images at a time.
      same_noise: give every image the noise of the first one, so that only their conditions differ.
    """
    size, parts, call = min(count, batch), [], compiled_sample(compiler, generator)
    index = compiler.shard_padded(np.zeros(size, np.int32) if same_noise else np.arange(size, dtype=np.int32))
    for number, start in enumerate(range(0, count, size)):
        part = {
            name: compiler.shard_padded(_filled(value[start : start + size], size)) for name, value in condition.items()
        }
        key = compiler.replicate(jax.random.fold_in(jax.random.key(seed), 0 if same_noise else number))
        parts.append(jax.device_get(call(variables, part, index, key))[:size])
    return np.concatenate(parts)[:count]


def _filled(rows: Any, size: int) -> np.ndarray:
    """``rows``, repeated from the start until there are ``size``."""
    rows = np.asarray(rows)
    return rows[np.arange(size) % len(rows)]


def sampling(generator: Generator, class_names: Callable[[], Sequence[str]]) -> Callable[[Compiler], Sample]:
    """(compiler) -> (state, request) -> samples, captioned by their classes.

    Raises (the last function): ``UserError`` for a request that the generator has no condition for.
    """

    def factory(compiler: Compiler) -> Sample:
        def sample(state: TrainState, request: SampleRequest) -> Samples:
            names = tuple(class_names()) if generator.classes else ()
            request.check(conditions=("labels",) if generator.classes else ())
            check_labels(request.labels, generator.classes)
            condition = generator.condition(request.count, request.labels)
            variables = generator.variables(state)
            images = generate(compiler, generator, variables, condition, count=request.count, seed=request.seed)
            return Samples(images=images, captions=tuple(names[label] for label in condition["label"]) if names else ())

        return sample

    return factory


def check_labels(labels: Sequence[int], classes: int) -> None:
    """Raise ``UserError`` unless all labels are within [0, classes)."""
    wrong = [label for label in labels if not 0 <= label < classes]
    if wrong:
        raise UserError(f"labels are within 0 to {classes - 1}, not {wrong[0]}")
