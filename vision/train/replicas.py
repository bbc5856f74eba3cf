"""Several runs trained as one program: what is kept of each, and what is said of all."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import SupportsFloat

import numpy as np
from jaxtyping import Float, UInt8

from vision.train.experiment import Evaluation, Replica
from vision.train.records import Records

FOLDER = "replicas"
"""Below the work directory: one folder a replica, with its own metrics.jsonl, TensorBoard events and samples."""

Measured = SupportsFloat | Float[np.ndarray, " replicas"]
"""A number of the whole program, or one of each replica."""


def half_width(values: Float[np.ndarray, " n"]) -> float:
    """Half the width of the 95 % confidence interval of the mean by Student's t; NaN for fewer than two values."""
    from scipy.special import stdtrit

    if len(values) < 2:
        return float("nan")
    return float(stdtrit(len(values) - 1, 0.975) * np.std(values, ddof=1) / np.sqrt(len(values)))


def combined(scalars: Mapping[str, Measured], replicas: Sequence[Replica]) -> dict[str, float]:
    """Mean over the seeds, and ``NAME_ci95``, half the width of its interval; for every group where there are several.

    A replica that diverged makes the mean of its group NaN: a mean of the survivors would be a mean of something else.
    """
    groups: dict[str, list[int]] = {}
    for index, replica in enumerate(replicas):
        groups.setdefault(replica.group, []).append(index)
    found: dict[str, float] = {}
    for name, value in scalars.items():
        if not isinstance(value, np.ndarray) or value.ndim == 0:
            found[name] = float(value)
            continue
        for group, indices in groups.items():
            suffix = f"[{group}]" if group else ""
            found[f"{name}{suffix}"] = float(np.mean(value[indices]))
            if len(indices) > 1:
                found[f"{name}_ci95{suffix}"] = half_width(value[indices])
    return found


class ReplicaRecords:
    """Records of several runs, with the methods of :class:`~vision.train.records.Records`.

    Arrays [replicas] go to each replica's records as numbers and, combined over the seeds, to those of the whole.
    """

    def __init__(self, workdir: Path, resume_step: int, write: bool, *, replicas: Sequence[Replica]):
        self._replicas = tuple(replicas)
        with contextlib.ExitStack() as opened:
            self._whole = opened.enter_context(Records(workdir, resume_step, write))
            self._each = [
                opened.enter_context(Records(workdir / FOLDER / replica.name, resume_step, write))
                for replica in replicas
            ]
            self._opened = opened.pop_all()

    def __enter__(self) -> "ReplicaRecords":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write_scalars(self, step: int, images: int, scalars: Mapping[str, Measured]) -> None:
        """One line for each replica, and one of means and intervals."""
        self._whole.write_scalars(step, images, combined(scalars, self._replicas))
        for index, records in enumerate(self._each):
            own = {
                name: value[index] for name, value in scalars.items() if isinstance(value, np.ndarray) and value.ndim
            }
            records.write_scalars(step, images, own)

    def write_images(self, step: int, images: int, grids: Mapping[str, UInt8[np.ndarray, "h w c"]]) -> None:
        """Images of all replicas as one run."""
        self._whole.write_images(step, images, grids)

    def write_replica_images(self, step: int, images: int, evaluations: Sequence[Evaluation]) -> None:
        """Each replica's images."""
        for records, evaluation in zip(self._each, evaluations, strict=True):
            records.write_images(step, images, evaluation.images)

    def flush(self) -> None:
        """Returns once everything written so far is on the disk."""
        for records in (self._whole, *self._each):
            records.flush()

    def close(self) -> None:
        """Flushes and closes all."""
        self._opened.close()
