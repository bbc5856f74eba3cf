"""Write the CLIP of a run to the folder of the CLIP that ``--quick`` of experiments on embeddings uses.

    python -m experiments.clip_weights --run runs/clip_shapes/default --out vision/pretrained/shapes_clip

The folder has the configuration of the network, its tokenizer, and the averaged weights, rounded to float16.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from vision.atomic import write_atomically
from vision.home import expanded
from vision.launch.exit_code import exit_code
from vision.launch.run_folder import read_config
from vision.recipes.clip_encoder import clip_encoder
from vision.recipes.stored_config import write_stored
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
    variables = {name: tree for name, tree in clip.frozen.load().items() if name != "tokenizer"}
    content = {"experiment": run.experiment, "config": {**kept, "data": {"resolution": clip.resolution}}}
    write_stored(folder, content, variables)
    write_atomically(folder / TOKENIZER, clip.tokenizer.definition.encode())


if __name__ == "__main__":
    sys.exit(exit_code(lambda: write(tyro.cli(Config, description=__doc__))))
