"""That a program is being compiled is said when it begins: of a large network it takes minutes."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass

PATIENCE = 2.0
"""Seconds before a message about a program other than the training step; most are compiled or cached by then."""


@dataclass(frozen=True)
class _Report:
    say: Callable[[str], None]
    purpose: str


_report: ContextVar[_Report | None] = ContextVar("report", default=None)


@contextlib.contextmanager
def compiling_for(purpose: str, say: Callable[[str], None]) -> Iterator[None]:
    """Inside, ``say`` gets a message when a program for ``purpose`` ("the evaluation") takes long to compile."""
    before = _report.set(_Report(say, purpose))
    try:
        yield
    finally:
        _report.reset(before)


class Notice:
    """Around the call of a function under ``jax.jit``: says that it is being compiled, if it is and that takes long.

    Args:
      patience: seconds of silence after :meth:`begin`; ``PATIENCE`` unless given.
    """

    def __init__(self, patience: float | None = None):
        self._patience = patience
        self._timer: threading.Timer | None = None

    def begin(self) -> None:
        """Called while the function is traced, which is the beginning of compilation and happens in no other call."""
        if (report := _report.get()) is not None and self._timer is None:
            patience = PATIENCE if self._patience is None else self._patience
            self._timer = threading.Timer(patience, report.say, (f"compiling a program for {report.purpose}",))
            self._timer.daemon = True
            self._timer.start()

    def end(self) -> None:
        """Called when the function has returned."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()  # a line that has been begun is finished
            self._timer = None
