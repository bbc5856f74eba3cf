"""What a run measures, written where it is found again: ``metrics.jsonl`` and TensorBoard event files.

``metrics.jsonl`` holds one JSON object a line: ``{"step": 40, "images": 5120, "time": 1763900000.123,
"train/loss": 0.71}``, with ``time`` in seconds since 1970. JSON has no numbers for values that are not
finite, so these are the strings ``"nan"``, ``"inf"`` and ``"-inf"``, which ``float()`` reads back.

Event files follow TensorBoard's format: records of ``tensorboard/compat/proto/event.proto`` framed as
TFRecords. They are written here in the calling thread: a queue and a writer thread, as ``SummaryWriter`` has
them, block training for good when that thread dies on a full disk.
"""

import contextlib
import errno
import json
import math
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, SupportsFloat

import numpy as np
from jaxtyping import UInt8

from vision.atomic import write_atomically
from vision.errors import UserError

_KEYS = ("step", "images", "time")
_NOT_FINITE = ("nan", "inf", "-inf")
_FLUSH_SECONDS = 10.0


class Records:
    """The open records of one run. One process writes; the others pass ``write=False`` and write nothing.

    Opening at ``resume_step`` makes the history what an uninterrupted run would have at that step: lines of
    later steps, which a killed process wrote after its last checkpoint, are dropped atomically, a last line
    torn by the kill is repaired, and TensorBoard discards the later steps too. A run that starts at
    step 0 has no history, so that all lines go. For this to be exact the caller writes everything of steps up
    to ``s`` and calls `flush` before it saves checkpoint ``s``.

    Args:
        workdir: the run's folder; created when missing.
        resume_step: the step of the checkpoint that the run continues from; 0 for a fresh run.
        write: False makes every method do nothing.

    Raises:
        UserError: when the disk is full, the folder cannot be written, or a line of ``metrics.jsonl`` other
            than the last is damaged. The same for the methods that write.
    """

    def __init__(self, workdir: str | Path, resume_step: int, write: bool):
        if resume_step < 0:
            raise ValueError(f"A run cannot resume from step {resume_step}.")
        self._workdir = Path(workdir)
        self._metrics: BinaryIO | None = None
        self._events: Any = None
        self._flushed = time.monotonic()
        if not write:
            return
        path = self._workdir / "metrics.jsonl"
        with self._explained():
            folder = self._workdir / "tensorboard"
            folder.mkdir(parents=True, exist_ok=True)
            _rewind(path, resume_step)
            # Unbuffered, so that every complete line survives a kill of the process.
            self._metrics = path.open("ab", buffering=0)
            try:
                self._open_events(folder, resume_step)
            except BaseException:
                self._metrics.close()
                raise

    def write_scalars(self, step: int, images: int, scalars: Mapping[str, SupportsFloat]) -> None:
        """Appends one line to ``metrics.jsonl`` and one event for each finite scalar at ``step`` to TensorBoard.

        Args:
            step: optimisation steps done.
            images: training images seen.
            scalars: finite or not, by name, such as ``train/loss``.

        Raises:
            ValueError: when a scalar is named ``step``, ``images`` or ``time``.
        """
        if self._metrics is None:
            return
        values = {name: float(scalar) for name, scalar in scalars.items()}
        if taken := sorted(values.keys() & set(_KEYS)):
            raise ValueError(f"A scalar cannot be called {taken[0]!r}: every line has that key already.")
        now = time.time()
        line: dict[str, Any] = {"step": int(step), "images": int(images), "time": round(now, 3)}
        line |= {name: x if math.isfinite(x) else str(x) for name, x in values.items()}
        from tensorboardX.summary import scalar

        with self._explained():
            _append(self._metrics, (json.dumps(line, allow_nan=False) + "\n").encode())
            # TensorBoard cannot draw what is not finite, and its writer would warn of every one
            for name, x in ((name, x) for name, x in values.items() if math.isfinite(x)):
                self._write_event(_event(step=int(step), wall_time=now, summary=_tagged(scalar(name, x), name)))
        self._flush_when_due()

    def write_images(self, step: int, images: int, grids: Mapping[str, UInt8[np.ndarray, "h w c"]]) -> None:
        """Adds images (uint8 in [0, 255], ``c`` 1 or 3) at ``step`` to TensorBoard, as PNG.

        Args:
            step: optimisation steps done.
            images: training images seen; TensorBoard has no place for it beside the step, so that it is not
                kept.
            grids: by name, such as ``samples``.

        Raises:
            ValueError: when an image is not uint8 [h w 1|3].
        """
        if self._events is None:
            return
        from tensorboardX.summary import image

        for name, grid in grids.items():
            if grid.dtype != np.uint8 or grid.ndim != 3 or grid.shape[-1] not in (1, 3):
                raise ValueError(f"Image {name!r} must be uint8 [h, w, 1 or 3], not {grid.dtype} {list(grid.shape)}.")
            summary = _tagged(image(name, grid, dataformats="HWC"), name)
            event = _event(step=int(step), wall_time=time.time(), summary=summary)
            with self._explained():
                self._write_event(event)
        self._flush_when_due()

    def flush(self) -> None:
        """Returns once everything written so far is on the disk."""
        if self._metrics is None:
            return
        with self._explained():
            os.fsync(self._metrics.fileno())
            self._events.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Flushes and closes both files; they are closed even when the flush fails. Closing twice is fine."""
        if self._metrics is None:
            return
        metrics, events = self._metrics, self._events
        try:
            self.flush()
        finally:
            self._metrics = self._events = None
            with self._explained(), metrics:
                events.close()

    def __enter__(self) -> "Records":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_events(self, folder: Path, resume_step: int) -> None:
        from tensorboardX.record_writer import RecordWriter

        # TensorBoard reads the files of a folder in the order of their names; nanoseconds keep two starts
        # within a second apart, where the second would otherwise overwrite the first.
        now = time.time_ns()
        name = f"events.out.tfevents.{now // 10**9:010d}.{now % 10**9:09d}.{socket.gethostname()}"
        self._events = RecordWriter(str(folder / name))
        self._write_event(_event(wall_time=now / 1e9, file_version="brain.Event:2"))
        # A session that starts at step s makes TensorBoard drop all earlier events of steps >= s.
        purge = resume_step + 1 if resume_step else 0
        start = {"status": "START"}
        self._write_event(_event(wall_time=now / 1e9, step=purge, session_log=start))
        self._events.flush()

    def _write_event(self, event: Any) -> None:
        self._events.write(event.SerializeToString())

    def _flush_when_due(self) -> None:
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(
                    f"The disk (or your quota) is full at {self._workdir}: free some space and run the same "
                    "command again, which continues from the last checkpoint.",
                    code=4,
                ) from error
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
                raise UserError(
                    f"The run's records cannot be written to {self._workdir} ({error.strerror}): choose a "
                    "folder that you may write to."
                ) from error
            raise


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Reads ``metrics.jsonl``: one dictionary a line, with values that are not finite as floats again.

    A last line that is not complete, because a process was killed while writing it or is writing it now, is
    left out.

    Raises:
        FileNotFoundError: when there is no such file.
        UserError: when a line other than the last is not a JSON object with a step.
    """
    return [_decoded(record) for _, record in _lines(Path(path))]


def _decoded(record: dict[str, Any]) -> dict[str, Any]:
    return {name: float(x) if x in _NOT_FINITE else x for name, x in record.items()}


def _lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """The complete lines of a file, each as its bytes without the line end and as the object in it."""
    pieces = path.read_bytes().split(b"\n")
    # After a final line end the last piece is empty; otherwise it is what a killed writer left.
    whole, last = pieces[:-1], pieces[-1]
    found = []
    for number, raw in enumerate(whole, start=1):
        record = _parsed(raw)
        if record is not None:
            found.append((raw, record))
        elif number < len(whole) or last:
            raise UserError(
                f"Line {number} of {path} is damaged: delete that line, or move the file away to start a new one."
            )
    record = _parsed(last)
    return found if record is None else [*found, (last, record)]


def _parsed(raw: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(raw)
    except (ValueError, RecursionError):  # JSON's and UTF-8's decoding errors; deep nesting
        return None
    if not isinstance(record, dict) or not all(map(_is_value, record.values())):
        return None
    counts = (record.get("step"), record.get("images", 0))
    return record if all(isinstance(each, int) and each >= 0 for each in counts) else None


def _is_value(value: Any) -> bool:
    """Whether a value is what `Records.write_scalars` writes."""
    return value in _NOT_FINITE if isinstance(value, str) else type(value) in (int, float) and math.isfinite(value)


def _rewind(path: Path, resume_step: int) -> None:
    """Rewrites ``path`` without the lines that a run resumed at ``resume_step`` writes again."""
    if not path.exists():
        return
    if resume_step == 0:
        kept = b""
    else:
        kept = b"".join(raw + b"\n" for raw, record in _lines(path) if record["step"] <= resume_step)
    if kept != path.read_bytes():
        write_atomically(path, kept)


def _event(**fields: Any) -> Any:
    """A TensorBoard event; the message type exists at run time only, where a type checker cannot see it."""
    from tensorboardX.proto import event_pb2

    return event_pb2.Event(**fields)  # pyright: ignore[reportAttributeAccessIssue]


def _tagged(summary: Any, name: str) -> Any:
    """A summary under its own name: the library puts "_" for many characters, and two classes would share a tag."""
    summary.value[0].tag = name
    return summary


def _append(file: BinaryIO, line: bytes) -> None:
    end = file.seek(0, os.SEEK_END)
    rest = memoryview(line)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError:
        # Half a line helps nobody. Should even this fail, the next opening repairs it.
        with contextlib.suppress(OSError):
            file.truncate(end)
        raise
