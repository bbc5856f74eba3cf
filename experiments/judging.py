"""How the experiments that draw images judge them: by which network, against which images. This module is none.

The classifiers of this package judge what they were trained on; Inception judges anything in colour, where its
published weights are at hand. See ``vision/evaluation/generation.py`` for the numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vision.data.dataset import DataConfig, named_split
from vision.data.source import ArraySource
from vision.errors import UserError
from vision.evaluation.generation import Draw, GenerationConfig, RealImages, evaluator
from vision.metrics.generation.feature_extractor import FeatureExtractor
from vision.pretrained.feature_classifier import KNOWN, load_feature_classifier
from vision.pretrained.inception_features import Resize, load_inception_features
from vision.pretrained.shape_classifier import load_shape_classifier
from vision.train.compile import Compiler
from vision.train.experiment import Evaluation


@dataclass(frozen=True)
class JudgingConfig(GenerationConfig):
    """Who judges, and how many images."""

    judge: Literal["auto", "none", "mnist", "cifar10", "shapes", "inception"] = "auto"
    """The network in whose features images are compared: the one of this package for this data where there is one
    ("auto"); none; one by name; or Inception-v3 as of 2015, which makes the distance FID."""
    inception: Path | None = None
    """Its published weights, pt_inception-2015-12-05-6726825d.pth."""
    resize: Resize = "legacy_tensorflow"
    """How images are brought to its 299 pixels; "clean" is Parmar et al. 2022."""


def judge_of(config: JudgingConfig, data: DataConfig) -> FeatureExtractor | None:
    """The network; None where there is none to judge.

    Raises ``UserError`` where Inception is to judge without weights.
    """
    chosen = config.judge
    if chosen == "auto":
        chosen = data.name if data.name in (*KNOWN, "shapes") else "none"
    if chosen == "none":
        return None
    if chosen == "shapes":
        return load_shape_classifier()
    if chosen != "inception":
        return load_feature_classifier(chosen)
    if config.inception is None:
        raise UserError(
            "Inception judges with its published weights: name the file pt_inception-2015-12-05-6726825d.pth with "
            "--judging.inception"
        )
    return load_inception_features(config.inception, resize=config.resize)


def judged(
    compiler: Compiler,
    config: JudgingConfig,
    draw: Draw,
    *,
    data: DataConfig,
    train: ArraySource,
    test: ArraySource,
    drawn: str = "drawn images",
    observed: str = "",
) -> Callable[[Any], Evaluation]:
    """(variables of ``draw``) -> the numbers of the judge, or none of them without one.

    Args:
      compiler: of the mesh.
      config: who judges.
      draw: the generator.
      data: names the images.
      train: "image", and "label" where the generator is given classes.
      test: the same.
      drawn: what the generator makes, for the protocol.
      observed: what became of the real images first, for the protocol: "binarised once".
    """
    judge = judge_of(config, data)
    if judge is None:
        return lambda variables: Evaluation()
    described = lambda split: f"{named_split(data, split)}{f', {observed}' if observed else ''}"
    real = RealImages(train, test, described("train"), described("test"), drawn)
    return evaluator(compiler, judge, draw, config, real)


def united(one: Evaluation, other: Evaluation) -> Evaluation:
    """Two evaluations of one state as one."""
    return Evaluation(
        {**one.scalars, **other.scalars},
        {**one.images, **other.images},
        {**one.protocol, **other.protocol},
        {**one.animations, **other.animations},
    )
