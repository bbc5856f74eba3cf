"""--seeds and --sweep: several whole runs in one process, each as it would be alone."""

import json
import math
from dataclasses import replace

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from line_experiment import SIZE, Config, Hooks, make_build

from vision.errors import UserError
from vision.launch import run as launcher
from vision.launch import verbs
from vision.launch.replicas import ReplicaOptions, listed, parse_sweep, replaced
from vision.train.records import read_metrics

DEVICES = ["--mesh.seeds", "1", "--mesh.data", "8"]  # replicas share all devices, as they would on one


@pytest.fixture
def command(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*arguments, build=None):
        code = launcher.main(
            "line",
            config=Config(),
            quick=replace(Config(), images=2 * SIZE),
            build=build or make_build(Hooks()),
            description="A line.",
            arguments=[str(argument) for argument in arguments],
        )
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


def measured(folder, prefix):
    """(step, values with this prefix) of every line that has any, without what the clock decides."""
    return [
        (line["step"], {k: v for k, v in line.items() if k.startswith(prefix)})
        for line in read_metrics(folder / "metrics.jsonl")
        if any(k.startswith(prefix) for k in line)
    ]


def close(one, other):
    assert len(one) == len(other) > 0
    for (step, values), (other_step, others) in zip(one, other, strict=True):
        assert step == other_step
        assert values == pytest.approx(others, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    "mesh", [[], DEVICES, [*DEVICES, "--replicas-by", "sequential"]], ids=["divided", "vmap", "rounds"]
)
def test_replicas_are_the_runs_they_would_be_alone(command, tmp_path, mesh):
    code, said = command("--seeds", 2, "--seed", 3, "--workdir", "both", *mesh)
    assert code == 0, said
    for seed in (3, 4):
        code, said = command("--seed", seed, "--workdir", f"alone-{seed}")
        assert code == 0, said
        for prefix in ("train/", "eval/"):
            close(
                measured(tmp_path / "both" / "replicas" / f"seed-{seed}", prefix),
                measured(tmp_path / f"alone-{seed}", prefix),
            )
    pictures = sorted((tmp_path / "both" / "replicas" / "seed-4" / "samples").iterdir())
    assert [p.name for p in pictures] == [p.name for p in sorted((tmp_path / "alone-4" / "samples").iterdir())]

    # what is said of both: mean and half the width of the 95 % interval, t(1) = 12.706
    each = [dict(measured(tmp_path / f"alone-{seed}", "eval/")[-1][1])["eval/distance"] for seed in (3, 4)]
    _, both = measured(tmp_path / "both", "eval/")[-1]
    assert both["eval/distance"] == pytest.approx(np.mean(each), rel=1e-4)
    assert both["eval/distance_ci95"] == pytest.approx(12.7062 * abs(each[0] - each[1]) / 2, rel=1e-2)


def test_stopped_and_resumed_equals_uninterrupted(tmp_path, command):
    import os
    import signal

    assert command("--seeds", 2, "--workdir", "whole")[0] == 0
    hooks = Hooks()
    hooks.at_batch = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 4 else None
    code, said = command("--seeds", 2, "--workdir", "stopped", build=make_build(hooks))
    assert code == 75, said
    assert command("--seeds", 2, "--workdir", "stopped")[0] == 0
    for folder in ("", "replicas/seed-0", "replicas/seed-1"):
        for prefix in ("train/", "eval/"):
            assert measured(tmp_path / "stopped" / folder, prefix) == measured(tmp_path / "whole" / folder, prefix)


def test_a_sweep_over_numbers_and_seeds(command, tmp_path):
    code, said = command("--sweep", "optimizer.lr", "0.01,0.1", "--seeds", 2, "--workdir", "sweep")
    assert code == 0, said
    assert command("--optimizer.lr", 0.1, "--seed", 1, "--workdir", "alone")[0] == 0
    close(
        measured(tmp_path / "sweep/replicas/optimizer.lr=0.1,seed-1", "train/"), measured(tmp_path / "alone", "train/")
    )
    names = set(measured(tmp_path / "sweep", "train/loss")[-1][1])
    assert names == {f"train/loss{ci}[optimizer.lr={lr}]" for lr in ("0.01", "0.1") for ci in ("", "_ci95")}
    stored = json.loads((tmp_path / "sweep/config.json").read_text())
    assert stored["replicas"] == {"seeds": 2, "sweep": {"optimizer.lr": [0.01, 0.1]}}


def test_one_replica_that_diverges_does_not_take_the_others_along(command, tmp_path):
    code, said = command("--sweep", "optimizer.lr", "0.01,1e38", "--workdir", "sweep")
    assert code == 0, said
    assert said.count("optimizer.lr=1e+38,seed-0 diverged: ") == 1
    good, bad = (
        [values["train/loss"] for _, values in measured(tmp_path / "sweep/replicas" / name, "train/")]
        for name in ("optimizer.lr=0.01,seed-0", "optimizer.lr=1e+38,seed-0")
    )
    assert all(math.isfinite(float(value)) for value in good)
    assert not math.isfinite(bad[-1])
    code, said = command("--sweep", "optimizer.lr", "1e37,1e38", "--workdir", "none-left")
    assert code == 3
    assert "all 2 replicas" in said


def test_replicas_are_evaluated_and_sampled_from(command, tmp_path, capsys):
    assert command("--seeds", 2)[0] == 0
    (folder,) = (tmp_path / "runs/line").iterdir()
    assert folder.name == "seeds=2"
    assert verbs.main(["evaluate", str(folder)], package="tiny_experiments") == 0
    said = capsys.readouterr().out
    assert "distance " in said
    assert "distance_ci95 " in said
    assert verbs.main(["sample", str(folder), "--count", "3"], package="tiny_experiments") == 0
    assert "6 samples" in capsys.readouterr().out
    # the number of replicas is part of what a work directory holds
    code, said = command("--seeds", 3, "--workdir", folder)
    assert code == 2
    assert "seeds is 2 there and 3 here" in said
    code, said = command("--workdir", folder)
    assert code == 2
    assert "seeds is 2 there and absent here" in said
    # a stored configuration brings its replicas along
    assert command("--config", folder, "--workdir", "again")[0] == 0
    assert measured(tmp_path / "again", "eval/") == measured(folder, "eval/")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sweep", "optimizer.rl", "1,2"], "no field to sweep optimizer.rl"),
        (["--sweep", "images", "64,128"], "images = 64 is no plain number"),
        (["--sweep", "optimizer.lr"], "takes a field and its numbers"),
        (["--sweep", "optimizer.lr", "1e-3,x"], "numbers separated by commas, not '1e-3,x'"),
        (["--sweep", "optimizer.lr", "1e-3,1e-3"], "a number twice"),
        (["--sweep", "optimizer.lr", "1", "optimizer.lr", "2"], "a field twice"),
        (["--seeds", "-1"], "seeds must be at least 0, not -1"),
        (["--seeds", "3", "--mesh.seeds", "2"], "3 runs cannot be divided among mesh.seeds=2"),
    ],
)
def test_mistakes_are_one_line(command, arguments, words):
    code, said = command(*arguments)
    assert code == 2
    assert words in said
    assert said.count("\n") == 1


def test_a_number_that_steers_the_program_cannot_be_swept(command):
    def build(config):
        made = make_build(Hooks())(config)
        return replace(made, step=made.step) if config.optimizer.lr > 0 else made

    code, said = command("--sweep", "optimizer.lr", "0.1,0.2", build=build)
    assert code == 2
    assert "decides what the program is" in said
    assert "experiments.ablate" in said


@given(
    seeds=st.integers(0, 3),
    rates=st.lists(st.floats(0.001, 1), unique=True, max_size=3),
    first=st.integers(0, 9),
)
def test_every_combination_occurs_once(seeds, rates, first):
    sweep = (("optimizer.lr", tuple(rates)),) if rates else ()
    replicas = listed(ReplicaOptions(seeds, sweep), replace(Config(), seed=first))
    assert len(replicas) == max(seeds, 1) * max(len(rates), 1)
    assert {(m.seed, numbers.get("optimizer.lr")) for m, numbers in replicas} == {
        (first + s, rate) for s in range(max(seeds, 1)) for rate in (rates or [None])
    }


def test_fields_are_replaced_deep_down():
    config = replaced(Config(), {"optimizer.lr": 7.0, "seed": 2})
    assert (config.optimizer.lr, config.seed, config.images) == (7.0, 2, Config().images)
    assert parse_sweep(["a.b-c", "1,2", "d", "3"]) == (("a.b_c", (1.0, 2.0)), ("d", (3.0,)))
    with pytest.raises(UserError):
        parse_sweep(["a"])
    assert jax.device_count() == 8
