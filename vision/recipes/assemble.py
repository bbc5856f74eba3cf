"""From the parts of a recipe to an experiment: what every recipe would otherwise write out."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key

from vision.data.image_data import Data
from vision.evaluation.generator import Generator, sampling
from vision.inference import Inference
from vision.parallel.sharding import ShardingRules
from vision.pretrained.adapted import Adapt, unchanged
from vision.pretrained.diffusers_folder import FolderSource
from vision.pretrained.initial import read_initial_values
from vision.pretrained.rules import WeightRules
from vision.pretrained.state_dict import StateDict
from vision.recipes.run_config import RunConfig
from vision.train.compile import Compiler
from vision.train.experiment import Edit, EvaluatorFactory, Experiment, FrozenPart, PredictFiles, Sample
from vision.train.kept import KeptText
from vision.train.snapshots import SnapshotConfig
from vision.train.state import Optimizers, create_state, parameters, with_values
from vision.train.step import averaged, repeated, warmed_up
from vision.types import Schedule, Step, TrainState


@dataclass(frozen=True, kw_only=True)
class WeightsSource:
    """How ``init_from`` is read for a network, and how its weights are written."""

    published: WeightRules = ()
    """How published weights are named; empty if there are none."""
    ignored: Sequence[str] = ()
    """Regular expressions of names there that may be left unused."""
    replaced: Sequence[str] = ()
    """Regular expressions of variables that stay as initialised where the weights have none that fit, or the classes
    differ."""
    adapt: Adapt = unchanged
    """What is done with the arrays of a file before the rules apply."""
    written: Callable[[TrainState], StateDict] | None = None
    """State -> its weights under published names; None if there are none."""
    average: str | None = "ema"
    """The averages that are taken from a run; None for the trained variables themselves."""
    folder: FolderSource | None = None
    """How a folder of diffusers is read, and the averages written as one; None where there is none of this network."""
    excluded: Sequence[str] = ()
    """Collections that always start anew."""


def _published_folder(folder: FolderSource, state: TrainState) -> tuple[dict[str, Mapping[str, Any]], StateDict]:
    averaged = state.ema["ema"]  # of the parameters alone, or of all variables
    return folder.files(averaged if "params" in averaged else {"params": averaged})


def assemble(
    config: RunConfig,
    *,
    variables: Callable[[Key[Array, ""]], Mapping[str, Any]],
    step: Step,
    optimizer: Optimizers,
    data: Data,
    evaluation: EvaluatorFactory,
    averages: Mapping[str, float | Schedule] | None = None,
    averaging: Callable[[TrainState], Any] = parameters,
    generator: Generator | None = None,
    requests: Callable[[Compiler], Sample] | None = None,
    editing: Callable[[Compiler], Edit] | None = None,
    prediction: Callable[[Compiler, Sequence[str]], PredictFiles] | None = None,
    inference: Callable[[TrainState], Inference] | None = None,
    labelled: bool = False,
    tokenizer: KeptText | None = None,
    weights: WeightsSource | None = None,
    statistics: Callable[[], Mapping[str, np.ndarray]] | None = None,
    frozen: Mapping[str, FrozenPart] | None = None,
    caches: Sequence[str] = (),
    snapshots: SnapshotConfig | None = None,
    rules: ShardingRules = (),
    evaluation_only: Sequence[str] = (),
    batch_shapes: int = 1,
) -> Experiment:
    """The experiment of a recipe.

    Args:
      config: budget, batch size, averages, mesh, intervals, seed.
      variables: key -> {"params": ..., other collections ...}, the initial variables; with several players, a mapping
        from player to its own in "params" and beside it.
      step: one training step, without averages: they and several steps in one dispatch are added here.
      optimizer: whose state begins with the parameters; with several players, a mapping.
      data: training and test images.
      evaluation: (compiler) -> (state -> numbers and images), see ``vision.evaluation.combine``.
      averages: decays by name; by default ``{"ema": warmed_up(config.ema)}``.
      averaging: state -> what is averaged.
      generator: for experiments that generate.
      requests: generates samples on request, for generators with other conditions than classes.
      editing: compiles what edits images on request, for experiments that generate some.
      prediction: for experiments that recognise or restore, see ``Experiment``.
      inference: the function of images that is exported.
      labelled: whether the run keeps the names of the data's classes.
      tokenizer: of experiments with texts.
      weights: how ``config.init_from`` is read.
      statistics: reads variables that are statistics of the data, by path.
      frozen: networks with fixed weights, by name.
      caches: fields that name folders of what can be computed again.
      snapshots: which averages by power functions are tracked too, and kept at intervals; None for none.
      rules: sharding rules.
      evaluation_only: fields of the configuration that change evaluation and sampling only.
      batch_shapes: how many different batch shapes may occur.

    Raises ``UserError`` where two snapshots are of one length.
    """
    averages = {"ema": warmed_up(config.ema)} if averages is None else averages
    snapshots = snapshots or SnapshotConfig()
    averages = {**averages, **snapshots.decays()}
    step = averaged(step, averages, of=averaging)
    step = repeated(step, config.dispatch) if config.dispatch > 1 else step
    weights = weights or WeightsSource()
    folder = weights.folder

    def init(key: Key[Array, ""], initial: Mapping[str, Array] | None = None) -> TrainState:
        variables_key, run_key = jax.random.split(key)
        made = dict(with_values(variables(variables_key), initial or {}))
        params = made.pop("params")
        of = {"ema": averages, "averaging": averaging}
        return create_state(params=params, optimizer=optimizer, key=run_key, model_state=made, **of)

    def initial_values() -> dict[str, np.ndarray]:
        values = dict(statistics()) if statistics is not None else {}
        if config.init_from is not None:
            shapes = jax.eval_shape(variables, jax.random.key(0))
            values.update(
                read_initial_values(
                    config.init_from,
                    {name: tree for name, tree in shapes.items() if name not in weights.excluded},
                    published=weights.published,
                    ignored=(*weights.ignored, *(f"{name}/.*" for name in weights.excluded)),
                    replaced=weights.replaced,
                    adapt=weights.adapt,
                    average=weights.average,
                    class_names=data.class_names() if labelled else None,
                    folder=weights.folder,
                )
            )
        return values

    def batches(
        *, seed: int, start_step: int, process_index: int, process_count: int
    ) -> Iterator[Mapping[str, np.ndarray]]:
        data.source("test")  # a test split that is missing or does not fit is an error before the first step
        share = {"process_index": process_index, "process_count": process_count}
        return data.train_batches(config.step_images, seed=seed, start_step=start_step, **share)

    return Experiment(
        init=init,
        step=step,
        batches=batches,
        batch=data.batch(config.step_images),
        images=config.images,
        seed=config.seed,
        evaluation=evaluation,
        sampling=requests or (sampling(generator, data.class_names) if generator is not None else None),
        editing=editing,
        prediction=prediction,
        inference=inference,
        published=weights.written,
        published_folder=None if folder is None else functools.partial(_published_folder, folder),
        class_names=data.class_names if labelled else None,
        tokenizer=tokenizer,
        contents=lambda: {split: data.content(split) for split in ("train", "test")},
        initial_values=initial_values if config.init_from is not None or statistics is not None else None,
        starts_from=config.init_from,
        frozen=frozen or {},
        caches=tuple(caches),
        rules=rules,
        mesh=config.mesh,
        intervals=config.intervals,
        snapshots=snapshots,
        microbatches=config.microbatches,
        dispatch=config.dispatch,
        evaluation_only=(*evaluation_only, "evaluation_batch"),
        batch_shapes=batch_shapes,
        notices=config.notices(),
    )
