"""SIGTERM and Ctrl-C become a request to stop that the loop answers between two steps."""

import os
import signal
from types import FrameType
from typing import Any

import jax

from vision.stopping import stop


class Interrupted(Exception):  # noqa: N818 - it is no error
    """The run was asked to stop, has saved everything, and can be continued.

    Attributes:
      step: the step that was saved.
    """

    def __init__(self, step: int):
        super().__init__(f"interrupted after step {step}")
        self.step = step


class Interruption:
    """Catches SIGTERM and SIGINT while it is entered; :meth:`requested` tells whether one came.

    With several processes SIGTERM is left to JAX, which tells the others and finds a step that none has passed yet;
    another handler would silently take the notice away from it. Ctrl-C becomes a SIGTERM then.

    A second Ctrl-C ends the process at once, as a kill would, also while a checkpoint is written. Works in the main
    thread only, where Python allows signal handlers.
    """

    def __init__(self):
        self._caught = False
        self._previous: dict[int, Any] = {}
        self._several = jax.process_count() > 1

    def __enter__(self) -> "Interruption":
        for number in (signal.SIGINT,) if self._several else (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def requested(self, dispatch: int) -> bool:
        """Whether to save and stop now, before dispatch number ``dispatch``.

        A collective operation: all processes call it before every dispatch, with the same numbers in a row, and all
        get True at the same one.
        """
        if not self._several:
            return self._caught
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(dispatch)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._caught and number == signal.SIGINT:
            stop("stopped at once; the same command continues from the last checkpoint", 130)
        self._caught = True
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)
