"""The recipe of the classification experiments: what is in a batch, few labels, statistics of the data, mistakes."""

import re
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import finetune, resnet_cifar, resnet_mnist, speedrun_cifar
from vision.data.labelled import LabelledConfig
from vision.data.shapes.world import ShapesConfig
from vision.errors import UserError
from vision.launch import run as launcher
from vision.launch.options import parse
from vision.launch.replicas import ReplicaOptions, vectorized
from vision.models.resnet import CIFAR_RESNET18
from vision.models.speedrun import SpeedrunConfig, whitening_kernel
from vision.parallel.sharding import path_name
from vision.recipes.classifiers import CLASSIFIERS
from vision.train.compile import Compiler
from vision.train.parameter_groups import matching

pytestmark = pytest.mark.usefixtures("on_one_device")

SHAPES = LabelledConfig(
    name="shapes",
    resolution=16,
    shapes_count=64,
    shapes=ShapesConfig(shapes=("circle", "star"), colours=("red", "blue"), min_size=0.4),
)
TINY = replace(CIFAR_RESNET18, depths=(1,), width=8, classes=4)
CONFIG = replace(resnet_cifar.QUICK, model=TINY, data=SHAPES, batch_size=8, images=8)


def first(experiment, seed, count=1):
    """The first batches of a run of this seed."""
    batches = experiment.batches(seed=seed, start_step=0, process_index=0, process_count=1)
    return [next(batches) for _ in range(count)]


def pictures(batches):
    return {image.tobytes() for batch in batches for image in batch["image"]}


def test_few_labels_are_those_of_the_replicas_own_seed():
    """Replicas of --seeds learn from the labels that each would have alone; all labels are shared."""
    few = replace(CONFIG, data=replace(SHAPES, labels_per_class=2))
    both = vectorized(resnet_cifar.build, few, ReplicaOptions(2))
    chosen = [pictures(first(both, replica.seed, 3)) for replica in both.replicas]
    assert [len(each) for each in chosen] == [8, 8]
    assert chosen[0] != chosen[1]
    for replica, each in zip(both.replicas, chosen, strict=True):
        alone = resnet_cifar.build(replace(few, seed=replica.seed))
        assert pictures(first(alone, replica.seed, 3)) == each
    whole = resnet_cifar.build(CONFIG)
    one, other = (pictures(first(whole, seed, 8)) for seed in (0, 1))
    assert one == other
    assert len(one) == 64


def test_a_batch_is_what_is_declared():
    experiment = resnet_cifar.build(CONFIG)
    (batch,) = first(experiment, 0)
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in batch.items()} == {
        name: (leaf.shape, leaf.dtype) for name, leaf in experiment.batch.items()
    }


def test_the_whitening_is_of_the_training_images(one_device):
    config = replace(
        speedrun_cifar.QUICK, model=SpeedrunConfig(widths=(8,), classes=4), data=SHAPES, batch_size=8, images=8
    )
    experiment = speedrun_cifar.build(config)
    given = experiment.initial_values()
    assert given.keys() == {"constants/whitening"}
    images = np.stack([np.frombuffer(each, np.uint8) for each in sorted(pictures(first(experiment, 0, 8)))])
    assert len(images) == 64
    images = images.reshape(64, 16, 16, 3) / np.float32(127.5) - 1
    expected = np.asarray(jax.jit(whitening_kernel)(images))
    # Eigenvectors are known but for their sign, and the images are counted 78 or 79 times each
    product = np.einsum("hwik,hwik->k", given["constants/whitening"], expected) / (expected**2).sum((0, 1, 2))
    np.testing.assert_allclose(np.abs(product), 1, atol=0.02)
    state = Compiler(one_device, experiment.rules).init(experiment.init, key=jax.random.key(0), initial=given)
    for kept in (state.model_state, state.ema["ema"]):
        np.testing.assert_array_equal(kept["constants"]["whitening"], given["constants/whitening"])


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_all_names_have_a_quick_relative_with_a_head_of_its_own(name):
    """Small, with the classes of the quick data, and --optimizer.frozen as in the ablation leaves the head alone."""
    config = parse(
        "", default=finetune.Config(), quick=finetune.QUICK, description="", arguments=["--quick", "--model", name]
    ).config
    state = jax.eval_shape(finetune.build(config).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) < 1_500_000
    assert state.params["head"]["kernel"].shape[-1] == 36
    still = matching(state.params, finetune.ABLATIONS["head_alone"]["optimizer.frozen"])
    trained = {path_name(path) for path, frozen in jax.tree_util.tree_leaves_with_path(still) if not frozen}
    assert trained == {f"head/{each}" for each in state.params["head"]}


def folder(root, names):
    for name in names:
        (root / name).mkdir(parents=True)
        for index in range(10):
            Image.new("RGB", (16, 16), (index, 0, 0)).save(root / name / f"{index}.png")


@pytest.mark.parametrize(
    ("module", "options", "words"),
    [
        (resnet_mnist, "--imagenet-statistics --model.channels 1", "imagenet_statistics are of three channels"),
        (resnet_cifar, "--optimizer.frozen stem stage_9", "no parameter has 'stage_9' in its path"),
        (resnet_cifar, "--optimizer.frozen stem[", "'stem[' is no regular expression"),
        (resnet_cifar, "--optimizer.layer-decay 2", "optimizer.layer_decay must be more than 0 and at most 1, not 2"),
        (resnet_cifar, "--optimizer.lr -1", "optimizer.lr must be at least 0, not -1"),
        (resnet_cifar, "--loss.threshold 0.2", "loss.threshold is for the binary loss alone: set --loss.loss binary"),
        (resnet_cifar, "--loss.smoothing 1", "loss.smoothing must be at least 0 and less than 1, not 1"),
        (resnet_cifar, "--ema 1", "ema must be at least 0 and less than 1, not 1"),
        (resnet_cifar, "--evaluation-batch 0", "evaluation_batch must be at least 1, not 0"),
        (
            resnet_cifar,
            "--data.name folder --data.dir train --data.test-dir test",
            "the folders of classes in train and test differ: c is only in train",
        ),
    ],
)
def test_mistakes_are_one_line(module, options, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "train", "abc")
    folder(tmp_path / "test", "ab")
    name = module.__name__.removeprefix("experiments.")
    small = (
        "--quick --data.resolution 16 --data.shapes-count 64 --data.shapes.shapes circle star --data.shapes.colours "
        "red blue --data.shapes.min-size 0.4 --model.width 8 --model.depths 1 --model.classes 4 --batch-size 8 "
        "--images 8"
    )
    code = launcher.main(
        name,
        config=module.Config(),
        quick=module.QUICK,
        build=module.build,
        description="",
        arguments=[*small.split(), *options.split(), "--workdir", "run"],
    )
    assert code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    assert words in said


@pytest.mark.parametrize(
    ("model", "data", "words"),
    [
        ({"classes": 5}, {}, "the data has 4 classes and the model 5: set --model.classes 4"),
        ({"channels": 1}, {}, "the images have 3 channels and the model 1: set --model.channels 3"),
        ({}, {"classes": ("red",)}, "there is no class 'red', only red circle, blue circle"),
        ({}, {"labels_per_class": 60}, "fewer than the requested 60"),
        ({}, {"stream": True, "test_resize": 100}, "224 pixels cannot be taken from a shorter side of 100"),
        ({}, {"name": "folder", "dir": Path("none")}, "There is no folder none"),
        # whatever the number of classes is, since no number would do for both
        ({"classes": 3}, {"name": "folder", "dir": Path("train"), "test_dir": Path("test")}, "c is only in train"),
        ({"classes": 2}, {"name": "folder", "dir": Path("train"), "test_dir": Path("test")}, "c is only in train"),
    ],
)
def test_data_that_does_not_fit_is_known_before_the_first_step(model, data, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "train", "abc")
    folder(tmp_path / "test", "ab")
    experiment = resnet_cifar.build(replace(CONFIG, model=replace(TINY, **model), data=replace(SHAPES, **data)))
    with pytest.raises(UserError, match=re.escape(words)):
        first(experiment, 0)


@pytest.mark.usefixtures("unchecked")
def test_plain_numbers_can_be_swept():
    """Learning rate, decay, smoothing and average are traced: their values share one program."""
    config = parse("", default=CONFIG, quick=CONFIG, description="", arguments=[]).config
    fields = ("optimizer.lr", "optimizer.weight_decay", "loss.smoothing", "ema")
    swept = vectorized(resnet_cifar.build, config, ReplicaOptions(0, tuple((name, (0.01, 0.02)) for name in fields)))
    assert len(swept.replicas) == 16
    state = jax.eval_shape(swept.init, jax.random.key(0))
    batch = {name: jax.ShapeDtypeStruct((16, *leaf.shape), leaf.dtype) for name, leaf in swept.batch.items()}
    _, scalars = jax.eval_shape(swept.step, state, batch)
    assert scalars["loss"].shape == (16,)
