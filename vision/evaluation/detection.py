"""Evaluation of detectors, of boxes or of masks too: numbers and plots of a test set, and detections in files."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Int, UInt8
from PIL import Image

from vision.data.annotations.cleaning import Annotations
from vision.data.annotations.coco import read_coco_numbers
from vision.data.image_data import Data
from vision.data.image_file import MAX_PIXELS
from vision.data.letterbox import Letterbox, letterboxed
from vision.errors import UserError
from vision.evaluation.detection_files import Predicted, summary, unique_stems, write_image, write_results
from vision.evaluation.detection_images import ReadImage, plots, read_files, sheets
from vision.evaluation.image_files import nothing_to_predict, opened_or_reason, skipped
from vision.metrics.detection.average_precision import CocoScores, ImageDetections, coco_scores
from vision.metrics.detection.matching import (
    CONFIDENCES,
    IOU,
    ConfidenceCurves,
    box_overlaps,
    confidence_curves,
    matching,
)
from vision.metrics.segmentation.mask_average_precision import (
    boundary_scores,
    mask_baselines,
    mask_overlaps,
    mask_scores,
)
from vision.ops.rle import Rle
from vision.ranges import Fraction, PositiveInt
from vision.train.compile import Compiler
from vision.train.experiment import Evaluate, Evaluation, EvaluatorFactory
from vision.types import TrainState

MAX_CLASSES = 20
"""Up to this number of classes, each has its own AP."""

Detect = Callable[[Mapping[str, Any], Array], Any]
"""(variables, images uint8 [b s s 3]) -> detections in pixels of the square: a `vision.tasks.detection.Detections`, or
the like with masks, which the detector's `Paste` understands."""
Paste = Callable[[Any, int, Int[np.ndarray, " n"], Letterbox], Sequence[Rle]]
"""(detections, image, places of detections in it, its letterbox) -> their masks, each of the original image's size."""


@runtime_checkable
class Selection(Protocol):
    """The part of a `vision.tasks.detection.DetectorConfig` that the protocol names."""

    @property
    def confidence(self) -> float:
        """Smallest score of a detection."""
        ...

    @property
    def iou(self) -> float:
        """Of non-maximum suppression."""
        ...

    @property
    def max_detections(self) -> int:
        """Largest number of detections in an image."""
        ...


@dataclass(frozen=True)
class DetectionSet:
    """What a detector is evaluated on."""

    batches: Callable[[], Iterable[Mapping[str, np.ndarray]]]
    """This process's share of the batches, the same number on each: "image" uint8 [b s s 3], letterboxed, "index" int32
    [b], places in the truth, and "mask" bool [b]."""
    truth: Callable[[], Annotations]
    """Reads the annotation, in pixels of the original images, with masks for a detector that predicts them."""
    resolution: int
    """Side s of the squares in pixels."""
    description: str
    """In words, for the protocol: "the shapes world (test), 128x128"."""


def evaluator(
    compiler: Compiler, detect: Detect, config: Selection, *, paste: Paste | None = None
) -> Callable[[Any, DetectionSet], Evaluation]:
    """(variables, test set) -> COCO's metrics, precision and recall at the best F1, curves, confusions, images.

    Every process gets all detections. Boxes are mapped back to the original images and clipped to them; those that lie
    in the padding have no area then and are dropped. Of up to 20 classes, AP and AP50 of each that has boxes
    are reported too. With ``paste``, the numbers of masks and of their borders are added, and detections are right or
    wrong by their masks. Image sheets are made only by a single-process run.
    """
    outputs = outputs_of_images(compiler, detect)

    def evaluate(variables: Any, test: DetectionSet) -> Evaluation:
        truth = test.truth()
        found: dict[int, ImageDetections] = {}
        for image in outputs(variables, test):
            picture = truth.images[image.place]
            box = Letterbox(picture.width, picture.height, test.resolution)
            found[image.place] = original(image.outputs, image.row, box, paste)
        return scored(truth, found, test, config, masks=paste is not None)

    return evaluate


class OutputOfImage(NamedTuple):
    """What a network gives for one image of a test set."""

    place: int
    """Of the image in the truth."""
    row: int
    """Of the image in the outputs."""
    outputs: Any
    """Of the whole batch, of all processes."""
    batch: Mapping[str, np.ndarray]
    """This process's share of it, in which the row is only that of the image if there is one process."""


def outputs_of_images(
    compiler: Compiler, function: Callable[[Any, Array], Any]
) -> Callable[[Any, DetectionSet], Iterator[OutputOfImage]]:
    """(variables, test set) -> for each image, what ``function`` of (variables, images uint8 [b s s 3]) gives."""

    def found_in(variables: Any, batch: Mapping[str, Array]) -> Any:
        # what is replicated is the global batch, in the order of its processes' shares
        return function(variables, batch["image"]), batch["index"], batch["mask"]

    compiled = compiler.function(found_in)

    def outputs(variables: Any, test: DetectionSet) -> Iterator[OutputOfImage]:
        for batch in test.batches():
            fields = {name: batch[name] for name in ("image", "index", "mask")}
            found, index, mask = jax.device_get(compiled(variables, compiler.shard(fields)))
            for row in np.flatnonzero(mask).tolist():
                yield OutputOfImage(int(index[row]), row, found, batch)

    return outputs


def scored(
    truth: Annotations, found: Mapping[int, ImageDetections], test: DetectionSet, config: Selection, *, masks: bool
) -> Evaluation:
    """All that :func:`evaluator` says of detections, by the places of their images in the truth."""
    missing = len(truth.images) - len(found)
    if missing:
        raise ValueError(f"{missing} images of the truth were in no batch.")
    overlaps = mask_overlaps if masks else box_overlaps
    everything = [found[place] for place in range(len(truth.images))]
    matches = matching(truth, everything, overlaps=overlaps)
    curves = confidence_curves(matches)
    of_boxes = coco_scores(truth, everything)
    scores = mask_scores(truth, everything) if masks else of_boxes
    scalars, protocol = _numbers(scores, curves, test.description, config)
    if masks:
        others = (of_boxes, boundary_scores(truth, everything))
        for each in others:
            scalars |= each.scalars()
            protocol |= each.protocol(test.description, _how(config))
        protocol["mask_average_precision"] += f"; {mask_baselines(truth, everything)}"
    images = plots(truth, everything, matches, scores, curves)
    if jax.process_count() == 1:  # images without files are in the batches, which other processes do not have here
        images |= sheets(
            truth,
            everything,
            matches,
            confidence=float(CONFIDENCES[curves.best]),
            read_images=lambda places: _reader(test, truth, places),
        )
    return Evaluation(scalars, images, protocol)


def detection_metrics(
    detect: Detect,
    data: Data,
    variables: Callable[[TrainState], Any],
    config: Selection,
    *,
    truth: Callable[[], Annotations],
    resolution: int,
    batch_size: int,
    description: str,
    paste: Paste | None = None,
) -> EvaluatorFactory:
    """COCO's numbers on the test split, see :func:`evaluator`.

    Args:
      detect: the detector.
      data: whose test split.
      variables: state -> variables of the detector.
      config: how detections were selected.
      truth: reads the annotation of the test split.
      resolution: size of the letterboxed squares in pixels.
      batch_size: images at a time, rounded up to a multiple of the devices.
      description: of the averages, for protocols: "EMA 0.9999".
      paste: of a detector that predicts masks.
    """

    def factory(compiler: Compiler) -> Evaluate:
        evaluate = evaluator(compiler, detect, config, paste=paste)
        size, words = compiler.rounded_up(batch_size), f"{data.description('test')}, {description}"
        test = DetectionSet(lambda: data.test_batches(size), truth, resolution, words)
        return lambda state: evaluate(variables(state), test)

    return factory


def _numbers(
    scores: CocoScores, curves: ConfidenceCurves, data: str, config: Selection
) -> tuple[dict[str, float], dict[str, str]]:
    """All scalars and their protocol."""
    how = _how(config)
    kind = "boxes" if scores.overlap == "boxes" else "masks"
    scalars, protocol = scores.scalars(), scores.protocol(data, how)
    on = f"on {scores.images:,} images of {data}; {how}"
    of = "" if kind == "boxes" else " of masks"
    at = f"matched as COCO does at IoU {IOU:g}{of}, at the confidence of the best mean F1 on these images"
    marks = {
        name: float(values[curves.best])
        for name, values in zip(("precision", "recall", "f1"), curves.mean, strict=True)
    }
    boxed = int((~np.isnan(scores.class_ap50)).sum())
    words = {name: f"mean of {name} over the {boxed} classes that have {kind}, {at}, {on}" for name in marks}
    marks["best_confidence"] = float(CONFIDENCES[curves.best])
    words["best_confidence"] = f"where the mean F1 over classes is best, of 0, 0.001, ..., 1, {on}"
    if len(scores.class_names) <= MAX_CLASSES:
        for name, precision, ap50 in scores.per_class:
            marks |= {f"class_average_precision/{name}": precision, f"class_ap50/{name}": ap50}
            words[f"class_average_precision/{name}"] = f"COCO's AP@[.50:.95] of {name} by {kind}, {on}"
            words[f"class_ap50/{name}"] = f"COCO's AP@.50 of {name} by {kind}, {on}"
    for name, value in marks.items():
        if not math.isnan(value):  # without boxes, or without detections
            scalars[name], protocol[name] = value, words[name]
    return scalars, protocol


def _how(config: Selection) -> str:
    """How detections were chosen, for protocols."""
    return (
        f"detections of confidence {config.confidence:g} or more, non-maximum suppression at IoU {config.iou:g}, "
        f"at most {config.max_detections} an image"
    )


def _reader(test: DetectionSet, truth: Annotations, places: set[int]) -> ReadImage:
    """Images from their files; rendered images, which have no file, are taken from the batches in a second pass."""
    wanted = {place for place in places if truth.images[place].file is None}
    kept: dict[int, UInt8[np.ndarray, "h w 3"]] = {}
    for batch in test.batches() if wanted else ():
        for row, place in enumerate(batch["index"].tolist()):
            if place in wanted and batch["mask"][row]:
                picture = truth.images[place]
                kept[place] = without_padding(
                    batch["image"][row], Letterbox(picture.width, picture.height, test.resolution)
                )
        if kept.keys() == wanted:
            break
    from_file = read_files(truth)
    return lambda place: kept[place] if place in kept else from_file(place)


def without_padding(square: UInt8[np.ndarray, "s s 3"], box: Letterbox) -> UInt8[np.ndarray, "h w 3"]:
    """The image of a letterboxed square at its own size."""
    (x, y), (width, height) = box.offset, box.size
    part = Image.fromarray(square[y : y + height, x : x + width])
    return np.array(part.resize((box.width, box.height), Image.Resampling.BICUBIC))


def original(detections: Any, row: int, box: Letterbox, paste: Paste | None = None) -> ImageDetections:
    """The detections of row ``row`` in pixels of the original image, clipped to it; those without area are dropped."""
    valid = np.flatnonzero(detections.valid[row])
    boxes = box.from_square(np.asarray(detections.boxes[row][valid], np.float32))
    boxes = np.clip(boxes, 0, np.array([box.width, box.height] * 2, np.float32))
    # non-finite boxes stay, so that the evaluation refuses them
    seen = ~np.any(boxes[:, 2:] <= boxes[:, :2], axis=1)
    places = valid[seen]
    scores, labels = (np.asarray(of[row][places]) for of in (detections.scores, detections.labels))
    masks = None if paste is None else paste(detections, row, places, box)
    return ImageDetections(boxes[seen], scores.astype(np.float32), labels.astype(np.int32), masks)


@dataclass(frozen=True)
class PredictionConfig:
    """How detections in files are selected and written."""

    confidence: Fraction = 0.25
    """Smallest score of a detection, in [0, 1]."""
    iou: Fraction = 0.45
    """Threshold of non-maximum suppression, in [0, 1]."""
    max_detections: PositiveInt = 300
    """Largest number of detections in an image, at least 1."""
    only: tuple[str, ...] = ()
    """Names of the classes to detect; all classes by default."""
    crops: bool = False
    """Also write each detection as a cropped image; with a mask, as a PNG that is transparent outside of it."""
    text: bool = True
    """Also write a text file for each image: class, centre, size (fractions of the image's sides) and confidence; of
    masks, class and the points of the outline of the largest part."""
    numbers: Path | None = None
    """A COCO annotation file: detections.json then uses its image and category ids, matched by name; else from 1."""

    def selecting(self, detector: Any) -> Any:
        """The configuration of a detector, a `Selection`, with the selection that files are predicted with."""
        return replace(detector, confidence=self.confidence, iou=self.iou, max_detections=self.max_detections)

    def choose(self, class_names: Sequence[str]) -> list[int] | None:
        """Places of the classes to look for; None for all.

        Raises:
          UserError: a name is not among ``class_names``.
        """
        unknown = [name for name in self.only if name not in class_names]
        if unknown:
            known = ", ".join(class_names)
            raise UserError(f"there is no class {unknown[0]!r} to look for: the classes are {known}")
        return [list(class_names).index(name) for name in self.only] or None


def predict_files(
    compiler: Compiler,
    detect: Detect,
    config: PredictionConfig,
    *,
    class_names: Sequence[str],
    resolution: int,
    batch_size: int = 8,
    max_pixels: int = MAX_PIXELS,
    paste: Paste | None = None,
) -> Callable[[Any, Sequence[Path], Path], list[str]]:
    """(variables, files, folder) -> one line a file that lists its detections; writes images and results to the folder.

    The folder gets, for each file, an image under the same name with the boxes marked (JPEG of a JPEG, else PNG), and a
    text file and crops if configured, see `PredictionConfig`; and for all files ``detections.json`` in COCO's result
    format, and ``images.json``, which lists the image and category ids it uses. With masks see
    `vision.evaluation.mask_files`.
    Files of one name get numbers: ``cell``, ``cell-2``. Images are turned upright by their EXIF orientation.

    Files that are not images are skipped and named in the returned lines. Raises ``UserError`` where none is an
    image, or ``config.numbers`` lacks a file or a class.

    Args:
      compiler: of the model's mesh.
      detect: the model; its detections are already selected by confidence, IoU and class.
      config: what is written.
      class_names: one for each class.
      resolution: side of the squares that files are letterboxed into, each at its own size.
      batch_size: images at a time; no more are in memory.
      max_pixels: limit of an image's width times height.
      paste: of a detector that predicts masks.
    """
    compiled = compiler.function(detect)

    def found_in(variables: Any, images: list[Image.Image]) -> list[ImageDetections]:
        """Pads the batch to ``batch_size``, so that one compiled program serves every batch."""
        if not images:
            return []
        squares = np.stack([letterboxed(image, resolution) for image in images])
        padded = np.resize(squares, (batch_size, *squares.shape[1:]))
        detections = jax.device_get(compiled(variables, compiler.shard_padded(padded)))
        boxes = [Letterbox(image.width, image.height, resolution) for image in images]
        return [original(detections, row, box, paste) for row, box in enumerate(boxes)]

    def predict(variables: Any, files: Sequence[Path], folder: Path) -> list[str]:
        lines: list[str] = []
        predicted: list[Predicted] = []
        stems = unique_stems(files)
        numbers = None if config.numbers is None else read_coco_numbers(config.numbers)
        if numbers is not None:  # missing ids are reported before any work is done
            numbers.check(files, class_names)
        for start in range(0, len(files), batch_size):
            part = files[start : start + batch_size]
            images = [opened_or_reason(file, max_pixels) for file in part]
            everything = iter(found_in(variables, [each for each in images if not isinstance(each, str)]))
            for file, stem, each in zip(part, stems[start : start + batch_size], images, strict=True):
                if isinstance(each, str):
                    lines.append(skipped(file, each))
                    continue
                one = Predicted(file, each.width, each.height, next(everything))
                predicted.append(one)
                lines.append(f"{file}: {summary(one.found, class_names)}")
                if jax.process_index() == 0:
                    folder.mkdir(parents=True, exist_ok=True)
                    write_image(folder, stem, each, one, class_names, crops=config.crops, text=config.text)
        if not predicted:
            raise nothing_to_predict(files)
        if jax.process_index() == 0:
            write_results(folder, predicted, class_names, numbers)
        return [*lines, f"images with {'boxes' if paste is None else 'masks'}, and detections.json: {folder}"]

    return predict
