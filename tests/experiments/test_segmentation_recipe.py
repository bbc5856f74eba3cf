"""The recipe of semantic segmentation: a small run, what is written for files, weights of classes, refusals."""

from dataclasses import replace

import jax
import jax.export
import numpy as np
import pytest
from PIL import Image

from experiments import segment_folder
from vision.data.annotations.index_masks import mask_values
from vision.data.class_counts import class_counts
from vision.data.semantic import semantic_source
from vision.errors import UserError
from vision.launch import run as launcher
from vision.launch import verbs
from vision.models.resnet import cifar_resnet
from vision.models.segmentation.deeplab import DeepLabConfig
from vision.models.segmentation.fcn import FcnConfig
from vision.models.segmentation.feature_pyramid import PyramidConfig
from vision.models.vit import ViTConfig
from vision.recipes.segmentation import DECODERS, SMALL_DECODERS, segmentation, views_text
from vision.tasks.segmenter import SegmenterConfig
from vision.train.records import read_metrics

pytestmark = pytest.mark.usefixtures("on_one_device")

TINY = segment_folder.TINY
CIFAR = replace(cifar_resnet(8, classes=0), width=4)


def run(config, workdir, *options):
    return launcher.main(
        "segment_folder",
        config=segment_folder.Config(),
        quick=config,
        build=segment_folder.build,
        description="",
        arguments=["--quick", "--workdir", str(workdir), *map(str, options)],
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segmentation") / "run"
    assert run(replace(TINY, loss=replace(TINY.loss, class_weights="median_frequency")), folder) == 0
    return folder


def test_what_a_run_records(finished):
    scalars = {name for line in read_metrics(finished / "metrics.jsonl") for name in line}
    wanted = {"mean_iou", "pixel_accuracy", "mean_boundary_iou", "class_iou/background", "class_iou/star"}
    assert {f"eval/{name}" for name in wanted} <= scalars
    assert {"train/cross_entropy", "train/pixel_accuracy"} <= scalars
    shown = {file.name.split("-")[0] for file in (finished / "samples").iterdir()}
    assert {"class_iou", "confusion", "examples", "worst"} <= shown


def test_files_get_masks_of_their_size(finished, tmp_path, capsys):
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    assert verbs.main(["predict", str(finished), str(tmp_path / "a.png"), "--out", str(tmp_path / "out")]) == 0
    assert "background" in capsys.readouterr().out
    mask = mask_values(tmp_path / "out" / "masks" / "a.png")
    assert mask.shape == (40, 50)
    assert mask.max() < 3


def test_the_exported_function_gives_probabilities(finished, tmp_path):
    file = tmp_path / "model.bin"
    assert verbs.main(["export", str(finished), str(file)]) == 0
    call = jax.export.deserialize(file.read_bytes()).call
    found = call(np.zeros((2, 32, 32, 3), np.uint8))["probabilities"]
    assert found.shape == (2, 32, 32, 3)
    np.testing.assert_allclose(found.sum(-1), 1.0, atol=1e-5)


def test_classes_are_weighted_by_their_frequency():
    config = replace(TINY, loss=replace(TINY.loss, class_weights="median_frequency"))
    experiment = segmentation(config)
    values = experiment.initial_values()
    counts = class_counts(semantic_source(config.data, "train"), 3)
    frequency = counts.pixels / counts.around
    np.testing.assert_allclose(values["constants/class_weights"], np.median(frequency) / frequency, rtol=1e-6)
    assert segmentation(TINY).initial_values is None


def test_decoders_have_small_relatives():
    assert DECODERS.keys() == SMALL_DECODERS.keys()
    assert all(type(DECODERS[name]) is type(SMALL_DECODERS[name]) for name in DECODERS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"crop": (32,)}, "crop is a height and a width, not 1 numbers"),
        ({"crop": (32, 48), "decoder": DeepLabConfig(plus=True)}, None),
        ({"backbone": CIFAR}, None),
        ({"backbone": CIFAR, "decoder": FcnConfig(), "auxiliary": True}, None),
        ({"backbone": CIFAR, "decoder": DeepLabConfig()}, "a ResNet has no features of strides 8, 16 and 32"),
        ({"backbone": CIFAR, "decoder": PyramidConfig()}, "a ResNet has no features of strides 8, 16 and 32"),
        ({"backbone": ViTConfig(patch=8)}, "a ViT has no features of several resolutions"),
    ],
)
def test_settings(change, said):
    config = replace(TINY, **change)
    if said is None:
        experiment = segmentation(config)
        assert experiment.batch["image"].shape == (8, 32, 32, 3)
        jax.eval_shape(experiment.init, jax.random.key(0))
        return
    with pytest.raises(UserError, match=said):
        segmentation(config)


def test_other_classes_than_the_data_has(tmp_path, capsys):
    assert run(replace(TINY, classes=5), tmp_path / "run") == 2
    assert "the data has 3 classes and the model 5: set --classes 3" in capsys.readouterr().err


def test_views_in_words():
    assert views_text(SegmenterConfig()) == ""
    words = ", flip, scales 0.5 1, windows of 64 pixels that overlap by 0.25"
    assert views_text(SegmenterConfig(flip=True, scales=(0.5, 1.0), window=64)) == words
