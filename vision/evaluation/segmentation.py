"""Evaluation of semantic segmentation: numbers, plots and the worst images of a test set."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from vision.data.annotations.index_masks import VOID
from vision.data.image_data import Data
from vision.metrics.segmentation import boundary, confusion
from vision.ops.outlines import boundary_distance
from vision.ops.resize import resize_region
from vision.report.confusion import confusion_plot
from vision.report.segmentation import SegmentedImage, class_bars, segmentation_sheet
from vision.train.compile import Compiler
from vision.train.experiment import Evaluate, Evaluation, EvaluatorFactory
from vision.types import Batch, TrainState

Segment = Callable[[Any, Array], Array]
"""(variables, images uint8 [b h w 3]) -> probabilities or logits float32 [b h w k] of every pixel."""

MAX_CLASSES = 40
"""Up to this number of classes, each has its own IoU."""
SHOWN = 8
"""Images on each sheet."""


@dataclass(frozen=True)
class SegmentationSet:
    """What a network is evaluated on."""

    batches: Callable[[], Iterable[Mapping[str, np.ndarray]]]
    """This process's share of the batches, the same number on each: "image" uint8 [b h w 3], "size" int32 [b 2],
    "truth" uint8 [b H W], "truth_size" int32 [b 2] and "mask" bool [b], see ``vision.data.semantic``."""
    class_names: Sequence[str]
    """One for each class."""
    colours: UInt8[np.ndarray, "k 3"]
    """One for each class, for images."""
    description: str
    """In words, for the protocol: "camvid, test (folder), 144x192"."""


def predicted_classes(segment: Segment, variables: Any, batch: Batch) -> Array:
    """The likeliest class of each pixel of the truth, uint8 [b H W].

    Where images are larger than their canvas, probabilities are resized, and not classes.
    """
    found = segment(variables, batch["image"])
    height, width = batch["truth"].shape[1:]
    if height <= found.shape[1] and width <= found.shape[2]:  # then every image has its own size in the canvas
        found = found[:, :height, :width]
    else:
        found = resize_region(found, batch["size"], batch["truth_size"], size=(height, width))
    return jnp.argmax(found, axis=-1).astype(jnp.uint8)


def evaluator(compiler: Compiler, segment: Segment, *, classes: int) -> Callable[[Any, SegmentationSet], Evaluation]:
    """(variables, test set) -> IoU, accuracies and boundary IoU, at the size of the truth, with plots and images.

    One confusion matrix over the whole set; pixels that are void or padding do not count. Of up to 40 classes, the IoU
    of each is a number of its own. Sheets of images are made only by a single-process run.
    """

    def update(sums: Any, variables: Any, batch: Batch) -> Any:
        predicted = predicted_classes(segment, variables, batch)
        truth = batch["truth"].astype(jnp.int32)
        marks, edges = sums
        marks = confusion.update(marks, predicted.astype(jnp.int32), truth, batch["mask"], ignore=VOID)
        edges = boundary.update(
            edges, predicted.astype(jnp.int32), truth, batch["distance"], batch["mask"], ignore=VOID
        )
        known = truth != VOID
        right = jnp.sum(known & (predicted == truth), axis=(1, 2))
        return (marks, edges), (predicted, right, jnp.sum(known, axis=(1, 2)))

    compiled = compiler.function(update)

    def evaluate(variables: Any, test: SegmentationSet) -> Evaluation:
        sums: Any = compiler.replicate((confusion.init(classes), boundary.init(classes)))
        shown = _Shown()
        for batch in test.batches():
            fields = {name: batch[name] for name in ("image", "size", "truth", "truth_size", "mask")}
            fields["distance"] = np.array([boundary_distance(*size) for size in batch["truth_size"].tolist()], np.int32)
            sums, found = compiled(sums, variables, compiler.shard(fields))
            if jax.process_count() == 1:  # sheets want images, which other processes do not have here
                shown.add(batch, *jax.device_get(found))
        marks, edges = confusion.compute(jax.device_get(sums[0])), boundary.compute(jax.device_get(sums[1]))
        scalars = {**marks.scalars(), **edges.scalars()}
        protocol = {**marks.protocol(test.description), **edges.protocol(test.description)}
        if len(test.class_names) <= MAX_CLASSES:
            for name, value in zip(test.class_names, marks.class_iou.tolist(), strict=True):
                if not math.isnan(value):
                    scalars[f"class_iou/{name}"] = value
                    protocol[f"class_iou/{name}"] = f"intersection over union of {name}, {test.description}"
        images = {
            "confusion": confusion_plot(
                marks.confusion, test.class_names, title=f"{marks.pixel_accuracy:.2%} of the pixels right"
            ),
            "class_iou": class_bars(
                marks.class_iou, test.class_names, test.colours, title=f"mean IoU {marks.mean_iou:.3f}"
            ),
        }
        sheet = functools.partial(segmentation_sheet, class_names=test.class_names, colours=test.colours, void=VOID)
        if shown.first:
            images["examples"] = sheet(shown.first, title="the first images of the test set")
            images["worst"] = sheet([each for _, each in shown.worst], title="the images with the most wrong pixels")
        return Evaluation(scalars, images, protocol)

    return evaluate


class _Shown:
    """The images for the sheets: the first ones, and those with the largest share of wrong pixels."""

    def __init__(self) -> None:
        self.first: list[SegmentedImage] = []
        self.worst: list[tuple[float, SegmentedImage]] = []

    def add(self, batch: Mapping[str, np.ndarray], predicted: np.ndarray, right: np.ndarray, known: np.ndarray) -> None:
        for row in np.flatnonzero(batch["mask"] & (known[: len(batch["mask"])] > 0)).tolist():
            accuracy = float(right[row]) / float(known[row])
            wanted = len(self.first) < SHOWN
            bad = len(self.worst) < SHOWN or accuracy < self.worst[-1][0]
            if not (wanted or bad):
                continue
            made = _segmented(batch, row, predicted[row], accuracy)
            if wanted:
                self.first.append(made)
            if bad:
                self.worst = sorted([*self.worst, (accuracy, made)], key=lambda each: each[0])[:SHOWN]


def _segmented(batch: Mapping[str, np.ndarray], row: int, predicted: np.ndarray, accuracy: float) -> SegmentedImage:
    """The image in the size of its truth, which has the size of the file."""
    from PIL import Image

    (height, width), (tall, wide) = (tuple(map(int, batch[name][row])) for name in ("size", "truth_size"))
    image = batch["image"][row, :height, :width]
    if (height, width) != (tall, wide):
        image = np.asarray(Image.fromarray(image).resize((wide, tall), Image.Resampling.BICUBIC))
    return SegmentedImage(
        image=image.copy(),
        predicted=predicted[:tall, :wide].copy(),
        truth=batch["truth"][row, :tall, :wide].copy(),
        caption=f"{accuracy:.1%} of the pixels right",
    )


def segmentation_metrics(
    segment: Segment,
    data: Data,
    variables: Callable[[TrainState], Any],
    *,
    classes: int,
    colours: Callable[[], UInt8[np.ndarray, "k 3"]],
    batch_size: int,
    description: str,
) -> EvaluatorFactory:
    """The numbers of :func:`evaluator` on the test split.

    Args:
      segment: the network.
      data: whose test split.
      variables: state -> variables of the network.
      classes: number of them.
      colours: reads the colours of the classes.
      batch_size: images at a time, rounded up to a multiple of the devices.
      description: how the network is used, for protocols: "EMA 0.999, flip".
    """

    def factory(compiler: Compiler) -> Evaluate:
        evaluate = evaluator(compiler, segment, classes=classes)
        size, words = compiler.rounded_up(batch_size), f"{data.description('test')}, {description}"
        test = SegmentationSet(lambda: data.test_batches(size), data.class_names(), colours(), words)
        return lambda state: evaluate(variables(state), test)

    return factory
