"""The classification accuracy score: what is learnt from is what the run draws, in the classes of the real data."""

import numpy as np
import pytest

from experiments import accuracy_score, diffusion_cifar
from vision.errors import UserError
from vision.launch import run as launcher

pytestmark = pytest.mark.usefixtures("on_one_device")

SHAPES = (
    "--data.resolution 16 --data.shapes-count 64 --data.shapes.shapes circle star --data.shapes.colours red blue "
    "--data.shapes.min-size 0.4"
)
CLASSES = ("red circle", "blue circle", "red star", "blue star")


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    """A run of one step, which draws noise, but of all classes."""
    folder = tmp_path_factory.mktemp("generator") / "run"
    options = (
        f"{SHAPES} --model.classes 4 --diffusion.steps 20 --sampling.steps 2 --samples 4 --classified 4 --held-out 8 "
        "--model.width 16 --model.multipliers 1 --batch-size 8 --images 8 --intervals.evaluate 8"
    )
    words = {"config": diffusion_cifar.Config(), "quick": diffusion_cifar.QUICK, "build": diffusion_cifar.build}
    arguments = ["--quick", *options.split(), "--workdir", str(folder)]
    assert launcher.main("diffusion_cifar", **words, description="", arguments=arguments) == 0
    return folder


def test_images_of_all_classes_are_generated(generator):
    drawn = accuracy_score.sampled_from(generator, 10, CLASSES)
    assert drawn.arrays["image"].shape == (10, 16, 16, 3)
    assert drawn.arrays["image"].dtype == np.uint8
    np.testing.assert_array_equal(drawn.arrays["label"], np.arange(10) % 4)
    other = accuracy_score.sampled_from(generator, 10, CLASSES[::-1])
    np.testing.assert_array_equal(other.arrays["label"], 3 - np.arange(10) % 4)


def score(folder, *more):
    options = f"{SHAPES} --model.widths 8 --model.strides 2 --model.classes 4 --batch-size 8 --images 8 --samples 16"
    words = {"config": accuracy_score.Config(), "quick": accuracy_score.QUICK, "build": accuracy_score.build}
    arguments = ["--quick", *options.split(), *more, "--workdir", str(folder)]
    return launcher.main("accuracy_score", **words, description="", arguments=arguments)


def test_a_classifier_learns_from_them(generator, tmp_path, capsys):
    assert score(tmp_path / "run", "--generator", str(generator)) == 0
    assert "top1_accuracy" in capsys.readouterr().err


def test_mistakes_are_one_line(generator, tmp_path, capsys):
    assert score(tmp_path / "a", "--generator", str(tmp_path)) == 2
    assert "is no run folder" in capsys.readouterr().err
    assert score(tmp_path / "b", "--samples", "0") == 2
    assert "samples must be at least 1, not 0" in capsys.readouterr().err
    with pytest.raises(UserError, match="generates images of 'blue circle', which the data does not know"):
        accuracy_score.sampled_from(generator, 4, ("red circle", "red star", "blue star"))
