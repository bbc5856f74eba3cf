"""Average precision of a detector as COCO defines it, computed by COCO's own library (pycocotools).

In short (Lin et al. 2014 and the evaluation page of COCO): in each image and class the 100 most confident detections
are matched greedily, the most confident first, each to the free box that it overlaps most if their IoU reaches a
threshold. Over all images, detections by falling score trace precision against recall; precision is made monotonic,
read at the 101 recalls 0, 0.01, ..., 1, and averaged: over recalls, over classes that have boxes, and over the
thresholds 0.50, 0.55, ..., 0.95. Detections on crowds are ignored.

Other code for YOLO reports different numbers for the same weights, since one or more of these differ:

- precision is integrated as a step function, or between other recalls, where COCO reads it at 101;
- pairs are matched by falling IoU, or by class after the fact, where COCO goes by score;
- small, medium and large go by the area of the box, where COCO takes that of the object's mask (a little smaller);
- another maximum of detections: 100 of each class in each image here, whatever the detector returns;
- a different minimum confidence: 0.25 cuts off the tail of the curve, 0.001 does not;
- images are padded to rectangles of similar shape in a batch, where here each is letterboxed to a square.

So a protocol states the confidence, the IoU of non-maximum suppression and the maximum of detections.

Overlaps are those of boxes here; `vision.metrics.segmentation.mask_average_precision` has those of masks and of their
borders.
"""

import contextlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32

from vision.errors import UserError
from vision.ops.rle import Rle

RECALLS = np.linspace(0.0, 1.0, 101)
"""Where precision is read."""


Overlap = Literal["boxes", "masks", "boundaries"]
"""What the IoU is of; "boundaries" is the smaller one of those of masks and their borders."""


@runtime_checkable
class TrueImage(Protocol):
    """What an evaluation needs to know of an image, besides its boxes or masks."""

    @property
    def width(self) -> int:
        """In pixels."""
        ...

    @property
    def height(self) -> int:
        """In pixels."""
        ...

    @property
    def labels(self) -> Int32[np.ndarray, " n"]:
        """Indices into the list of classes."""
        ...

    @property
    def crowd(self) -> Bool[np.ndarray, " n"]:
        """Whether it is a crowd."""
        ...

    @property
    def area(self) -> Float32[np.ndarray, " n"]:
        """Of the objects, in square pixels."""
        ...

    @property
    def image_id(self) -> int:
        """COCO's id; images with equal scores are ranked by it."""
        ...


@runtime_checkable
class TrueBoxes(TrueImage, Protocol):
    """The part of a `vision.data.annotations.cleaning.AnnotatedImage` that detections are compared with."""

    @property
    def boxes(self) -> Float32[np.ndarray, "n 4"]:
        """(x0, y0, x1, y1) in pixels."""
        ...


@runtime_checkable
class TrueImages(Protocol):
    """What an evaluation needs to know of a data set."""

    @property
    def images(self) -> Sequence[TrueImage]:
        """All images."""
        ...

    @property
    def class_names(self) -> Sequence[str]:
        """Element i is the name of label i."""
        ...

    @property
    def category_ids(self) -> Sequence[int]:
        """Element i is COCO's id of label i."""
        ...


@runtime_checkable
class Truth(TrueImages, Protocol):
    """The part of `vision.data.annotations.cleaning.Annotations` that detections are compared with."""

    @property
    def images(self) -> Sequence[TrueBoxes]:
        """All images, with their boxes."""
        ...


@runtime_checkable
class Found(Protocol):
    """What an evaluation needs to know of the detections in an image, besides their boxes or masks."""

    @property
    def scores(self) -> Float32[np.ndarray, " n"]:
        """Confidences."""
        ...

    @property
    def labels(self) -> Int32[np.ndarray, " n"]:
        """Indices into the list of classes."""
        ...

    @property
    def is_finite(self) -> bool:
        """Whether all numbers are."""
        ...


@dataclass(frozen=True, eq=False)
class ImageDetections:
    """The detections in one image, in any order."""

    boxes: Float32[np.ndarray, "n 4"]
    """(x0, y0, x1, y1) in pixels of the original image."""
    scores: Float32[np.ndarray, " n"]
    """Confidences."""
    labels: Int32[np.ndarray, " n"]
    """Indices into the list of classes."""
    masks: Sequence[Rle] | None = None
    """Each of the size of the original image; None for a detector of boxes alone."""

    @property
    def is_finite(self) -> bool:
        """Whether all numbers are."""
        return bool(np.isfinite(self.boxes).all() and np.isfinite(self.scores).all())


@dataclass(frozen=True, eq=False)
class CocoScores:
    """COCO's numbers of a detector, of its boxes, masks or borders. All in [0, 1]; nan where there are no objects."""

    average_precision: float
    """AP@[.50:.95]: mean over thresholds and classes, all areas, 100 detections."""
    ap50: float
    """At an IoU of .50 only."""
    ap75: float
    """At an IoU of .75 only."""
    ap_small: float
    """Of objects of at most 32^2 square pixels."""
    ap_medium: float
    """Of objects of 32^2 to 96^2 square pixels."""
    ap_large: float
    """Of objects of at least 96^2 square pixels."""
    ar1: float
    """AR@[.50:.95]: the largest recall, mean over thresholds and classes, with 1 detection of a class in an image."""
    ar10: float
    """With 10 detections."""
    ar100: float
    """With 100 detections."""
    ar_small: float
    """With 100, of objects of at most 32^2 square pixels."""
    ar_medium: float
    """With 100, of objects of 32^2 to 96^2 square pixels."""
    ar_large: float
    """With 100, of objects of at least 96^2 square pixels."""
    class_names: tuple[str, ...]
    """Element i is the name of class i."""
    class_average_precision: Float[np.ndarray, " k"]
    """AP@[.50:.95] of each class; nan for one without boxes."""
    class_ap50: Float[np.ndarray, " k"]
    """AP at the IoU .50 of each class; nan for one without boxes."""
    precision: Float[np.ndarray, "k 101"]
    """At the IoU .50 and the recalls `RECALLS`, for each class: the largest at this recall or beyond, 0 where it is not
    reached; nan for a class without boxes."""
    images: int
    """How many images were evaluated."""
    overlap: Overlap
    """What the IoU is of."""

    @property
    def per_class(self) -> tuple[tuple[str, float, float], ...]:
        """(name, AP@[.50:.95], AP50) of each class; names need not differ."""
        columns = (self.class_names, self.class_average_precision.tolist(), self.class_ap50.tolist())
        return tuple(zip(*columns, strict=True))

    def scalars(self) -> dict[str, float]:
        """The twelve numbers for the record, without those that are undefined; of masks as "mask_ap50" and so on."""
        numbers = {f"{self._prefix}{each.name}": getattr(self, each.name) for each in fields(self)[: len(_STATISTICS)]}
        return {name: value for name, value in numbers.items() if not math.isnan(value)}

    @property
    def _prefix(self) -> str:
        return {"boxes": "", "masks": "mask_", "boundaries": "boundary_"}[self.overlap]

    def protocol(self, data: str, how: str) -> dict[str, str]:
        """A description of how each scalar was computed.

        Args:
          data: on which images.
          how: how detections were chosen: confidence, IoU of non-maximum suppression and maximum number.
        """
        classes = len(self.class_names)
        boxed = classes - int(np.isnan(self.class_ap50).sum())
        kind = "boxes" if self.overlap == "boxes" else "masks"
        of = f"{classes} classes" if boxed == classes else f"the {boxed} of {classes} classes that have {kind}"
        on = f"on {self.images:,} images of {data}, {of}; {how}"
        by = f"COCO's (pycocotools, {_OVERLAPS[self.overlap]})"
        named = {f"{self._prefix}{name}": words for name, words in _STATISTICS.items()}
        return {name: f"{by} {words}, {on}" for name, words in named.items() if name in self.scalars()}


_OVERLAPS = {
    "boxes": "boxes",
    "masks": "masks",
    "boundaries": "the smaller IoU of masks and of their borders, 2 % of the diagonal wide",
}
# In the order of pycocotools' statistics
_STATISTICS = {
    "average_precision": "AP@[.50:.95], 100 detections",
    "ap50": "AP@.50, 100 detections",
    "ap75": "AP@.75, 100 detections",
    "ap_small": "AP@[.50:.95] of objects up to 32^2 pixels, 100 detections",
    "ap_medium": "AP@[.50:.95] of objects of 32^2 to 96^2 pixels, 100 detections",
    "ap_large": "AP@[.50:.95] of objects from 96^2 pixels, 100 detections",
    "ar1": "AR@[.50:.95], 1 detection",
    "ar10": "AR@[.50:.95], 10 detections",
    "ar100": "AR@[.50:.95], 100 detections",
    "ar_small": "AR@[.50:.95] of objects up to 32^2 pixels, 100 detections",
    "ar_medium": "AR@[.50:.95] of objects of 32^2 to 96^2 pixels, 100 detections",
    "ar_large": "AR@[.50:.95] of objects from 96^2 pixels, 100 detections",
}


def coco_scores(truth: Truth, found: Sequence[ImageDetections]) -> CocoScores:
    """COCO's twelve numbers, the AP of each class, and its curves.

    Args:
      truth: the annotation; boxes around crowds are COCO's ``iscrowd``.
      found: the detections of each of its images, in its order.

    Raises:
      UserError: there are no images, two have the same id, or a detection is not finite or has an invalid class.
      ValueError: the numbers of images and of ``found`` differ.
    """
    check_found(truth, found)
    return scores_of(truth, _true_boxes(truth), _found_boxes(truth, found), overlap="boxes")


def scores_of(
    truth: TrueImages,
    true: list[dict[str, Any]],
    found: list[dict[str, Any]],
    *,
    overlap: Overlap,
    evaluator: type | None = None,
) -> CocoScores:
    """COCO's numbers of annotations in COCO's terms.

    Args:
      truth: images and classes.
      true: annotations of all images, each with "image_id", "category_id", "area", "iscrowd", and "bbox" or
        "segmentation" as run lengths.
      found: likewise, with "score".
      overlap: what the IoU is of.
      evaluator: a subclass of pycocotools' ``COCOeval`` with an IoU of its own; by default that class.
    """
    # Imported here, since only evaluations of detectors need it.
    from pycocotools.cocoeval import COCOeval

    kind = "bbox" if overlap == "boxes" else "segm"
    with contextlib.redirect_stdout(io.StringIO()):  # the library prints its progress and a table
        sums: Any = (evaluator or COCOeval)(_dataset(truth, true), _dataset(truth, found), kind)
        sums.evaluate()
        sums.accumulate()
        sums.summarize()
    statistics = np.where(sums.stats < 0, np.nan, sums.stats).tolist()
    # [thresholds, recalls, classes by category id, areas, maxima of detections]; all areas come first, 100 last
    table = sums.eval["precision"][:, :, :, 0, -1]
    order = np.argsort(np.argsort(truth.category_ids))  # of class i among the sorted ids
    table = np.where(table < 0, np.nan, table)[:, :, order]
    return CocoScores(
        **dict(zip(_STATISTICS, statistics, strict=True)),
        class_names=tuple(truth.class_names),
        class_average_precision=table.mean((0, 1)),
        class_ap50=table[0].mean(0),
        precision=np.ascontiguousarray(table[0].T),
        images=len(truth.images),
        overlap=overlap,
    )


def check_found(truth: TrueImages, found: Sequence[Found]) -> None:
    """Raise unless detections and truth fit, as described for `coco_scores`."""
    if not truth.images:
        raise UserError("the detector was shown no images, so there is no precision: evaluate at least one image")
    if len(found) != len(truth.images):
        raise ValueError(f"{len(found)} detections for {len(truth.images)} images: give one for each.")
    numbers = [each.image_id for each in truth.images]
    if len(set(numbers)) < len(numbers):
        raise UserError("two images of the annotation have the same number (image id): number them apart")
    classes = len(truth.class_names)
    wrong = sum(not each.is_finite for each in found)
    if wrong:
        raise UserError(
            f"{wrong:,} images have detections that are not finite, so the detector cannot be evaluated: look for an "
            "overflow in the model, or for weights that diverged"
        )
    if any(((each.labels < 0) | (each.labels >= classes)).any() for each in found):
        raise UserError(f"detections have labels outside [0, {classes}): build the model for the classes of the data")


def _true_boxes(truth: Truth) -> list[dict[str, Any]]:
    return [
        {"area": area, "iscrowd": int(crowd), **box}
        for image in truth.images
        for box, area, crowd in zip(
            _boxes(truth, image, image.boxes, image.labels),
            image.area.tolist(),
            image.crowd.tolist(),
            strict=True,
        )
    ]


def _found_boxes(truth: Truth, found: Sequence[ImageDetections]) -> list[dict[str, Any]]:
    return [
        {"area": box["bbox"][2] * box["bbox"][3], "iscrowd": 0, "score": score, **box}
        for image, each in zip(truth.images, found, strict=True)
        for box, score in zip(_boxes(truth, image, each.boxes, each.labels), each.scores.tolist(), strict=True)
    ]


def _boxes(
    truth: TrueImages, image: TrueImage, boxes: Float32[np.ndarray, "n 4"], labels: Int[np.ndarray, " n"]
) -> list[dict[str, Any]]:
    """Boxes of an image in COCO's terms: (left, upper, width, height)."""
    corners = boxes.astype(np.float64)
    sized = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
    return [
        {"image_id": image.image_id, "category_id": int(truth.category_ids[label]), "bbox": box}
        for box, label in zip(sized, labels.tolist(), strict=True)
    ]


def _dataset(truth: TrueImages, annotations: list[dict[str, Any]]) -> Any:
    """A ``pycocotools.coco.COCO`` of these annotations, without a file."""
    from pycocotools.coco import COCO

    coco: Any = COCO()
    coco.dataset = {
        "images": [{"id": each.image_id, "width": each.width, "height": each.height} for each in truth.images],
        "categories": [
            {"id": int(number), "name": name}
            for number, name in zip(truth.category_ids, truth.class_names, strict=True)
        ],
        # numbered from 1, since a match with id 0 would count as no match
        "annotations": [{"id": number, **each} for number, each in enumerate(annotations, start=1)],
    }
    coco.createIndex()
    return coco
