"""Networks published as folders of diffusers or transformers: config.json, and arrays in one file or several.

    config, tensors = read_folder("ddpm-cifar10-32/unet")
    write_folder("mine", {"config.json": {"_class_name": "UNet2DModel", ...}}, tensors)

The arrays are in ``diffusion_pytorch_model.safetensors``, in several files with an index, or in half precision under
names with ``fp16``; older folders have PyTorch's ``.bin``. Those of transformers are ``model.safetensors`` or
``pytorch_model.bin``. A file with another name is never read.
"""

import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vision.errors import UserError, on_one_line
from vision.home import expanded
from vision.pretrained.adapted import Adapted
from vision.pretrained.rules import WeightRules
from vision.pretrained.state_dict import StateDict, read_state_dict, write_state_dict

CONFIG = "config.json"
WEIGHTS, MODEL = "diffusion_pytorch_model.safetensors", "model.safetensors"
NAMES = (
    *(WEIGHTS, f"{WEIGHTS}.index.json"),
    *("diffusion_pytorch_model.fp16.safetensors", f"{WEIGHTS}.index.fp16.json"),
    "diffusion_pytorch_model.bin",
    *(MODEL, f"{MODEL}.index.json", "pytorch_model.bin"),
)
"""The files of arrays, the first of which that is there is read."""

_PIPELINE = "model_index.json"
_MOST_CONFIG = 1 << 20
"""Bytes of a config.json; published ones have about 1,000."""


@dataclass(frozen=True)
class FolderSource:
    """How a run's network starts from a published folder, and becomes one."""

    rules: WeightRules
    """Of the arrays that ``read`` returns."""
    read: Callable[[Path], Adapted]
    """Reads a folder for the network; raises ``UserError`` where it is of another."""
    written: Callable[[Mapping[str, Any]], tuple[dict[str, Any], StateDict]]
    """Variables -> config.json and weights; raises ``UserError`` where the layout has no such network."""
    extra_files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Further JSON files of the folder that is written, by name."""

    def files(self, variables: Mapping[str, Any]) -> tuple[dict[str, Mapping[str, Any]], StateDict]:
        """JSON files by name and weights of ``variables``, for :func:`write_folder`; raises as ``written`` does."""
        config, tensors = self.written(variables)
        return {CONFIG: config, **self.extra_files}, tensors

    def write(self, path: str | os.PathLike[str], variables: Mapping[str, Any]) -> None:
        """Write a folder that diffusers' ``from_pretrained`` reads; raises as ``written`` and :func:`write_folder`."""
        write_folder(path, *self.files(variables))


def is_published_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is one of these, possibly incomplete; that of a run has a config.json too."""
    path = Path(path)
    if any((path / name).exists() for name in (_PIPELINE, *NAMES)):
        return True
    config = path / CONFIG
    if not config.is_file():
        return False
    with config.open("rb") as file:
        content = file.read(_MOST_CONFIG)
        return b'"_class_name"' in content or b'"model_type"' in content


def library_of(config: Mapping[str, Any]) -> tuple[str, str]:
    """The library that reads a network with this config.json, and the name of its class there."""
    if "model_type" in config:
        return "transformers", str(config["architectures"][0])
    return "diffusers", str(config["_class_name"])


def read_folder(path: str | os.PathLike[str]) -> tuple[dict[str, Any], StateDict]:
    """The entries of config.json, and the arrays by their published names, in the types of the file.

    Raises:
      UserError: a file is missing, damaged, or names others outside the folder; the folder is a pipeline, whose
        networks are in folders of their own.
    """
    path = expanded(Path(path))
    config = read_config(path)
    found = next((path / name for name in NAMES if (path / name).exists()), None)
    if found is None:
        raise UserError(
            f"{path} has no weights: put {NAMES[0]} next to its {CONFIG}, or {NAMES[1]} and what that names"
        )
    return config, read_state_dict(found)


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The entries of the config.json of a folder. Raises ``UserError`` as :func:`read_folder` does."""
    path = expanded(Path(path))
    file = path / CONFIG
    if not file.is_file():
        if (path / _PIPELINE).exists():
            raise UserError(
                f"{path} is a pipeline of several networks: name the folder of one, such as {path / 'unet'}"
            )
        raise UserError(f"there is no {file}, which says what network the weights are of: fetch it too")
    if file.stat().st_size > _MOST_CONFIG:
        raise UserError(f"{file} was not read: it has more than {_MOST_CONFIG:,} bytes; fetch it again")
    try:
        config = json.loads(file.read_bytes())
    # deep nesting is a RecursionError
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({on_one_line(str(error))}): fetch it again") from error
    if not isinstance(config, dict):
        raise UserError(f"{file} holds no table of entries: fetch it again")
    return config


def check_count(tensors: StateDict, pattern: str, *, expected: int, blocks: str, folder: Path) -> None:
    """Raise ``UserError`` unless as many arrays as config.json has blocks match a regular expression.

    A network of far more layers than its weights have would take minutes to be refused array by array.

    Args:
      tensors: published arrays.
      pattern: of the whole name of an array that each block has once.
      expected: number of blocks by config.json.
      blocks: what they are, for the message.
      folder: likewise.
    """
    found = sum(re.fullmatch(pattern, name) is not None for name in tensors)
    if found != expected:
        raise UserError(
            f"{folder / CONFIG} describes a network of {expected:,} {blocks}, and its weights have {found:,}: fetch "
            "both again"
        )


def write_folder(
    path: str | os.PathLike[str], files: Mapping[str, Mapping[str, Any]], tensors: Mapping[str, np.ndarray]
) -> None:
    """Write a folder that :func:`read_folder` and diffusers read: JSON files by name, and one safetensors file.

    The folder appears at once or not at all.

    Raises:
      UserError: there is something at ``path`` already.
    """
    path = expanded(Path(path))
    if path.exists():
        raise UserError(f"{path} exists already: name a new folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as made:
        folder = Path(made) / path.name
        folder.mkdir()
        for name, values in files.items():
            (folder / name).write_text(f"{json.dumps(dict(values), indent=2, sort_keys=True)}\n")
        write_state_dict(folder / (WEIGHTS if library_of(files[CONFIG])[0] == "diffusers" else MODEL), tensors)
        folder.rename(path)
