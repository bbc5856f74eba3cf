"""Average precision of instance masks as COCO defines it, and boundary average precision (Cheng et al. 2021).

Both are `vision.metrics.detection.average_precision` with another overlap. `mask_scores` takes the IoU of masks; with a
crowd, the share of the predicted mask that lies on it. `boundary_scores` takes the smaller one of that IoU and of the
IoU of the borders of the masks, 2 % of the image's diagonal wide; on crowds that of masks alone. Small, medium and
large go by the area of the annotation, and of an unmatched prediction by the pixels of its mask.

A true instance without a pixel overlaps nothing and is missed: readers drop such. A predicted one is a false positive.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64, Int32

from vision.errors import UserError
from vision.metrics.detection.average_precision import (
    CocoScores,
    ImageDetections,
    TrueImage,
    TrueImages,
    check_found,
    scores_of,
)
from vision.ops import rle
from vision.ops.outlines import boundary_distance, mask_outline
from vision.ops.rle import Rle


@runtime_checkable
class TrueMasks(TrueImage, Protocol):
    """What predicted masks of an image are compared with."""

    @property
    def masks(self) -> Sequence[Rle] | None:
        """Of the n instances, crowds among them, each of the size of the image; None where they were not read."""
        ...


@runtime_checkable
class MaskTruth(TrueImages, Protocol):
    """What predicted masks of a data set are compared with."""

    @property
    def images(self) -> Sequence[TrueMasks]:
        """All images, with their masks."""
        ...


def detected_masks(
    masks: Sequence[Rle], scores: Float32[np.ndarray, " n"], labels: Int32[np.ndarray, " n"]
) -> ImageDetections:
    """Predicted instances of one image, each in the smallest box around its mask."""
    boxes = np.array([rle.box(each) for each in masks], np.float32).reshape(-1, 4)
    return ImageDetections(boxes, scores, labels, masks)


def masks_of(found: ImageDetections) -> Sequence[Rle]:
    """The masks of detections. Raises ``ValueError`` if they have none."""
    if found.masks is None:
        raise ValueError("the detections have boxes alone, and masks are compared")
    return found.masks


def true_masks(image: TrueMasks) -> Sequence[Rle]:
    """The masks of an image of the truth. Raises ``ValueError`` if they were not read."""
    if image.masks is None:
        raise ValueError(f"the masks of the image {image.image_id} were not read")
    return image.masks


def mask_overlaps(image: TrueMasks, found: ImageDetections) -> Float64[np.ndarray, "n m"]:
    """IoU of each predicted mask with each true one, in [0, 1]; with a crowd, the share of the prediction on it."""
    from pycocotools import mask as coco  # only evaluations of masks need it

    ours, true = masks_of(found), true_masks(image)
    if not len(ours) or not len(true):
        return np.zeros((len(ours), len(true)))
    packed: Any = [[each.as_coco() for each in masks] for masks in (ours, true)]
    return np.asarray(coco.iou(packed[0], packed[1], image.crowd.astype(int).tolist()), np.float64)


def mask_scores(truth: MaskTruth, found: Sequence[ImageDetections]) -> CocoScores:
    """COCO's twelve numbers for masks, the AP of each class, and its curves.

    Args:
      truth: the annotation; crowds are COCO's ``iscrowd``.
      found: the predicted instances of each of its images, in its order.

    Raises:
      UserError: there are no images, two have the same id, a score is not finite, a class is invalid, or a mask is not
        of the size of its image.
      ValueError: the masks of an image were not read, or its detections have none; the numbers of images and of
        ``found`` differ, or those of masks and of scores or labels.
    """
    return scores_of(truth, *_annotations(truth, found, boundaries=False), overlap="masks")


def boundary_scores(truth: MaskTruth, found: Sequence[ImageDetections]) -> CocoScores:
    """COCO's twelve numbers with the smaller IoU of masks and of borders; arguments and errors as of `mask_scores`."""
    both = _annotations(truth, found, boundaries=True)
    return scores_of(truth, *both, overlap="boundaries", evaluator=_boundary_evaluator())


def mask_baselines(truth: MaskTruth, found: Sequence[ImageDetections]) -> str:
    """In words, the AP that the boxes of the same detections would get as masks, and the whole image as one mask."""
    sides = [(image.height, image.width) for image in truth.images]
    filled = [replace(each, masks=_filled(each.boxes, *size)) for each, size in zip(found, sides, strict=True)]
    labels = np.concatenate([image.labels[~image.crowd] for image in truth.images])
    most = int(np.bincount(labels, minlength=1).argmax())
    once, one = np.ones(1, np.float32), np.array([most], np.int32)
    whole = [detected_masks(_filled(np.array([[0, 0, w, h]], np.float32), h, w), once, one) for h, w in sides]
    values = [np.nan_to_num(mask_scores(truth, each).average_precision) for each in (filled, whole)]
    return (
        f"the boxes of the same detections, filled, get {values[0]:.4f}, and the whole of each image as one "
        f"{truth.class_names[most]} gets {values[1]:.4f}"
    )


def _filled(boxes: Float32[np.ndarray, "n 4"], height: int, width: int) -> list[Rle]:
    corners = [[[x0, y0, x1, y0, x1, y1, x0, y1]] for x0, y0, x1, y1 in boxes.tolist()]
    return [rle.of_polygons(each, height, width) for each in corners]


def _annotations(
    truth: MaskTruth, found: Sequence[ImageDetections], *, boundaries: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """True and predicted instances in COCO's terms."""
    check_found(truth, found)
    true_ones: list[dict[str, Any]] = []
    found_ones: list[dict[str, Any]] = []
    for image, each in zip(truth.images, found, strict=True):
        rows = zip(true_masks(image), image.labels.tolist(), image.area.tolist(), image.crowd.tolist(), strict=True)
        for mask, label, area, crowd in rows:
            entry = _entry(truth, image, mask, label, boundaries=boundaries)
            true_ones.append({**entry, "area": area, "iscrowd": int(crowd)})
        for mask, label, score in zip(masks_of(each), each.labels.tolist(), each.scores.tolist(), strict=True):
            entry = _entry(truth, image, mask, label, boundaries=boundaries)
            found_ones.append({**entry, "area": rle.area(mask), "iscrowd": 0, "score": score})
    return true_ones, found_ones


def _entry(truth: MaskTruth, image: TrueMasks, mask: Rle, label: int, *, boundaries: bool) -> dict[str, Any]:
    if (mask.height, mask.width) != (image.height, image.width):
        raise UserError(
            f"a mask of {mask.height}x{mask.width} pixels is compared in the image {image.image_id} of "
            f"{image.height}x{image.width}: bring masks to the size of the image"
        )
    entry = {"image_id": image.image_id, "category_id": int(truth.category_ids[label]), "segmentation": mask.as_coco()}
    if boundaries:
        outline = mask_outline(rle.decode(mask), boundary_distance(mask.height, mask.width))
        entry["boundary"] = rle.encode(outline).as_coco()
    return entry


def _boundary_evaluator() -> type:
    """The evaluator of pycocotools with the smaller IoU of each pair, except with crowds."""
    from pycocotools.cocoeval import COCOeval

    class BoundaryEvaluator(COCOeval):
        # the names are those of the library
        def computeIoU(self, imgId: Any, catId: Any) -> Any:  # noqa: N802, N803
            of_masks = super().computeIoU(imgId, catId)
            if not len(of_masks):
                return of_masks
            annotated: Any = self
            whole, key = (annotated._gts, annotated._dts), (imgId, catId)
            outlines = ({**each, "segmentation": each["boundary"]} for side in whole for each in side[key])
            count = len(whole[0][key])
            every = list(outlines)
            annotated._gts, annotated._dts = (defaultdict(list, {key: part}) for part in (every[:count], every[count:]))
            try:
                of_outlines = super().computeIoU(imgId, catId)
            finally:
                annotated._gts, annotated._dts = whole
            crowd = np.array([bool(each["iscrowd"]) for each in whole[0][key]])
            return np.where(crowd, of_masks, np.minimum(of_masks, of_outlines))

    return BoundaryEvaluator
