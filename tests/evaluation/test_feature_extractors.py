"""Which network's features generated images are compared in, and evaluations that are merged."""

import jax
import numpy as np
import optax
import pytest

from vision.data.dataset import DataConfig
from vision.data.image_data import image_data
from vision.errors import UserError
from vision.evaluation.combine import combine, merge
from vision.evaluation.feature_extractors import FeaturesConfig, load_features
from vision.evaluation.generation import GenerationConfig, generation_metrics
from vision.evaluation.generator import Generator
from vision.train.compile import Compiler
from vision.train.experiment import Evaluation
from vision.train.state import create_state

STATE = create_state(params={}, optimizer=optax.sgd(0.1), key=jax.random.key(0))


@pytest.mark.parametrize(
    ("features", "data", "name"),
    [
        ("auto", "mnist", "mnist_v1"),
        ("auto", "cifar10", "cifar10_v1"),
        ("auto", "shapes", "shapes_v1"),
        ("mnist", "folder", "mnist_v1"),
        ("shapes", "cifar10", "shapes_v1"),
    ],
)
def test_the_extractor_is_that_of_the_data_or_the_one_named(features, data, name):
    found = load_features(FeaturesConfig(features=features), data)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(("features", "data"), [("auto", "folder"), ("none", "mnist")])
def test_without_an_extractor_there_are_no_numbers(features, data, one_device):
    config = GenerationConfig(features=features)
    assert load_features(config, data) is None
    sample = lambda *request: pytest.fail("nothing is sampled")
    generator = Generator(sample=sample, variables=lambda state: {}, description="")
    images = DataConfig(name=data)
    factory = generation_metrics(generator, config, data=image_data(images, classes=0, channels=3), images=images)
    assert factory(Compiler(one_device))(STATE) == Evaluation()


def test_inception_needs_its_weights(tmp_path):
    with pytest.raises(
        UserError, match=r"name the file pt_inception-2015-12-05-6726825d\.pth with --metrics\.inception"
    ):
        load_features(FeaturesConfig(features="inception"), "cifar10")
    (tmp_path / "other.pth").write_bytes(b"something else")
    with pytest.raises(UserError, match=r"other\.pth"):
        load_features(FeaturesConfig(features="inception", inception=tmp_path / "other.pth"), "cifar10")


def test_evaluations_are_merged(one_device):
    image = np.zeros((2, 2, 3), np.uint8)
    one = Evaluation({"a": 1.0}, {"samples": image}, {"a": "how"})
    other = Evaluation({"b": 2.0}, {}, {"b": "otherwise"}, {"walk": image[None]})
    both = combine(lambda compiler: lambda state: one, lambda compiler: lambda state: other)(Compiler(one_device))(
        STATE
    )
    assert both.scalars == {"a": 1.0, "b": 2.0}
    assert set(both.images) == {"samples"}
    assert both.protocol == {"a": "how", "b": "otherwise"}
    assert set(both.animations) == {"walk"}
    with pytest.raises(ValueError, match="two evaluators report a"):
        merge([one, one])
