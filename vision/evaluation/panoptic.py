"""Evaluation of panoptic segmentation: panoptic quality, the numbers of instances, the worst images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, UInt8

from vision.data.annotations.cleaning import Annotations
from vision.data.image_data import Data
from vision.data.letterbox import Letterbox
from vision.evaluation.combine import merge
from vision.evaluation.detection import (
    MAX_CLASSES,
    DetectionSet,
    OutputOfImage,
    Paste,
    Selection,
    original,
    outputs_of_images,
    scored,
    without_padding,
)
from vision.evaluation.panoptic_merging import MergingConfig, from_square, merged, true_segments
from vision.metrics.detection.average_precision import ImageDetections
from vision.metrics.segmentation import panoptic
from vision.metrics.segmentation.panoptic import PanopticScores, Segments
from vision.ops import rle
from vision.report.boxes import class_colours
from vision.report.panoptic import PanopticImage, SegmentsOfImage, panoptic_sheet
from vision.report.segmentation import class_bars
from vision.train.compile import Compiler
from vision.train.experiment import Evaluate, Evaluation, EvaluatorFactory
from vision.types import TrainState

SHOWN = 8
"""Images on each sheet."""

FindAll = Callable[[Any, Array], tuple[Any, Array]]
"""(variables, images uint8 [b s s 3]) -> things, which the method's `Paste` understands, and the likeliest class of
each pixel, uint8 [b s s]: 0 for things, 1 + k for the k-th class of stuff."""


@dataclass(frozen=True, eq=False)
class FoundInImage:
    """What is found in an image, at its own size."""

    things: ImageDetections
    segments: Segments


def found_in_image(
    outputs: tuple[Any, np.ndarray], row: int, box: Letterbox, merging: MergingConfig, paste: Paste, *, things: int
) -> FoundInImage:
    """The instances and segments of a row of what a `FindAll` gives; ``things`` is the number of their classes."""
    found = original(outputs[0], row, box, paste)
    return FoundInImage(found, merged(found, from_square(outputs[1][row], box), merging, things=things))


def for_images(segments: Segments) -> SegmentsOfImage:
    """Segments for images; their ids are 1, 2, ..."""
    count = len(segments.ids)
    return SegmentsOfImage(np.where(segments.map == panoptic.VOID, count, segments.map - 1), segments.labels)


def evaluator(
    compiler: Compiler, find: FindAll, config: Selection, merging: MergingConfig, *, paste: Paste
) -> Callable[[Any, DetectionSet], Evaluation]:
    """(variables, test set with stuff) -> panoptic quality, and all that `vision.evaluation.detection` says of masks.

    Panoptic, segmentation and recognition quality of all classes, of things and of stuff, and of up to 20 classes the
    panoptic quality of each; protocols say what the most frequent class of stuff gets where it is everywhere. Sheets of
    images are made only by a single-process run.
    """
    outputs = outputs_of_images(compiler, find)

    def evaluate(variables: Any, test: DetectionSet) -> Evaluation:
        truth = test.truth()
        things, names = len(truth.class_names), (*truth.class_names, *truth.stuff_names)
        is_thing = np.arange(len(names)) < things
        constant = _most_frequent(truth)
        sums = floor = panoptic.init(len(names))
        found: dict[int, ImageDetections] = {}
        shown = _Shown(truth, test.resolution)
        for image in outputs(variables, test):
            picture = truth.images[image.place]
            box = Letterbox(picture.width, picture.height, test.resolution)
            both = found_in_image(image.outputs, image.row, box, merging, paste, things=things)
            found[image.place] = both.things
            true = true_segments(picture, things=things)
            everywhere = Segments(np.ones_like(true.map), np.array([1]), np.array([things + constant]))
            floor = panoptic.update(floor, everywhere, true)
            own = panoptic.update(panoptic.init(len(names)), both.segments, true)
            sums = panoptic.merge(sums, own)
            if jax.process_count() == 1:  # sheets want images, which other processes do not have here
                shown.add(image, both.segments, true, panoptic.compute(own, is_thing))
        of_things = scored(truth, found, test, config, masks=True)
        scores, least = (panoptic.compute(each, is_thing) for each in (sums, floor))
        words = f"{truth.stuff_names[constant]} everywhere gets"
        scalars, protocol = _numbers(scores, least, names, f"{test.description}; {merging.words}", words)
        colours = class_colours(len(names))
        images = {
            "class_panoptic_quality": class_bars(
                scores.class_panoptic_quality,
                names,
                colours,
                title=f"panoptic quality {scores.panoptic_quality:.3f}",
                label="panoptic quality",
            )
        }
        return merge([Evaluation(scalars, {**images, **shown.sheets(names, colours)}, protocol), of_things])

    return evaluate


def panoptic_metrics(
    find: FindAll,
    data: Data,
    variables: Callable[[TrainState], Any],
    config: Selection,
    merging: MergingConfig,
    *,
    truth: Callable[[], Annotations],
    resolution: int,
    batch_size: int,
    description: str,
    paste: Paste,
) -> EvaluatorFactory:
    """The numbers of :func:`evaluator` on the test split.

    Args:
      find: the network.
      data: whose test split.
      variables: state -> variables of the network.
      config: how things were selected.
      merging: how segments are made.
      truth: reads the annotation of the test split, with stuff.
      resolution: size of the letterboxed squares in pixels.
      batch_size: images at a time, rounded up to a multiple of the devices.
      description: of the averages, for protocols: "EMA 0.9999".
      paste: of the network's masks.
    """

    def factory(compiler: Compiler) -> Evaluate:
        evaluate = evaluator(compiler, find, config, merging, paste=paste)
        size, words = compiler.rounded_up(batch_size), f"{data.description('test')}, {description}"
        test = DetectionSet(lambda: data.test_batches(size), truth, resolution, words)
        return lambda state: evaluate(variables(state), test)

    return factory


def _most_frequent(truth: Annotations) -> int:
    """The class of stuff with the most pixels."""
    areas = np.zeros(len(truth.stuff_names), np.int64)
    for image in truth.images:
        if image.stuff is not None:
            np.add.at(areas, image.stuff.labels, [rle.area(each) for each in image.stuff.masks])
    return int(areas.argmax())


def _numbers(
    scores: PanopticScores, least: PanopticScores, names: tuple[str, ...], data: str, floor: str
) -> tuple[dict[str, float], dict[str, str]]:
    """All scalars and their protocol; ``least`` are those of a constant prediction, ``floor`` its words."""
    scalars = scores.scalars()
    lowest = least.scalars()
    protocol = {name: f"{text}; {floor} {lowest.get(name, 0.0):.4f}" for name, text in scores.protocol(data).items()}
    if len(names) <= MAX_CLASSES:
        for name, value, other in zip(
            names, scores.class_panoptic_quality.tolist(), least.class_panoptic_quality.tolist(), strict=True
        ):
            if not np.isnan(value):
                scalars[f"class_panoptic_quality/{name}"] = value
                text = f"PQ of {name}, on {scores.sums.images:,} images of {data}; {floor} {np.nan_to_num(other):.4f}"
                protocol[f"class_panoptic_quality/{name}"] = text
    return scalars, protocol


class _Shown:
    """The images for the sheets: the first ones, and those of the lowest panoptic quality."""

    def __init__(self, truth: Annotations, resolution: int) -> None:
        self.truth, self.resolution = truth, resolution
        self.first: list[PanopticImage] = []
        self.worst: list[tuple[float, PanopticImage]] = []

    def add(self, image: OutputOfImage, found: Segments, true: Segments, scores: PanopticScores) -> None:
        quality = scores.panoptic_quality
        wanted = len(self.first) < SHOWN
        bad = len(self.worst) < SHOWN or quality < self.worst[-1][0]
        if np.isnan(quality) or not (wanted or bad):  # nan where there is nothing but void
            return
        picture = self.truth.images[image.place]
        name = f"image {image.place + 1}" if picture.file is None else picture.file.name
        box = Letterbox(picture.width, picture.height, self.resolution)
        pixels = without_padding(image.batch["image"][image.row], box)
        made = PanopticImage(pixels, for_images(found), for_images(true), f"{name}, PQ {quality:.2f}")
        if wanted:
            self.first.append(made)
        if bad:
            self.worst = sorted([*self.worst, (quality, made)], key=lambda each: each[0])[:SHOWN]

    def sheets(
        self, names: tuple[str, ...], colours: UInt8[np.ndarray, "k 3"]
    ) -> Mapping[str, UInt8[np.ndarray, "h w 3"]]:
        """The sheets "panoptic" and "panoptic_worst"; none where no image was added."""
        if not self.first:
            return {}
        title = "the images of the lowest panoptic quality (the mean over the classes in truth or prediction)"
        return {
            "panoptic": panoptic_sheet(self.first, names, colours, title="the first images of the test set"),
            "panoptic_worst": panoptic_sheet([each for _, each in self.worst], names, colours, title=title),
        }
