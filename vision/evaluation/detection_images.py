"""Plots and image sheets of a detector's evaluation: curves, confusions, images with boxes, and the worst errors."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8
from PIL import Image

from vision.data.annotations.cleaning import Annotations, open_image
from vision.metrics.detection.average_precision import RECALLS, CocoScores, ImageDetections
from vision.metrics.detection.matching import (
    CONFIDENCES,
    IOU,
    ConfidenceCurves,
    FalsePositive,
    Matching,
    Miss,
    detection_confusion,
    is_confident,
    worst_false_positives,
    worst_misses,
)
from vision.ops import rle
from vision.ops.rle import Rle
from vision.report.boxes import ImageWithBoxes, boxes_sheet, context
from vision.report.confusion import confusion_plot
from vision.report.precision_recall import confidence_plot, precision_recall_plot

MAX_SHOWN = 12
"""Images on the sheet of detections."""
MAX_ERRORS = 12
"""False positives on the sheet of mistakes; the same number of misses."""
TILE, ERROR_TILE = 400, 200
"""Pixels of the longer side of an image on the two sheets."""

ReadImage = Callable[[int], UInt8[np.ndarray, "h w 3"]]
"""Index in the truth -> the image, at the size that the truth states."""
ReadImages = Callable[[set[int]], ReadImage]
"""Indices of all images that will be read -> the function that reads them."""


def read_files(truth: Annotations) -> ReadImage:
    """Reads images from their files."""

    def read(place: int) -> UInt8[np.ndarray, "h w 3"]:
        picture = truth.images[place]
        assert picture.file is not None
        return np.asarray(open_image(picture.file, (picture.width, picture.height), max_pixels=truth.max_pixels))

    return read


def plots(
    truth: Annotations,
    found: Sequence[ImageDetections],
    matches: Matching,
    scores: CocoScores,
    curves: ConfidenceCurves,
) -> dict[str, UInt8[np.ndarray, "h w 3"]]:
    """Plots of the metrics: "precision_recall" and "confidence" where there are boxes, and "confusion".

    Confusions are those of detections at the confidence of the best mean F1. Without boxes and such detections the
    plot is left out.
    """
    confidence = float(CONFIDENCES[curves.best])
    precision, recall, f1 = curves.mean
    plots = {}
    if curves.boxes.any():
        plots["precision_recall"] = precision_recall_plot(
            scores.precision, RECALLS, scores.class_ap50, truth.class_names
        )
        plots["confidence"] = confidence_plot(CONFIDENCES, precision, recall, f1, best=curves.best)
    matrix = detection_confusion(truth, found, matches, confidence=confidence)
    if matrix.sum():
        plots["confusion"] = confusion_plot(
            matrix, (*truth.class_names, "background"), title=_confusion_title(matrix, confidence, _what(found))
        )
    return plots


def _what(found: Sequence[ImageDetections]) -> str:
    """What is found."""
    return "boxes" if found[0].masks is None else "masks"


def _confusion_title(matrix: Int[np.ndarray, "j j"], confidence: float, what: str) -> str:
    boxes, right = int(matrix[:-1].sum()), int(np.trace(matrix))
    missed, wrong = int(matrix[:-1, -1].sum()), int(matrix[-1].sum())
    return (
        f"{right:,} of {boxes:,} {what} found with the right class, {missed:,} missed,\n{wrong:,} detections where "
        f"there is none (confidence ≥ {confidence:.3f}, IoU ≥ {IOU:g})"
    )


def sheets(
    truth: Annotations,
    found: Sequence[ImageDetections],
    matches: Matching,
    *,
    confidence: float,
    read_images: ReadImages,
) -> dict[str, UInt8[np.ndarray, "h w 3"]]:
    """Image sheets: "found", twelve images evenly spaced over the set; "mistakes", the worst errors.

    Where detections have masks, "found" has the true masks next to them, and half as many images.

    Args:
        truth: the annotation.
        found: detections of each of its images.
        matches: of detections to true boxes.
        confidence: detections below it are not shown.
        read_images: called once, with the indices of all images that are shown.
    """
    count = len(truth.images)
    masked = found[0].masks is not None
    most = min(count, MAX_SHOWN // 2 if masked else MAX_SHOWN)
    chosen = sorted({round(place) for place in np.linspace(0, count - 1, most).tolist()})
    false = worst_false_positives(truth, found, matches, confidence=confidence, max_errors=MAX_ERRORS)
    missed = worst_misses(truth, found, matches, confidence=confidence, max_errors=MAX_ERRORS)
    read = read_images({*chosen, *(each.image for each in (*false, *missed))})
    shown = [tile for place in chosen for tile in _shown(truth, found, place, confidence, read(place))]
    which = f"{len(chosen)} of the {count:,} images" if len(chosen) < count else f"all {count:,} images"
    heading = f"{which}, with detections of confidence {confidence:.3f} or more (that of the best F1)"
    columns = math.ceil(math.sqrt(len(shown)))
    wrong = int(np.sum(~matches.right & ~matches.ignored & is_confident(matches.scores, confidence)))
    caught = int(np.sum(matches.right & is_confident(matches.scores, confidence)))
    lost = int(matches.boxes.sum()) - caught
    sections = (
        (
            _counted(wrong, len(false), "wrong detections", confidence, "most confident"),
            _false_marks(truth, found, false, read),
        ),
        (
            _counted(lost, len(missed), f"{_what(found)} missed", confidence, "largest"),
            _missed_marks(truth, found, missed, confidence, read),
        ),
    )
    return {
        "found": boxes_sheet(((heading, shown),), truth.class_names, columns=columns, tile=TILE),
        "mistakes": boxes_sheet(sections, truth.class_names, columns=6, tile=ERROR_TILE),
    }


def _counted(count: int, shown: int, what: str, confidence: float, order: str) -> str:
    more = f"; the {shown} {order}" if shown < count else ""
    return f"{count:,} {what} at confidence {confidence:.3f} or more (IoU {IOU:g}){more}"


def _shown(
    truth: Annotations,
    found: Sequence[ImageDetections],
    place: int,
    confidence: float,
    image: UInt8[np.ndarray, "h w 3"],
) -> list[ImageWithBoxes]:
    """A whole image, reduced to the size of a tile; with masks, the true ones too."""
    picture, each = truth.images[place], found[place]
    scale = min(1.0, TILE / max(picture.width, picture.height))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    sure = np.flatnonzero(is_confident(each.scores, confidence))
    sure = sure[np.argsort(-each.scores[sure], kind="stable")]
    real = np.flatnonzero(~picture.crowd)
    no_boxes, no_labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int32)
    marked = ImageWithBoxes(
        image=np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)),
        predicted=each.boxes[sure] * np.float32(scale),
        predicted_labels=each.labels[sure],
        scores=each.scores[sure],
        true=picture.boxes[real] * np.float32(scale),
        true_labels=picture.labels[real],
        caption=(_name(truth, place),),
    )
    if each.masks is None or picture.masks is None:
        return [marked]
    predicted = replace(
        marked,
        true=no_boxes,
        true_labels=no_labels,
        predicted_masks=_reduced([each.masks[i] for i in sure], size),
        caption=(f"{_name(truth, place)}, found",),
    )
    true = replace(
        predicted,
        predicted=marked.true,
        predicted_labels=marked.true_labels,
        scores=None,
        predicted_masks=_reduced([picture.masks[i] for i in real], size),
        caption=(f"{_name(truth, place)}, true",),
    )
    return [predicted, true]


def _reduced(masks: Sequence[Rle], size: tuple[int, int]) -> Bool[np.ndarray, "n h w"]:
    """Masks at another width and height."""
    made = np.zeros((len(masks), size[1], size[0]), bool)
    for k, mask in enumerate(masks):
        made[k] = Image.fromarray(rle.decode(mask)).resize(size, Image.Resampling.NEAREST)
    return made


def _cropped(
    masks: Sequence[Rle] | None,
    places: Sequence[int],
    corner: Float32[np.ndarray, " 2"],
    like: UInt8[np.ndarray, "h w 3"],
) -> Bool[np.ndarray, "n h w"] | None:
    """The part of masks in a crop of the image; None where there are none."""
    if masks is None:
        return None
    (x, y), (height, width) = corner.astype(int).tolist(), like.shape[:2]
    made = np.zeros((len(places), height, width), bool)
    for k, place in enumerate(places):
        made[k] = rle.decode(masks[place])[y : y + height, x : x + width]
    return made


def _false_marks(
    truth: Annotations, found: Sequence[ImageDetections], errors: Sequence[FalsePositive], read: ReadImage
) -> list[ImageWithBoxes]:
    """Each wrong detection, and the true boxes that it touches."""
    marks = []
    for error in errors:
        picture, each = truth.images[error.image], found[error.image]
        said = truth.class_names[each.labels[error.place]]
        crop, corner = context(read(error.image), each.boxes[error.place])
        shift = np.tile(corner, 2)
        near = np.flatnonzero(_touching(picture.boxes, each.boxes[error.place]) & ~picture.crowd)
        marks.append(
            ImageWithBoxes(
                image=crop,
                predicted=each.boxes[error.place : error.place + 1] - shift,
                predicted_labels=each.labels[error.place : error.place + 1],
                scores=each.scores[error.place : error.place + 1],
                true=picture.boxes[near] - shift,
                true_labels=picture.labels[near],
                caption=(
                    f"{said} {each.scores[error.place]:.2f}",
                    _why_false(truth, error, said),
                    _name(truth, error.image),
                ),
                predicted_masks=_cropped(each.masks, [error.place], corner, crop),
                true_masks=_cropped(picture.masks, near.tolist(), corner, crop),
            )
        )
    return marks


def _why_false(truth: Annotations, error: FalsePositive, said: str) -> str:
    if error.nearest < 0:
        return "nothing of the truth there"
    true = truth.class_names[truth.images[error.image].labels[error.nearest]]
    if error.iou < IOU:
        return f"poorly localised, IoU {error.iou:.2f}" if true == said else f"overlaps {true}, IoU {error.iou:.2f}"
    return f"duplicate, IoU {error.iou:.2f}" if true == said else f"is {true}, IoU {error.iou:.2f}"


def _missed_marks(
    truth: Annotations, found: Sequence[ImageDetections], errors: Sequence[Miss], confidence: float, read: ReadImage
) -> list[ImageWithBoxes]:
    """Each missed box, and the detections that touch it."""
    marks = []
    for error in errors:
        picture, each = truth.images[error.image], found[error.image]
        crop, corner = context(read(error.image), picture.boxes[error.box])
        shift = np.tile(corner, 2)
        touching = _touching(each.boxes, picture.boxes[error.box])
        near = np.flatnonzero(touching & is_confident(each.scores, confidence))
        if error.instead >= 0:
            taken = truth.class_names[each.labels[error.instead]]
            said = f"taken for {taken} {each.scores[error.instead]:.2f}"
        else:
            said = f"found at {error.score:.2f} only" if error.score > 0 else "no detection fits it"
        marks.append(
            ImageWithBoxes(
                image=crop,
                predicted=each.boxes[near] - shift,
                predicted_labels=each.labels[near],
                scores=each.scores[near],
                true=picture.boxes[error.box : error.box + 1] - shift,
                true_labels=picture.labels[error.box : error.box + 1],
                caption=(
                    f"{truth.class_names[picture.labels[error.box]]} missed",
                    said,
                    _name(truth, error.image),
                ),
                predicted_masks=_cropped(each.masks, near.tolist(), corner, crop),
                true_masks=_cropped(picture.masks, [error.box], corner, crop),
            )
        )
    return marks


def _touching(boxes: Float32[np.ndarray, "n 4"], box: Float32[np.ndarray, " 4"]) -> Bool[np.ndarray, " n"]:
    """Whether each box overlaps ``box``."""
    return np.all((boxes[:, :2] < box[2:]) & (boxes[:, 2:] > box[:2]), axis=1)


def _name(truth: Annotations, place: int) -> str:
    file = truth.images[place].file
    return f"image {place + 1}" if file is None else file.name
