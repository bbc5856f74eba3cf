"""Panoptic quality (Kirillov et al. 2019): segments of things and stuff, found and recognised.

In each image, a predicted and a true segment of one class match if their IoU is above 0.5, which at most one pair of
each segment can reach. Over all images, for each class: SQ is the mean IoU of the matches, RQ is
TP / (TP + FP/2 + FN/2), and PQ = SQ RQ. The means are over the classes that have a segment in truth or prediction,
for all, things and stuff.

Void and crowds count as in the publication's code (panopticapi): void pixels of the truth are taken out of the union;
crowds neither match nor are missed; and an unmatched prediction is no false positive if more than half of it is on
void or on crowds of its class. (Of several crowds of one class in an image that code looks at the last; here all
count, so that their order does not matter.) All is on the host, since segments are few and of any number.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64

from vision.errors import UserError

VOID = 0
"""The id of pixels without a segment."""


@dataclass(frozen=True, eq=False)
class Segments:
    """One image divided into n segments."""

    map: Int[np.ndarray, "h w"]
    """The id of the segment of each pixel, or `VOID`."""
    ids: Int[np.ndarray, " n"]
    """Of the segments, different and not `VOID`."""
    labels: Int[np.ndarray, " n"]
    """The class of each."""
    crowd: Bool[np.ndarray, " n"] | None = None
    """Whether a segment is a crowd; None for no crowds. A prediction has none."""


@dataclass(frozen=True, eq=False)
class PanopticSums:
    """Sums over images, for each of k classes."""

    images: int
    """Images evaluated."""
    iou: Float64[np.ndarray, " k"]
    """Of all matches."""
    matches: Int64[np.ndarray, " k"]
    """Pairs that match."""
    extra: Int64[np.ndarray, " k"]
    """False positives."""
    missed: Int64[np.ndarray, " k"]
    """False negatives."""


@dataclass(frozen=True, eq=False)
class PanopticScores:
    """Panoptic quality, by `compute`; all in [0, 1], nan where no class has a segment."""

    panoptic_quality: float
    """Mean PQ over the classes that have a segment in truth or prediction."""
    segmentation_quality: float
    """Mean SQ over them; a class without a match has 0."""
    recognition_quality: float
    """Mean RQ over them."""
    things_panoptic_quality: float
    """PQ of things."""
    things_segmentation_quality: float
    """SQ of things."""
    things_recognition_quality: float
    """RQ of things."""
    stuff_panoptic_quality: float
    """PQ of stuff."""
    stuff_segmentation_quality: float
    """SQ of stuff."""
    stuff_recognition_quality: float
    """RQ of stuff."""
    class_panoptic_quality: Float64[np.ndarray, " k"]
    """Of each class; nan for one without segments."""
    class_segmentation_quality: Float64[np.ndarray, " k"]
    """Of each class; nan for one without segments, 0 for one without matches."""
    class_recognition_quality: Float64[np.ndarray, " k"]
    """Of each class; nan for one without segments."""
    things: Bool[np.ndarray, " k"]
    """Whether a class is of things."""
    sums: PanopticSums
    """What they are computed from."""

    def scalars(self) -> dict[str, float]:
        """The numbers for the record, without those that are undefined."""
        return {name: getattr(self, name) for name in _WORDS if not math.isnan(getattr(self, name))}

    def protocol(self, data: str) -> dict[str, str]:
        """A description of how each scalar was computed; ``data`` describes the images."""
        has = ~np.isnan(self.class_panoptic_quality)
        groups = {"": (has, "classes"), "things_": (has & self.things, "classes of things")}
        groups["stuff_"] = (has & ~self.things, "classes of stuff")
        rule = "matches of one class at IoU > 0.5, void and crowds as in panopticapi"
        described = {}
        for name in self.scalars():
            prefix = next(each for each in ("things_", "stuff_", "") if name.startswith(each))
            chosen, kind = groups[prefix]
            described[name] = (
                f"{_WORDS[name]}, mean over the {int(chosen.sum())} {kind} that have segments, {rule}, on "
                f"{self.sums.images:,} images of {data}, {len(has)} classes"
            )
        return described


_WORDS = {
    f"{group}{quality}_quality": words
    for group in ("", "things_", "stuff_")
    for quality, words in (
        ("panoptic", "PQ = SQ RQ"),
        ("segmentation", "SQ, the mean IoU of matches"),
        ("recognition", "RQ = TP / (TP + FP/2 + FN/2)"),
    )
}


def init(classes: int) -> PanopticSums:
    """Sums of no images."""
    count = lambda: np.zeros(classes, np.int64)
    return PanopticSums(0, np.zeros(classes, np.float64), count(), count(), count())


def update(sums: PanopticSums, found: Segments, truth: Segments) -> PanopticSums:
    """The sums after adding one image.

    A true segment that is listed and has no pixel is missed.

    Raises:
      UserError: the maps differ in size; ids are repeated, `VOID`, or in a map and not listed; a predicted segment has
        no pixel or is a crowd; a label is not a class.
    """
    classes = len(sums.iou)
    _check(truth, "true", classes)
    _check(found, "predicted", classes)
    if found.map.shape != truth.map.shape:
        sizes = ["x".join(map(str, each.map.shape)) for each in (found, truth)]
        raise UserError(f"a predicted map of {sizes[0]} pixels is compared with a true one of {sizes[1]}")
    crowd = np.zeros(len(truth.ids), bool) if truth.crowd is None else truth.crowd
    if found.crowd is not None and found.crowd.any():
        raise UserError("a predicted segment is a crowd: predict segments of single things and of stuff")

    # pixels by predicted (row) and true segment (column); the last ones are void
    places = _places(found) * (len(truth.ids) + 1) + _places(truth)
    size = (len(found.ids) + 1, len(truth.ids) + 1)
    shared = np.bincount(places.reshape(-1), minlength=size[0] * size[1]).reshape(size)
    area_found, area_true, on_void = shared.sum(1)[:-1], shared.sum(0)[:-1], shared[:-1, -1]
    if not area_found.all():
        empty = found.ids[area_found == 0][0]
        raise UserError(f"the predicted segment {empty} has no pixel: list only segments that are in the map")
    shared = shared[:-1, :-1]
    same = found.labels[:, None] == truth.labels[None]
    union = area_found[:, None] - on_void[:, None] + area_true[None] - shared
    iou = np.divide(shared, union, out=np.zeros(shared.shape), where=union > 0)
    iou = np.where(same & ~crowd, iou, 0.0)
    row, column = np.nonzero(iou > 0.5)

    missed = ~crowd
    missed[column] = False
    excused = on_void + np.sum(shared * (same & crowd), axis=1)
    extra = excused / np.maximum(area_found, 1) <= 0.5
    extra[row] = False
    of_class = lambda labels, weights=None: np.bincount(labels, weights, minlength=classes)
    return PanopticSums(
        images=sums.images + 1,
        iou=sums.iou + of_class(found.labels[row], iou[row, column]),
        matches=sums.matches + of_class(found.labels[row]),
        extra=sums.extra + of_class(found.labels[extra]),
        missed=sums.missed + of_class(truth.labels[missed]),
    )


def merge(one: PanopticSums, other: PanopticSums) -> PanopticSums:
    """The merged sums of two disjoint sets of images."""
    names = ("images", "iou", "matches", "extra", "missed")
    return PanopticSums(**{name: getattr(one, name) + getattr(other, name) for name in names})


def compute(sums: PanopticSums, things: Sequence[bool] | Bool[np.ndarray, " k"]) -> PanopticScores:
    """The qualities from the sums.

    Args:
      sums: of k classes.
      things: whether each class is of things; the others are stuff.

    Raises:
      UserError: no image was evaluated, or ``things`` is of another number of classes.
    """
    is_thing = np.asarray(things, bool)
    if is_thing.shape != sums.iou.shape:
        raise UserError(f"{len(is_thing)} classes are said to be things or stuff, and {len(sums.iou)} are evaluated")
    if not sums.images:
        raise UserError("panoptic quality was computed of no images: evaluate at least one image")
    total = sums.matches + sums.extra / 2 + sums.missed / 2
    some = total > 0
    over = lambda values, by: np.divide(values, by, out=np.zeros(len(some)), where=by > 0)
    table = {
        "panoptic_quality": over(sums.iou, total),
        "segmentation_quality": over(sums.iou, sums.matches),
        "recognition_quality": over(sums.matches, total),
    }
    means: dict[str, float] = {}
    for prefix, group in (("", some), ("things_", some & is_thing), ("stuff_", some & ~is_thing)):
        for name, values in table.items():
            means[f"{prefix}{name}"] = float(values[group].mean()) if group.any() else math.nan
    by_class: dict[str, Any] = {f"class_{name}": np.where(some, values, np.nan) for name, values in table.items()}
    return PanopticScores(**means, **by_class, things=is_thing, sums=sums)


def _check(segments: Segments, kind: str, classes: int) -> None:
    ids = segments.ids
    if len(np.unique(ids)) < len(ids) or (ids == VOID).any():
        raise UserError(f"the ids of {kind} segments are not different numbers other than {VOID}, which means void")
    if ((segments.labels < 0) | (segments.labels >= classes)).any():
        raise UserError(f"a {kind} segment has a class outside [0, {classes}): give the number of classes of the data")
    strange = np.setdiff1d(segments.map, [*ids.tolist(), VOID])
    if len(strange):
        raise UserError(f"a map has pixels of the {kind} segment {strange[0]}, which is not listed")


def _places(segments: Segments) -> Int64[np.ndarray, "h w"]:
    """The index of the segment of each pixel, the number of segments for void."""
    order = np.argsort(segments.ids)
    known = segments.ids[order]
    if not len(known):
        return np.zeros(segments.map.shape, np.int64)
    near = np.minimum(np.searchsorted(known, segments.map), len(known) - 1)
    return np.where(known[near] == segments.map, order[near], len(known)).astype(np.int64)
