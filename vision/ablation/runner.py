"""Runs the trials of a study: claims one, starts it, waits, records its outcome; any number of runners at once.

There is one thread. It checks its trials a few times a second, renews their claims, and starts the next if there is
room. To never train a trial twice, a trial is started only under a claim (``claims.py``) and after checking its outcome
again, which is written before the claim is released.
"""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from vision.ablation import outcomes
from vision.ablation.claims import Claim, Held, acquire, release, renew
from vision.ablation.devices import Share
from vision.ablation.narration import Narrator, about, seconds_left
from vision.ablation.outcomes import Outcome
from vision.ablation.study import Trial
from vision.errors import UserError
from vision.units import count, duration

DONE, FAILED, UNFINISHED, KILLED = 0, 1, 75, 130
"""Exit codes: all finished; some failed; stopped, or some are running elsewhere; Ctrl-C pressed twice."""

_RENEWALS = 5  # signs of life per time after which a claim is stale
_MOST_SECONDS_SILENT = 20.0
_RESUME_AFTER = 2.0  # seconds until a killed trial is resumed, since the runner may be about to be stopped as well
_REPORT_SHARE = 20  # renewing the report may take this fraction (1 / n) of the time


class Stop:
    """Counts SIGTERM and Ctrl-C as a context manager. Works only in the main thread."""

    def __init__(self):
        self.requests = 0
        self.at_once = False
        """Whether Ctrl-C was pressed again."""
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._count)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _count(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.at_once = self.at_once or (self.requests > 0 and number == signal.SIGINT)
        self.requests += 1


@dataclass
class _Running:
    """A trial that this runner has started."""

    trial: Trial
    claim: Claim
    share: Share
    process: subprocess.Popen[bytes]
    started: float
    log_start: int
    before: Outcome | None
    stop_requested: bool = False
    """Whether the runner has requested it to stop."""
    lost: bool = False
    """Whether another runner has taken its claim over."""

    def seconds(self) -> float:
        """Running time of the trial, over all its starts."""
        return time.monotonic() - self.started + (self.before.seconds if self.before else 0.0)


class Runner:
    """Runs trials in a study directory.

    Args:
      trials: what to run, in order.
      folder: the study directory.
      shares: the resources of each concurrent trial; their number is that of concurrent trials.
      stale: seconds without a sign of life after which a claim of another runner is taken over.
      retry_failed: run trials again that failed before.
      report: renews the report; gets a function to call often, so that claims are renewed meanwhile.
      narrator: for progress messages.
      headline: the final numbers of a trial for its line, from its folder; "" if there are none.
      extra: further options of every trial that concern only where it runs.
      poll: seconds between two checks.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        folder: Path,
        *,
        shares: Sequence[Share],
        stale: float,
        retry_failed: bool,
        report: Callable[[Callable[[], None]], None],
        narrator: Narrator,
        headline: Callable[[Trial], str] = lambda trial: "",
        extra: Sequence[str] = (),
        poll: float = 0.1,
    ):
        self._trials, self._folder, self._stale, self._poll = tuple(trials), folder, stale, poll
        self._free, self._running = list(shares), list[_Running]()
        self._parallel = len(self._free)
        self._report, self._narrator, self._headline, self._extra = report, narrator, headline, tuple(extra)
        self._outcomes = {trial.unit: outcomes.read(trial.beside(folder, ".json")) for trial in trials}
        self._retry = {
            unit: outcome.starts
            for unit, outcome in self._outcomes.items()
            if retry_failed and outcome is not None and outcome.ending == "failed"
        }
        self._held: dict[str, Held] = {}  # trials of other runners as first seen
        self._alive: set[str] = set()  # those with signs of life since
        self._not_before: dict[str, float] = {}
        self._next_renewal = self._next_look = self._next_report = time.monotonic()
        self._next_show = self._next_look
        self._report_due = False
        self._stop = Stop()

    def run(self) -> int:
        """Run until nothing is left to do, or until stopped; returns the exit code.

        Raises:
          UserError: an outcome cannot be read, or the report not written.
        """
        done = sum(self._settled(trial) for trial in self._trials)
        self._narrator.say(f"{len(self._trials)} trials{f', {done} of them done before' if done else ''}")
        with self._stop:
            try:
                while self._turn():
                    time.sleep(self._poll)
            finally:
                for running in self._running:  # only after an error of the runner itself
                    _kill(running)
                    running.process.wait()
                    release(running.claim)
            self._narrator.live("")
            if not self._stop.requests:  # a stopped runner must not take time for plots
                self._report(self._tend)
        return self._summary()

    def _turn(self) -> bool:
        """One check of all trials; False if there is nothing left to wait for."""
        self._tend()
        for running in [each for each in self._running if each.process.poll() is not None]:
            self._ended(running)
        if not self._stop.requests:
            self._start_what_fits()
        if self._running:
            self._show()
        elif self._stop.requests or not self._wanted():
            return False
        if self._report_due and not self._stop.requests and time.monotonic() >= self._next_report:
            self._renew_report()
        return True

    def _tend(self) -> None:
        """Forward a request to stop, and renew claims."""
        for running in self._running:
            if self._stop.at_once:
                _kill(running)
            elif self._stop.requests and not running.stop_requested:
                running.stop_requested = True
                with contextlib.suppress(ProcessLookupError):
                    running.process.terminate()
                self._narrator.say(f"{self._number(running.trial)}: asked to save and stop")
        if time.monotonic() >= self._next_renewal:
            self._next_renewal = time.monotonic() + min(self._stale / _RENEWALS, _MOST_SECONDS_SILENT)
            for running in self._running:
                if not running.lost and not renew(running.claim):
                    running.lost = True
                    _kill(running)

    def _start_what_fits(self) -> None:
        if not self._free or time.monotonic() < self._next_look:
            return
        # killed trials come last: the cause may have disappeared by then
        for trial in sorted(self._trials, key=lambda trial: self._not_before.get(trial.unit, 0.0)):
            if not self._free:
                return
            if self._wanted_here(trial):
                self._take(trial)
        self._next_look = time.monotonic() + min(1.0, self._stale / (2 * _RENEWALS))

    def _wanted_here(self, trial: Trial) -> bool:
        busy = any(running.trial.unit == trial.unit for running in self._running)
        return not (busy or self._settled(trial) or time.monotonic() < self._not_before.get(trial.unit, 0.0))

    def _settled(self, trial: Trial) -> bool:
        """Whether a trial needs no further work, as far as known."""
        outcome = self._outcomes[trial.unit]
        if outcome is None or outcome.ending == "interrupted":
            return False
        return outcome.ending == "finished" or self._retry.get(trial.unit) != outcome.starts

    def _take(self, trial: Trial) -> None:
        """Start a trial unless another runner has claimed or ended it."""
        self._look_again(trial)
        if self._settled(trial):
            return
        got = acquire(self._folder / "claims", trial.unit, stale=self._stale)
        if isinstance(got, Held):
            first = self._held.setdefault(trial.unit, got)
            if got.renewed > first.renewed or got.owner != first.owner:
                self._alive.add(trial.unit)
            return
        self._held.pop(trial.unit, None)
        self._alive.discard(trial.unit)
        self._look_again(trial)  # it may have ended between the check and the claim
        if self._settled(trial):
            release(got)
        else:
            self._start(trial, got, self._free.pop(0))

    def _look_again(self, trial: Trial) -> None:
        before = self._outcomes[trial.unit]
        now = self._outcomes[trial.unit] = outcomes.read(trial.beside(self._folder, ".json"))
        if now is not None and now != before and self._settled(trial):
            self._report_due = True
            self._narrator.say(f"{self._number(trial)}: {now.ending} on {now.host}")

    def _start(self, trial: Trial, claim: Claim, share: Share) -> None:
        before = self._outcomes[trial.unit]
        log = trial.beside(self._folder, ".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, *trial.command(self._folder), *self._extra]
        attached = [sys.executable, "-m", "vision.ablation.attached", str(os.getpid()), ",".join(map(str, share.cores))]
        with log.open("ab") as file:
            typed = shlex.join(["python", *command[1:]])
            file.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S %Z')} on {socket.gethostname()}: {typed}\n".encode())
            file.flush()
            log_start = file.tell()
            process = subprocess.Popen(
                [*attached, *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **share.environment},
                start_new_session=True,  # Ctrl-C on the terminal is only for the runner
            )
        self._running.append(_Running(trial, claim, share, process, time.monotonic(), log_start, before))
        images = outcomes.images_seen(trial, self._folder)
        how = f"resumed after {count(images)} images" if images else "started"
        how = "tried again" if before is not None and before.ending == "failed" else how
        self._narrator.say(f"{self._number(trial)}: {how}{f' on {share}' if str(share) else ''}")

    def _ended(self, running: _Running) -> None:
        self._running.remove(running)
        self._free.append(running.share)
        trial = running.trial
        if running.lost or not renew(running.claim):
            self._narrator.say(
                f"{self._number(trial)}: taken over by another runner, since this one stood still for more than "
                f"{self._stale:g} s"
            )
            return
        outcome = outcomes.exit_outcome(
            trial,
            self._folder,
            running.process.returncode,
            before=running.before,
            seconds=time.monotonic() - running.started,
            host=socket.gethostname(),
            log_start=running.log_start,
            stop_requested=running.stop_requested,
        )
        outcomes.write(trial.beside(self._folder, ".json"), outcome)
        release(running.claim)
        self._outcomes[trial.unit] = outcome
        self._next_look = time.monotonic()
        self._report_due = self._report_due or outcome.ending != "interrupted"
        if outcome.ending == "interrupted":
            self._not_before[trial.unit] = time.monotonic() + _RESUME_AFTER
        self._narrator.say(
            f"{self._number(trial)}: {self._described(trial, outcome)}{self._tally(running.stop_requested)}"
        )
        if outcome.ending == "failed":
            self._narrator.say(f"  its log: {trial.beside(self._folder, '.log')}")

    def _described(self, trial: Trial, outcome: Outcome) -> str:
        if outcome.ending == "finished":
            numbers = self._headline(trial)
            return f"finished in {duration(outcome.seconds)}{f', {numbers}' if numbers else ''}"
        return f"failed: {outcome.reason}" if outcome.ending == "failed" else outcome.reason

    def _tally(self, stopping: bool) -> str:
        done = sum(self._settled(trial) for trial in self._trials)
        if stopping or done == len(self._trials):
            return ""
        return "; " + ", ".join(filter(None, [f"{done} of {len(self._trials)} done", about(self._seconds_left())]))

    def _wanted(self) -> bool:
        """Whether this runner may still start a trial, now or if an owner turns out to be dead."""
        return any(not self._settled(trial) and trial.unit not in self._alive for trial in self._trials)

    def _renew_report(self) -> None:
        started = time.monotonic()
        try:
            self._report(self._tend)
        except UserError as error:
            self._narrator.say(f"the report could not be renewed: {error}")
        seconds = time.monotonic() - started
        self._report_due, self._next_report = False, time.monotonic() + _REPORT_SHARE * seconds

    def _number(self, trial: Trial) -> str:
        return f"trial {self._trials.index(trial) + 1} of {len(self._trials)} ({trial.title})"

    def _parts(self) -> Mapping[str, tuple[float, float]]:
        """The running time and progress of each running trial."""
        found = {}
        for running in self._running:
            budget = running.trial.point.budget
            done = min(1.0, outcomes.images_seen(running.trial, self._folder) / budget)
            found[running.trial.unit] = running.seconds(), done
        return found

    def _seconds_left(self) -> float | None:
        return seconds_left(self._trials, self._outcomes, self._parts(), parallel=self._parallel)

    def _show(self) -> None:
        if not self._narrator.is_live or time.monotonic() < self._next_show:
            return
        self._next_show = time.monotonic() + 1.0
        parts = self._parts()
        names = [f"{running.trial.title} {100 * parts[running.trial.unit][1]:.0f} %" for running in self._running]
        left = about(seconds_left(self._trials, self._outcomes, parts, parallel=self._parallel))
        self._narrator.live("; ".join(filter(None, [", ".join(names), left])))

    def _summary(self) -> int:
        """Print the summary; returns the exit code."""
        for trial in self._trials:
            self._look_again(trial)
        by = lambda *endings: [t for t in self._trials if (o := self._outcomes[t.unit]) and o.ending in endings]
        finished, failed = by("finished"), by("failed")
        rest = len(self._trials) - len(finished) - len(failed)
        parts = [f"{len(finished)} of {len(self._trials)} trials finished"]
        parts += [f"{len(failed)} failed"] if failed else []
        elsewhere = sum(not self._settled(trial) and trial.unit in self._alive for trial in self._trials)
        parts += [f"{elsewhere} running elsewhere"] if elsewhere else []
        parts += [f"{rest - elsewhere} to go"] if rest > elsewhere else []
        self._narrator.say(", ".join(parts))
        if self._stop.requests:
            return KILLED if self._stop.at_once else UNFINISHED
        return FAILED if failed else UNFINISHED if rest else DONE


def _kill(running: _Running) -> None:
    """Kill a trial and its child processes."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.process.pid, signal.SIGKILL)
