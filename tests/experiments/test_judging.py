"""Which network judges what an experiment draws."""

import numpy as np
import pytest

from experiments.judging import JudgingConfig, judge_of, judged, united
from vision.data.dataset import DataConfig
from vision.data.source import ArraySource
from vision.errors import UserError
from vision.train.compile import Compiler
from vision.train.experiment import Evaluation


@pytest.mark.parametrize(
    ("judge", "data", "name"),
    [
        ("auto", "mnist", "mnist_v1"),
        ("auto", "cifar10", "cifar10_v1"),
        ("auto", "shapes", "shapes_v1"),
        ("mnist", "folder", "mnist_v1"),
        ("shapes", "cifar10", "shapes_v1"),
    ],
)
def test_the_judge_is_that_of_the_data_or_the_one_named(judge, data, name):
    found = judge_of(JudgingConfig(judge=judge), DataConfig(name=data))
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(("judge", "data"), [("auto", "folder"), ("none", "mnist")])
def test_without_a_judge_there_are_no_numbers(judge, data, one_device):
    config, images = JudgingConfig(judge=judge), ArraySource({"image": np.zeros((4, 8, 8, 3), np.uint8)}, ())
    assert judge_of(config, DataConfig(name=data)) is None
    draw = lambda variables, labels, key: pytest.fail("nobody looks at what is drawn")
    compiler = Compiler(one_device)
    numbers = judged(compiler, config, draw, data=DataConfig(name=data), train=images, test=images)
    assert numbers({}) == Evaluation()


def test_inception_needs_its_weights(tmp_path):
    with pytest.raises(
        UserError, match=r"name the file pt_inception-2015-12-05-6726825d\.pth with --judging\.inception"
    ):
        judge_of(JudgingConfig(judge="inception"), DataConfig())
    (tmp_path / "other.pth").write_bytes(b"something else")
    with pytest.raises(UserError, match=r"other\.pth"):
        judge_of(JudgingConfig(judge="inception", inception=tmp_path / "other.pth"), DataConfig())


def test_evaluations_are_united():
    image = np.zeros((2, 2, 3), np.uint8)
    one = Evaluation({"a": 1.0}, {"samples": image}, {"a": "how"})
    other = Evaluation({"b": 2.0}, {}, {"b": "otherwise"}, {"walk": image[None]})
    both = united(one, other)
    assert both.scalars == {"a": 1.0, "b": 2.0}
    assert set(both.images) == {"samples"}
    assert both.protocol == {"a": "how", "b": "otherwise"}
    assert set(both.animations) == {"walk"}
