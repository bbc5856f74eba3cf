"""Write the autoencoder of a run to the folder of the first stage that ``--quick`` of latent experiments uses.

    python -m experiments.first_stage_weights --run runs/autoencoder_cifar/shapes --out
    vision/pretrained/shapes_first_stage

The folder has the configuration of the network and the averaged weights, rounded to float16.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import tyro

from vision.atomic import write_atomically
from vision.home import expanded
from vision.launch.exit_code import exit_code
from vision.launch.run_folder import read_config
from vision.pretrained.rules import named
from vision.pretrained.state_dict import write_state_dict
from vision.recipes.first_stage import first_stage
from vision.recipes.stored_config import STORED


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
    folder = expanded(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    write_state_dict(
        folder / STORED, named(jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), stage.frozen.load()))
    )
    stated = {"experiment": run.experiment, "config": {"model": run.config["model"]}}
    write_atomically(folder / "config.json", (json.dumps(stated, indent=1) + "\n").encode())


if __name__ == "__main__":
    sys.exit(exit_code(lambda: write(tyro.cli(Config, description=__doc__))))
