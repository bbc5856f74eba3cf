"""Checkpoints by Orbax: asynchronous, retained by policy, the newest good one restored.

A checkpoint that was damaged on disk is set aside, reported, and passed over for the one before. One that is sound
but does not fit the state (another model, another optimizer) is an error: passing over it would lose the run.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from vision.errors import UserError
from vision.parallel.agreement import all_of, check_equal, first_alone
from vision.parallel.sharding import path_name
from vision.types import TrainState

ITEM = "state"


@dataclass(frozen=True)
class FirstOfEach:
    """Orbax preservation policy: the first checkpoint at or after every multiple of ``every`` steps.

    Orbax's own ``EveryNSteps`` keeps exact multiples only, and saves happen at the first step past a number of images.
    """

    every: int

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """For each checkpoint, in the order of steps, whether it stays."""
        del context
        spans = [checkpoint.step // self.every for checkpoint in checkpoints]
        return [span > 0 and span not in spans[:index] for index, span in enumerate(spans)]


class Checkpoints:
    """The folder ``checkpoints/`` of a work directory; a context manager that waits for pending writes."""

    def __init__(self, folder: Path, *, keep: int = 2, keep_every_steps: int = 0, read_only: bool = False):
        """Open ``folder``; create it unless ``read_only``.

        Args:
          folder: where checkpoints live, one sub-folder a step.
          keep: how many of the latest are kept.
          keep_every_steps: also keep the first at or after every multiple of this; 0 for none.
          read_only: never write, clean up or delete: for looking at a run that may be in progress.
        """
        logging.getLogger("absl").addFilter(_is_not_of_orbax)
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        self.folder = folder.absolute()
        policies: list[Any] = [ocp.checkpoint_managers.LatestN(keep)]
        if keep_every_steps:
            policies.append(FirstOfEach(keep_every_steps))
        self._read_only = read_only
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=not read_only,
            enable_async_checkpointing=True,
            read_only=read_only,
            create=not read_only,
        )
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        handlers = {ITEM: ocp.StandardCheckpointHandler()}  # without it a fresh manager cannot read metadata
        return ocp.CheckpointManager(self.folder, options=self._options, item_handlers=handlers)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def latest(self) -> Path | None:
        """The folder of the newest finished checkpoint."""
        step = self._manager.latest_step()
        return None if step is None else self.folder / str(step)

    def save(self, state: TrainState, step: int) -> None:
        """Start writing ``state``; returns when its arrays are copied, so that they may be donated.

        Raises ``UserError`` when the disk is full, now or since the last save; earlier checkpoints stay.
        """
        if self._manager.latest_step() == step:
            return
        with disk_errors(self.folder, "checkpoint"):
            self._manager.save(step, args=ocp.args.Composite(**{ITEM: ocp.args.StandardSave(state)}), force=True)

    def wait(self) -> None:
        """Block until everything is written."""
        with disk_errors(self.folder, "checkpoint"):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait for pending writes and let go of the folder."""
        with disk_errors(self.folder, "checkpoint"):
            self._manager.close()

    def restore(self, abstract: TrainState, *, report: Callable[[str], None]) -> TrainState | None:
        """The newest good checkpoint as a state like ``abstract`` (ShapeDtypeStructs with shardings), or None.

        Damaged ones are reported and, once an older one is restored and unless read-only, moved to
        ``checkpoints-damaged/`` beside the folder.

        Raises:
          UserError: if a sound checkpoint does not fit ``abstract``, or all that exist are damaged.
        """
        damaged: list[int] = []
        wanted = _layout(abstract)  # outside of the try: a mistake in this program is no damage on disk
        steps = self._steps()
        while steps:
            step, restored, problem = steps.pop(0), None, "it is damaged for another process"
            try:
                self._check_fits(step, wanted)
                restored = self._manager.restore(
                    step, args=ocp.args.Composite(**{ITEM: ocp.args.StandardRestore(abstract)})
                )
            except UserError:
                raise
            except Exception as error:  # Orbax raises what its storage layers raise, of any type
                problem = _first_line(error)
            if all_of(restored is not None) and restored is not None:
                self._set_aside(damaged)
                return restored[ITEM]
            damaged.append(step)
            if self._replaced(step):
                steps = [each for each in self._steps() if each not in damaged]
            else:
                report(f"checkpoint {self.folder / str(step)} is damaged and passed over: {problem}")
        if damaged:
            raise UserError(
                f"all {len(damaged)} checkpoints in {self.folder} are damaged; nothing was changed: "
                "start afresh in another work directory with --workdir, or bring back a copy",
                code=4,
            )
        return None

    def _steps(self) -> list[int]:
        """The steps of all checkpoints, the newest first, listed anew where another process may be writing."""
        if self._read_only:
            self._manager.reload()
        steps = sorted(self._manager.all_steps(), reverse=True)
        check_equal("the checkpoints they see", steps)  # such as hosts that do not share the file system
        return steps

    def _replaced(self, step: int) -> bool:
        """Whether the run that is being looked at is just deleting this checkpoint, for a newer one."""
        return self._read_only and not all_of(not _disappears(self.folder / str(step)))

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays of the newest checkpoint by path ("params/head/kernel"), on the host, whatever state it is of.

        A random key is the array of its words.

        Raises ``UserError`` when there is none, or it cannot be read.
        """
        found: Any = None
        while found is None:
            steps = self._steps()
            if not steps:
                raise UserError(f"{self.folder} has no checkpoint yet: wait for the run to save one")
            step = steps[0]
            try:
                metadata = self._manager.item_metadata(step)[ITEM]
                shapes = jax.tree.map(
                    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=_first_device()),
                    metadata.tree if hasattr(metadata, "tree") else metadata,
                )
                found = self._manager.restore(step, args=ocp.args.Composite(**{ITEM: ocp.args.StandardRestore(shapes)}))
            except Exception as error:  # as in restore
                if not self._replaced(step):
                    problem = _first_line(error)
                    raise UserError(f"checkpoint {self.folder / str(step)} cannot be read: {problem}") from error
        is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        leaves = jax.tree_util.tree_leaves_with_path(found[ITEM])
        return {path_name(p): np.asarray(jax.random.key_data(x) if is_key(x) else x) for p, x in leaves}

    def _set_aside(self, steps: list[int]) -> None:
        if self._read_only or not steps:
            return
        self._manager.close()

        def move() -> None:
            aside = self.folder.with_name(f"{self.folder.name}-damaged")
            aside.mkdir(exist_ok=True)
            for step in steps:
                taken = len(list(aside.glob(f"{step}-*")))
                (self.folder / str(step)).rename(aside / f"{step}-{taken}")

        first_alone(move)
        self._manager = self._open()

    def _check_fits(self, step: int, wanted: dict[str, str]) -> None:
        metadata = self._manager.item_metadata(step)[ITEM]
        if metadata is None:
            raise FileNotFoundError("its metadata cannot be read")
        tree = metadata.tree if hasattr(metadata, "tree") else metadata
        stored = _layout(tree)
        if stored == wanted:
            return
        differing = sorted(name for name in stored.keys() | wanted.keys() if stored.get(name) != wanted.get(name))
        first = differing[0]
        raise UserError(
            f"checkpoint {self.folder / str(step)} does not fit this experiment: {first} is "
            f"{stored.get(first, 'absent')} there and {wanted.get(first, 'absent')} here "
            f"({len(differing)} such arrays): use the code and options that wrote it, or another --workdir",
            code=4,
        )


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    """Orbax logs every phase of a save, and a traceback for each array of one that fails, which is raised here too."""
    return "orbax" not in record.pathname


def _disappears(folder: Path, *, seconds: float = 2.0) -> bool:
    """Whether a folder is gone, or will be soon: its files are deleted one after another."""
    until = time.monotonic() + seconds
    while folder.exists() and time.monotonic() < until:
        time.sleep(0.05)
    return not folder.exists()


def _first_device() -> jax.sharding.Sharding:
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def _layout(tree: Any) -> dict[str, str]:
    """Dtype and shape of all arrays by path; a random key has those of its words, as it has on disk."""
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))[0]:
        if isinstance(leaf, jax.ShapeDtypeStruct) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.eval_shape(jax.random.key_data, leaf)
        if getattr(leaf, "shape", None) is not None:
            found[path_name(path)] = f"{jnp.dtype(leaf.dtype).name} {list(leaf.shape)}"
    return found


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__


@contextlib.contextmanager
def disk_errors(folder: Path, what: str) -> Iterator[None]:
    """Turn "no space left", which several storage layers have in words of their own, into one sentence.

    Args:
      folder: where is written.
      what: what is written, for the message.
    """
    try:
        yield
    except Exception as error:  # of any type: tensorstore, Orbax and Python each have their own
        if not any(words in str(error) for words in ("No space left", "Errno 28", "Disk quota exceeded", "ENOSPC")):
            raise
        raise UserError(
            f"the disk that holds {folder} is full: the last {what} was not written, earlier ones are "
            "intact; free some space and run the same command again",
            code=4,
        ) from error
