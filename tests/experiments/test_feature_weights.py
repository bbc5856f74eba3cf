"""A feature classifier trained for two steps, written to a file, and read again."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import feature_classifier
from experiments.feature_classifier_weights import Config, write
from vision.data.labelled import labelled_source
from vision.data.shapes.world import ShapesConfig
from vision.errors import UserError
from vision.launch import run as launcher
from vision.pretrained.feature_classifier import FeatureNetworkConfig, load_feature_classifier
from vision.train.checkpoint import Checkpoints
from vision.train.experiment import Intervals

pytestmark = pytest.mark.usefixtures("on_one_device")

SHAPES = ShapesConfig(shapes=("circle", "star"), colours=("red", "blue"), min_size=0.4)
SMALL = {
    "model": FeatureNetworkConfig(widths=(6, 8), strides=(2, 2), classes=4),
    "data": dataclasses.replace(feature_classifier.QUICK.data, resolution=16, shapes_count=64, shapes=SHAPES),
    "intervals": Intervals(log=8, evaluate=16, save=16),
    "images": 16,
    "batch_size": 8,
}


def test_a_run_is_written_and_measured(tmp_path, capsys):
    config = feature_classifier.Config(**SMALL)
    arguments = ["--workdir", str(tmp_path / "run")]
    words = {"build": feature_classifier.build, "description": "", "arguments": arguments}
    assert launcher.main("feature_classifier", config=config, quick=config, **words) == 0, capsys.readouterr().err
    write(Config(run=tmp_path / "run", out=tmp_path / "shapes.npz", note="rendered", version="x"))
    judge = load_feature_classifier(tmp_path / "shapes.npz")
    assert judge.name == "shapes_vx"
    assert judge.class_names == ("red circle", "blue circle", "red star", "blue star")
    assert "trained on the 64 images of the shapes world (train), 16x16, rendered, recognises" in judge.protocol()
    assert judge.protocol() in capsys.readouterr().out
    # the averages, statistics among them, as far as float16 goes
    with Checkpoints(Path(tmp_path / "run" / "checkpoints"), read_only=True) as opened:
        arrays = opened.arrays()
    for part, name in (("params", "conv_1/kernel"), ("batch_stats", "norm_1/var")):
        module, leaf = name.split("/")
        expected = arrays[f"ema/ema/{part}/{name}"].astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(judge.variables[part][module][leaf], expected)
    # the figure in words is that of the file
    source = labelled_source(config.data, "test", seed=0)
    images, labels = source.arrays["image"], source.arrays["label"]
    found = jax.jit(judge.features_and_probabilities)(jnp.asarray(images / 127.5 - 1, jnp.float32))[1].argmax(1)
    assert f"recognises {np.mean(found == labels):.2%} of the 2,000" in judge.protocol()


def test_refuses(tmp_path):
    with pytest.raises(UserError, match="is no run folder"):
        write(Config(run=tmp_path / "nowhere", out=tmp_path / "shapes.npz"))
    assert not (tmp_path / "shapes.npz").exists()
