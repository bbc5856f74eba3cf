"""Seconds from the command to the end of the first training step, of each experiment's ``--quick``.

    python benchmarks/first_step.py                                  # all experiments
    python benchmarks/first_step.py diffusion_cifar yolo_coco --repeats 5

Every run is a process of its own: ``python -m experiments.NAME --quick`` as users start it, which ends when its first
step is done. The first run of an experiment finds an empty compilation cache (cold), the others the one that it left
(warm). "First step" is the wall clock from the start of the interpreter; "CPU" the time of all its threads, which other
programs on the machine disturb less. Warm figures are medians of the repetitions. The parts, of the warm run:

imports: up to the call of ``main``; build: command line, experiment, shapes of its state, run folder; data: its
content, the evaluation's set-up and the wait for the first batch; init: making the state; trace, lower, compile: of the
step (warm: reading the program); step: running it.
"""

import argparse
import dataclasses
import functools
import json
import os
import platform
import resource
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PARTS: tuple[str, ...] = ("imports", "build", "data", "init", "trace", "lower", "compile", "step")


class Stopwatch:
    """Divides the time of one thread among parts: what is inside another part counts for the inner one."""

    def __init__(self, started: float):
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.part, self._since = "imports", started

    def enter(self, part: str) -> str:
        """From now on time counts for ``part``; returns the part before."""
        now, before = time.time(), self.part
        self.seconds[before] += now - self._since
        self.part, self._since = part, now
        return before

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, whose time counts for ``part``."""

        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            before = self.enter(part)
            try:
                return function(*arguments, **named)
            finally:
                self.enter(before)

        return call


def first_step(name: str, started: float, workdir: str) -> None:
    """Worker: run the experiment up to the end of its first step and print the seconds of each part."""
    watch = Stopwatch(started)
    sys.argv = ["-m", "--quick", "--workdir", workdir]  # as ``python -m`` has it while it imports

    import jax

    from vision.launch import run as launcher
    from vision.train.compile import CompiledStep, Compiler
    from vision.train.prefetch import Prefetched

    main, step = launcher.main, CompiledStep.__call__

    def build(config: Any, *, of: Callable[[Any], Any]) -> Any:
        experiment = of(config)
        names = experiment.class_names
        return dataclasses.replace(
            experiment,
            contents=watch.timed("data", experiment.contents),
            evaluation=watch.timed("data", experiment.evaluation),
            class_names=names and watch.timed("data", names),
        )

    def started_main(name: str, **named: Any) -> int:
        watch.enter("build")
        return main(name, **{**named, "build": functools.partial(build, of=named["build"])})

    def only_one(*arguments: Any) -> Any:
        watch.enter("step")
        jax.block_until_ready(step(*arguments))
        watch.enter("step")
        used = resource.getrusage(resource.RUSAGE_SELF)
        print(f"RESULT {json.dumps([watch.seconds, used.ru_utime + used.ru_stime])}", flush=True)
        os._exit(0)  # the run ends here, with its threads

    launcher.main = started_main
    setattr(CompiledStep, "__call__", only_one)  # noqa: B010 - for a type checker it is another function
    CompiledStep.program = watch.timed("trace", CompiledStep.program)
    Compiler.init = watch.timed("init", Compiler.init)
    Prefetched.__next__ = watch.timed("data", Prefetched.__next__)

    def within_the_step(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        timed = watch.timed(part, function)
        return lambda *arguments, **named: (timed if watch.part == "trace" else function)(*arguments, **named)

    jax.stages.Traced.lower = within_the_step("lower", jax.stages.Traced.lower)
    jax.stages.Lowered.compile = within_the_step("compile", jax.stages.Lowered.compile)
    runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)


def measure(name: str, cache: str) -> tuple[dict[str, float], float]:
    """One run with this folder for caches: (seconds by part, CPU seconds)."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "XDG_CACHE_HOME": cache}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        workdir = str(Path(folder) / "run")
        command = [sys.executable, __file__, "--worker", name, "--started", repr(time.time()), "--workdir", workdir]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            seconds, cpu = json.loads(line.removeprefix("RESULT "))
            return seconds, cpu
    raise SystemExit(f"{name} did not take a step:\n{done.stderr}")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="experiments; all of them by default")
    parser.add_argument("--repeats", type=int, default=3, help="warm runs of each")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--workdir", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        first_step(options.worker, options.started, options.workdir)
        return
    from vision.launch.experiment_module import experiment_paths

    print(f"{platform.machine()}, {platform.platform()}\n")
    print(f"| experiment | cold | cold, CPU | warm | warm, CPU | {' | '.join(PARTS)} |")
    print(f"| {' | '.join(['---'] * (5 + len(PARTS)))} |")
    for name in options.names or experiment_paths():
        with tempfile.TemporaryDirectory() as cache:
            cold, cold_cpu = measure(name, cache)
            warm, warm_cpu = zip(*(measure(name, cache) for _ in range(options.repeats)), strict=True)
        total = statistics.median(sum(each.values()) for each in warm)
        parts = [statistics.median(each[part] for each in warm) for part in PARTS]
        figures = [sum(cold.values()), cold_cpu, total, statistics.median(warm_cpu), *parts]
        print(f"| `{name}` | {' | '.join(f'{each:.2f}' for each in figures)} |", flush=True)


if __name__ == "__main__":
    main()
