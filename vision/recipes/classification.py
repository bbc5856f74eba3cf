"""The recipe of classifiers: a network, augmentation, a loss, an optimizer, data, evaluation."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vision.data.augment.image import AugmentConfig, augment
from vision.data.augment.mixing import mix
from vision.data.image_data import Data
from vision.data.labelled import LabelledConfig, fitted, labelled_data, preprocessing
from vision.errors import UserError
from vision.evaluation.classification import classification_metrics, predict_files
from vision.inference import Inference
from vision.ops.pixels import to_float
from vision.ops.resize import IMAGENET_MEAN, IMAGENET_STD, normalise
from vision.pretrained.rules import to_published
from vision.ranges import Fraction, NonNegativeFloat
from vision.recipes.assemble import WeightsSource, assemble
from vision.recipes.classifiers import Classifier
from vision.recipes.run_config import RunConfig
from vision.tasks.classification import ClassificationConfig, check, classification_loss, classify
from vision.train.compile import Compiler
from vision.train.experiment import Experiment, PredictFiles
from vision.train.optimizer import OptimizerConfig, make_optimizer
from vision.train.state import averages
from vision.train.state import variables as state_variables
from vision.train.step import accumulate, gradient, preprocessed
from vision.types import Batch, TrainState


@dataclass(frozen=True)
class MixConfig:
    """Mixing of images and labels within a batch."""

    mixup: NonNegativeFloat = 0.0
    """Parameter of mixup's Beta distribution (Zhang et al. 2018), not negative; 0 for none."""
    cutmix: NonNegativeFloat = 0.0
    """Parameter of CutMix's (Yun et al. 2019), not negative; 0 for none."""
    probability: Fraction = 1.0
    """Probability, within [0, 1], that an image is mixed at all."""


@dataclass(frozen=True, kw_only=True)
class ClassificationRunConfig(RunConfig):
    """A classification recipe; experiments add ``model``, which has ``classes`` and ``channels``."""

    data: LabelledConfig = LabelledConfig()
    imagenet_statistics: bool = False
    """Normalise images by the mean and deviation of ImageNet, as published weights need it, instead of to [-1, 1]."""
    augment: AugmentConfig = AugmentConfig()
    mix: MixConfig = MixConfig()
    loss: ClassificationConfig = ClassificationConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    ema: float = 0.999
    flip_tta: bool = False
    """Test-time augmentation: average the predictions for an image and for its left-right flip."""


def normalised(config: ClassificationRunConfig, image: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Images in [-1, 1] as the network gets them."""
    return normalise(image, IMAGENET_MEAN, IMAGENET_STD) if config.imagenet_statistics else image


def classification(config: Any, network: Classifier) -> Experiment:
    """The experiment of a ``ClassificationRunConfig`` with ``model``, and of its network.

    Raises:
      UserError: settings that contradict each other.
    """
    check(config.loss)
    if config.imagenet_statistics and config.model.channels != 3:
        raise UserError("imagenet_statistics are of three channels: leave them out for grey images")
    model, classes, channels = network.model, config.model.classes, config.model.channels
    data = labelled_data(config.data, classes=classes, channels=channels, seed=config.seed)

    def prepare(batch: Batch, *, key: jax.Array) -> Batch:
        augment_key, mix_key = jax.random.split(key)
        image = normalised(config, augment(to_float(batch["image"]), config.augment, key=augment_key))
        target = jax.nn.one_hot(batch["label"], classes)
        if config.mix.mixup or config.mix.cutmix:
            alphas = {"mixup_alpha": config.mix.mixup, "cutmix_alpha": config.mix.cutmix}
            image, target = mix(image, target, **alphas, probability=config.mix.probability, key=mix_key)
        return {"image": image, "target": target}

    loss = accumulate(preprocessed(classification_loss(model, config.loss), prepare), config.microbatches)
    written = lambda state: to_published(averages(state), rules=network.published)
    layers = {"layer_of": network.layer_of, "layers": network.layers}
    optimizer = make_optimizer(config.optimizer, steps=config.steps, batch_size=config.batch_size, **layers)

    predict = classify(model, flip_tta=config.flip_tta)
    logits = lambda values, images: predict(values, normalised(config, to_float(images)))
    image = jnp.zeros((1, *data.sample["image"].shape))
    return assemble(
        config,
        variables=lambda key: model.init(key, image, train=False),
        step=gradient(loss, optimizer),
        optimizer=optimizer,
        averaging=state_variables,
        data=data,
        evaluation=classification_metrics(
            logits,
            data,
            averages,
            classes=classes,
            batch_size=config.evaluation_batch,
            description=f"EMA {config.ema}{', flip TTA' if config.flip_tta else ''}",
        ),
        prediction=functools.partial(prediction, config, logits),
        inference=functools.partial(inference, config, logits),
        labelled=True,
        weights=WeightsSource(
            published=network.published,
            ignored=network.ignored,
            replaced=network.replaced,
            adapt=network.adapt,
            written=written if network.published else None,
        ),
        statistics=functools.partial(statistics, config, network, data) if network.statistics is not None else None,
        rules=network.rules,
        evaluation_only=("flip_tta", "data.test_", "data.max_pixels"),
    )


def prediction(
    config: Any, logits: Callable[[Any, Array], Array], compiler: Compiler, class_names: Sequence[str]
) -> PredictFiles:
    """Predictions for files by the averaged variables."""
    fit = functools.partial(fitted, config=config.data)
    channels = config.model.channels
    predict = predict_files(
        compiler,
        logits,
        fitted=fit,
        class_names=class_names,
        channels=channels,
        max_pixels=config.data.max_pixels,
    )
    return lambda state, files, folder: predict(averages(state), files, folder)


def inference(config: Any, logits: Callable[[Any, Array], Array], state: TrainState) -> Inference:
    """What is exported: images to class probabilities."""
    size = config.data.test_side
    probabilities = lambda images: {"probabilities": jax.nn.softmax(logits(averages(state), images))}
    return Inference(
        function=probabilities,
        image=(size, size, config.model.channels),
        preprocessing=preprocessing(config.data),
    )


def statistics(config: Any, network: Classifier, data: Data) -> Mapping[str, np.ndarray]:
    """The network's statistics of 5,000 training images, by path."""
    assert network.statistics is not None
    first = next(data.train_batches(5_000, seed=config.seed, start_step=0, process_index=0, process_count=1))
    return jax.device_get(network.statistics(normalised(config, to_float(jnp.asarray(first["image"])))))
