"""Folders of one published model: config.json beside its weights, as diffusers writes them.

The weights are diffusion_pytorch_model.safetensors, or several such files with their index. Folders of the variant in
half precision (``.fp16.``) and older ones with a PyTorch state dict (``.bin``) are read too. Nothing is executed.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vision.atomic import write_atomically
from vision.errors import UserError, on_one_line
from vision.home import expanded
from vision.pretrained.state_dict import StateDict, read_state_dict, write_state_dict

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
_READ = (
    *(WEIGHTS, f"{WEIGHTS}.index.json"),
    *("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.safetensors.index.fp16.json"),
    *("diffusion_pytorch_model.bin", "diffusion_pytorch_model.bin.index.json"),
)
"""The files that weights are read from; the first that there is."""
_MOST_CONFIG = 1 << 20
"""Bytes of config.json; published ones have about a thousand."""


def read_config(path: str | Path) -> dict[str, Any]:
    """The object in config.json of a folder.

    Raises:
      UserError: there is no such folder or file, or the file is no JSON object.
    """
    file = expanded(path) / CONFIG
    if not file.is_file():
        raise UserError(f"{path} has no {CONFIG}: name the folder of one published model, such as its folder vae")
    try:
        if file.stat().st_size > _MOST_CONFIG:
            raise ValueError(f"it has more than {_MOST_CONFIG:,} bytes")
        config = json.loads(file.read_bytes())
        if not isinstance(config, dict):
            raise ValueError("it is no object")
    # deep nesting is a RecursionError
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read ({on_one_line(str(error))}): fetch it again") from error
    return config


def read_folder(path: str | Path) -> tuple[dict[str, Any], StateDict]:
    """The configuration and the named arrays of a folder.

    Raises:
      UserError: a file is missing, damaged, or something else.
    """
    config, folder = read_config(path), expanded(path)
    file = next((folder / name for name in _READ if (folder / name).is_file()), None)
    if file is None:
        raise UserError(f"{folder} has a {CONFIG} and no weights: fetch {WEIGHTS} too")
    return config, read_state_dict(file)


def write_folder(path: str | Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Write a folder that :func:`read_folder` and diffusers read; it is created where it is missing."""
    folder = expanded(path)
    folder.mkdir(parents=True, exist_ok=True)
    write_state_dict(folder / WEIGHTS, tensors)
    write_atomically(folder / CONFIG, (json.dumps(dict(config), indent=2) + "\n").encode())
