"""Every experiment, made small: two steps, stopped between them, resumed by the same command; its ablations."""

import dataclasses
import importlib
import os
import re
import signal
from pathlib import Path

import jax
import pytest

from vision.launch import run as launcher
from vision.launch.options import flatten
from vision.train.records import read_metrics

pytestmark = pytest.mark.usefixtures("on_one_device")

ROOT = Path(__file__).resolve().parents[2]
SHAPES = (
    "--data.resolution 16 --data.shapes-count 64 --data.shapes.shapes circle star --data.shapes.colours red blue "
    "--data.shapes.min-size 0.4"
)
DIFFUSION = f"{SHAPES} --model.classes 4 --diffusion.steps 20 --sampling.steps 2 --samples 4 --judged 4 --held-out 8"
BOXES = (
    "--data.resolution 32 --data.shapes-count 16 --data.max_boxes 4 --data.shapes.max-objects 2 --data.shapes.min-size 0.4 "
    "--data.shapes.max-size 0.6 --model.width 0.125"
)
CODES = (
    f"{SHAPES} --model.resolution 16 --model.latent 4 --bound.importance 2 --bound.importance-images 8 --samples 4 "
    "--judging.judge none"
)
PLAYERS = (
    f"{SHAPES} --model.resolution 16 --model.classes 4 --model.latent 4 --model.generator-width 4 "
    "--model.discriminator-width 4 --samples 4 --judging.judge none"
)
SMALL = {
    "accuracy_score": f"{SHAPES} --model.widths 8 --model.strides 2 --model.classes 4 --drawn 32",
    "diffusion_cifar": f"{DIFFUSION} --model.width 16 --model.multipliers 1",
    "feature_classifier": f"{SHAPES} --model.widths 8 --model.strides 2 --model.classes 4",
    "finetune": f"{SHAPES} --model.width 8 --model.depths 1 --model.classes 4",
    "resnet_cifar": f"{SHAPES} --model.width 8 --model.depths 1 --model.classes 4",
    "resnet_imagenet": f"{SHAPES} --model.width 8 --model.depths 1 --model.classes 4",
    "resnet_mnist": f"{SHAPES} --model.width 8 --model.depths 1 --model.classes 4",
    "speedrun_cifar": f"{SHAPES} --model.widths 8 --model.classes 4",
    "speedrun_mnist": f"{SHAPES} --model.widths 8 --model.classes 4",
    "yolo_bccd": BOXES,
    "yolo_coco": BOXES,
    "yolo_folder": BOXES,
    "yolo_voc": BOXES,
    "dit_cifar": f"{DIFFUSION} --model.width 16 --model.depth 1 --model.heads 2",
    "gan_cifar": f"{PLAYERS} --model.architecture sngan --augmentation.parts translation --augmentation.adaptive",
    "gan_mnist": f"{PLAYERS} --model.discriminator-norm batch",
    "hvae_cifar": f"{CODES} --model.sides 2 8 --model.groups 1 1 --model.width 8",
    "vae_cifar": f"{CODES} --model.widths 8 --model.hidden 8",
    "vae_mnist": f"{CODES} --model.widths 8 --model.hidden 8",
    "autoencoder_cifar": f"{SHAPES} --model.widths 8 --model.codes 8 --evaluation-batch 16",
}
BUDGET = "--batch-size 8 --images 16 --intervals.log 8 --intervals.evaluate 16 --intervals.save 16"
MODULES = {name: importlib.import_module(f"experiments.{name}") for name in SMALL}


def test_all_are_here():
    files = {path.stem for path in (ROOT / "experiments").glob("*.py")}
    # what runs other experiments, looks at data or writes judges; and the recipes of several
    programs = {"__init__", "ablate", "fit_anchors", "probe", "shape_classifier", "feature_classifier_weights"}
    programs |= {"adversarial", "autoencoding", "classification", "detection", "judging"}
    assert files - programs == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_two_steps_with_a_stop_between_them(name, tmp_path, capsys):
    module, served = MODULES[name], []

    def build(config):
        made = module.build(config)

        def stopping(**share):
            for batch in made.batches(**share):
                served.append(share["start_step"])
                if len(served) == 2:  # of the first process; the batch of the second step is ready ahead of time
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

        return dataclasses.replace(made, batches=stopping)

    def run():
        return launcher.main(
            name,
            config=module.Config(),
            quick=module.QUICK,
            build=build,
            description=module.__doc__,
            arguments=["--quick", *SMALL[name].split(), *BUDGET.split(), "--workdir", str(tmp_path / "run")],
        )

    assert run() == 75, capsys.readouterr().err
    assert run() == 0, capsys.readouterr().err
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    trained = [line["step"] for line in lines if any(re.fullmatch(r"train/(\w+_)?loss", field) for field in line)]
    assert trained == [1, 2]
    assert len([line for line in lines if any(field.startswith("eval/") for field in line)]) == 1
    assert (tmp_path / "run" / "report.html").stat().st_size > 1000


@pytest.mark.parametrize("name", SMALL)
def test_docstring_says_how_to_run_it(name):
    text = MODULES[name].__doc__
    assert f"python -m experiments.{name} --quick" in text
    assert f"python -m experiments.{name} " in text.replace("--quick", "")


def changed(config, dotted, value):
    first, _, rest = dotted.partition(".")
    assert first in {field.name for field in dataclasses.fields(config)}, dotted
    return dataclasses.replace(config, **{first: changed(getattr(config, first), rest, value) if rest else value})


ABLATIONS = [(name, ablation) for name in SMALL for ablation in MODULES[name].ABLATIONS]


@pytest.mark.parametrize(("name", "ablation"), ABLATIONS, ids=["-".join(pair) for pair in ABLATIONS])
@pytest.mark.parametrize("base", ["Config", "QUICK"])
def test_ablations_apply(name, ablation, base):
    module = MODULES[name]
    config = module.Config() if base == "Config" else module.QUICK
    for dotted, value in module.ABLATIONS[ablation].items():
        before = flatten(config)[dotted]
        same = type(value) is type(before) or value is None  # what may be left out
        assert same, f"{dotted} = {value!r} replaces {before!r}"
        config = changed(config, dotted, value)
    made = module.build(config)
    if base == "Config":  # shapes take a second where there are many layers
        jax.eval_shape(made.init, jax.random.key(0))


@pytest.mark.parametrize(("name", "ablation"), ABLATIONS, ids=["-".join(pair) for pair in ABLATIONS])
def test_ablations_change_something(name, ablation):
    bases = [flatten(MODULES[name].Config()), flatten(MODULES[name].QUICK)]
    assert any(base[dotted] != value for base in bases for dotted, value in MODULES[name].ABLATIONS[ablation].items())
