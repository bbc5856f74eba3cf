"""How far a run is: one live line on a terminal, plain lines in a log file."""

import io
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import SupportsFloat

from vision.units import count, duration, value

_WINDOW = 60.0  # seconds that the rate looks back
_REDRAW = 0.2  # seconds between two drawings of the live line
_BAR = (8, 30)  # the shortest and the longest bar, in characters
_TEXT = 68  # characters kept for the numbers, so that the bar does not jump as they change


class Progress:
    """Shows images done, the recent rate, the loss and the time left.

    On a terminal a single line is rewritten in place, cut to the terminal's width, at most five times a
    second. Into anything else only the permanent lines of `log` and `message` go, without carriage returns or
    escapes.

    The rate is that of about the last minute and counts from the first call of `update` or `log` on, so that
    the compilation before the first step does not spoil it. The time left is the images left at that rate.

    Args:
        total_images: training images that the whole run will have seen at its end.
        start_images: images that a resumed run has already seen.
        stream: where to write; None is the standard error stream.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        total_images: int,
        start_images: int,
        stream: io.TextIOBase | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._total = total_images
        self._images = start_images
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._live = self._stream.isatty()
        self._samples: deque[tuple[float, int]] = deque()  # (seconds, images), oldest first
        self._scalars: Mapping[str, SupportsFloat] = {}
        self._drawn = ""
        self._next_draw = float("-inf")
        self._closed = False

    def update(self, images: int, scalars: Mapping[str, SupportsFloat]) -> None:
        """Notes that ``images`` have been seen in all; cheap enough for every step.

        ``scalars`` are converted to floats only when the line is drawn.
        """
        now = self._clock()
        self._images, self._scalars = images, scalars
        if not self._samples or now - self._samples[-1][0] >= _REDRAW:
            self._add_sample(now)
        if self._live and now >= self._next_draw:
            self._next_draw = now + _REDRAW
            self._draw()

    def log(self, images: int, scalars: Mapping[str, SupportsFloat]) -> None:
        """Prints a permanent line: progress, rate, time left and every scalar by its name."""
        self._images, self._scalars = images, scalars
        self._add_sample(self._clock())
        parts = [self._done(), *self._speed(), *(f"{name} {value(float(x))}" for name, x in scalars.items())]
        self.message("  ".join(parts))

    def message(self, text: str) -> None:
        """Prints a permanent text; the live line moves below it."""
        drawn = bool(self._drawn)
        self._erase()
        self._stream.write(text + "\n")
        if drawn:
            self._draw()
        self._stream.flush()

    def close(self) -> None:
        """Leaves the live line in its last state and ends it. Closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        if self._live and self._drawn:
            self._draw()
            self._stream.write("\n")
            self._drawn = ""
        self._stream.flush()

    def images_per_second(self) -> float | None:
        """The recent rate; None before two moments are known."""
        if len(self._samples) < 2:
            return None
        (t0, n0), (t1, n1) = self._samples[0], self._samples[-1]
        return (n1 - n0) / (t1 - t0)

    def seconds_left(self) -> float | None:
        """The time left at the recent rate; None while the rate is unknown or zero."""
        rate = self.images_per_second()
        if not rate or rate < 0:
            return None
        return max(0, self._total - self._images) / rate

    def _add_sample(self, now: float) -> None:
        if self._samples and now <= self._samples[-1][0]:
            return
        self._samples.append((now, self._images))
        # One sample older than the window stays, or steps longer than the window would have no rate.
        while len(self._samples) > 2 and self._samples[1][0] <= now - _WINDOW:
            self._samples.popleft()

    def _fraction(self) -> float:
        return min(1.0, self._images / self._total) if self._total > 0 else 1.0

    def _done(self) -> str:
        return f"{count(self._images)}/{count(self._total)} images {100 * self._fraction():.1f}%"

    def _speed(self) -> list[str]:
        rate, left = self.images_per_second(), self.seconds_left()
        parts = [] if rate is None else [f"{count(rate)} images/s"]
        return parts if left is None else [*parts, f"{duration(left)} left"]

    def _loss(self) -> list[str]:
        named = [name for name in self._scalars if name == "loss" or name.endswith("/loss")]
        # Players of a game have no single loss: show the first two scalars then.
        shown = named[:1] or list(self._scalars)[:2]
        return [f"{name.rsplit('/', 1)[-1]} {value(float(self._scalars[name]))}" for name in shown]

    def _draw(self) -> None:
        width = self._width()
        text = "  ".join([self._done(), *self._speed(), *self._loss()])
        length = min(_BAR[1], width - _TEXT - len("[] "))
        if length >= _BAR[0]:
            filled = round(length * self._fraction())
            text = f"[{'#' * filled}{'.' * (length - filled)}] {text}"
        text = text[:width]
        blank = min(len(self._drawn), width) - len(text)
        self._stream.write("\r" + text + " " * max(0, blank))
        self._stream.flush()
        self._drawn = text

    def _erase(self) -> None:
        if self._drawn:
            self._stream.write("\r" + " " * min(len(self._drawn), self._width()) + "\r")
            self._drawn = ""

    def _width(self) -> int:
        """Characters that fit on a line without its last column, where some terminals wrap."""
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):  # not a real terminal, or a closed one
            columns = 80
        return max(1, (columns or 80) - 1)
