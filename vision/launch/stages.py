"""Experiments in turn as one system: each a process and a run folder of its own, resumed by one command.

A stage is any experiment. Its process begins when those before it have finished, and gets the folders of the runs that
it builds on as options. A stage that has finished is not started again, one that has not resumes.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from vision.errors import UserError
from vision.launch.experiment_module import PACKAGE, find_experiment
from vision.launch.inputs import paths_of
from vision.launch.options import option_of, unknown_name
from vision.launch.page import KEPT
from vision.launch.run_folder import CONFIG, check_same, has_begun, newest_checkpoint
from vision.stopping import EXIT_CODE

SHARED = ("--data.", "--mesh.")
"""Options that begin so are of all stages, unless the name of one comes first."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One of the experiments of a system."""

    name: str
    """Its folder, and with which its options begin: "--prior.images"."""
    experiment: str
    options: tuple[str, ...] = ()
    """Its own, before those of the command line."""
    needs: Mapping[str, str] = field(default_factory=dict)
    """Field of its configuration -> the stage whose run it names: {"clip.weights": "clip"}."""


@dataclass(frozen=True, kw_only=True)
class StageRun:
    """A stage with its folder and all its options."""

    stage: Stage
    folder: Path
    arguments: tuple[str, ...]
    """Of its process, ``--workdir`` included."""
    package: str = PACKAGE

    @property
    def command(self) -> tuple[str, ...]:
        """As it is typed."""
        return ("python", "-m", f"{self.package}.{self.stage.experiment}", *self.arguments)

    def config(self) -> Any:
        """Its configuration; raises ``UserError`` for options that it has not."""
        try:
            return find_experiment(self.stage.experiment, package=self.package).parse(self.arguments).config
        except UserError as error:
            raise UserError(f"stage {self.stage.name}: {error}", code=error.code) from error

    def is_finished(self) -> bool:
        """Whether its run has reached its budget, and its last evaluation and page are complete.

        Raises:
          UserError: the folder has a run of other options.
        """
        if not (self.folder / CONFIG).exists() or not has_begun(self.folder):
            return False
        config = self.config()
        check_same(self.folder, self.stage.experiment, config, places=list(paths_of(config)))
        try:
            kept = json.loads((self.folder / KEPT).read_text())
            evaluated = kept["images"] >= config.images and kept["step"] == newest_checkpoint(self.folder)
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return evaluated and (self.folder / "report.html").exists()


def stage_runs(
    stages: Sequence[Stage], arguments: Sequence[str], *, root: Path, quick: bool, package: str = PACKAGE
) -> list[StageRun]:
    """The stages of a system with the options of a command line.

    Args:
      stages: in their order; each needs only such as come before it.
      arguments: options that begin with the name of a stage, as "--prior.images 1000", or with one of `SHARED`.
      root: folder of the system, in which each stage has its own.
      quick: whether stages begin with their quick configurations.
      package: where experiments are.

    Raises:
      UserError: an option is of no stage.
    """
    shared, own = divided(arguments, [stage.name for stage in stages])
    found = []
    for stage in stages:
        needed = [word for option, other in stage.needs.items() for word in (option_of(option), str(root / other))]
        words = [*(["--quick"] if quick else []), *stage.options, *needed, *shared, *own[stage.name]]
        folder = root / stage.name
        found.append(
            StageRun(stage=stage, folder=folder, arguments=(*words, "--workdir", str(folder)), package=package)
        )
    return found


def divided(words: Sequence[str], names: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """(options of all stages, those of each without its name).

    Raises ``UserError`` for an option that is neither, or a word that belongs to none.
    """
    shared: list[str] = []
    own: dict[str, list[str]] = {name: [] for name in names}
    target: list[str] | None = None
    for word in words:
        if not word.startswith("--"):
            if target is None:
                raise UserError(f"{word} belongs to no option: options begin with --")
            target.append(word)
            continue
        first, _, rest = word[2:].partition(".")
        name = first.replace("-", "_")
        if name in own and rest:
            target = own[name]
            target.append(f"--{rest}")
        elif word.startswith(SHARED):
            target = shared
            target.append(word)
        else:
            stages = f"options begin with the name of a stage ({', '.join(f'--{name}.' for name in names)})"
            known = [f"--{name}." for name in names]
            raise UserError(unknown_name("option", word, known, f"{stages}, or with {' or '.join(SHARED)}"))
    return shared, own


def run_stages(
    runs: Sequence[StageRun], *, say: Callable[[str], None], start: Callable[[Sequence[str]], int] | None = None
) -> None:
    """Train what is not finished, one stage after another.

    Args:
      runs: in their order.
      say: called with a line as each begins, or where it is finished already.
      start: runs ``python`` with words and returns the exit code; by default :func:`process`.

    Raises:
      UserError: a stage failed, or was stopped, with its exit code; or a folder has a run of other options. The same
        command goes on.
    """
    for run in runs:  # what cannot be parsed is an error before the first stage
        run.config()
    for number, run in enumerate(runs, 1):
        place = f"stage {number} of {len(runs)}, {run.stage.name}"
        if run.is_finished():
            say(f"{place}: finished in {run.folder}")
            continue
        say(f"{place}: {' '.join(run.command)}")
        code = (start or process)(run.command[1:])
        if code == EXIT_CODE:
            raise UserError(f"{place} was stopped, and all is saved: run the same command again", code=code)
        if code:
            raise UserError(f"{place} ended with exit code {code}, for the reason above", code=code)


def process(words: Sequence[str]) -> int:
    """Run ``python`` with these words; signals are passed on, and it may save before it ends.

    Returns:
      Its exit code; 75 where it ended with 0 after a signal, so that nothing else is started.
    """
    with _Forwarding() as forwarding:
        child = subprocess.Popen([sys.executable, *words], start_new_session=True)
        forwarding.child = child
        code = child.wait()
    if forwarding.requested and code == 0:
        return EXIT_CODE
    return code if code >= 0 else 128 - code


class _Forwarding:
    """While it is entered, SIGTERM and Ctrl-C reach the child, which is in a session of its own, exactly once each."""

    def __init__(self):
        self.child: subprocess.Popen[bytes] | None = None
        self.requested = False
        """Whether a signal came."""
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "_Forwarding":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._forward)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.requested = True
        if self.child is not None and self.child.poll() is None:
            os.kill(self.child.pid, number)
        elif self.child is None:
            raise UserError("stopped before a stage began: run the same command again", code=EXIT_CODE)
