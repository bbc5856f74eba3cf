"""Which network's features generated images are compared in.

The classifiers of this package are for the images that they were trained on; Inception is for any colour images, where
its published weights are available. Only distances in Inception's features are called FID.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vision.errors import UserError
from vision.metrics.generation.feature_extractor import FeatureExtractor
from vision.pretrained.feature_classifier import KNOWN, load_feature_classifier
from vision.pretrained.inception_features import Resize, load_inception_features
from vision.pretrained.shape_classifier import load_shape_classifier

FeaturesName = Literal["auto", "none", "mnist", "cifar10", "shapes", "inception"]


@dataclass(frozen=True)
class FeaturesConfig:
    """The feature extractor."""

    features: FeaturesName = "auto"
    """The classifier of this package for the data, where there is one ("auto"); none; one by name; or Inception-v3 of
    2015, which makes the Fréchet distance the FID."""
    inception: Path | None = None
    """Inception's published weights, pt_inception-2015-12-05-6726825d.pth."""
    resize: Resize = "legacy_tensorflow"
    """How images are resized to Inception's 299 pixels; "clean" is Parmar et al. 2022."""


def chosen_features(config: FeaturesConfig, data: str) -> FeaturesName:
    """The name that "auto" stands for with images of the data set ``data``; others stay."""
    if config.features != "auto":
        return config.features
    return data if data in (*KNOWN, "shapes") else "none"  # pyright: ignore[reportReturnType]


def check_features(config: FeaturesConfig) -> None:
    """Raise ``UserError`` for Inception without its weights."""
    if config.features == "inception" and config.inception is None:
        raise UserError(
            "Inception's features need its published weights: name the file pt_inception-2015-12-05-6726825d.pth with "
            "--metrics.inception"
        )


def load_features(config: FeaturesConfig, data: str) -> FeatureExtractor | None:
    """The feature extractor for images of the data set ``data``; None for none.

    Raises ``UserError`` where its weights are missing or damaged.
    """
    check_features(config)
    name = chosen_features(config, data)
    if name == "none":
        return None
    if name == "shapes":
        return load_shape_classifier()
    if name != "inception":
        return load_feature_classifier(name)
    assert config.inception is not None
    return load_inception_features(config.inception, resize=config.resize)
