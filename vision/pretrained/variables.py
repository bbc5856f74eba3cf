"""Variables of this project as safetensors files, under their paths (``params/layer/kernel``)."""

import os
from typing import Any

import numpy as np

from vision.pretrained.rules import Rule, from_published, named
from vision.pretrained.state_dict import read_state_dict, write_state_dict


def write_variables(path: str | os.PathLike[str], variables: Any) -> None:
    """Write a tree of arrays, such as {"params": ..., "batch_stats": ...}, each leaf under its path."""
    write_state_dict(path, {name: np.asarray(leaf) for name, leaf in named(variables).items()})


def read_variables(path: str | os.PathLike[str], target: Any) -> Any:
    """A tree like ``target``, of arrays or ShapeDtypeStructs, filled from a file of :func:`write_variables`.

    Raises:
      UserError: if the file cannot be read, or its paths, shapes or kinds of dtypes differ from those of ``target``.
    """
    rules = tuple(Rule(name, name) for name in named(target))
    return from_published(read_state_dict(path), target, rules=rules)[0]
