"""Intersection over union of a semantic segmentation, and what else a confusion matrix of pixels says.

``init`` gives empty sums, ``update`` adds a batch on the device, ``merge`` joins disjoint sets of images, and
``compute`` divides at the end, in float64 on the host. All sums are counts of pixels, exact up to 2**61, so batches of
any size, padding and any sharding give the same numbers to the last digit.

The IoU of a class is of the pixels of *all* images together: TP / (TP + FP + FN). Pixels whose truth is void count for
nothing, whatever is predicted there. The mean is over the classes that are the truth or the prediction of any pixel,
as in Cityscapes' scripts, MMSegmentation and torchmetrics. Numbers from elsewhere differ where

- a class without pixels counts as 0 (a mean over all classes, as in PASCAL VOC's kit) or as 1;
- the mean is over the classes that have true pixels, so that predictions of an absent class cost nothing there;
- IoUs of each image are averaged, which weights small objects more and needs a rule for absent classes;
- predictions on void pixels count as false positives;
- predictions are compared at the network's resolution and not at that of the annotation.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from vision.errors import UserError
from vision.metrics import wide_count


class ConfusionSums(struct.PyTreeNode):
    """Counts without masked images.

    Attributes:
      images: int32 [], images evaluated.
      confusion: `wide_count.WideCount` [k k], pixels by true class (row) and predicted class (column).
      void: `wide_count.WideCount` [], pixels without a true class.
      not_class: `wide_count.WideCount` [], pixels outside of void whose prediction is not a class.
      unknown: `wide_count.WideCount` [], pixels whose truth is neither a class nor void.
    """

    # Types are not checked, since the fields may also be shapes or shardings.
    images: Any
    confusion: wide_count.WideCount
    void: wide_count.WideCount
    not_class: wide_count.WideCount
    unknown: wide_count.WideCount


@dataclass(frozen=True, eq=False)
class SegmentationScores:
    """The metrics of a semantic segmentation, by `compute`; fractions are in [0, 1]."""

    images: int
    """Images evaluated."""
    pixels: int
    """Pixels that have a true class."""
    void: int
    """Pixels that have none."""
    mean_iou: float
    """Mean of ``class_iou`` over the ``scored`` classes."""
    pixel_accuracy: float
    """Fraction of the pixels whose class is predicted."""
    mean_accuracy: float
    """Mean of ``class_accuracy`` over the classes that have pixels."""
    frequency_weighted_iou: float
    """Mean of ``class_iou`` weighted by the share of pixels that have the class."""
    scored: int
    """How many classes are the truth or the prediction of any pixel."""
    class_iou: Float[np.ndarray, " k"]
    """TP / (TP + FP + FN) of each class; nan for one that is neither the truth nor the prediction of any pixel."""
    class_accuracy: Float[np.ndarray, " k"]
    """Fraction of the pixels of each class for which it is predicted; nan for a class without pixels."""
    confusion: Int[np.ndarray, "k k"]
    """int64, pixels by true class (row) and predicted class (column)."""

    @property
    def void_share(self) -> float:
        """Fraction of all pixels that have no true class."""
        return self.void / (self.pixels + self.void)

    @property
    def most_frequent(self) -> int:
        """The class with the most pixels; of equal ones the first."""
        return int(np.argmax(self.confusion.sum(1)))

    def constant(self) -> "SegmentationScores":
        """What predicting the most frequent class for every pixel gets on the same images."""
        confusion = np.zeros_like(self.confusion)
        confusion[:, self.most_frequent] = self.confusion.sum(1)
        return _of_confusion(confusion, images=self.images, void=self.void)

    def scalars(self) -> dict[str, float]:
        """The numbers for the record."""
        return {name: getattr(self, name) for name in _SCALARS}

    def protocol(self, data: str) -> dict[str, str]:
        """A description of how each scalar was computed, with the same of a constant prediction.

        ``data`` describes the images.
        """
        classes = len(self.class_iou)
        present = classes - int(np.isnan(self.class_accuracy).sum())
        void = f" ({self.void_share:.2%} of all are void and do not count)" if self.void else ""
        on = f"on {self.pixels:,} pixels{void} of {self.images:,} images of {data}, {classes} classes"
        wording = {
            "mean_iou": f"mean of TP / (TP + FP + FN) of all pixels together over the {self.scored} classes that are "
            f"the truth or the prediction of any pixel, {on}",
            "pixel_accuracy": f"fraction of the pixels whose class is predicted, {on}",
            "mean_accuracy": f"mean over the {present} classes that have pixels of the fraction predicted right, {on}",
            "frequency_weighted_iou": f"mean of TP / (TP + FP + FN) weighted by the share of pixels of the class, {on}",
        }
        constant = self.constant().scalars()
        return {
            name: f"{wording[name]}; class {self.most_frequent} everywhere gets {constant[name]:.4f}"
            for name in self.scalars()
        }


_SCALARS = ("mean_iou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou")


class Pixels(NamedTuple):
    """How the pixels of a batch count: each is in at most one group, those of masked images in none."""

    images: Int[Array, ""]
    """How many images are not masked."""
    valid: Bool[Array, "b h w"]
    """Both truth and prediction are classes."""
    void: Bool[Array, "b h w"]
    """The truth is void."""
    not_class: Bool[Array, "b h w"]
    """The truth is a class, the prediction none."""
    unknown: Bool[Array, "b h w"]
    """The truth is neither a class nor void."""


def pixels_of(
    predicted: Int[Array, "b h w"],
    truth: Int[Array, "b h w"],
    mask: Bool[Array, " b"] | None,
    *,
    classes: int,
    ignore: int | None,
) -> Pixels:
    """Sort the pixels of a batch.

    Raises:
      UserError: there are more than 2**30 of them, which `wide_count` cannot add at once.
    """
    if truth.size > wide_count.LARGEST_TERM:
        raise UserError(f"a batch of {truth.size:,} pixels is too large to be counted: evaluate smaller batches")
    shown = jnp.ones(len(truth), bool) if mask is None else mask
    counted = jnp.broadcast_to(shown[:, None, None], truth.shape)
    void = counted & (truth == ignore) if ignore is not None else jnp.zeros(truth.shape, bool)
    known = counted & ~void & (truth >= 0) & (truth < classes)
    found = (predicted >= 0) & (predicted < classes)
    images = jnp.sum(shown, dtype=jnp.int32)
    return Pixels(images, known & found, void, known & ~found, counted & ~void & ~known)


def init(classes: int) -> ConfusionSums:
    """Counts of no images; 8 classes**2 bytes. Raises ``UserError`` below two classes."""
    refuse_few(classes)
    none = jnp.zeros((), jnp.int32)
    return ConfusionSums(none, wide_count.zero(classes, classes), *(wide_count.zero() for _ in range(3)))


def update(
    sums: ConfusionSums,
    predicted: Int[Array, "b h w"],
    truth: Int[Array, "b h w"],
    mask: Bool[Array, " b"] | None = None,
    *,
    ignore: int | None,
) -> ConfusionSums:
    """The counts after adding a batch; compiles, and vmaps over replicas.

    Args:
      sums: of k classes.
      predicted: classes in [0, k); on void pixels anything.
      truth: classes in [0, k), or ``ignore``.
      mask: False excludes an image, as padding, whatever it holds; by default all images are used.
      ignore: the value of void pixels; None if there are none. Images that are padded to a size are padded with it.

    Raises:
      UserError: the batch has more than 2**30 pixels.
    """
    classes = sums.confusion.low.shape[-1]
    pixels = pixels_of(predicted, truth, mask, classes=classes, ignore=ignore)
    row, column = (jnp.where(pixels.valid, of, 0) for of in (truth, predicted))
    counts = jnp.zeros((classes, classes), jnp.int32).at[row, column].add(pixels.valid.astype(jnp.int32))
    return ConfusionSums(
        images=sums.images + pixels.images,
        confusion=wide_count.plus(sums.confusion, counts),
        void=wide_count.plus_true(sums.void, pixels.void),
        not_class=wide_count.plus_true(sums.not_class, pixels.not_class),
        unknown=wide_count.plus_true(sums.unknown, pixels.unknown),
    )


def merge(one: ConfusionSums, other: ConfusionSums) -> ConfusionSums:
    """The merged counts of two disjoint sets of images."""
    return wide_count.together(one, other)


def compute(sums: ConfusionSums) -> SegmentationScores:
    """The metrics from the counts, in float64 on the host.

    Raises:
      UserError: no pixel was evaluated, a prediction was not a class, or a truth neither a class nor void.
    """
    classes = sums.confusion.low.shape[-1]
    refuse_unknown(sums.not_class, sums.unknown, classes)
    confusion, void = wide_count.value(sums.confusion), int(wide_count.value(sums.void))
    if not confusion.sum():
        raise UserError(
            f"the segmentation was shown {int(sums.images):,} images without a pixel of a known class, so there is no "
            "IoU: evaluate at least one image that is not all void"
        )
    return _of_confusion(confusion, images=int(sums.images), void=void)


def refuse_few(classes: int) -> None:
    """Raise ``UserError`` below two classes, of which there is nothing to evaluate."""
    if classes < 2:
        raise UserError(f"a segmentation is evaluated on at least 2 classes, not {classes}: add the background")


def refuse_unknown(not_class: wide_count.WideCount, unknown: wide_count.WideCount, classes: int) -> None:
    """Raise ``UserError`` if a prediction was not a class, or a truth neither a class nor void."""
    wrong, strange = (int(wide_count.value(of)) for of in (not_class, unknown))
    if wrong:
        raise UserError(
            f"{wrong:,} pixels are predicted to be of classes outside [0, {classes}): evaluate with the number of "
            "classes of the model"
        )
    if strange:
        raise UserError(
            f"{strange:,} pixels have classes outside [0, {classes}) that are not the value of void either: give the "
            "number of classes of the data, and the value that means void"
        )


def _of_confusion(confusion: Int[np.ndarray, "k k"], *, images: int, void: int) -> SegmentationScores:
    right, truths, predictions = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    union = truths + predictions - right
    share = lambda total: np.divide(right, total, out=np.full(len(right), np.nan), where=total > 0)
    class_iou, class_accuracy = share(union), share(truths)
    pixels, present = int(truths.sum()), truths > 0
    return SegmentationScores(
        images=images,
        pixels=pixels,
        void=void,
        mean_iou=float(class_iou[union > 0].mean()),
        pixel_accuracy=int(right.sum()) / pixels,
        mean_accuracy=float(class_accuracy[present].mean()),
        frequency_weighted_iou=float(np.sum(truths[present] / pixels * class_iou[present])),
        scored=int((union > 0).sum()),
        class_iou=class_iou,
        class_accuracy=class_accuracy,
        confusion=confusion,
    )
