"""The recipe of semantic segmentation: a backbone, a decoder, a loss, masks on the device, evaluation by pixels."""

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, UInt8

from vision.data.annotations.index_masks import VOID
from vision.data.augment.masks import MaskAugmentConfig, mask_augment
from vision.data.class_counts import ClassCounts, class_counts, median_frequency
from vision.data.content import content_of
from vision.data.dataset import Split, check_classes
from vision.data.image_data import Data, HostBatch, process_share
from vision.data.pipeline import batches, evaluation_batches
from vision.data.semantic import (
    FIELDS,
    PAD,
    SemanticConfig,
    class_colours,
    description,
    semantic_source,
    unread_source,
    world,
)
from vision.data.shapes.world import SHAPES, ShapesConfig
from vision.data.source import Source
from vision.errors import UserError
from vision.evaluation.segmentation import segmentation_metrics
from vision.evaluation.segmentation_files import segment_files
from vision.inference import Inference
from vision.models.resnet import RESNET50
from vision.models.segmentation.deeplab import DeepLabConfig
from vision.models.segmentation.fcn import FcnConfig
from vision.models.segmentation.feature_pyramid import PyramidConfig
from vision.models.segmentation.segmenter import SHARDING_RULES, DecoderConfig, Segmenter
from vision.models.segmentation.unet_decoder import UNetDecoderConfig
from vision.models.vgg import VggConfig
from vision.ops.pixels import PixelScale, scaled, to_float
from vision.parallel.agreement import is_first
from vision.pretrained.rules import to_published
from vision.pretrained.segmentation import HEAD, segmentation_rules, segmentation_weights
from vision.ranges import Classes, Pixels
from vision.recipes.assemble import WeightsSource, assemble
from vision.recipes.backbones import Backbone, classifier_backbone, classifier_by_name
from vision.recipes.classifiers import ClassifierConfig
from vision.recipes.run_config import RunConfig
from vision.report.boxes import class_colours as distinct_colours
from vision.tasks.segmentation import SegmentationLossConfig, segmentation_loss
from vision.tasks.segmentation import check as check_loss
from vision.tasks.segmenter import SegmenterConfig, segmenter
from vision.train.compile import Compiler
from vision.train.experiment import Experiment, Intervals, PredictFiles
from vision.train.optimizer import OptimizerConfig, make_optimizer
from vision.train.state import averages
from vision.train.state import variables as state_variables
from vision.train.step import accumulate, gradient, preprocessed
from vision.types import Batch, LossFn, TrainState

DECODERS: Mapping[str, DecoderConfig] = {
    "deeplab_v3": DeepLabConfig(),
    "deeplab_v3_plus": DeepLabConfig(plus=True),
    "fcn": FcnConfig(),
    "unet": UNetDecoderConfig(),
    "pyramid": PyramidConfig(),
}
"""Decoders by name, for the command line (``--decoder NAME``)."""
SMALL_DECODERS: Mapping[str, DecoderConfig] = {
    "deeplab_v3": DeepLabConfig(width=32, rates=(2, 4)),
    "deeplab_v3_plus": DeepLabConfig(plus=True, width=32, fine_width=16, rates=(2, 4)),
    "fcn": FcnConfig(),
    "unet": UNetDecoderConfig(width=128),
    "pyramid": PyramidConfig(width=64, branch_width=32),
}
"""The same with few channels, for ``--quick``."""

WEIGHTS = "constants/class_weights"
"""Path of the weights of the classes, statistics of the training set, among the variables."""


def decoder_by_name(default: DecoderConfig) -> Any:
    """The field ``decoder`` of a recipe: ``--decoder NAME``, then ``--decoder.FIELD``."""
    return field(default=default, metadata={"choices": DECODERS, "quick_choices": SMALL_DECODERS})


@dataclass(frozen=True, kw_only=True)
class SegmentationRunConfig(RunConfig):
    """A recipe of semantic segmentation; the defaults are DeepLabV3 on a ResNet-50 (Chen et al. 2017)."""

    backbone: ClassifierConfig = classifier_by_name(replace(RESNET50, output_stride=8), output_stride=8)
    decoder: DecoderConfig = decoder_by_name(DeepLabConfig())
    classes: Classes = 21
    """Number of classes, void not counted."""
    auxiliary: bool = True
    """A second head on features of stride 16 (8 where they are dilated), for training alone."""
    pixels: PixelScale = "imagenet"
    """How the network takes images; published weights need "imagenet"."""
    data: SemanticConfig = SemanticConfig()
    crop: tuple[Pixels, ...] = ()
    """Height and width of the windows to train on; by default those of the canvas."""
    augment: MaskAugmentConfig = MaskAugmentConfig()
    loss: SegmentationLossConfig = SegmentationLossConfig()
    segmenter: SegmenterConfig = SegmenterConfig()
    optimizer: OptimizerConfig = OptimizerConfig(lr=0.01, weight_decay=1e-4, schedule="polynomial")
    """``layer_decay`` is the factor on the learning rate of the backbone."""
    images: int = 500_000
    batch_size: int = 16
    evaluation_batch: int = 8
    ema: float = 0.999


SEGMENTATION_ABLATIONS: dict[str, dict[str, Any]] = {
    "focal": {"loss.focal": 2.0},
    "dice": {"loss.dice": 1.0},
    "lovasz": {"loss.lovasz": 1.0},
    "hard_pixels": {"loss.ohem_threshold": 0.7},
    "median_frequency": {"loss.class_weights": "median_frequency"},
    "no_scale": {"augment.scale": (1.0, 1.0)},
    "flip_tta": {"segmenter.flip": True},
    "fcn": {"decoder": "fcn"},
    "unet": {"decoder": "unet"},
    "pyramid": {"decoder": "pyramid"},
}
"""Of all experiments of semantic segmentation."""


QUICK_SEGMENTATION: dict[str, Any] = {
    # features of every resolution: those of a ResNet begin at half of it, too coarse for figures of 16 pixels
    "backbone": VggConfig(depths=(1, 2, 2, 2, 2), widths=(16, 32, 64, 128, 128), classes=0),
    "decoder": SMALL_DECODERS["unet"],
    "classes": 1 + len(SHAPES),
    "auxiliary": False,
    "pixels": "symmetric",
    "data": SemanticConfig(
        height=64,
        width=64,
        shapes=ShapesConfig(resolution=64, max_objects=4, min_size=0.25, max_size=0.5),
        shapes_count=12_000,
    ),
    "augment": MaskAugmentConfig(scale=(1.0, 1.0)),
    "optimizer": OptimizerConfig(name="adamw", lr=4e-3, weight_decay=0.01, warmup=1_000),
    "intervals": Intervals(log=2_000, evaluate=31_000, save=15_000),
    "images": 31_000,
    "batch_size": 16,
    "evaluation_batch": 50,
    "ema": 0.995,
}
"""``--quick`` of all experiments: one to four figures of all eight shapes on textured backgrounds, five minutes."""

TINY_SEGMENTATION: dict[str, Any] = {
    **QUICK_SEGMENTATION,
    "backbone": VggConfig(depths=(1, 1, 1, 1, 1), widths=(4, 8, 8, 8, 8), classes=0),
    "decoder": UNetDecoderConfig(width=8),
    "classes": 3,
    "data": SemanticConfig(
        height=32,
        width=32,
        shapes=ShapesConfig(resolution=32, shapes=("circle", "star"), max_objects=2, min_size=0.4, max_size=0.6),
        shapes_count=16,
    ),
    "intervals": Intervals(log=8, evaluate=16, save=16),
    "images": 16,
    "batch_size": 8,
}
"""Two steps, for tests."""


def segmentation(config: SegmentationRunConfig) -> Experiment:
    """The experiment. Raises ``UserError`` for settings that contradict each other."""
    dtype: Any = getattr(config.backbone, "dtype", "float32")
    # of the others, the coarsest features have the stride that rates are made for, or c2 has the stride 4
    any_strides = isinstance(config.decoder, UNetDecoderConfig | FcnConfig)
    backbone = classifier_backbone(config.backbone, pixels=config.pixels, dtype=dtype, any_strides=any_strides)
    model = Segmenter(
        backbone=backbone.make(backbone.norm),
        decoder=config.decoder,
        classes=config.classes,
        auxiliary=config.auxiliary,
        dtype=dtype,
    )
    if len(config.crop) not in (0, 2):
        raise UserError(f"crop is a height and a width, not {len(config.crop)} numbers")
    canvas = (config.data.height, config.data.width)
    height, width = config.crop or canvas
    data, counts = semantic_data(config)
    fill = tuple(value / 127.5 - 1.0 for value in PAD)

    def prepare(batch: Batch, *, key: Key[Array, ""]) -> Batch:
        sample = {**batch, "image": to_float(batch["image"])}
        made = mask_augment(sample, config.augment, size=(height, width), fill=fill, key=key)
        return {"image": scaled(made["image"], config.pixels), "semantic": made["semantic"].astype(jnp.int32)}

    loss = accumulate(preprocessed(weighted_loss(model, config), prepare), config.microbatches)
    layers = {"layer_of": lambda path: 0 if path.startswith("backbone/") else 1, "layers": 2}
    optimizer = make_optimizer(config.optimizer, steps=config.steps, batch_size=config.batch_size, **layers)

    views = segmenter(model, config.segmenter)
    segment = lambda values, images: views(values, scaled(to_float(images), config.pixels))
    weighted = config.loss.class_weights != "none"
    image = jnp.zeros((1, height, width, 3))
    constants = {"constants": {"class_weights": jnp.ones(config.classes)}} if weighted else {}
    return assemble(
        config,
        variables=lambda key: {**model.init(key, image, train=False), **constants},
        step=gradient(loss, optimizer),
        optimizer=optimizer,
        averaging=state_variables,
        data=data,
        evaluation=segmentation_metrics(
            segment,
            data,
            averages,
            classes=config.classes,
            colours=functools.partial(colours, config),
            batch_size=config.evaluation_batch,
            description=f"EMA {config.ema}{views_text(config.segmenter)}",
        ),
        prediction=functools.partial(prediction, config, segment),
        inference=functools.partial(inference, config, segment),
        labelled=True,
        weights=weights_source(config, backbone),
        statistics=(lambda: {WEIGHTS: median_frequency(counts("train"))}) if weighted else None,
        rules=(*SHARDING_RULES, *backbone.rules),
        evaluation_only=("segmenter.", "data.test", "data.max_pixels"),
    )


def weighted_loss(model: Segmenter, config: SegmentationRunConfig) -> LossFn:
    """The loss, with the weights of the classes that the state holds, if there are any."""
    classes = config.classes
    if config.loss.class_weights == "none":
        return segmentation_loss(model, config.loss, classes=classes, ignore=VOID)
    check_loss(config.loss, np.ones(classes, np.float32), classes)

    def loss(params: Any, model_state: Any, batch: Batch, *, key: Key[Array, ""], step: Array) -> Any:
        weights = model_state["constants"]["class_weights"]
        own = segmentation_loss(model, config.loss, classes=classes, ignore=VOID, class_weights=weights)
        return own(params, model_state, batch, key=key, step=step)

    return loss


def views_text(config: SegmenterConfig) -> str:
    """The views of an image in words, for protocols: ", flip, scales 0.5 1 1.5"."""
    parts = ["flip"] if config.flip else []
    if config.scales != (1.0,):
        parts.append(f"scales {' '.join(f'{scale:g}' for scale in config.scales)}")
    if config.window:
        parts.append(f"windows of {config.window} pixels that overlap by {config.overlap:g}")
    return "".join(f", {part}" for part in parts)


def colours(config: SegmentationRunConfig) -> UInt8[np.ndarray, "k 3"]:
    """A colour for each class: the data set's own, or different ones."""
    own = class_colours(config.data)
    return np.array(own, np.uint8) if len(set(own)) == config.classes else known_colours(config)


def known_colours(config: SegmentationRunConfig) -> UInt8[np.ndarray, "k 3"]:
    """A different colour for each class, for which no data is read."""
    if config.data.name in ("shapes", "voc"):  # whose first class is the background
        return np.concatenate([np.full((1, 3), 200, np.uint8), distinct_colours(config.classes - 1)])
    return distinct_colours(config.classes)


def weights_source(config: SegmentationRunConfig, backbone: Backbone) -> WeightsSource:
    """Published networks of torchvision, and classifiers, which fill the backbone alone."""
    rules = segmentation_rules(backbone.published, config.decoder)
    written = lambda state: to_published(
        {name: each for name, each in averages(state).items() if name != "constants"}, rules=rules
    )
    return WeightsSource(
        published=(*rules, *backbone.published),
        ignored=backbone.ignored,
        replaced=HEAD,
        adapt=segmentation_weights(backbone.adapt, pixels=config.pixels),
        written=written if rules else None,
        excluded=("constants",),
    )


def semantic_data(config: SegmentationRunConfig) -> tuple[Data, Callable[[Split], ClassCounts]]:
    """Images with a class for every pixel, those to test on with the truth at its own size; counts of classes."""

    @functools.cache
    def checked(split: Split) -> Source:
        opened = semantic_source(config.data, split)
        check_classes(opened, config.classes, option="--classes")
        return opened

    @functools.cache
    def counts(split: Split) -> ClassCounts:
        return class_counts(checked(split), config.classes)

    @functools.cache
    def source(split: Split) -> Source:
        opened = checked(split)
        if is_first() and config.data.name != "shapes":
            print(f"{split}: {counts(split).text(opened.class_names)}", file=sys.stderr)
        return opened

    def train_batches(
        batch_size: int, *, seed: int, start_step: int, process_index: int, process_count: int
    ) -> Iterator[HostBatch]:
        share: dict[str, Any] = {"process_index": process_index, "process_count": process_count}
        share |= {"seed": seed, "start_step": start_step, "workers": config.data.workers}
        for batch in batches(source("train"), batch_size=batch_size, **share):
            yield {name: batch[name] for name in FIELDS}

    height, width, shape = config.data.height, config.data.width, jax.ShapeDtypeStruct
    data = Data(
        sample={
            "image": shape((height, width, 3), jnp.uint8),
            "semantic": shape((height, width), jnp.uint8),
            "size": shape((2,), jnp.int32),
        },
        source=source,
        train_batches=train_batches,
        test_batches=lambda size: evaluation_batches(
            source("test"), batch_size=size, workers=config.data.workers, **process_share()
        ),
        description=functools.partial(description, config.data),
        class_names=lambda: tuple(source("test").class_names),
        content=lambda split: content_of(
            world(config.data, split) if config.data.name == "shapes" else unread_source(config.data, split)
        ),
    )
    return data, counts


def prediction(
    config: SegmentationRunConfig,
    segment: Callable[[Any, Array], Array],
    compiler: Compiler,
    class_names: Sequence[str],
) -> PredictFiles:
    """Masks of files by the averaged variables."""
    predict = segment_files(
        compiler,
        segment,
        class_names=class_names,
        colours=known_colours(config),
        canvas=(config.data.height, config.data.width),
        max_pixels=config.data.max_pixels,
    )
    return lambda state, files, folder: predict(averages(state), files, folder)


def inference(config: SegmentationRunConfig, segment: Callable[[Any, Array], Array], state: TrainState) -> Inference:
    """What is exported: images to the probabilities of every pixel."""
    return Inference(
        function=lambda images: {"probabilities": segment(averages(state), images)},
        image=(config.data.height, config.data.width, 3),
    )
