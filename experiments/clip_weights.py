"""Write the CLIP of a run to the folder of the CLIP that ``--quick`` of experiments on embeddings uses.

    python -m experiments.clip_weights --run runs/clip_shapes/default --out vision/pretrained/shapes_clip

The folder has the configuration of the network, its tokenizer, and the averaged weights, rounded to float16.
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
from vision.recipes.clip_encoder import clip_encoder
from vision.recipes.stored_config import STORED
from vision.train.kept import TOKENIZER


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is written."""

    run: Path
    """Folder of a run of ``experiments.clip_shapes``."""
    out: Path
    """Folder that is written."""


def write(config: Config) -> None:
    """Write the folder. Raises ``UserError`` where the run is of another network."""
    clip = clip_encoder(config.run, option="run")
    run = read_config(expanded(config.run))
    kept = {name: run.config[name] for name in ("model", "clip_statistics")}
    folder = expanded(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    variables = {name: tree for name, tree in clip.frozen.load().items() if name != "tokenizer"}
    write_state_dict(folder / STORED, named(jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), variables)))
    write_atomically(folder / TOKENIZER, clip.tokenizer.definition.encode())
    content = {"experiment": run.experiment, "config": {**kept, "data": {"resolution": clip.resolution}}}
    write_atomically(folder / "config.json", (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    sys.exit(exit_code(lambda: write(tyro.cli(Config, description=__doc__))))
