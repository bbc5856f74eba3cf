"""Kill a run at random moments (kill -9), resume it by the same command each time, compare it with one left alone.

    python tests/experiments/kill_loop.py --kills 20
    python tests/experiments/kill_loop.py --kills 20 --experiment dit_cifar --seed 1

The moments are drawn anew from ``--seed``: while the program starts, compiles, trains, saves or evaluates. At the end
parameters, averages, optimizer state, key and all logged numbers but times must be the same bits. Exit code 1 if not.
"""

import importlib
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

from vision.launch import run as launcher  # noqa: E402
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
    interval: int = 640
    """Images between two checkpoints, and between two log lines, whose means a kill would otherwise cut."""
    evaluate: int = 3_200
    """Images between two evaluations."""
    options: tuple[str, ...] = ("--samples", "4", "--judged", "4", "--held-out", "32", "--sampling.steps", "2")
    """Further options of the experiment."""
    seed: int = 0
    """Of the moments."""


def final_state(name: str, options: list[str], workdir: Path):
    """The state in the newest checkpoint of a run of ``experiments.NAME`` with these options."""
    module = importlib.import_module(f"experiments.{name}")
    parsed = launcher.parse("", default=module.Config(), quick=module.QUICK, description="", arguments=options)
    built = module.build(parsed.config)
    compiler = Compiler(make_mesh(built.mesh), built.rules)
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.restore(launcher.abstract_state(built, compiler), report=print)


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


def killed(name: str, options: list[str], workdir: Path, log: Path, moments: list[float], *, finish: bool) -> int:
    """Start the run once for every moment and kill it after so many seconds; then, with ``finish``, let it finish.

    Returns how many kills found it alive.
    """
    alive = 0
    for moment in moments:
        process = start(name, options, workdir, log)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.kill()
        code = process.wait()
        alive += code == -signal.SIGKILL
        if code not in (0, -signal.SIGKILL):
            raise RuntimeError(f"the run ended by itself with code {code}:\n{log.read_text()}")
    if finish and start(name, options, workdir, log).wait() != 0:
        raise RuntimeError(f"the run did not finish:\n{log.read_text()}")
    return alive


def main(config: Config) -> int:
    """Run both and compare."""
    options = ["--quick", "--images", str(config.images), *config.options]
    options += ["--intervals.log", str(config.interval), "--intervals.save", str(config.interval)]
    options += ["--intervals.evaluate", str(config.evaluate)]
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        start(config.experiment, options, folder / "first", folder / "log").wait()  # fills the compilation cache
        began = time.monotonic()
        process = start(config.experiment, options, folder / "whole", folder / "log")
        while process.poll() is None and not (folder / "whole" / "checkpoints" / "20").exists():
            time.sleep(0.01)
        to_first_save = time.monotonic() - began
        process.wait()
        whole = time.monotonic() - began
        print(f"left alone: {whole:.1f} s, {to_first_save:.1f} s of them until the first checkpoint")
        # late enough for some progress on the whole, and not so late that the run ends before the last kill
        reach = 2.0 * (whole - to_first_save) / config.kills
        generator = random.Random(config.seed)
        moments = [generator.uniform(0.5 * to_first_save, to_first_save + reach) for _ in range(config.kills)]
        alive = killed(config.experiment, options, folder / "run", folder / "log", moments, finish=True)
        resumptions = (folder / "log").read_text().count("resuming after step")
        print(f"{alive} of {config.kills} kills found it alive; it resumed from a checkpoint {resumptions} times")
        found = differences(config.experiment, options, folder / "whole", folder / "run")
        print("; ".join(found) if found else "final state and all logged numbers: the same bits")
        return 1 if found or alive < config.kills else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__)))
