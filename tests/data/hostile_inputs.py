"""Reads many hostile inputs, each in a process that may crash, hang or grow, and counts what became of them."""

import argparse
import multiprocessing
import resource
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision.errors import UserError

SECONDS = 10.0
"""Of the processor, for one input."""
MEMORY = 2 * 2**30
"""Bytes that reading it may take."""
HANG = 60.0
"""Seconds on the clock, after which a process is ended."""
# So that an input that grows without bound does not take the machine with it.
_ADDRESS_SPACE = 14 * 2**30
# Seconds on the clock, within which a process starts.
_START = 300.0

Read = Callable[[int, int, Path], str]
"""(seed, index, empty folder) -> reads input ``index`` in the folder, and returns its kind."""


@dataclass(frozen=True)
class Outcome:
    """What became of one input."""

    index: int
    kind: str
    ending: str
    """ "read", "refused", or "failed"."""
    reason: str
    seconds: float
    peak: int
    """Bytes of memory that the process had more at most than at the beginning."""


def outcome(read: Read, seed: int, index: int) -> Outcome:
    """Read one input in this process."""
    kind, reason = "", ""
    before = _reset_peak()
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        try:
            kind, ending = read(seed, index, Path(folder)), "read"
        except UserError as error:
            ending, reason = "refused", str(error)
            if "\n" in reason or len(reason) > 1500:
                ending, reason = "failed", "a refusal of several lines or more than 1,500 characters"
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            ending = "failed"
            reason = f"{type(error).__name__}: {str(error)[:60]} ({Path(where.filename).name}:{where.lineno})"
    seconds, peak = time.process_time() - start, _peak() - before
    if seconds > SECONDS:
        ending, reason = "failed", f"more than {SECONDS:.0f} s"
    if peak > MEMORY:
        ending, reason = "failed", f"more than {MEMORY / 2**30:.0f} GiB"
    return Outcome(index, kind, ending, reason, seconds, peak)


def outcomes(read: Read, *, inputs: int, seed: int, processes: int = 2) -> list[Outcome]:
    """Read inputs 0, 1, ... in other processes; one that hangs or crashes is replaced and counted as failed."""
    context = multiprocessing.get_context("spawn")  # JAX has threads, which a fork would leave behind
    todo = list(range(inputs))[::-1]
    found: list[Outcome] = []
    running: list[_Worker] = []
    while todo or running:
        while todo and len(running) < processes:
            share = [todo.pop() for _ in range(min(1000, len(todo)))]
            pipe, other = context.Pipe()
            process = context.Process(target=_work, args=(read, seed, share, other))
            process.start()
            other.close()
            running.append(_Worker(process, pipe, share, time.monotonic()))
        for worker in list(running):
            ended = False
            try:
                while worker.share and worker.pipe.poll(0.02):
                    one = worker.pipe.recv()
                    worker.last, worker.ready = time.monotonic(), True
                    if one is not None:
                        found.append(one)
                        worker.share.remove(one.index)
            except EOFError:
                ended = True
                worker.process.join()
            hangs = time.monotonic() - worker.last > (HANG if worker.ready else _START)
            if worker.share and (ended or hangs):
                reason = f"the process ended with {worker.process.exitcode}" if ended else f"no answer in {HANG:.0f} s"
                found.append(Outcome(worker.share[0], "", "failed", reason, HANG * hangs, 0))
                todo += worker.share[:0:-1]
            if not worker.share or ended or hangs:
                worker.process.kill()
                worker.process.join()
                running.remove(worker)
    return sorted(found, key=lambda one: one.index)


@dataclass
class _Worker:
    process: Any
    pipe: Any
    share: list[int]
    last: float
    ready: bool = False


def main(read: Read, description: str) -> None:
    """The command line of a script: counts, failures, the slowest input and the largest peak."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = outcomes(read, inputs=options.inputs, seed=options.seed)
    counts = Counter(one.ending for one in found)
    print(", ".join(f"{counts[ending]} {ending}" for ending in ("read", "refused", "failed")))
    for reason, count in Counter(one.reason for one in found if one.ending == "failed").most_common():
        print(f"  {count} {reason}, such as input {next(one.index for one in found if one.reason == reason)}")
    slowest, largest = max(found, key=lambda one: one.seconds), max(found, key=lambda one: one.peak)
    print(f"slowest: input {slowest.index}, {slowest.seconds:.2f} s")
    print(f"peak memory: input {largest.index}, {largest.peak / 2**20:.0f} MiB")


def _work(read: Read, seed: int, share: list[int], pipe) -> None:
    pipe.send(None)
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    warnings.simplefilter("ignore")
    for index in share:
        pipe.send(outcome(read, seed, index))


def _reset_peak() -> int:
    """Let the peak begin anew at what is in use, which is returned."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
