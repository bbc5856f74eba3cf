"""The recipe of super-resolution and restoration: pairs made on the device, a loss of pixels and features."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from vision.data.augment.image import random_turn
from vision.data.image_data import Data
from vision.data.photographs import PhotographsConfig, photograph_data
from vision.data.shapes.world import ShapesConfig
from vision.errors import UserError
from vision.evaluation.restoration import restoration_metrics
from vision.evaluation.restoration_files import restore_photographs
from vision.home import expanded
from vision.inference import Inference
from vision.models.restoration.edsr import EDSR_BASELINE
from vision.models.vgg import VGG19, Vgg, VggConfig
from vision.ops.degradations.degradation import (
    BicubicDegradation,
    BlurDegradation,
    Degradation,
    JpegDegradation,
    NoiseDegradation,
    check_degradation,
    degraded,
    margin_of,
    random_levels,
)
from vision.ops.degradations.real_esrgan import REAL_ESRGAN
from vision.ops.imresize import crop_border
from vision.ops.pixels import scaled
from vision.ops.self_ensemble import self_ensemble
from vision.ops.tiling import TilingConfig
from vision.pretrained.rules import to_published
from vision.recipes.assemble import WeightsSource, assemble
from vision.recipes.preprocessing import Preprocess
from vision.recipes.restoration_evaluation import LpipsConfig, restoration_task, vgg_shapes, vgg_variables
from vision.recipes.restoration_networks import Network, NetworkConfig, enlarging_network, network
from vision.recipes.run_config import RunConfig
from vision.tasks.restoration import (
    Features,
    RestorationLossConfig,
    Restore,
    network_view,
    on_colours,
    restoration_loss,
)
from vision.train.compile import Compiler
from vision.train.experiment import EvaluatorFactory, Experiment, FrozenPart, Intervals, PredictFiles
from vision.train.optimizer import AdamConfig, clipped, learning_rate
from vision.train.state import averages
from vision.train.state import variables as state_variables
from vision.train.step import accumulate, gradient, preprocessed
from vision.types import Batch, TrainState

DEGRADATIONS: Mapping[str, Degradation] = {
    "noise": NoiseDegradation(),
    "noise_blind": NoiseDegradation(sigma=(0.0, 55.0)),
    "jpeg": JpegDegradation(),
    "jpeg_blind": JpegDegradation(quality=(5.0, 95.0)),
    "blur": BlurDegradation(),
}
"""Degradations that keep the size, for the command line (``--degradation NAME``)."""
REDUCTIONS: Mapping[str, Degradation] = {"bicubic": BicubicDegradation(), "real_esrgan": REAL_ESRGAN, **DEGRADATIONS}
"""Degradations of super-resolution, which reduce images first."""


def degradation_by_name(default: Degradation, table: Mapping[str, Degradation]) -> Any:
    """The field ``degradation`` of a recipe: ``--degradation NAME``, then ``--degradation.FIELD``."""
    return field(default=default, metadata={"choices": table})


@dataclass(frozen=True)
class VggFeaturesConfig:
    """The network in whose features images are compared, a VGG."""

    model: VggConfig = replace(VGG19, classes=0)
    """Its shape."""
    weights: Path | None = None
    """A file of torchvision's weights. The run remembers its content; the path may change."""
    layers: tuple[str, ...] = ("conv5_4",)
    """Activations: "conv5_4" is that convolution before its ReLU (Wang et al. 2018), "relu5_4" after it."""


@dataclass(frozen=True, kw_only=True)
class RestorationRunConfig(RunConfig):
    """A recipe of super-resolution; the defaults are the baseline EDSR of Lim et al. 2017 for a scale of 2."""

    model: NetworkConfig = enlarging_network(EDSR_BASELINE)
    degradation: Degradation = degradation_by_name(BicubicDegradation(), REDUCTIONS)
    data: PhotographsConfig = PhotographsConfig()
    loss: RestorationLossConfig = RestorationLossConfig()
    perceptual: VggFeaturesConfig = VggFeaturesConfig()
    lpips: LpipsConfig = LpipsConfig()
    augment: bool = True
    """Flip and turn training patches at random."""
    self_ensemble: bool = False
    """Evaluate and predict by the mean over eight flips and quarter turns, which takes eight times as long."""
    tiling: TilingConfig = TilingConfig(tile=192)
    """How files to predict are cut."""
    optimizer: AdamConfig = AdamConfig(lr=1e-4, schedule="cosine")
    intervals: Intervals = Intervals(log=16_000, evaluate=160_000, save=160_000)
    images: int = 4_800_000
    batch_size: int = 16
    evaluation_batch: int = 1
    ema: float = 0.999


QUICK_RESTORATION: dict[str, Any] = {
    "data": PhotographsConfig(name="shapes", patch=48, shapes_count=2_000, test_images=24),
    "optimizer": AdamConfig(lr=1e-3, warmup=800, schedule="cosine"),
    "intervals": Intervals(log=1_600, evaluate=16_000, save=16_000),
    "images": 16_000,
    "batch_size": 16,
    "ema": 0.99,
}
"""``--quick`` of all experiments: scenes of the shapes world."""
TINY_RESTORATION: dict[str, Any] = {
    **QUICK_RESTORATION,
    "data": PhotographsConfig(
        name="shapes",
        patch=16,
        shapes_count=20,
        test_images=2,
        shapes=ShapesConfig(resolution=32, shapes=("circle", "star"), min_size=0.4, max_size=0.6),
    ),
    "intervals": Intervals(log=8, evaluate=16, save=16),
    "images": 16,
    "batch_size": 8,
    "tiling": TilingConfig(tile=32, margin=8),
}
"""Two steps, for tests."""


def restoration(config: RestorationRunConfig) -> Experiment:
    """The experiment. Raises ``UserError`` for settings that contradict each other."""
    net = network(config.model)
    check(config, net)
    data = data_of(config, net)
    frozen, features = perceptual_part(config)
    loss = restoration_loss(net.module, config.loss, features=features)
    prepared = accumulate(preprocessed(loss, pairs(config, net)), config.microbatches)
    optimizer = adam(config.optimizer, config)
    small = config.data.patch // net.scale
    image = jnp.zeros((1, small, small, net.channels))
    return assemble(
        config,
        variables=lambda key: net.module.init({"params": key}, image, train=False),
        step=gradient(prepared, optimizer),
        optimizer=optimizer,
        averaging=state_variables,
        data=data,
        evaluation=evaluation(config, net, data),
        prediction=functools.partial(prediction, config, net),
        inference=functools.partial(inference, config, net),
        weights=WeightsSource(
            published=net.published,
            ignored=net.ignored,
            adapt=net.adapt,
            written=(lambda state: to_published(averages(state), rules=net.published)) if net.published else None,
        ),
        frozen=frozen,
        rules=net.rules,
        evaluation_only=EVALUATION_ONLY,
    )


EVALUATION_ONLY = (
    *("self_ensemble", "tiling.", "lpips."),
    *("data.test_dir", "data.test_images", "data.test_multiple", "data.max_pixels"),
)
"""Fields that change how a state is evaluated or used."""


def check(config: RestorationRunConfig, net: Network) -> None:
    """Raise ``UserError`` for settings that contradict each other."""
    check_degradation(config.degradation, net.scale)
    if (config.loss.perceptual > 0.0) != (config.perceptual.weights is not None):
        raise UserError(
            "loss.perceptual needs a network to compare images in: set both it and perceptual.weights, or neither"
        )
    if net.channels not in (1, 3):
        raise UserError(f"images have one channel or three, not model.channels {net.channels}")
    if config.loss.perceptual and net.channels != 3:
        raise UserError("loss.perceptual compares colours, and this network knows luma alone: set --model.channels 3")
    if not config.loss.pixels and not config.loss.perceptual:
        raise UserError("loss.pixels and loss.perceptual are both 0, so that there is nothing to minimise")


def data_of(config: RestorationRunConfig, net: Network) -> Data:
    """Crops to train on and whole images to test on."""
    margin = margin_of(config.degradation, net.scale)
    return photograph_data(config.data, scale=net.scale, margin=margin, multiple=net.multiple)


def pairs(config: RestorationRunConfig, net: Network) -> Preprocess:
    """Photographs "image" uint8 -> the degraded "image" and the true "target", float32 in [0, 1]."""
    margin = margin_of(config.degradation, net.scale)

    def preprocess(batch: Batch, *, key: Key[Array, ""]) -> Batch:
        turn_key, level_key, noise_key = jax.random.split(key, 3)
        images = batch["image"].astype(jnp.float32) / 255.0
        if config.augment:
            images = random_turn(images, key=turn_key)
        truth = network_view(images, channels=net.channels, scale=net.scale)
        level = random_levels(config.degradation, len(truth), key=level_key)
        small = degraded(truth, config.degradation, level, scale=net.scale, key=noise_key)
        return {"image": crop_border(small, margin), "target": crop_border(truth, margin * net.scale)}

    return preprocess


def perceptual_part(config: RestorationRunConfig) -> tuple[dict[str, FrozenPart], Features | None]:
    """The network whose features are compared, and the function of its variables; nothing where it has no weight."""
    own = config.perceptual
    if not config.loss.perceptual or own.weights is None:
        return {}, None

    def features(variables: Any, images: Array) -> Sequence[Array]:
        normalised = scaled(2.0 * images - 1.0, "imagenet")
        found: Any = Vgg(own.model).apply(variables, normalised, own.layers, method="activations")
        return [found[name] for name in own.layers]

    path = expanded(own.weights)
    part = FrozenPart(
        option="perceptual.weights",
        path=path,
        shapes=vgg_shapes(own.model, own.layers),
        load=lambda: vgg_variables(path, own.model, own.layers),
    )
    return {"perceptual": part}, features


def adam(config: AdamConfig, run: RunConfig) -> optax.GradientTransformation:
    """The optimizer of a network."""
    rate = learning_rate(config, steps=run.steps, batch_size=run.batch_size)
    return optax.chain(clipped(config.clip), optax.adam(rate, b1=config.b1, b2=config.b2))


def restore_of(config: RestorationRunConfig, net: Network, variables: Any) -> Restore:
    """The network on images as it knows them, several times where ``self_ensemble`` asks for it."""
    restore: Restore = lambda images: net.restored(variables, images)
    return self_ensemble(restore) if config.self_ensemble else restore


def evaluation(config: RestorationRunConfig, net: Network, data: Data) -> EvaluatorFactory:
    """The numbers of whole test images."""

    def factory(compiler: Compiler) -> Any:
        more = ", self-ensemble of eight" if config.self_ensemble else ""
        return restoration_metrics(
            lambda variables, images: restore_of(config, net, variables)(images),
            data,
            averages,
            restoration_task(config.degradation, net, data, config.lpips),
            batch_size=config.evaluation_batch,
            description=f"EMA {config.ema}{more}",
        )(compiler)

    return factory


def prediction(
    config: RestorationRunConfig, net: Network, compiler: Compiler, class_names: Sequence[str]
) -> PredictFiles:
    """Restored files."""
    del class_names
    tiling = replace(config.tiling, multiple=int(np.lcm(config.tiling.multiple, net.multiple)))
    predict = restore_photographs(
        compiler,
        lambda variables, images: on_colours(
            restore_of(config, net, variables), channels=net.channels, scale=net.scale
        )(images),
        tiling=tiling,
        scale=net.scale,
        max_pixels=config.data.max_pixels,
    )
    return lambda state, files, folder: predict(averages(state), files, folder)


def inference(config: RestorationRunConfig, net: Network, state: TrainState) -> Inference:
    """What is exported: tiles to restored tiles."""
    restore = on_colours(restore_of(config, net, averages(state)), channels=net.channels, scale=net.scale)

    def function(images: Array) -> Mapping[str, Array]:
        made: Float[Array, "b h w 3"] = restore(images.astype(jnp.float32) / 255.0)
        return {"image": jnp.floor(jnp.clip(made, 0.0, 1.0) * 255.0 + 0.5).astype(jnp.uint8)}

    return Inference(function=function, image=(config.tiling.tile, config.tiling.tile, 3))
