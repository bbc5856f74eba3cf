"""Two frameworks measured alternately: worker processes, pair by pair, one asleep while the other works.

A drift of the machine's speed then affects both alike; reported are medians, and the median of the ratios of pairs. A
benchmark is a script with ``jobs`` for each side; it runs itself as the workers, ours with its own interpreter, theirs
with that of an environment with the other framework.
"""

import argparse
import functools
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Jobs = Mapping[str, Callable[[], object]]
"""The jobs of a side by name; each call runs the job once and waits for it."""


@dataclass(frozen=True)
class Job:
    """One line of the table."""

    name: str
    """A name in ``Jobs``."""
    images: int
    """Images per call."""
    pairs: int
    """Measurements of each side."""
    alone: bool = False
    """Whether only our side is measured, since the other framework has no counterpart."""


def when_asked(makers: Mapping[str, Callable[[], Jobs]], kinds: Sequence[str]) -> dict[str, Callable[[], object]]:
    """Jobs "NETWORK KIND" whose network is made when the first of them runs, so that peaks are without later networks.

    Args:
      makers: by name of the network: makes its jobs, by kind.
      kinds: of every network's jobs.
    """
    networks = {name: functools.cache(make) for name, make in makers.items()}
    run = lambda name, kind: lambda: networks[name]()[kind]()
    return {f"{name} {kind}": run(name, kind) for name in networks for kind in kinds}


def serve(jobs: Jobs) -> None:
    """Worker: for each job named on standard input, run it once and print its seconds and the peak memory."""
    for line in sys.stdin:
        started = time.perf_counter()
        jobs[line.strip()]()
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"RESULT {json.dumps([seconds, peak])}", flush=True)


def ask(worker: subprocess.Popen, job: str) -> tuple[float, float]:
    """One measurement: (seconds, peak MiB so far)."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(f"{job}\n")
    worker.stdin.flush()
    for line in worker.stdout:
        if line.startswith("RESULT "):
            seconds, peak = json.loads(line.removeprefix("RESULT "))
            return seconds, peak
    raise SystemExit("a worker ended early: see its error above")


def compare(
    script: str, description: str, *, ours: Callable[[], Jobs], theirs: Callable[[], Jobs], jobs: list[Job]
) -> None:
    """The command line of a benchmark: measure both sides in pairs and print a table.

    Args:
      script: path of the benchmark's file.
      description: its docstring.
      ours: creates our jobs, in a separate process.
      theirs: creates the other framework's jobs.
      jobs: lines of the table, in order.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", help="interpreter of an environment with the other framework")
    parser.add_argument("--only", nargs="*", help="jobs to measure, of: " + ", ".join(job.name for job in jobs))
    parser.add_argument("--serve", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        if options.serve == "ours":  # as python -m experiments.NAME does
            from vision.huge_pages import restart_with_huge_pages

            restart_with_huge_pages()
        serve(ours() if options.serve == "ours" else theirs())
        return
    if not options.torch_python:
        parser.error("--torch-python is needed: the interpreter of an environment with the other framework")
    workers = {
        side: subprocess.Popen(
            [interpreter, script, "--serve", side], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for side, interpreter in (("ours", sys.executable), ("theirs", options.torch_python))
    }
    print(f"{platform.machine()}, {platform.platform()}")
    print("| job | batch | ours, images/s | PyTorch, images/s | ratio | ours, peak MiB | PyTorch, peak MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for job in jobs:
        if options.only and job.name not in options.only:
            continue
        times: dict[str, list[float]] = {side: [] for side in workers}
        peaks = dict.fromkeys(workers, 0.0)
        sides = {side: worker for side, worker in workers.items() if side == "ours" or not job.alone}
        for index in range(job.pairs + 1):
            for side, worker in sides.items():
                seconds, peaks[side] = ask(worker, job.name)
                if index:  # the first compiles and warms caches
                    times[side].append(seconds)
        rates = {side: job.images / statistics.median(times[side]) for side in sides}
        if job.alone:
            line = f"| {job.name} | {job.images} | {rates['ours']:.2f} | - | - | {peaks['ours']:,.0f} | - |"
        else:
            ratio = statistics.median(b / a for a, b in zip(times["ours"], times["theirs"], strict=True))
            line = (
                f"| {job.name} | {job.images} | {rates['ours']:.2f} | {rates['theirs']:.2f} | {ratio:.2f} "
                f"| {peaks['ours']:,.0f} | {peaks['theirs']:,.0f} |"
            )
        print(line, flush=True)
    for worker in workers.values():
        worker.terminate()
