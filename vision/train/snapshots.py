"""Snapshots of averages in the run folder, and averages of other lengths reconstructed from them.

A snapshot is a file ``snapshots/STEP-LENGTH.safetensors`` with every array of one average under its path, float32 as it
is tracked: four bytes a parameter. It appears at once or not at all, is written by the first process, whichever devices
the arrays are divided among, and is always of the same step for a run, so that a run which comes back after a kill
replaces what it writes again. See ``vision.train.power_average`` for how averages are reconstructed.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from annotated_types import MinLen
from jaxtyping import PyTree

from vision.atomic import write_atomically
from vision.errors import UserError, on_one_line
from vision.parallel.agreement import check_equal, first_alone, is_first
from vision.parallel.sharding import path_name
from vision.ranges import AverageLength, NonNegativeInt
from vision.train.checkpoint import disk_errors
from vision.train.power_average import Profile, combination, power_decay
from vision.types import Schedule, TrainState

FOLDER = "snapshots"
"""In the run folder."""

_NAME = re.compile(r"(\d{10,})-(0\.\d+)\.safetensors")


@dataclass(frozen=True, kw_only=True)
class SnapshotConfig:
    """Averages by power functions that a run tracks and keeps, to make those of other lengths after it has ended."""

    interval: NonNegativeInt = 0
    """Images between two snapshots, each of all ``lengths``; one is also kept at the end. 0 tracks and keeps none."""
    lengths: Annotated[tuple[AverageLength, ...], MinLen(1)] = (0.05, 0.10)
    """Relative lengths of the averages, sigma_rel; two are enough for all others."""

    @property
    def names(self) -> dict[str, float]:
        """Name among the averages of a state -> length; {} for none."""
        return {f"power_{length}": length for length in self.lengths} if self.interval else {}

    def decays(self) -> dict[str, Schedule]:
        """Decays by name, for ``vision.train.step.averaged``. Raises ``UserError`` for a length that occurs twice."""
        if len(self.names) < len(self.lengths) and self.interval:
            raise UserError(f"snapshots.lengths names a length twice: {' '.join(map(str, self.lengths))}")
        return {name: power_decay(length) for name, length in self.names.items()}


@dataclass(frozen=True)
class Snapshots:
    """The folder ``snapshots/`` of a run that is being trained."""

    folder: Path
    config: SnapshotConfig

    def save(self, state: TrainState, step: int) -> None:
        """Keep the averages of ``state`` after ``step`` steps; every process calls it, and the first one writes.

        Raises ``UserError`` where the disk is full.
        """
        for name, length in self.config.names.items():
            arrays = {path: array for path, array in _on_host(state.ema[name]) if is_first()}

            def write(arrays: Any = arrays, length: float = length) -> None:
                with disk_errors(self.folder, "snapshot"):
                    self.folder.mkdir(exist_ok=True)
                    # one process of one run writes here, and a file is of one step: no other can be meant
                    write_atomically(self.folder / _file(step, length), safetensors.numpy.save(arrays))

            first_alone(write)

    def disk_use(self, state: TrainState, *, images: int) -> str:
        """What all snapshots of a run of this many images will take, in a sentence."""
        size = sum(
            leaf.size * leaf.dtype.itemsize for name in self.config.names for leaf in jax.tree.leaves(state.ema[name])
        )
        count = images // self.config.interval + bool(images % self.config.interval)
        return (
            f"snapshots of {len(self.config.names)} averages every {self.config.interval:,} images: {count:,} times "
            f"{size / 1e6:,.1f} MB, {count * size / 1e9:,.2f} GB in the end"
        )


@dataclass(frozen=True)
class Reconstructed:
    """An average reconstructed from snapshots."""

    average: PyTree
    """Like the averages of the state, and placed like them."""
    snapshots: int
    """How many averages were combined."""
    error: float
    """Distance of its profile from that of the average that is meant, relative to that; 0 for one that is stored."""


def reconstructed(
    folder: Path,
    config: SnapshotConfig,
    state: TrainState,
    length: float,
    *,
    now: int,
    at: int | None = None,
    report: Callable[[str], None],
) -> Reconstructed:
    """The average of any length, at the step of a state or before.

    Snapshots up to that step are combined, and, at the step of the state, its own averages.

    Args:
      folder: ``snapshots/`` of the run.
      config: of the run.
      state: of the run, whose averages say how the result looks and where it is placed.
      length: sigma_rel.
      now: steps that ``state`` has taken.
      at: the step whose average it is; by default ``now``.
      report: called once with a sentence about snapshots that cannot be read, which are left out.

    Raises:
      UserError: the run tracks no such averages, or there is nothing to combine.
    """
    if not config.names:
        raise UserError(f"{folder.parent} keeps no snapshots of averages: train with --snapshots.interval IMAGES")
    at = now if at is None else at
    template = state.ema[next(iter(config.names))]
    shapes = {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(template)}
    files, damaged = [], []
    for path, profile in stored(folder):
        if profile.step > at or profile.step >= now:  # of a future that a run which came back has not reached
            continue
        (files if _fits(path, shapes) else damaged).append((path, profile))
    check_equal("the snapshots they see", [(path.name, profile) for path, profile in files])
    if damaged:
        report(
            f"{len(damaged)} of {len(damaged) + len(files)} snapshots, such as {damaged[0][0]}, are damaged or of "
            "another network: the average is made of the others"
        )
    own = {Profile(each, now): state.ema[name] for name, each in config.names.items()} if at == now and now else {}
    profiles = [profile for _, profile in files] + list(own)
    if not profiles:
        raise UserError(f"{folder} has no snapshot up to step {at:,}: choose a later one, or wait for the run")
    coefficients, error = combination(profiles, Profile(length, at))
    sums = {path: np.zeros(shape) for path, shape in shapes.items()}
    sources = [lambda path=path: _of_file(path) for path, _ in files] + [lambda t=t: _on_host(t) for t in own.values()]
    for coefficient, source in zip(coefficients, sources, strict=True):
        if coefficient:
            for path, array in source():
                sums[path] += coefficient * array.astype(np.float64)

    def placed(path: tuple[Any, ...], leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf  # copied and not averaged, see ``vision.train.step.averaged``
        host = sums[path_name(path)].astype(leaf.dtype)
        return jax.make_array_from_callback(host.shape, leaf.sharding, lambda index: host[index])

    made = jax.tree_util.tree_map_with_path(placed, template)
    return Reconstructed(made, int(np.count_nonzero(coefficients)), error)


def stored(folder: Path) -> list[tuple[Path, Profile]]:
    """The files of snapshots in a folder and what they are of, in the order of steps; [] where there is none."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    found = [(folder / name, match) for name in names if (match := _NAME.fullmatch(name))]
    return [(path, Profile(float(match[2]), int(match[1]))) for path, match in found]


def _file(step: int, length: float) -> str:
    return f"{step:010d}-{length}.safetensors"


def _on_host(tree: PyTree) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a tree by path, whole, one after another; every process takes part."""
    from jax.experimental import multihost_utils

    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        here = leaf.is_fully_addressable or leaf.is_fully_replicated
        yield path_name(path), np.asarray(leaf if here else multihost_utils.process_allgather(leaf, tiled=True))


def _of_file(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    try:
        with safetensors.safe_open(path, "np") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no mapping
                yield name, opened.get_tensor(name)
    except Exception as error:  # of any type: the library has what Rust and Python raise for a file
        raise UserError(
            f"{path} cannot be read any more ({on_one_line(str(error))}): run the same command again"
        ) from error


def _fits(path: Path, shapes: dict[str, tuple[int, ...]]) -> bool:
    """Whether a file can be read and has the arrays of an average."""
    try:
        with safetensors.safe_open(path, "np") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()} == shapes  # noqa: SIM118
    except Exception:  # as in _of_file
        return False
