"""Kill a run at random moments (kill -9), resume it by the same command each time, compare it with one left alone.

    python tests/experiments/kill_loop.py --kills 20
    python tests/experiments/kill_loop.py --kills 20 --experiment dit_cifar --seed 1

The moments are drawn anew from ``--seed``: while the program starts, compiles, trains, saves or evaluates. At the end
parameters, averages, optimizer state, key and all logged numbers but times must be the same bits. Exit code 1 if not.
"""

import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import tyro

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from vision.launch.devices import abstract_state  # noqa: E402
from vision.launch.experiment_module import find_experiment  # noqa: E402
from vision.parallel.mesh import make_mesh  # noqa: E402
from vision.train.checkpoint import Checkpoints  # noqa: E402
from vision.train.compile import Compiler  # noqa: E402
from vision.train.records import read_metrics  # noqa: E402


@dataclass(frozen=True)
class Config:
    """What is killed how often."""

    kills: int = 20
    """How often."""
    experiment: str = "diffusion_cifar"
    """A module of experiments/; it is run with --quick."""
    images: int = 12_800
    """Budget of the run."""
    interval: int = 320
    """Images between two checkpoints, and between two log lines, whose means a kill would otherwise cut."""
    evaluate: int = 3_200
    """Images between two evaluations."""
    options: tuple[str, ...] = ("--samples", "4", "--classified", "4", "--held-out", "32", "--sampling.steps", "2")
    """Further options of the experiment."""
    seed: int = 0
    """Of the moments."""


def final_state(name: str, options: list[str], workdir: Path):
    """The state in the newest checkpoint of a run of ``experiments.NAME`` with these options."""
    experiment = find_experiment(name)
    built = experiment.build(experiment.parse(options).config)
    compiler = Compiler(make_mesh(built.mesh), built.rules)
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.restore(abstract_state(built, compiler), report=print)


def bits(state) -> list[np.ndarray]:
    """All leaves as arrays of numbers."""
    plain = lambda x: jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return [np.asarray(plain(leaf)) for leaf in jax.tree.leaves(state)]


def logged(workdir: Path) -> list[dict]:
    """The lines of metrics.jsonl without times and timings."""
    lines = [
        {k: v for k, v in line.items() if not k.startswith("time")} for line in read_metrics(workdir / "metrics.jsonl")
    ]
    return [line for line in lines if line.keys() > {"step", "images"}]


def differences(name: str, options: list[str], one: Path, other: Path) -> list[str]:
    """What differs between two finished runs of one configuration; empty for the same run."""
    found = []
    left, right = (bits(final_state(name, options, workdir)) for workdir in (one, other))
    wrong = sum(not np.array_equal(a, b) for a, b in zip(left, right, strict=True))
    if wrong:
        found.append(f"{wrong} of {len(left)} arrays of the final state differ")
    if logged(one) != logged(other):
        found.append("the logged numbers differ")
    return found


def start(name: str, options: list[str], workdir: Path, log: Path) -> subprocess.Popen:
    """A run in a process of its own; what it says is added to ``log``."""
    command = [sys.executable, "-m", f"experiments.{name}", *options, "--workdir", str(workdir)]
    with log.open("a") as said:
        return subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)


def lines_of(workdir: Path) -> int:
    """Lines in metrics.jsonl so far."""
    path = workdir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def killed(name: str, options: list[str], workdir: Path, log: Path, *, seconds: float, lines: int = 0) -> bool:
    """Start the run; kill it ``seconds`` after metrics.jsonl has had ``lines`` lines. Whether that found it alive."""
    process, reached = start(name, options, workdir, log), None
    while process.poll() is None:
        if reached is None and lines_of(workdir) >= lines:
            reached = time.monotonic()
        if reached is not None and time.monotonic() >= reached + seconds:
            process.kill()
            break
        time.sleep(0.005)
    code = process.wait()
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the run ended by itself with code {code}:\n{log.read_text()}")
    return code == -signal.SIGKILL


def main(config: Config) -> int:
    """Run both and compare."""
    options = ["--quick", "--images", str(config.images), *config.options]
    options += ["--intervals.log", str(config.interval), "--intervals.save", str(config.interval)]
    options += ["--intervals.evaluate", str(config.evaluate)]
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        began = time.monotonic()
        start(config.experiment, options, folder / "whole", folder / "log").wait()
        print(f"left alone, with an empty compilation cache or not: {time.monotonic() - began:.1f} s", flush=True)
        total, generator, alive = lines_of(folder / "whole"), random.Random(config.seed), 0
        for left in range(config.kills, 0, -1):
            # half of them while the program starts, restores and compiles; the others some log lines further on, so few
            # that the run does not end before the last of them
            now = lines_of(folder / "run")
            further = generator.randint(1, max(1, (total - now - 1) // left)) if generator.random() < 0.5 else None
            moment = {"seconds": generator.uniform(0, 8)} if further is None else {"seconds": generator.uniform(0, 0.5)}
            moment["lines"] = 0 if further is None else now + further
            alive += killed(config.experiment, options, folder / "run", folder / "log", **moment)
        if start(config.experiment, options, folder / "run", folder / "log").wait() != 0:
            raise RuntimeError(f"the run did not finish:\n{(folder / 'log').read_text()}")
        resumptions = (folder / "log").read_text().count("resuming after step")
        print(f"{alive} of {config.kills} kills found it alive; it resumed from a checkpoint {resumptions} times")
        found = differences(config.experiment, options, folder / "whole", folder / "run")
        print("; ".join(found) if found else "final state and all logged numbers: the same bits")
        return 1 if found or alive < config.kills else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__)))
