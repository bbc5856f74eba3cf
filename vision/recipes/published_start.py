"""Experiments whose network may start from a published folder of diffusers, and become one."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from vision.pretrained.diffusers_folder import FolderSource
from vision.pretrained.initial import read_initial_values
from vision.recipes.run_config import RunConfig
from vision.train.experiment import Experiment
from vision.types import TrainState


def with_published_folder(
    experiment: Experiment,
    config: RunConfig,
    source: FolderSource,
    *,
    variables: Callable[[TrainState], Mapping[str, Any]],
) -> Experiment:
    """The experiment with ``--init-from FOLDER``, and ``python -m vision export RUN FOLDER``.

    Args:
      experiment: with one network, whose variables are parameters only.
      config: of the run.
      source: how the network is published.
      variables: what of a state is exported, {"params": ...}.
    """

    def initial_values() -> Mapping[str, Any]:
        assert config.init_from is not None
        shapes = {"params": jax.eval_shape(experiment.init, jax.random.key(0)).params}
        return read_initial_values(config.init_from, shapes, folder=source)

    return dataclasses.replace(
        experiment,
        initial_values=initial_values if config.init_from is not None else None,
        published_folder=lambda state: source.written(variables(state)),
    )
