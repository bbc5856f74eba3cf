"""SIGTERM and Ctrl-C become a request to stop that the loop answers between two steps."""

import signal
from types import FrameType
from typing import Any

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: nothing is wrong, run the same command again."""


class Interrupted(Exception):  # noqa: N818 - it is no error
    """The run was asked to stop, has saved everything, and can be continued.

    Attributes:
      step: the step that was saved.
    """

    def __init__(self, step: int):
        super().__init__(f"interrupted after step {step}")
        self.step = step


class Interruption:
    """Catches SIGTERM and SIGINT while it is entered; ``requested`` tells whether one came.

    A second Ctrl-C acts at once, as Python's own handler does. Works in the main thread only, where Python allows
    signal handlers.
    """

    def __init__(self):
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
