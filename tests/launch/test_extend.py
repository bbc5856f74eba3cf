"""A run that is made longer is what a long one would have been, or is refused."""

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import optax
import pytest
from line_experiment import SIZE, Config, Hooks, make_build

from vision.launch import run as launcher
from vision.train.checkpoint import Checkpoints
from vision.train.records import read_metrics
from vision.train.state import create_state
from vision.train.step import averaged, gradient

pytestmark = pytest.mark.usefixtures("on_one_device")


@pytest.fixture
def command(capsys):
    def call(*arguments, build=None):
        capsys.readouterr()
        code = launcher.main(
            "line",
            config=Config(),
            quick=Config(),
            build=build or make_build(Hooks()),
            description="A line.",
            arguments=[str(argument) for argument in arguments],
        )
        return code, capsys.readouterr().err

    return call


def arrays(run):
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.arrays()


def losses(run):
    return [(line["step"], line["train/loss"]) for line in read_metrics(run / "metrics.jsonl") if "train/loss" in line]


@pytest.mark.parametrize("seeds", [[], ["--seeds", 2]], ids=["one", "replicas"])
def test_extended_is_what_a_long_run_is(command, tmp_path, seeds):
    long, short, more = tmp_path / "long", tmp_path / "short", tmp_path / "more"
    assert command("--images", 12 * SIZE, "--workdir", long, *seeds)[0] == 0
    assert command("--workdir", short, *seeds)[0] == 0
    before = {path: path.read_bytes() for path in short.rglob("*") if path.is_file() and path.name != ".lock"}
    code, said = command("--images", 12 * SIZE, "--workdir", more, "--extend", short, *seeds)
    assert code == 0, said
    assert "resuming after step 8" in said
    expected = arrays(long)
    for name, array in arrays(more).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    assert losses(more) == losses(long)
    assert {path: path.read_bytes() for path in before} == before
    assert (more / "report.html").exists()
    assert json.loads((more / "config.json").read_text())["config"]["images"] == 12 * SIZE
    # the same command again is done, also when the short run is gone
    shutil.rmtree(short)
    assert command("--images", 12 * SIZE, "--workdir", more, "--extend", short, *seeds)[0] == 0


@pytest.mark.parametrize("at", ["_CHECKPOINT_METADATA", "metrics.jsonl"])
def test_a_kill_while_copying_leaves_nothing_that_counts(command, tmp_path, monkeypatch, at):
    short, more = tmp_path / "short", tmp_path / "more"
    command("--workdir", short)

    class Killed(BaseException):
        pass

    copy = shutil.copyfile

    def die(source, target, **how):
        if str(target).endswith(at):
            raise Killed
        return copy(source, target, **how)

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfile", die)
        with pytest.raises(Killed):
            command("--images", 12 * SIZE, "--workdir", more, "--extend", short)
    code, said = command("--images", 12 * SIZE, "--workdir", more, "--extend", short)
    assert (code, "resuming after step 8" in said) == (0, True)


def test_what_cannot_be_extended(command, tmp_path):
    short = tmp_path / "short"
    command("--workdir", short)

    def refused(words, *options, build=None):
        code, said = command("--workdir", tmp_path / "more", "--extend", short, *options, build=build)
        assert (code, words in said) == (2, True), said
        assert "Traceback" not in said

    refused("has 64 images already: set --images to more than that, not 64")
    refused("has 64 images already", "--images", 32)
    refused("--extend takes the same recipe with a larger budget alone", "--images", 96, "--seed", 1)
    refused("optimizer.lr is 0.05 there and 0.1 here", "--images", 96, "--optimizer.lr", 0.1)
    shutil.move(short / "checkpoints" / "8", tmp_path / "8")
    refused("is at step 6 of 8: finish it first", "--images", 96)
    shutil.rmtree(short)
    refused("cannot be read", "--images", 96)


def test_a_schedule_that_depends_on_the_budget_is_found_out(command, tmp_path):
    plain = make_build(Hooks())

    def falling(config):

        experiment = plain(config)
        rate = optax.cosine_decay_schedule(config.optimizer.lr, config.images // SIZE)
        optimizer = optax.chain(optax.scale_by_adam(), optax.scale_by_learning_rate(rate))

        def loss(params, model_state, batch, *, key, step):
            return jax.numpy.square(batch["x"] @ params["w"] - batch["y"]).mean(), (model_state, {})

        def init(key):
            return create_state(params={"w": jax.numpy.zeros(3)}, optimizer=optimizer, key=key, ema={"ema": None})

        return replace(experiment, init=init, step=averaged(gradient(loss, optimizer), {"ema": 0.9}))

    assert command("--workdir", tmp_path / "short", build=falling)[0] == 0
    code, said = command("--images", 96, "--workdir", tmp_path / "more", "--extend", tmp_path / "short", build=falling)
    assert code == 2
    assert "a schedule of line depends on the budget" in said
    assert f"start from its weights with --init-from {tmp_path / 'short'}" in said
