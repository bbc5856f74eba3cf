"""Accuracy, cross-entropy and the confusion matrix of a classifier, as sums over batches.

``init`` gives empty sums, ``update`` adds a batch on the device, ``merge`` joins disjoint sets of images, and
``compute`` divides at the end, in float64 on the host. Counts are int32 and exact, so batches of any size, padding and
any sharding give the same numbers to the last digit; they are valid for up to 2**31 - 1 images. The sum of
cross-entropies is float32 within a batch (a relative error of at most b 2**-24, since no term is negative) and is exact
between batches (`vision.metrics.running_sum`).
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from vision.errors import UserError
from vision.metrics import running_sum

_TOP = 5


class ClassificationSums(struct.PyTreeNode):
    """Sums without masked images; rejected images are only in the last two.

    Attributes:
      count: int32 [], Images evaluated.
      top1: int32 [], images whose label is among the top 1.
      top5: int32 [], images whose label is among the top min(5, k).
      confusion: int32 [k k], rows the true class, columns the first class with the largest logit.
      nats: `running_sum.RunningSum` [], cross-entropies in nats.
      not_finite: int32 [], images rejected because a logit is not finite.
      unknown: int32 [], images rejected because their label is not a class.
    """

    # Types are not checked, since the fields may also be shapes or shardings.
    count: Any
    top1: Any
    top5: Any
    confusion: Any
    nats: running_sum.RunningSum
    not_finite: Any
    unknown: Any


@dataclass(frozen=True, eq=False)
class Classification:
    """The metrics of a classifier, by `compute`; fractions are in [0, 1]."""

    count: int
    """Images evaluated."""
    top1_accuracy: float
    """Fraction of images whose label is the most likely class."""
    top5_accuracy: float
    """Fraction of images whose label is among the min(5, k) most likely classes."""
    cross_entropy: float
    """Mean of -log p(label), in nats."""
    macro_accuracy: float
    """Mean of ``class_accuracy`` over the classes that have images."""
    macro_f1: float
    """Mean F1 over the ``scored`` classes."""
    scored: int
    """How many classes are the label or the prediction of any image."""
    class_accuracy: Float[np.ndarray, " k"]
    """Fraction of the images of each class for which it is predicted; nan for a class without images."""
    confusion: Int[np.ndarray, "k k"]
    """int64, images by true class (row) and predicted class (column)."""

    def scalars(self) -> dict[str, float]:
        """The numbers for the record; top 5 is left out where there are at most five classes and it is always 1."""
        names = ("top1_accuracy", "top5_accuracy", "cross_entropy", "macro_accuracy", "macro_f1")
        few = len(self.class_accuracy) <= _TOP
        return {name: getattr(self, name) for name in names if not (few and name == "top5_accuracy")}

    def protocol(self, data: str) -> dict[str, str]:
        """A description of how each scalar was computed; ``data`` describes the images."""
        classes = len(self.class_accuracy)
        present = classes - int(np.isnan(self.class_accuracy).sum())
        on = f"on {self.count:,} images of {data}, {classes} classes"
        of = f"the {present} classes" if present == classes else f"the {present} of {classes} classes that have images"
        wording = {
            "top1_accuracy": f"label has the largest logit, or is the first class of those that have, {on}",
            "top5_accuracy": f"label is among the 5 largest logits, of equal ones the first classes, {on}",
            "cross_entropy": f"mean -log p(label) in nats, {on}",
            "macro_accuracy": f"mean over {of} of the fraction predicted right, {on}",
            "macro_f1": f"mean F1 over the {self.scored} classes that are a label or a prediction, {on}",
        }
        return {name: wording[name] for name in self.scalars()}


def init(classes: int) -> ClassificationSums:
    """Sums of no images. The confusion matrix takes 4 classes**2 bytes. Raises ``UserError`` below two classes."""
    if classes < 2:
        raise UserError(f"a classifier is evaluated on at least 2 classes, not {classes}")
    none = jnp.zeros((), jnp.int32)
    matrix = jnp.zeros((classes, classes), jnp.int32)
    return ClassificationSums(none, none, none, matrix, running_sum.zero(), none, none)


def update(
    sums: ClassificationSums,
    logits: Float[Array, "b k"],
    labels: Int[Array, " b"],
    mask: Bool[Array, " b"] | None = None,
) -> ClassificationSums:
    """The sums after adding a batch; compiles, and vmaps over replicas.

    Classes are ranked by their logits, and by their numbers, the lower first, where logits are equal. So top 1 is the
    argmax, and the accuracy is the share of the diagonal of the confusion matrix.

    Args:
      sums: of k classes.
      logits: unnormalised log-probabilities, in any floating type; computed with in float32.
      labels: classes in [0, k).
      mask: False excludes an image, as padding, whatever its logits and label; by default all images are used.

    Raises:
      UserError: the logits are of another number of classes than the sums.
    """
    classes = sums.confusion.shape[-1]
    if logits.shape[-1] != classes:
        raise UserError(
            f"the logits are of {logits.shape[-1]} classes and the metrics of {classes}: give both the number of "
            "classes of the data"
        )
    counted = jnp.ones(labels.shape, bool) if mask is None else mask
    finite = jnp.isfinite(logits).all(-1)
    known = (labels >= 0) & (labels < classes)
    valid = counted & finite & known
    logits = jnp.where(valid[:, None], logits.astype(jnp.float32), 0.0)
    labels = jnp.where(valid, labels, 0)

    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    earlier = (logits == own) & (jnp.arange(classes) < labels[:, None])
    rank = jnp.sum((logits > own) | earlier, axis=-1)
    predicted = jnp.argmax(logits, axis=-1)
    count = lambda rows: jnp.sum(rows, dtype=jnp.int32)
    return ClassificationSums(
        count=sums.count + count(valid),
        top1=sums.top1 + count(valid & (rank < 1)),
        top5=sums.top5 + count(valid & (rank < min(_TOP, classes))),
        confusion=sums.confusion.at[labels, predicted].add(valid.astype(jnp.int32)),
        nats=running_sum.plus(sums.nats, jnp.sum(jnp.where(valid, _cross_entropy(logits, own[:, 0], predicted), 0.0))),
        not_finite=sums.not_finite + count(counted & ~finite),
        unknown=sums.unknown + count(counted & ~known),
    )


def merge(one: ClassificationSums, other: ClassificationSums) -> ClassificationSums:
    """The merged sums of two disjoint sets of images."""
    names = ("count", "top1", "top5", "confusion", "not_finite", "unknown")
    added = {name: getattr(one, name) + getattr(other, name) for name in names}
    return ClassificationSums(nats=running_sum.together(one.nats, other.nats), **added)


def compute(sums: ClassificationSums) -> Classification:
    """The metrics of a classifier from its sums, in float64 on the host.

    Raises:
      UserError: no image was evaluated, a logit was not finite, or a label was not a class.
    """
    classes = sums.confusion.shape[-1]
    count, not_finite, unknown = (int(n) for n in (sums.count, sums.not_finite, sums.unknown))
    if not_finite:
        raise UserError(
            f"{not_finite:,} images have logits that are not finite, so the classifier cannot be evaluated: look for "
            "an "
            "overflow in the model, or for weights that diverged"
        )
    if unknown:
        raise UserError(f"{unknown:,} images have labels outside [0, {classes}): build the model for all classes")
    if count == 0:
        raise UserError("the classifier was shown no images, so there is no accuracy: evaluate at least one image")
    confusion = np.asarray(sums.confusion, np.int64)
    right, truths, predictions = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    class_accuracy = np.full(classes, np.nan)
    np.divide(right, truths, out=class_accuracy, where=truths > 0)
    # F1 = 2 TP / (2 TP + FP + FN), and the denominator is the number of labels plus that of predictions of a class
    either = truths + predictions
    f1 = 2 * right[either > 0] / either[either > 0]
    return Classification(
        count=count,
        top1_accuracy=int(sums.top1) / count,
        top5_accuracy=int(sums.top5) / count,
        cross_entropy=float(running_sum.value(sums.nats)) / count,
        macro_accuracy=float(np.mean(class_accuracy[truths > 0])),
        macro_f1=float(np.mean(f1)),
        scored=len(f1),
        class_accuracy=class_accuracy,
        confusion=confusion,
    )


def _cross_entropy(
    logits: Float[Array, "b k"], own: Float[Array, " b"], predicted: Int[Array, " b"]
) -> Float[Array, " b"]:
    """-log p(label) = z_max - z_label + log(1 + sum over the other classes of exp(z - z_max)).

    Without the 1 inside the sum a nearly certain prediction keeps its digits: 1e-12 nats do not round to 0.
    """
    top = jnp.max(logits, axis=-1)
    others = jnp.where(jnp.arange(logits.shape[-1]) == predicted[:, None], 0.0, jnp.exp(logits - top[:, None]))
    return top - own + jnp.log1p(jnp.sum(others, axis=-1))
