"""A stand-in for an experiment: no JAX, milliseconds a run, and it misbehaves on request."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

TINY = '''
"""Writes what a run writes. Fails, hangs or is killed as its configuration says."""

import argparse, dataclasses, fcntl, json, os, random, signal, struct, sys, time, types, zlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Model:
    """A model."""

    width: int = 4
    """Width."""
    levels: tuple[int, ...] = (1, 2)
    """Levels."""
    norm: bool = True
    """Norm."""


@dataclass(frozen=True)
class Config:
    """A recipe."""

    model: Model = Model()
    rate: float = 0.1
    """Rate."""
    label: str = "plain"
    """Label."""
    behave: str = "well"
    """What to do at the second step."""
    steps: int = 4
    """Steps of 10 images."""
    pause: float = 0.0
    """Seconds a step."""
    seed: int = 0
    """Seed."""


QUICK = Config(steps=2)
ABLATIONS = {
    "wide": {"model.width": 8},
    "no_norm": {"model.norm": False},
    "flat": {"model.levels": ()},
    "same": {"rate": 0.1},
}


def build(config):
    from vision.errors import UserError

    if config.model.width % 4:
        raise UserError(f"model.width is a multiple of 4, not {config.model.width}")
    if config.rate > 10:
        raise ValueError("a rate like that")
    return types.SimpleNamespace(total_steps=config.steps, batch_size=10)


def png(shade):
    rows = b"".join(b"\\0" + bytes([shade, 90, 200]) * 40 for _ in range(30))
    part = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", 40, 30, 8, 2, 0, 0, 0)
    return b"\\x89PNG\\r\\n\\x1a\\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")


def measured(config, seed, step):
    """Numbers with a part of the seed, which pairing takes out, and one of the seed and the point."""
    shared, own = random.Random(seed).random(), random.Random(f"{seed} {config.model} {config.rate}").random()
    score = config.model.width / 10 + shared + 0.01 * own
    return {"eval/score": score * step / config.steps, "eval/error": 1 / (1 + step + own)}


def misbehave(config, folder, starts):
    how, _, times = config.behave.partition(":")
    if times and starts > int(times):
        return
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "stopped":
        sys.exit(75)
    if how == "nan":
        print("error: loss became nan in step 2", file=sys.stderr)
        sys.exit(3)
    if how == "raise":
        raise RuntimeError("a bug of its own")
    if how == "hang":
        (folder / "hangs").touch()
        time.sleep(600)
    if how == "short":
        sys.exit(0)


def main():
    parser = argparse.ArgumentParser()
    for name, kind in (("rate", float), ("label", str), ("behave", str), ("steps", int), ("pause", float),
                       ("seed", int), ("seeds", int), ("workdir", Path), ("model.width", int)):
        parser.add_argument(f"--{name}", type=kind)
    parser.add_argument("--model.levels", type=int, nargs="*")
    parser.add_argument("--model.norm", action="store_const", const=True)
    parser.add_argument("--model.no-norm", action="store_const", const=False, dest="model.norm")
    parser.add_argument("--quick", action="store_true")
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    base = QUICK if given.pop("quick") else Config()
    workdir, seeds = given.pop("workdir"), given.pop("seeds", 0)
    model = {name[6:]: given.pop(name) for name in list(given) if name.startswith("model.")}
    config = dataclasses.replace(base, model=dataclasses.replace(base.model, **model), **given)
    workdir.mkdir(parents=True, exist_ok=True)
    lock = os.open(workdir / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        (workdir.parent / f"{workdir.name}.twice").touch()
        sys.exit(9)
    with (workdir / "starts").open("a") as file:
        file.write(f"{os.getpid()} {sorted(os.sched_getaffinity(0))} {os.environ.get('CUDA_VISIBLE_DEVICES')}\\n")
    starts = len((workdir / "starts").read_text().splitlines())
    (workdir / "config.json").write_text(json.dumps({"experiment": "tiny", "config": dataclasses.asdict(config)}))
    (workdir / "environment.json").write_text(json.dumps(
        {"command": "x", "python": "3", "packages": {"jax": "1.2"}, "devices": "1 x cpu", "git": {"commit": "abc"}}))
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    numbers = range(config.seed, config.seed + seeds) if seeds else [config.seed]
    folders = {seed: workdir / "replicas" / f"seed-{seed}" if seeds else workdir for seed in numbers}
    for folder in folders.values():
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        (folder / "metrics.jsonl").touch()
    done = len((folders[config.seed] / "metrics.jsonl").read_text().splitlines())
    print(f"tiny from step {done} of {config.steps}")
    for step in range(done + 1, config.steps + 1):
        if step == 2:
            misbehave(config, workdir, starts)
        time.sleep(config.pause)
        with (workdir / "steps").open("a") as file:
            file.write(f"{step}\\n")
        for seed, folder in folders.items():
            numbers = {"train/loss": 1 / step + seed / 10, **measured(config, seed, step)}
            if config.behave == "diverge" and seed == 1:
                numbers["eval/score"] = "nan"
            (folder / "samples" / f"samples-{10 * step:010d}.png").write_bytes(png(40 * seed % 256))
            with (folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": step, "images": 10 * step, "time": 0.0, **numbers}) + "\\n")
        if stopped and step < config.steps:
            sys.exit(75)


if __name__ == "__main__":
    main()
'''

ABLATE = """
import sys
from vision.ablation.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], package="standins"))
"""


@pytest.fixture(scope="session")
def standins(tmp_path_factory):
    """The folder that holds the package ``standins`` with its experiment ``tiny``."""
    folder = tmp_path_factory.mktemp("standins")
    (folder / "standins").mkdir()
    (folder / "standins" / "__init__.py").touch()
    (folder / "standins" / "tiny.py").write_text(TINY)
    (folder / "standins" / "broken.py").write_text('"""No experiment."""\n')
    (folder / "standins" / "ablate.py").write_text(ABLATE)
    return folder


@pytest.fixture
def here(standins, tmp_path, monkeypatch):
    """A working directory from which ``python -m standins.tiny`` works, also in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(standins), *sys.path])
    inherited = [path for path in [os.environ.get("PYTHONPATH")] if path]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(standins), str(ROOT), *inherited]))
    for name in ("SLURM_JOB_ID", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def recipe(here):
    """The stand-in as the runner knows it."""
    from standins import tiny

    from vision.launch.experiment_module import ExperimentModule

    return ExperimentModule(
        name="tiny",
        module="standins.tiny",
        config=tiny.Config(),
        quick=tiny.QUICK,
        ablations=tiny.ABLATIONS,
        build=tiny.build,
    )
