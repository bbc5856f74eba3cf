"""Matching of detections with boxes, and its results: precision and recall, confusions, worst errors.

Detections are matched as COCO matches them (`vision.metrics.detection.average_precision`), at an IoU of 0.5: in each
image, in descending order of confidence, each detection takes the free box that it overlaps most (the last of equals).
Detections with equal scores keep their order. An unmatched detection on a crowd (half of its area or more) is ignored:
neither right nor wrong. Crowds are not boxes to detect. Since a match depends only on more confident detections, one
matching serves all confidences. Unlike COCO's numbers, which take the 100 most confident of a class, it takes all
detections. The IoU is that of boxes, or of masks where those are given as the `Overlaps`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int

from vision.metrics.detection.average_precision import ImageDetections, TrueBoxes, Truth, check_found

IOU = 0.5
"""The least IoU at which a detection matches a box."""
CONFIDENCES = np.linspace(0.0, 1.0, 1001)
"""Confidences at which precision and recall are counted."""
UNMATCHED, ON_CROWD = -1, -2
"""The match of a detection without a box, and of one on a crowd."""

Overlaps = Callable[[Any, ImageDetections], Float64[np.ndarray, "n m"]]
"""(image of the truth, detections) -> IoU of each detection with each true object, as `overlaps` has it."""


def overlaps(
    found: Float32[np.ndarray, "n 4"], true: Float32[np.ndarray, "m 4"], crowd: Bool[np.ndarray, " m"]
) -> Float64[np.ndarray, "n m"]:
    """IoU of each detection with each box, in [0, 1]; with a crowd, the share of the detection that lies on it."""
    a, b = found.astype(np.float64)[:, None], true.astype(np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.prod(np.maximum(sides, 0), axis=-1)
    area = lambda boxes: np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1)
    total = np.where(crowd, area(a), area(a) + area(b) - shared)
    return np.divide(shared, total, out=np.zeros_like(shared), where=total > 0)


def box_overlaps(image: TrueBoxes, found: ImageDetections) -> Float64[np.ndarray, "n m"]:
    """`overlaps` of the boxes of an image."""
    return overlaps(found.boxes, image.boxes, image.crowd)


def is_confident(scores: Float32[np.ndarray, " n"], confidence: float) -> Bool[np.ndarray, " n"]:
    """Whether scores are at or above a confidence, which is rounded to their precision: 0.9 is not below 0.9."""
    return scores >= np.float32(confidence)


def matched(
    shared: Float64[np.ndarray, "n m"], scores: Float32[np.ndarray, " n"], crowd: Bool[np.ndarray, " m"]
) -> Int[np.ndarray, " n"]:
    """For each detection in an image, whatever its class, the index of its box, or `UNMATCHED` or `ON_CROWD`.

    Args:
      shared: IoU of each detection with each true box, see `overlaps`.
      scores: of the detections.
      crowd: which boxes are around crowds.
    """
    result = np.full(len(scores), UNMATCHED)
    if not len(crowd):
        return result
    on_crowd = np.any(shared[:, crowd] >= IOU, axis=1)
    free = np.where(crowd, -1.0, shared)
    result[on_crowd] = ON_CROWD
    for place in np.argsort(-scores, kind="stable"):
        best = len(crowd) - 1 - int(np.argmax(free[place, ::-1]))
        if free[place, best] >= IOU:
            result[place] = best
            free[:, best] = -1.0
    return result


@dataclass(frozen=True, eq=False)
class Matching:
    """All detections of a data set, matched within their class. Detections are in the order of their images."""

    matches: tuple[Int[np.ndarray, " _"], ...]
    """For each image, the match of each detection, see `matched`: indices into the image's boxes."""
    labels: Int[np.ndarray, " d"]
    """Class of each detection."""
    scores: Float32[np.ndarray, " d"]
    """Confidence of each."""
    right: Bool[np.ndarray, " d"]
    """Whether it matches a box."""
    ignored: Bool[np.ndarray, " d"]
    """Whether it lies on a crowd instead."""
    boxes: Int[np.ndarray, " k"]
    """Boxes of each class, without crowds."""
    shared: tuple[Float64[np.ndarray, "_ _"], ...]
    """For each image, the IoU of each detection with each true object, see `overlaps`."""


def matching(truth: Truth, found: Sequence[ImageDetections], *, overlaps: Overlaps = box_overlaps) -> Matching:
    """Match the detections of each image and class.

    Raises as `vision.metrics.detection.average_precision.coco_scores`.
    """
    check_found(truth, found)
    matches = []
    boxes = np.zeros(len(truth.class_names), np.int64)
    every_shared = tuple(overlaps(image, each) for image, each in zip(truth.images, found, strict=True))
    for image, each, shared in zip(truth.images, found, every_shared, strict=True):
        np.add.at(boxes, image.labels[~image.crowd], 1)
        result = np.full(len(each.scores), UNMATCHED)
        for label in np.intersect1d(image.labels, each.labels):
            ours, theirs = np.flatnonzero(each.labels == label), np.flatnonzero(image.labels == label)
            finds = matched(shared[np.ix_(ours, theirs)], each.scores[ours], image.crowd[theirs])
            result[ours] = np.where(finds < 0, finds, theirs[np.maximum(finds, 0)])
        matches.append(result)
    every = np.concatenate(matches)
    return Matching(
        matches=tuple(matches),
        labels=np.concatenate([each.labels for each in found]),
        scores=np.concatenate([each.scores for each in found]),
        right=every >= 0,
        ignored=every == ON_CROWD,
        boxes=boxes,
        shared=every_shared,
    )


@dataclass(frozen=True, eq=False)
class ConfidenceCurves:
    """Detections at or above each of the `CONFIDENCES`, counted. Fractions are in [0, 1]."""

    right: Int[np.ndarray, "k t"]
    """Detections of each class that match a box, which is also the number of detected boxes."""
    wrong: Int[np.ndarray, "k t"]
    """Detections of each class that match no box, without those on crowds."""
    boxes: Int[np.ndarray, " k"]
    """Boxes of each class, without crowds."""

    @property
    def precision(self) -> Float[np.ndarray, "k t"]:
        """Share of the detections that are right; nan without detections."""
        return _share(self.right, self.right + self.wrong)

    @property
    def recall(self) -> Float[np.ndarray, "k t"]:
        """Share of the boxes that are detected; nan for a class without boxes."""
        return _share(self.right, np.broadcast_to(self.boxes[:, None], self.right.shape))

    @property
    def f1(self) -> Float[np.ndarray, "k t"]:
        """2 TP / (2 TP + FP + FN), the harmonic mean of both; nan for a class without boxes and detections."""
        return _f1(self.right, self.wrong, np.broadcast_to(self.boxes[:, None], self.right.shape))

    @property
    def overall(self) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
        """Precision, recall and F1 of all classes counted together."""
        right, wrong = self.right.sum(0), self.wrong.sum(0)
        boxes = np.broadcast_to(self.boxes.sum(), right.shape)
        return _share(right, right + wrong), _share(right, boxes), _f1(right, wrong, boxes)

    @property
    def mean(self) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
        """Precision, recall and F1, each the mean over the classes that have boxes; nan if none has.

        The mean of precision is over those of them that have detections; nan if none has.
        """
        some = self.boxes > 0
        precision, recall, f1 = (values[some] for values in (self.precision, self.recall, self.f1))
        defined = ~np.isnan(precision)
        over = lambda values, count: np.divide(
            values.sum(0), count, out=np.full(len(CONFIDENCES), np.nan), where=count > 0
        )
        every = np.full(len(CONFIDENCES), some.sum())
        return over(np.where(defined, precision, 0.0), defined.sum(0)), over(recall, every), over(f1, every)

    @property
    def best(self) -> int:
        """Index in `CONFIDENCES` of the largest mean F1; of several equal ones the middle one."""
        f1 = np.nan_to_num(self.mean[2])
        best = np.flatnonzero(f1 == f1.max())
        return int(best[(len(best) - 1) // 2])


def confidence_curves(matches: Matching) -> ConfidenceCurves:
    """Count right and wrong detections of each class at each confidence."""
    classes = len(matches.boxes)
    wrong = ~matches.right & ~matches.ignored
    counted = lambda kind: np.stack(
        [_at_least(matches.scores[kind & (matches.labels == label)]) for label in range(classes)]
    )
    return ConfidenceCurves(counted(matches.right), counted(wrong), matches.boxes)


def detection_confusion(
    truth: Truth, found: Sequence[ImageDetections], matches: Matching, *, confidence: float
) -> Int[np.ndarray, "j j"]:
    """The confusion matrix of a detector: j is one more than the classes, the last row and column are the background.

    Detections of at least ``confidence`` are matched whatever their class. A detected box is in the row of its class
    and the column of the detection's; a missed box in the last column; an unmatched detection in the last row.
    Detections on crowds, of any class, are not counted.
    """
    background = len(truth.class_names)
    counts = np.zeros((background + 1, background + 1), np.int64)
    for image, each, shared in zip(truth.images, found, matches.shared, strict=True):
        confident = is_confident(each.scores, confidence)
        labels = each.labels[confident]
        finds = matched(shared[confident], each.scores[confident], image.crowd)
        right = finds >= 0
        missed = ~image.crowd
        missed[finds[right]] = False
        np.add.at(counts, (image.labels[finds[right]], labels[right]), 1)
        np.add.at(counts[background], labels[finds == UNMATCHED], 1)
        np.add.at(counts[:, background], image.labels[missed], 1)
    return counts


@dataclass(frozen=True)
class FalsePositive:
    """A detection that matches no box of its class."""

    image: int
    """Index in the truth's images."""
    place: int
    """Index in the image's detections."""
    nearest: int
    """The box that it overlaps most, of any class except crowds; the first of equals; -1 if it overlaps none."""
    iou: float
    """The IoU with that box; 0 if there is none."""


@dataclass(frozen=True)
class Miss:
    """A box that no confident detection of its class matches."""

    image: int
    """Index in the truth's images."""
    box: int
    """Index in the image's boxes."""
    instead: int
    """The most confident detection of another class that overlaps it by an IoU of `IOU` or more; -1 if there is
    none."""
    score: float
    """The score of the detection of its class that matches it with too low a confidence; 0 if there is none."""


def worst_false_positives(
    truth: Truth, found: Sequence[ImageDetections], matches: Matching, *, confidence: float, max_errors: int
) -> list[FalsePositive]:
    """At most ``max_errors`` wrong detections of at least ``confidence``, the most confident first."""
    sizes = np.array([len(each) for each in matches.matches])
    ends = np.cumsum(sizes)
    wrong = np.flatnonzero(~matches.right & ~matches.ignored & is_confident(matches.scores, confidence))
    result = []
    for number in wrong[np.argsort(-matches.scores[wrong], kind="stable")[:max_errors]].tolist():
        image = int(np.searchsorted(ends, number, side="right"))
        place = number - int(ends[image] - sizes[image])
        true = truth.images[image]
        shared = matches.shared[image][place]
        shared = np.where(true.crowd, 0.0, shared)
        near = bool(len(shared)) and float(shared.max()) > 0
        result.append(
            FalsePositive(
                image=image,
                place=place,
                nearest=int(np.argmax(shared)) if near else -1,
                iou=float(shared.max()) if near else 0.0,
            )
        )
    return result


def worst_misses(
    truth: Truth, found: Sequence[ImageDetections], matches: Matching, *, confidence: float, max_errors: int
) -> list[Miss]:
    """At most ``max_errors`` boxes without a match of at least ``confidence``, the largest (in pixels) first."""
    missed: list[tuple[float, int, int, float]] = []
    for place, (image, each, finds) in enumerate(zip(truth.images, found, matches.matches, strict=True)):
        score = np.zeros(len(image.boxes))
        score[finds[finds >= 0]] = each.scores[finds >= 0]
        caught = np.zeros(len(image.boxes), bool)
        caught[finds[(finds >= 0) & is_confident(each.scores, confidence)]] = True
        sides = image.boxes[:, 2:] - image.boxes[:, :2]
        left = np.flatnonzero(~caught & ~image.crowd)
        missed += [(float(np.prod(sides[box])), place, int(box), float(score[box])) for box in left]
    missed.sort(key=lambda each: -each[0])
    return [
        Miss(image=place, box=box, instead=_instead(truth, found, matches, place, box, confidence), score=score)
        for _, place, box, score in missed[:max_errors]
    ]


def _instead(
    truth: Truth, found: Sequence[ImageDetections], matches: Matching, place: int, box: int, confidence: float
) -> int:
    """The most confident detection of another class on a box; -1 if there is none."""
    true, each = truth.images[place], found[place]
    shared = matches.shared[place][:, box]
    on_it = (shared >= IOU) & is_confident(each.scores, confidence) & (each.labels != true.labels[box])
    return int(np.argmax(np.where(on_it, each.scores, -np.inf))) if on_it.any() else -1


def _at_least(scores: Float32[np.ndarray, " n"]) -> Int[np.ndarray, " t"]:
    """How many scores are at or above each confidence."""
    return len(scores) - np.searchsorted(np.sort(scores), CONFIDENCES.astype(np.float32), side="left")


def _share(part: Int[np.ndarray, "*n"], total: Int[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    return np.divide(part, total, out=np.full(part.shape, np.nan), where=total > 0)


def _f1(
    right: Int[np.ndarray, "*n"], wrong: Int[np.ndarray, "*n"], boxes: Int[np.ndarray, "*n"]
) -> Float[np.ndarray, "*n"]:
    # 2 TP / (2 TP + FP + FN), where TP + FN is the number of boxes
    return _share(2 * right, right + wrong + boxes)
