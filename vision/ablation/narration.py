"""Messages of the runner: permanent lines, one live line on a terminal, and an estimate of the remaining time."""

import io
import os
import sys
from collections.abc import Mapping, Sequence

from vision.ablation.outcomes import Outcome
from vision.ablation.study import Trial
from vision.units import duration

_SURE = 0.05  # the part of a trial that must be done before its speed is used for estimates


class Narrator:
    """Writes lines; on a terminal, also one live line below them."""

    def __init__(self, stream: io.TextIOBase | None = None):
        self._stream = sys.stderr if stream is None else stream
        self._live = ""

    def say(self, text: str) -> None:
        """Print a permanent line."""
        self._erase()
        self._stream.write(text + "\n")
        self._stream.flush()

    @property
    def is_live(self) -> bool:
        """Whether there is a terminal for a live line."""
        return self._stream.isatty()

    def live(self, text: str) -> None:
        """Replace the live line; does nothing without a terminal."""
        if not self.is_live:
            return
        try:
            width = os.get_terminal_size(self._stream.fileno()).columns - 1
        except (OSError, ValueError):
            width = 79
        text = text[: max(width, 1)]
        if text != self._live:
            self._erase()
            self._stream.write(text)
            self._stream.flush()
            self._live = text

    def _erase(self) -> None:
        if self._live:
            self._stream.write("\r\x1b[K")
            self._live = ""


def seconds_left(
    trials: Sequence[Trial],
    outcomes: Mapping[str, Outcome | None],
    running: Mapping[str, tuple[float, float]],
    *,
    parallel: int,
) -> float | None:
    """An estimate of the time until all trials are done; None if nothing is known yet.

    A trial is assumed to take as long as others of its point, else as all others; a running one is extrapolated from
    its speed.

    Args:
      trials: all of them.
      outcomes: by unit, for trials that have one.
      running: by unit, seconds that it has run over all its starts, and the fraction that is done.
      parallel: trials at a time.
    """
    took = {t.unit: o.seconds for t in trials if (o := outcomes.get(t.unit)) is not None and o.ending == "finished"}
    for unit, (seconds, part) in running.items():
        if part >= _SURE:
            took[unit] = seconds / part
    if not took:
        return None
    mean = sum(took.values()) / len(took)
    left = []
    for trial in trials:
        outcome = outcomes.get(trial.unit)
        if trial.unit not in running and outcome is not None and outcome.ending != "interrupted":
            continue
        alike = [took[other.unit] for other in trials if other.unit in took and other.point.name == trial.point.name]
        expected = took.get(trial.unit, sum(alike) / len(alike) if alike else mean)
        if trial.unit in running:
            left.append(max(0.0, expected - running[trial.unit][0]))
        else:
            done = min(1.0, outcome.images / trial.point.budget) if outcome is not None else 0.0
            left.append(expected * (1.0 - done))
    return max([sum(left) / parallel, *left], default=0.0)


def about(seconds: float | None) -> str:
    """``about 46m left``, or nothing."""
    return "" if seconds is None else f"about {duration(seconds)} left"
