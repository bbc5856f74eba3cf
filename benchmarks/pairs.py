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
    over: str = ""
    """A job of this project that is measured in pairs with this one: a second table has this one's overhead over it."""


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
    script: str,
    description: str,
    *,
    ours: Callable[..., Jobs],
    theirs: Callable[..., Jobs],
    jobs: list[Job],
    sizes: bool = False,
) -> None:
    """The command line of a benchmark: measure both sides in pairs and print a table.

    Args:
      script: path of the benchmark's file.
      description: its docstring.
      ours: creates our jobs, in a separate process.
      theirs: creates the other framework's jobs.
      jobs: lines of the tables, in order.
      sizes: whether ``--small`` is an option, by which the benchmark itself is tried; both functions are then called
        with ``small=`` True or False.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", help="interpreter of an environment with the other framework")
    parser.add_argument("--only", nargs="*", help="jobs to measure, of: " + ", ".join(job.name for job in jobs))
    parser.add_argument("--serve", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    if sizes:
        parser.add_argument("--small", action="store_true", help="tiny networks, to try the benchmark itself")
    options = parser.parse_args()
    size = {"small": options.small} if sizes else {}
    if options.serve:
        if options.serve == "ours":  # as python -m experiments.NAME does
            from vision.huge_pages import restart_with_huge_pages

            restart_with_huge_pages()
        serve(ours(**size) if options.serve == "ours" else theirs(**size))
        return
    if not options.torch_python:
        parser.error("--torch-python is needed: the interpreter of an environment with the other framework")
    words = ["--small"] if any(size.values()) else []
    workers = {
        side: subprocess.Popen(
            [interpreter, script, "--serve", side, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for side, interpreter in (("ours", sys.executable), ("theirs", options.torch_python))
    }
    asked = [job for job in jobs if not options.only or job.name in options.only]
    print(f"{platform.machine()}, {platform.platform()}")
    _compare_sides(workers, [job for job in asked if not job.over])
    _measure_overheads(workers["ours"], [job for job in asked if job.over])
    for worker in workers.values():
        worker.terminate()


def _compare_sides(workers: Mapping[str, subprocess.Popen], jobs: Sequence[Job]) -> None:
    """The table of both sides."""
    if not jobs:
        return
    print("| job | batch | ours, images/s | PyTorch, images/s | ratio | ours, peak MiB | PyTorch, peak MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for job in jobs:
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


def _measure_overheads(worker: subprocess.Popen, jobs: Sequence[Job]) -> None:
    """The table of jobs over others of the same worker."""
    if not jobs:
        return
    print("\n| job | batch | images/s | over | images/s | overhead, % |")
    print("| --- | --- | --- | --- | --- | --- |")
    for job in jobs:
        times: dict[str, list[float]] = {job.name: [], job.over: []}
        for index in range(job.pairs + 1):
            # the order within a pair alternates, since the second call finds warm caches
            for name in sorted(times, reverse=index % 2 == 1):
                seconds, _ = ask(worker, name)
                if index:
                    times[name].append(seconds)
        rates = {name: job.images / statistics.median(found) for name, found in times.items()}
        ratio = statistics.median(a / b for a, b in zip(times[job.name], times[job.over], strict=True))
        print(
            f"| {job.name} | {job.images} | {rates[job.name]:.2f} | {job.over} | {rates[job.over]:.2f} "
            f"| {100.0 * (ratio - 1.0):+.1f} |",
            flush=True,
        )
