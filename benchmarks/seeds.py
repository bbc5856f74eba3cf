"""Several seeds as one program against the same runs one after another: complete processes including compilation.

    python benchmarks/seeds.py                                  eight seeds of the quick experiment
    python benchmarks/seeds.py --devices 8 --images 800         the same on eight simulated devices
    python benchmarks/seeds.py --experiment dit_cifar --images 1600 --options="--model.width 64 --model.depth 2"

Both start with a separate empty compilation cache: of the sequential runs only the first compiles, as in practice. The
last line compares the evaluations, which must agree up to rounding.
"""

import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Config:
    """What to run."""

    experiment: str = "diffusion_cifar"
    """The experiment, with --quick."""
    seeds: int = 8
    """How many runs."""
    images: int = 6_400
    """Budget of each."""
    devices: int = 0
    """Simulated CPU devices for both; 0 leaves them to the program."""
    options: str = ""
    """Further options of the experiment, for both, as one quoted word: "--model.width 64 --ema 0.99"."""


def timed(config: Config, workdir: Path, cache: Path, *arguments: str) -> float:
    """Seconds that the experiment takes in a separate process."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    if config.devices:
        environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={config.devices}"
    command = [sys.executable, "-m", f"experiments.{config.experiment}", "--quick", "--images", str(config.images)]
    started = time.monotonic()
    subprocess.run(
        [*command, "--workdir", str(workdir), *shlex.split(config.options), *arguments],
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.monotonic() - started


def evaluation(workdir: Path) -> dict[str, float]:
    """The last evaluation of a run or replica."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: float(value) for name, value in line.items() if name.startswith("eval/")}
        for line in lines
        if any(name.startswith("eval/") for name in line)
    ][-1]


def main(config: Config) -> None:
    """Measure both and print the table."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        sequential = [
            timed(config, folder / f"alone-{seed}", folder / "cache-alone", "--seed", str(seed))
            for seed in range(config.seeds)
        ]
        sequential_memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        vectorized = timed(config, folder / "together", folder / "cache-together", "--seeds", str(config.seeds))
        vectorized_memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(f"{config.seeds} runs of {config.experiment} --quick --images {config.images} {config.options}")
        first, *later = sequential
        print(
            f"one after another  {sum(sequential):7.1f} s  (first {first:.1f} s, then {min(later):.1f} to "
            f"{max(later):.1f} s)  {sequential_memory:,.0f} MiB"
        )
        print(f"as one program     {vectorized:7.1f} s  {vectorized_memory:,.0f} MiB at most of both")
        print(f"ratio              {vectorized / sum(sequential):7.2f}")
        largest = 0.0
        for seed in range(config.seeds):
            single = evaluation(folder / f"alone-{seed}")
            replica = evaluation(folder / "together" / "replicas" / f"seed-{seed}")
            print(f"seed {seed}: " + ", ".join(f"{name} {single[name]:.6g} / {replica[name]:.6g}" for name in single))
            largest = max(
                largest, *(abs(single[n] - replica[n]) / max(abs(single[n]), 1e-9) for n in single if "mse" in n)
            )
        print(f"largest relative difference of an error, sequential and vectorized: {largest:.1e}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
