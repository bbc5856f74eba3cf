"""Boundary IoU of a semantic segmentation (Cheng et al. 2021): the IoU of what is near the borders of the classes.

IoU forgives a blurred border of a large object: its area grows with the square of its size, the border does not. Here
the mask of each class is replaced by its border, as wide as 2 % of the image's diagonal (`vision.ops.outlines`), in
truth and prediction, and pixels of all images are counted together: |B(P) and B(T)| / |B(P) or B(T)|.

Cheng et al. define it for one mask, and publish code for instances and panoptic segments, without void within a mask.
Here the prediction is void where the truth is, before borders are found: so what is predicted on void has no effect, a
perfect prediction has 1, and images of several sizes are padded with void. The mean is over the classes that are the
truth or the prediction of any pixel, as in `vision.metrics.segmentation.confusion`.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from vision.errors import UserError
from vision.metrics import wide_count
from vision.metrics.segmentation.confusion import pixels_of, refuse_few, refuse_unknown
from vision.ops.outlines import BOUNDARY_RATIO, label_outlines

_VOID = -1


class BoundarySums(struct.PyTreeNode):
    """Counts without masked images.

    Attributes:
      images: int32 [], images evaluated.
      shared: `wide_count.WideCount` [k], pixels on the border of a class in both.
      either: `wide_count.WideCount` [k], pixels on the border of a class in truth, prediction or both.
      not_class: `wide_count.WideCount` [], pixels outside of void whose prediction is not a class.
      unknown: `wide_count.WideCount` [], pixels whose truth is neither a class nor void.
    """

    # Types are not checked, since the fields may also be shapes or shardings.
    images: Any
    shared: wide_count.WideCount
    either: wide_count.WideCount
    not_class: wide_count.WideCount
    unknown: wide_count.WideCount


@dataclass(frozen=True, eq=False)
class BoundaryScores:
    """Boundary IoU, by `compute`, in [0, 1]."""

    images: int
    """Images evaluated."""
    mean_boundary_iou: float
    """Mean of ``class_boundary_iou`` over the ``scored`` classes."""
    scored: int
    """How many classes are the truth or the prediction of any pixel: each of them has a border."""
    class_boundary_iou: Float[np.ndarray, " k"]
    """Of each class; nan for one that is neither the truth nor the prediction of any pixel."""

    def scalars(self) -> dict[str, float]:
        """The number for the record."""
        return {"mean_boundary_iou": self.mean_boundary_iou}

    def protocol(self, data: str, *, ratio: float = BOUNDARY_RATIO) -> dict[str, str]:
        """A description of how it was computed; ``data`` describes the images, ``ratio`` is that of the distances."""
        words = (
            f"mean over the {self.scored} classes that are the truth or the prediction of any pixel of the IoU of "
            f"their borders, {ratio:.1%} of the diagonal wide, of all pixels together, void in the prediction where "
            f"it is in the truth, on {self.images:,} images of {data}, {len(self.class_boundary_iou)} classes"
        )
        return {"mean_boundary_iou": words}


def init(classes: int) -> BoundarySums:
    """Counts of no images. Raises ``UserError`` below two classes."""
    refuse_few(classes)
    none = jnp.zeros((), jnp.int32)
    return BoundarySums(none, wide_count.zero(classes), wide_count.zero(classes), wide_count.zero(), wide_count.zero())


def update(
    sums: BoundarySums,
    predicted: Int[Array, "b h w"],
    truth: Int[Array, "b h w"],
    distance: Int[Array, " b"],
    mask: Bool[Array, " b"] | None = None,
    *,
    ignore: int | None,
) -> BoundarySums:
    """The counts after adding a batch; compiles, and vmaps over replicas.

    Args:
      sums: of k classes.
      predicted: classes in [0, k); on void pixels anything.
      truth: classes in [0, k), or ``ignore``.
      distance: the width of borders in each image, at least 1, by `vision.ops.outlines.boundary_distance` of the size
        that the image has without padding.
      mask: False excludes an image, as padding, whatever it holds; by default all images are used.
      ignore: the value of void pixels; None if there are none. Images that are padded to a size are padded with it.

    Raises:
      UserError: the batch has more than 2**30 pixels.
    """
    classes = sums.shared.low.shape[-1]
    pixels = pixels_of(predicted, truth, mask, classes=classes, ignore=ignore)
    width = jnp.maximum(distance, 1) if mask is None else jnp.where(mask, jnp.maximum(distance, 1), 1)
    true, found = (jnp.where(pixels.valid, of, _VOID) for of in (truth, predicted))
    on_true, on_found = (label_outlines(of, width) & pixels.valid for of in (true, found))

    def counts(labels: Array, rows: Array) -> Array:
        return jnp.zeros(classes, jnp.int32).at[jnp.where(rows, labels, 0)].add(rows.astype(jnp.int32))

    shared = counts(true, on_true & on_found & (true == found))
    either = counts(true, on_true) + counts(found, on_found) - shared
    return BoundarySums(
        images=sums.images + pixels.images,
        shared=wide_count.plus(sums.shared, shared),
        either=wide_count.plus(sums.either, either),
        not_class=wide_count.plus_true(sums.not_class, pixels.not_class),
        unknown=wide_count.plus_true(sums.unknown, pixels.unknown),
    )


def merge(one: BoundarySums, other: BoundarySums) -> BoundarySums:
    """The merged counts of two disjoint sets of images."""
    return wide_count.together(one, other)


def compute(sums: BoundarySums) -> BoundaryScores:
    """Boundary IoU from the counts, in float64 on the host.

    Raises:
      UserError: no pixel was evaluated, a prediction was not a class, or a truth neither a class nor void.
    """
    shared, either = (wide_count.value(of) for of in (sums.shared, sums.either))
    refuse_unknown(sums.not_class, sums.unknown, len(shared))
    if not either.sum():
        raise UserError(
            f"the segmentation was shown {int(sums.images):,} images without a pixel of a known class, so there is no "
            "boundary IoU: evaluate at least one image that is not all void"
        )
    iou = np.divide(shared, either, out=np.full(len(shared), np.nan), where=either > 0)
    scored = either > 0
    return BoundaryScores(
        images=int(sums.images),
        mean_boundary_iou=float(iou[scored].mean()),
        scored=int(scored.sum()),
        class_boundary_iou=iou,
    )
