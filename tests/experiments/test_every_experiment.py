"""Every experiment, made small: two steps, stopped between them, resumed by the same command; its ablations."""

import ast
import dataclasses
import functools
import importlib
import inspect
import json
import os
import re
import signal
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest

from vision.launch import run as launcher
from vision.launch.experiment_module import experiment_paths
from vision.launch.options import choices, flatten
from vision.recipes.adversarial import adversarial
from vision.recipes.autoencoder import autoencoder
from vision.recipes.classification import classification
from vision.recipes.clip import clip
from vision.recipes.detection import detection
from vision.recipes.diffusion import diffusion
from vision.recipes.instances import instances
from vision.recipes.panoptic import panoptic
from vision.recipes.prior import prior
from vision.recipes.restoration import restoration
from vision.recipes.restoration_adversarial import adversarial_restoration
from vision.recipes.segmentation import segmentation
from vision.recipes.style_adain import style_adain
from vision.recipes.style_transformer import style_transformer
from vision.recipes.supervised import supervised
from vision.recipes.text_pipeline import text_pipeline
from vision.recipes.text_to_image import text_to_image
from vision.recipes.upsampler import upsampler
from vision.recipes.vae import vae
from vision.train.records import read_metrics
from vision.train.state import attach_frozen, detach_frozen

pytestmark = pytest.mark.usefixtures("on_one_device")

ROOT = Path(__file__).resolve().parents[2]
MODULES = {name: importlib.import_module(f"experiments.{name}") for name in experiment_paths()}
GOLDEN_FILE = ROOT / "tests" / "golden" / "first_steps.json"
# one experiment of each recipe runs whole; the others differ in numbers and take their golden steps
RECIPES = (
    *("accuracy_score", "autoencoder_cifar", "clip_shapes", "colourise", "diffusion_cifar", "distill_cifar"),
    *("dit_cifar", "edm_cifar", "finetune"),
    *("gan_cifar", "gan_mnist", "hvae_cifar", "instances_folder", "latent_diffusion"),
    *("meanflow_cifar", "panoptic_shapes", "prior_shapes"),
    *("decoder_shapes", "text_to_image_shapes", "upsampler_shapes"),
    *("edit_instructions", "inpaint_shapes"),
    *("segment_folder", "speedrun_cifar", "srgan", "style_adain", "style_fast", "superres"),
    *("text_pipeline", "vae_mnist", "yolo_coco"),
)


def test_no_experiment_imports_another():
    names = {path.stem for path in (ROOT / "experiments").glob("*.py")}
    for path in (ROOT / "experiments").glob("*.py"):
        imported = re.findall(r"^\s*(?:from|import) experiments[ .]+(?:import )?(\w+)", path.read_text(), re.MULTILINE)
        assert not set(imported) & names, f"{path.name} imports {', '.join(imported)}"


@pytest.mark.parametrize("name", RECIPES)
def test_two_steps_with_a_stop_between_them(name, tmp_path, capsys):
    module, served = MODULES[name], []

    def build(config):
        experiment = module.build(config)

        def stopping(**share):
            for batch in experiment.batches(**share):
                served.append(share["start_step"])
                if len(served) == 2:  # of the first process; the batch of the second step is ready ahead of time
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

        return dataclasses.replace(experiment, batches=stopping)

    def run():
        return launcher.main(
            name,
            config=module.Config(),
            quick=module.TINY,
            build=build,
            description=module.__doc__,
            arguments=["--quick", "--workdir", str(tmp_path / "run")],
        )

    assert run() == 75, capsys.readouterr().err
    assert run() == 0, capsys.readouterr().err
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    trained = [line["step"] for line in lines if any(re.fullmatch(r"train/(\w+_)?loss", field) for field in line)]
    assert trained == [1, 2]
    assert len([line for line in lines if any(field.startswith("eval/") for field in line)]) == 1
    assert (tmp_path / "run" / "report.html").stat().st_size > 1000


def first_steps(module):
    """The scalars of the first two steps of ``TINY``, and sums of absolute values of the state after them."""
    experiment = module.build(module.TINY)
    initial = [experiment.initial_values()] if experiment.initial_values is not None else []
    state = jax.jit(experiment.init)(jax.random.key(experiment.seed), *initial)
    state = attach_frozen(state, {name: part.load() for name, part in experiment.frozen.items()})
    batches = experiment.batches(seed=experiment.seed, start_step=0, process_index=0, process_count=1)
    step, scalars = jax.jit(experiment.step), []
    for _ in range(2):
        state, new = step(state, next(batches))
        scalars.append({name: float(value) for name, value in sorted(new.items())})
    state, _ = detach_frozen(state)
    floats = lambda tree: [leaf for leaf in jax.tree.leaves(tree) if leaf.dtype == np.float32]
    total = lambda tree: float(sum(np.abs(np.asarray(leaf, np.float64)).sum() for leaf in floats(tree)))
    sums = {"params": total(state.params), "model_state": total(state.model_state)}
    return {"steps": scalars, **sums, "ema": {name: total(tree) for name, tree in state.ema.items()}}


@pytest.mark.parametrize("name", MODULES)
def test_golden_first_steps(name):
    """Losses, gradient norms and parameters are those on record, made by tests/golden/make_first_steps_golden.py."""
    found, expected = first_steps(MODULES[name]), json.loads(GOLDEN_FILE.read_text())[name]
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    # absolute for mean logits, which are near 0 while those of single images are not
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5), found, expected)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_says_how_to_run_it(name):
    text = MODULES[name].__doc__
    assert f"python -m experiments.{name} --quick" in text
    assert f"python -m experiments.{name} " in text.replace("--quick", "")


def code_lines(function):
    """Lines of a function's body without its docstring and blank lines."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    body = node.body[1:] if ast.get_docstring(node) else node.body
    source = textwrap.dedent(inspect.getsource(function)).splitlines()
    return len([line for line in source[body[0].lineno - 1 :] if line.strip()])


@pytest.mark.parametrize("name", MODULES)
def test_build_is_short(name):
    assert code_lines(MODULES[name].build) <= 30


@pytest.mark.parametrize(
    "recipe",
    [
        *(diffusion, classification, detection, instances, panoptic, segmentation),
        *(adversarial, vae, autoencoder, supervised, clip, restoration, adversarial_restoration),
        *(prior, style_adain, style_transformer, text_pipeline, text_to_image, upsampler),
    ],
    ids=lambda f: f.__name__,
)
def test_a_recipe_reads_like_one(recipe):
    assert code_lines(recipe) <= 70


def changed(config, dotted, value):
    first, _, rest = dotted.partition(".")
    assert first in {field.name for field in dataclasses.fields(config)}, dotted
    return dataclasses.replace(config, **{first: changed(getattr(config, first), rest, value) if rest else value})


ABLATIONS = [(name, ablation) for name in MODULES for ablation in MODULES[name].ABLATIONS]


@pytest.mark.parametrize(("name", "ablation"), ABLATIONS, ids=["-".join(pair) for pair in ABLATIONS])
@pytest.mark.parametrize("base", ["Config", "QUICK"])
def test_ablations_apply(name, ablation, base):
    module = MODULES[name]
    config = module.Config() if base == "Config" else module.QUICK
    tables = choices(config, quick=base == "QUICK")
    for dotted, value in module.ABLATIONS[ablation].items():
        if dotted in tables:
            config = changed(config, dotted, tables[dotted][value])
            continue
        before = flatten(config)[dotted]
        same = type(value) is type(before) or value is None  # what may be left out
        assert same, f"{dotted} = {value!r} replaces {before!r}"
        config = changed(config, dotted, value)
    experiment = module.build(config)
    if base == "Config":  # shapes take a second where there are many layers
        jax.eval_shape(experiment.init, jax.random.key(0))


@pytest.mark.parametrize(("name", "ablation"), ABLATIONS, ids=["-".join(pair) for pair in ABLATIONS])
def test_ablations_change_something(name, ablation):
    configs = {False: MODULES[name].Config(), True: MODULES[name].QUICK}
    value_of = lambda config, dotted: functools.reduce(getattr, dotted.split("."), config)
    wanted = lambda config, quick, dotted, value: choices(config, quick=quick).get(dotted, {}).get(value, value)
    assert any(
        value_of(config, dotted) != wanted(config, quick, dotted, value)
        for quick, config in configs.items()
        for dotted, value in MODULES[name].ABLATIONS[ablation].items()
    )
