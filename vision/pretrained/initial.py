"""``--init-from``: initial values of a new run in place of random ones.

A file of published weights (safetensors, the index of several, or a PyTorch state dict), a folder of diffusers with
its config.json, a file of this project's variables, or the work directory of another run. Where there are averaged
weights, they are used. A run that already has a checkpoint continues from that.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vision.errors import UserError
from vision.home import expanded
from vision.parallel.agreement import is_first
from vision.pretrained.adapted import Adapt, unchanged
from vision.pretrained.diffusers_folder import FolderSource, is_published_folder
from vision.pretrained.rules import Rule, WeightRules, from_published, named, surplus_prefix
from vision.pretrained.state_dict import read_weights, some
from vision.train.checkpoint import Checkpoints
from vision.train.class_names import class_names as class_names_of


def read_initial_values(
    path: Path,
    variables: Any,
    *,
    published: WeightRules = (),
    ignored: Sequence[str] = (),
    replaced: Sequence[str] = (),
    adapt: Adapt = unchanged,
    class_names: Sequence[str] | None = None,
    average: str | None = "ema",
    folder: FolderSource | None = None,
) -> dict[str, np.ndarray]:
    """Values for the variables of a network, by path ("params/head/kernel"), read from ``path``; prints a summary.

    Args:
      path: a file, a folder of diffusers, or the work directory of a run.
      variables: shapes of the variables, {"params": ..., ...}.
      published: rules from names of published weights to paths; empty if there are no published weights of this
        network.
      ignored: regular expressions of published names that may be unused.
      replaced: regular expressions of paths that keep their random values if the file has no matching ones, such as the
        head for a different number of classes.
      adapt: what is done with the arrays before the rules apply.
      class_names: of the data; if those of the other run differ, also in their order, ``replaced`` stays random in any
        case.
      average: the name of the averages to use if the run has them; None uses the trained variables.
      folder: how a folder of diffusers is read; None if there are none of this network.

    Raises:
      UserError: the path cannot be read, or its contents do not fit this network or are not finite.
    """
    path = expanded(path)
    if not path.exists():
        raise UserError(f"there is no {path} to start from: --init-from takes a file of weights or a work directory")
    prefix = ""
    if is_published_folder(path):
        if folder is None:
            raise UserError(f"{path} is a folder of diffusers, and no network is published so for this experiment")
        adapted, published, ignored, origin = folder.read(path), folder.rules, (), "published weights"
    else:
        if path.is_dir():
            tensors, origin = _of_run(path, average)
        else:
            weights = read_weights(path)
            tensors = weights.tensors
            origin = (
                f"the averages {weights.averaged} of published weights" if weights.averaged else "published weights"
            )
        if path.is_dir() or all(name.split("/")[0] in variables for name in tensors):
            origin = origin if path.is_dir() else "variables of this project"
            published = tuple(Rule(name, name) for name in named(variables))
        elif not published:
            why = "there are no published weights of this network to compare"
            if folder is not None:
                why = "weights of diffusers are read with their config.json: name their folder"
            raise UserError(f"{path} has none of this network's names, and {why}")
        else:
            prefix = surplus_prefix(tensors, variables, rules=published, ignored=ignored)
            tensors = {name.removeprefix(prefix): array for name, array in tensors.items()}
        adapted = adapt(dict(tensors), variables)
    replaced = (*replaced, *adapted.replaced)
    placeholders = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), variables)
    found, left = from_published(adapted.tensors, placeholders, rules=published, ignored=ignored, replaced=replaced)
    values = {name: np.asarray(value) for name, value in named(found).items() if name not in left}
    before = class_names_of(path.parent if path.name == "checkpoints" else path) if path.is_dir() else None
    others = None not in (before, class_names) and before != tuple(class_names or ())
    chosen = [name for name in values if others and any(re.search(expression, name) for expression in replaced)]
    notes = [f"the prefix {prefix} of all names is left out"] if prefix else []
    notes += adapted.notes
    kept = "".join(f"; {note}" for note in notes)
    kept += f"; {some(left)} stay random, since there are no matching values" if left else ""
    kept += f"; {some(chosen)} stay random, since the classes differ" if chosen else ""
    if is_first():
        print(f"starting from {origin} in {path}{kept}", file=sys.stderr)
    return {name: value for name, value in values.items() if name not in chosen}


def _of_run(folder: Path, average: str | None) -> tuple[Mapping[str, np.ndarray], str]:
    """The averaged variables in the newest checkpoint of a run, or the trained ones if it has no such average."""
    checkpoints = folder if folder.name == "checkpoints" else folder / "checkpoints"
    if not checkpoints.is_dir():
        raise UserError(f"{folder} is not the work directory of a run: it has no folder checkpoints/")
    with Checkpoints(checkpoints, read_only=True) as opened:
        arrays = opened.arrays()
    of = lambda prefix: {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
    averages = of(f"ema/{average}/") if average is not None else {}
    if any(name.startswith("params/") for name in averages):
        return averages, "the averages"
    state = of("model_state/")
    if averages:
        return {**{f"params/{name}": a for name, a in averages.items()}, **state}, "the averages"
    return {**{f"params/{name}": a for name, a in of("params/").items()}, **state}, "the variables"
