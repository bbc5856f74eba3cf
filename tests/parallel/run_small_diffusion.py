"""The real diffusion experiment, small, by gradient descent: one process of a run of several, or all of one.

With Adam, which divides by the size of a gradient, two correct programs part after one step where a gradient is nearly
zero; momentum keeps rounding errors the size of rounding errors.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import optax

import experiments.diffusion_cifar as experiment
from vision.data import image_data
from vision.launch import run as launcher
from vision.launch.devices import abstract_state
from vision.parallel import sharding
from vision.parallel.mesh import make_mesh
from vision.train.checkpoint import Checkpoints
from vision.train.compile import Compiler
from vision.types import TrainState

STEPS, SIZE = 12, 8
OPTIONS = (
    "--quick --model.width 16 --model.multipliers 1 --model.classes 4 --model.dropout 0.1 --flip "
    "--data.resolution 16 --data.shapes-count 64 --data.shapes.shapes circle star --data.shapes.colours red blue "
    f"--data.shapes.min-size 0.4 --batch-size {SIZE} --images {STEPS * SIZE} --optimizer.warmup 16 "
    "--optimizer.lr 0.1 --diffusion.steps 20 --sampling.steps 3 --samples 4 --classified 4 --held-out 13 "
    f"--intervals.log {SIZE} --intervals.evaluate {6 * SIZE} --intervals.save {4 * SIZE} "
    f"--snapshots.interval {4 * SIZE}"
).split()


@contextlib.contextmanager
def small_and_steady() -> Iterator[None]:
    """Gradient descent for Adam, and sharding for arrays as small as these."""
    adam, threshold = optax.adam, sharding.FSDP_MIN_ELEMENTS
    optax.adam = lambda rate, **_: optax.sgd(rate, momentum=0.9)
    sharding.FSDP_MIN_ELEMENTS = 64
    try:
        yield
    finally:
        optax.adam, sharding.FSDP_MIN_ELEMENTS = adam, threshold


def run(arguments: list[str]) -> int:
    """The experiment's exit code."""
    names = {"config": experiment.Config(), "quick": experiment.QUICK, "description": ""}
    with small_and_steady():
        return launcher.main("diffusion_cifar", build=experiment.build, arguments=[*OPTIONS, *arguments], **names)


def final_state(folder: Path) -> TrainState:
    """The newest checkpoint, on the devices of this process."""
    names = {"default": experiment.Config(), "quick": experiment.QUICK, "description": ""}
    with small_and_steady():
        built = experiment.build(launcher.parse("", arguments=OPTIONS, **names).config)
        compiler = Compiler(make_mesh(built.mesh), built.rules)
        with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
            return checkpoints.restore(abstract_state(built, compiler), report=print)


def stop_at(step: int) -> None:
    """Send only this process a notice when it makes the batch of a step."""
    batches = image_data.batches

    def stopping(source, *, start_step, **share):
        for index, batch in enumerate(batches(source, start_step=start_step, **share), start=start_step):
            if index == step:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    image_data.batches = stopping


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[0] == "--stop-at":
        stop_at(int(arguments[1]))
        arguments = arguments[2:]
    sys.argv = [str(Path(__file__)), *arguments]
    sys.exit(run(arguments))
