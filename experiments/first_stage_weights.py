"""Write the autoencoder of a run to the folder of the first stage that ``--quick`` of latent experiments uses.

    python -m experiments.first_stage_weights --run runs/autoencoder_cifar/shapes --out
    vision/pretrained/shapes_first_stage

The folder has the configuration of the network and the averaged weights, rounded to float16.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from vision.home import expanded
from vision.launch.exit_code import exit_code
from vision.launch.run_folder import read_config
from vision.recipes.first_stage import first_stage
from vision.recipes.stored_config import write_stored


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is written."""

    run: Path
    """Folder of a run of ``experiments.autoencoder_cifar``."""
    out: Path
    """Folder that is written."""


def write(config: Config) -> None:
    """Write the folder. Raises ``UserError`` where the run is of another network."""
    stage = first_stage(config.run, option="run")
    run = read_config(expanded(config.run))
    content = {"experiment": run.experiment, "config": {"model": run.config["model"]}}
    write_stored(expanded(config.out), content, stage.frozen.load())


if __name__ == "__main__":
    sys.exit(exit_code(lambda: write(tyro.cli(Config, description=__doc__))))
