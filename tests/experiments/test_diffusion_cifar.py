"""The real experiment, made small by its own options: two whole runs, stopped and killed on the way."""

import dataclasses
import json
import os
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from kill_loop import differences, final_state, killed, logged
from PIL import Image

from experiments.diffusion_cifar import QUICK, Config, build
from vision.data import image_data
from vision.errors import UserError
from vision.launch import run as launcher
from vision.launch import verbs
from vision.train.optimizer import AdamConfig, learning_rate

ROOT = Path(__file__).resolve().parents[2]
STEPS, SIZE = 12, 8
SMALL = (
    "--quick --model.width 16 --model.multipliers 1 --model.classes 4 --model.dropout 0.1 --flip "
    "--data.resolution 16 --data.shapes-count 64 --data.shapes.shapes circle star --data.shapes.colours red blue "
    f"--data.shapes.min-size 0.4 --batch-size {SIZE} --images {STEPS * SIZE} --optimizer.warmup 16 "
    "--diffusion.steps 20 --sampling.steps 3 --samples 4 --classified 4 --held-out 8 "
    f"--intervals.log {SIZE} --intervals.evaluate {STEPS * SIZE} --intervals.save {4 * SIZE}"
).split()


def run(*arguments):
    return launcher.main(
        "diffusion_cifar", config=Config(), quick=QUICK, build=build, description="", arguments=[*SMALL, *arguments]
    )


def assert_same_run(one, other):
    assert differences("diffusion_cifar", SMALL, one, other) == []
    assert int(final_state("diffusion_cifar", SMALL, one).step) == STEPS


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    assert run("--workdir", str(workdir)) == 0
    return workdir


def test_a_whole_run(whole):
    found = logged(whole)
    assert [line["step"] for line in found if "train/loss" in line] == list(range(1, STEPS + 1))
    (evaluation,) = [line for line in found if any(name.startswith("eval/") for name in line)]
    assert evaluation.keys() == {
        "step",
        "images",
        "eval/mse",
        "eval/mse_ema_0.95",
        "eval/class_accuracy",
        "eval/shape_accuracy",
        "eval/colour_accuracy",
    }
    with Image.open(whole / "samples" / f"samples-{STEPS * SIZE:010d}.png") as picture:
        assert min(picture.size) >= 32
    assert "shape classifier" in (whole / "report.html").read_text()
    assert (whole / "curves.png").stat().st_size > 1000
    assert sorted(p.name for p in (whole / "checkpoints").iterdir()) == ["12", "8"]


def test_resumed_equals_uninterrupted(whole, tmp_path, monkeypatch, capsys):
    counted = []

    def stopping(source, **share):
        for batch in original(source, **share):
            counted.append(share["start_step"])
            if len(counted) == 6:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    original = image_data.batches
    monkeypatch.setattr(image_data, "batches", stopping)
    assert run("--workdir", str(tmp_path / "run")) == 75
    said = capsys.readouterr().err
    stopped = max(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert 0 < stopped < STEPS
    assert f"interrupted after step {stopped}; everything is saved. To continue, run the same command" in said
    assert run("--workdir", str(tmp_path / "run")) == 0
    assert f"resuming after step {stopped} ({stopped * SIZE} images)" in capsys.readouterr().err
    assert_same_run(tmp_path / "run", whole)


def test_killed_and_resumed_equals_uninterrupted(whole, tmp_path):
    """The short form of kill_loop.py: at a random moment of starting or compiling, and at one of training."""
    workdir, log = tmp_path / "run", tmp_path / "log"
    seed = np.random.SeedSequence().entropy  # any moment will do
    print(f"moments of the kills: numpy seed {seed}")
    generator = np.random.default_rng(seed)
    assert killed("diffusion_cifar", SMALL, workdir, log, seconds=generator.uniform(1, 6))
    assert killed("diffusion_cifar", SMALL, workdir, log, seconds=0.0, lines=int(generator.integers(1, STEPS)))
    assert run("--workdir", str(workdir)) == 0
    assert_same_run(workdir, whole)


def test_the_run_is_evaluated_and_sampled_from(whole, capsys):
    assert verbs.main(["sample", str(whole), "--count", "5"]) == 0
    folder = whole / "samples" / f"sampled-{STEPS * SIZE:010d}"
    assert len(list(folder.glob("0*.png"))) == 5
    capsys.readouterr()
    assert verbs.main(["evaluate", str(whole)]) == 0
    said = capsys.readouterr().out
    last = logged(whole)[-1]
    for name in ("mse", "mse_ema_0.95", "class_accuracy"):
        assert f"{name} {last[f'eval/{name}']:.6g}  (" in said
    # another sampler may be used with the same run, training may not go on with it
    assert verbs.main(["sample", str(whole), "--count", "2", "--sampling.steps", "2"]) == 0
    assert len(list(folder.glob("0*.png"))) == 2
    assert run("--workdir", str(whole), "--sampling.steps", "2") == 2
    assert "sampling.steps is 3 there and 2 here" in capsys.readouterr().err


def test_the_configuration_is_loaded_again(whole, capsys):
    stored = json.loads((whole / "config.json").read_text())
    assert stored["experiment"] == "diffusion_cifar"
    parsed = launcher.parse(
        "", default=Config(), quick=QUICK, description="", arguments=["--config", str(whole / "config.json")]
    )
    again = launcher.nested(parsed.config)
    assert again == stored["config"]


def test_the_published_network():
    published = build(Config())
    state = jax.eval_shape(published.init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) == 35_746_307
    assert (published.batch_size, published.total_steps) == (128, 800_000)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("warmup", [0, 64])
def test_the_learning_rate_is_never_zero_for_good(schedule, warmup):
    """A warm-up of less than a batch is none, not one that never ends."""
    rate = learning_rate(AdamConfig(lr=0.5, warmup=warmup, schedule=schedule), steps=20, batch_size=32)
    assert float(rate(warmup // 32)) == pytest.approx(0.5)
    assert (float(rate(9)) < 0.45) if schedule != "constant" else (float(rate(9)) == pytest.approx(0.5))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model.classes", "5"], "the data has 4 classes and the model 5: set --model.classes 4"),
        (["--data.name", "folder", "--data.dir", "nowhere"], "There is no folder nowhere"),
        (["--data.name", "cifar10", "--data.dir", "nowhere"], "cifar10"),
        (["--data.resolution", "18"], "a multiple of 4"),
        (["--batch-size", "12"], "choose a multiple of 8"),
        (["--sampling.steps", "21"], "choose 1 to 20"),
        (["--diffusion.prediction", "eps"], "eps"),
        (["--model.widht", "8"], "did you mean --model.width"),
        (["--ema", "nearly-one"], "nearly-one"),
        (["--images", "0"], "images must be at least 1, not 0"),
        (["--microbatches", "0"], "microbatches must be at least 1, not 0"),
        (["--model.heads", "3"], "must divide the channels"),
        (["--config", "config.json"], "choose one"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, options, words):
    monkeypatch.chdir(tmp_path)
    assert run("--workdir", str(tmp_path / "run"), *options) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    assert words in said


def test_dry_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("--dry-run") == 0
    said = capsys.readouterr().out
    assert "* model.width = 16" in said
    assert "GFLOP per step" in said
    assert "stem/kernel" in said
    assert list(tmp_path.iterdir()) == []


def test_sides_that_cannot_be_halved_are_refused():
    with pytest.raises(UserError, match="multiple of 8"):
        build(dataclasses.replace(QUICK, data=dataclasses.replace(QUICK.data, resolution=20)))


def test_snapshots_change_nothing_else_and_give_averages_of_any_length(whole, tmp_path, capsys):
    workdir = tmp_path / "run"
    assert run("--workdir", str(workdir), "--snapshots.interval", str(3 * SIZE)) == 0
    assert [line.get("train/loss") for line in logged(workdir)] == [line.get("train/loss") for line in logged(whole)]
    assert len(list((workdir / "snapshots").iterdir())) == 2 * STEPS // 3
    capsys.readouterr()
    assert verbs.main(["evaluate", str(workdir), "--average-length", "0.05", "0.2"]) == 0
    errors = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("mse[")]
    assert [words[1] for words in errors] == ["0.05]", "0.2]"]
    short, long = (float(words[2]) for words in errors)
    assert short != long
