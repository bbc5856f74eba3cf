"""What classifiers share: numbers swept as replicas, features probed, few labels, new heads."""

import re

import pytest

from experiments import finetune, probe
from vision.launch import run as launcher
from vision.train.records import read_metrics

pytestmark = pytest.mark.usefixtures("on_one_device")

OPTIONS = (
    "--quick --data.resolution 16 --data.shapes-count 96 --data.shapes.shapes circle star "
    "--data.shapes.colours red blue --data.shapes.min-size 0.4 --model.width 8 --model.depths 1 --model.classes 4 "
    "--batch-size 8"
)
SMALL = OPTIONS.split()
RUN = [*SMALL, *["--images", "16", "--intervals.log", "8", "--intervals.evaluate", "16", "--intervals.save", "16"]]


def run(*arguments):
    return launcher.main(
        "finetune",
        config=finetune.Config(),
        quick=finetune.QUICK,
        build=finetune.build,
        description="",
        arguments=[*RUN, *map(str, arguments)],
    )


def test_numbers_of_the_recipe_are_swept_as_replicas(tmp_path, capsys, unchecked):
    """Learning rate, decay, smoothing and average are traced: nothing in the recipe asks for their values."""
    fields = ["optimizer.lr", "0,0.01", "optimizer.weight_decay", "0.1", "loss.smoothing", "0.1", "ema", "0.9"]
    assert run("--sweep", *fields, "--optimizer.warmup", 0, "--workdir", tmp_path / "run") == 0, capsys.readouterr().err
    replicas = sorted((tmp_path / "run" / "replicas").iterdir())
    assert len(replicas) == 2
    still, moved = (
        [line["train/loss"] for line in read_metrics(replica / "metrics.jsonl") if "train/loss" in line]
        for replica in replicas
    )
    assert still[0] == pytest.approx(moved[0], rel=1e-5)  # the same start
    assert still[1] != pytest.approx(moved[1], rel=1e-5)


def test_features_are_probed(tmp_path, capsys):
    assert run("--workdir", tmp_path / "run") == 0
    capsys.readouterr()
    assert probe.main(["finetune", *SMALL, "--init-from", str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    assert "starting from the averages" in said.err
    near, linear = (float(found) for found in re.findall(r"(?:neighbours|probe) (\d\.\d+)  \(", said.out))
    assert 0.25 < near <= 1  # features of a network that saw 16 images tell more than chance
    assert 0.4 < linear <= 1
    assert "96 training images" in said.out
    assert probe.main(["line"]) == 2
    assert "there is no classification experiment line: choose one of speedrun_cifar" in capsys.readouterr().err


def test_another_task_with_as_many_classes_gets_a_new_head(tmp_path, capsys):
    assert run("--workdir", tmp_path / "first") == 0
    few = ["--init-from", tmp_path / "first", "--data.labels-per-class", 5]
    assert run(*few, "--workdir", tmp_path / "second") == 0
    assert "stay random" not in capsys.readouterr().err  # the same classes
    turned = ["--data.shapes.shapes", "star", "circle"]
    assert run(*few, *turned, "--workdir", tmp_path / "third") == 0
    said = capsys.readouterr().err
    assert "params/head/bias, params/head/kernel stay random, since the classes differ" in said
