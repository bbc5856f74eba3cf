"""How well anchor boxes fit the boxes of a data set, and anchors that fit them better.

An anchor (width, height) answers for a box if neither side is ``threshold`` times the other's or more, the rule of
`vision.tasks.anchor_assignment`; a box that no anchor answers for is never learned. Anchors come from k-means, as in
Redmon & Farhadi 2017 (YOLO9000, section 2, "Dimension Clusters"), and are then mutated for that rule.

Sizes are (width, height) in pixels of the image as the network sees it.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.cluster.vq import kmeans2

from vision.errors import UserError

SMALL = 3.0
"""Pixels. Boxes with a side below are left out of the fit and of the report: little of them is left in the features."""
ENOUGH = 0.98
"""Best possible recall below which anchors should be fitted anew."""

Sizes = Float[np.ndarray, "n 2"]
Anchors = Float[np.ndarray, "k 2"]


def mismatch(sizes: Sizes, anchors: Anchors) -> Float[np.ndarray, "n k"]:
    """max(w / aw, aw / w, h / ah, ah / h) of each box with each anchor, at least 1; sides must be positive.

    Raises:
      UserError: if there are no boxes, of which nothing here can be said.
    """
    if not len(sizes):
        raise UserError("There are no boxes to compare with the anchors: check the annotations.")
    width, height = (sizes[:, None, k] / anchors[:, k] for k in range(2))
    return np.maximum(np.maximum(width, 1 / width), np.maximum(height, 1 / height))


def fitness(sizes: Sizes, anchors: Anchors, threshold: float = 4.0) -> float:
    """The mean over boxes of their likeness with the best anchor, in [0, 1].

    The likeness is min(w / aw, aw / w, h / ah, ah / h), or 0 where the anchor does not answer for the box.
    """
    best = mismatch(sizes, anchors).min(axis=1)
    return float(np.where(best < threshold, 1 / best, 0.0).mean())


def best_possible_recall(sizes: Sizes, anchors: Anchors, threshold: float = 4.0) -> float:
    """The share of boxes that some anchor answers for, in [0, 1]."""
    return float((mismatch(sizes, anchors).min(axis=1) < threshold).mean())


def anchors_per_box(sizes: Sizes, anchors: Anchors, threshold: float = 4.0) -> float:
    """How many anchors answer for a box, in the mean."""
    return float((mismatch(sizes, anchors) < threshold).sum(axis=1).mean())


def fit_anchors(
    sizes: Sizes,
    count: int = 9,
    *,
    seed: int,
    generations: int = 1000,
    threshold: float = 4.0,
    sample: int = 20_000,
) -> Float[np.ndarray, "{count} 2"]:
    """Anchors for a data set, float32, by rising area: k-means, then mutations that are kept if the fitness rises.

    Args:
      sizes: of the boxes; those with a side below ``SMALL`` are left out.
      count: how many anchors.
      seed: of the sample, of the first centres and of the mutations.
      generations: how many mutations are tried; none leaves what k-means found.
      threshold: see the module.
      sample: how many boxes are looked at; of larger data sets as many are drawn at random.

    Raises:
      UserError: if sizes are not finite, or there are too few of them or of different ones.
    """
    sizes = _large(sizes)
    random = np.random.default_rng(seed)
    if len(sizes) > sample:
        sizes = random.choice(sizes, sample, replace=False)
    different = len(np.unique(sizes, axis=0))
    if different < count:
        raise UserError(
            f"{count} anchors cannot be fitted to {different} different sizes of boxes of at least {SMALL:g} pixels: "
            "give more boxes or ask for fewer anchors."
        )
    deviation = sizes.std(axis=0)
    deviation[deviation == 0] = 1.0
    points = sizes / deviation
    first = _first_centres(points, count, random)
    with warnings.catch_warnings():
        # A cluster may run empty: its centre stays, and is mutated like the others
        warnings.filterwarnings("ignore", "One of the clusters is empty")
        centres, _ = kmeans2(points, first, iter=30, minit="matrix")
    anchors = _mutated(sizes, centres * deviation, random, generations, threshold)
    return anchors[np.argsort(anchors.prod(axis=1), kind="stable")].astype(np.float32)


def _first_centres(points: Sizes, count: int, random: np.random.Generator) -> Float[np.ndarray, "{count} 2"]:
    """Points far from each other: each is drawn in proportion to its squared distance to the nearest one before.

    Arthur & Vassilvitskii 2007 ("k-means++", section 2.2). Here, as the argument of scipy's that makes its own
    reproducible has changed its name.
    """
    centres = [random.choice(points)]
    squared = np.full(len(points), np.inf)
    while len(centres) < count:
        squared = np.minimum(squared, ((points - centres[-1]) ** 2).sum(axis=1))
        centres.append(random.choice(points, p=squared / squared.sum()))
    return np.stack(centres)


def _mutated(
    sizes: Sizes, anchors: Anchors, random: np.random.Generator, generations: int, threshold: float
) -> Anchors:
    """An evolution strategy of one parent and one child, with steps by the 1/5 rule (Rechenberg 1973)."""
    best, step = fitness(sizes, anchors, threshold), 0.1
    for _ in range(generations):
        # A few of the sides, each multiplied: the fitness is about ratios
        changed = random.random(anchors.shape) < 2 / anchors.size
        child = anchors * np.exp(step * changed * random.normal(size=anchors.shape))
        score = fitness(sizes, child, threshold)
        if score > best:
            anchors, best = child, score
            step = min(step * 1.5, 0.5)
        else:
            # Four failures undo one success, so that one child in five succeeds
            step = max(step / 1.5**0.25, 0.01)
    return anchors


@dataclass(frozen=True)
class AnchorReport:
    """How well anchors fit the boxes of a data set; printed, it is for people."""

    anchors: tuple[tuple[float, float], ...]
    """Widths and heights in pixels."""
    threshold: float
    """See the module."""
    boxes: int
    """Boxes that were looked at."""
    small: int
    """Boxes left out, with a side below ``SMALL``."""
    recall: float
    """:func:`best_possible_recall`."""
    per_box: float
    """:func:`anchors_per_box`."""
    fitness: float
    """:func:`fitness`."""

    @property
    def refit(self) -> bool:
        """Whether the anchors should be fitted anew."""
        return self.recall < ENOUGH

    def __str__(self) -> str:
        """Six lines."""
        left_out = f" ({self.small:,} with a side below {SMALL:g} pixels left out)" if self.small else ""
        # Cut, not rounded: what is below ENOUGH must not read as if it were not
        recall = np.floor(self.recall * 1e4) / 1e2
        advice = (
            f"Below {100 * ENOUGH:g} %: fit anchors to this data, or the boxes that are left over are never learned."
            if self.refit
            else f"The anchors fit: a refit is due below a best possible recall of {100 * ENOUGH:g} %."
        )
        return "\n".join(
            [
                f"{len(self.anchors)} anchors, {self.boxes:,} boxes{left_out}",
                "  anchors: " + ", ".join(f"{width:.4g} x {height:.4g}" for width, height in self.anchors),
                f"  best possible recall: {recall:.2f} % of the boxes have an anchor with no side {self.threshold:g} "
                "times the other's or more",
                f"  anchors per box: {self.per_box:.2f}",
                f"  fitness: {self.fitness:.4f} (1 is an anchor for each box)",
                advice,
            ]
        )


def anchor_report(sizes: Sizes, anchors: Anchors, threshold: float = 4.0) -> AnchorReport:
    """How well ``anchors`` fit all boxes but those with a side below ``SMALL``.

    Raises:
      UserError: if sizes are not finite, or none is left.
    """
    large = _large(sizes)
    return AnchorReport(
        anchors=tuple((float(width), float(height)) for width, height in anchors),
        threshold=threshold,
        boxes=len(large),
        small=len(sizes) - len(large),
        recall=best_possible_recall(large, anchors, threshold),
        per_box=anchors_per_box(large, anchors, threshold),
        fitness=fitness(large, anchors, threshold),
    )


def _large(sizes: Sizes) -> Float[np.ndarray, "large 2"]:
    """Sizes with both sides of ``SMALL`` pixels or more, as float64; at least one."""
    if not np.isfinite(sizes).all():
        raise UserError("The sizes of the boxes hold numbers that are not finite: check the annotations.")
    large = sizes[(sizes >= SMALL).all(axis=1)].astype(np.float64)
    if not len(large):
        raise UserError(
            f"There are no boxes to fit anchors to: of {len(sizes)} none has both sides of at least {SMALL:g} pixels."
        )
    return large
