"""How well anchor boxes fit the boxes of a data set, and anchors that fit them better.

An anchor (width, height) matches a box if the ratio of their widths and that of their heights, larger to smaller, are
below ``threshold``, the rule of `vision.tasks.anchor_assignment`; a box that no anchor matches is never learned.
Anchors come from k-means, as in Redmon & Farhadi 2017 (YOLO9000, section 2, "Dimension Clusters"), and are then refined
for that rule by an evolution strategy.

Sizes are (width, height) in pixels of the image as the network sees it.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from vision.errors import UserError

MIN_SIDE = 3.0
"""Pixels. Boxes with a shorter side are left out of the fit and of the report: they nearly vanish in the features."""
MIN_RECALL = 0.98
"""Best possible recall below which new anchors should be fitted."""

Sizes = Float[np.ndarray, "n 2"]
Anchors = Float[np.ndarray, "k 2"]


def mismatch(sizes: Sizes, anchors: Anchors) -> Float[np.ndarray, "n k"]:
    """max(w / aw, aw / w, h / ah, ah / h) of each box with each anchor, at least 1; sides must be positive.

    Raises:
      UserError: if there are no boxes.
    """
    if not len(sizes):
        raise UserError("There are no boxes to compare with the anchors: check the annotations.")
    width, height = (sizes[:, None, k] / anchors[:, k] for k in range(2))
    return np.maximum(np.maximum(width, 1 / width), np.maximum(height, 1 / height))


def fitness(sizes: Sizes, anchors: Anchors, threshold: float = 4.0) -> float:
    """The mean over boxes of their similarity to the best anchor, in [0, 1].

    The similarity is min(w / aw, aw / w, h / ah, ah / h), or 0 where the anchor does not match the box.
    """
    best = mismatch(sizes, anchors).min(axis=1)
    return float(np.where(best < threshold, 1 / best, 0.0).mean())


def best_possible_recall(sizes: Sizes, anchors: Anchors, threshold: float = 4.0) -> float:
    """The share of boxes that at least one anchor matches, in [0, 1]."""
    return float((mismatch(sizes, anchors).min(axis=1) < threshold).mean())


def anchors_per_box(sizes: Sizes, anchors: Anchors, threshold: float = 4.0) -> float:
    """The mean number of anchors that match a box."""
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
    """Anchors for a data set, float32, in order of area: k-means, then mutations that are kept if the fitness rises.

    Args:
      sizes: of the boxes; those with a side shorter than ``MIN_SIDE`` are left out.
      count: how many anchors.
      seed: of the sample, of the first centres and of the mutations.
      generations: how many mutations are tried; with 0 the result is that of k-means.
      threshold: see the module's docstring.
      sample: how many boxes are used at most; of larger data sets a random sample of this size is taken.

    Raises:
      UserError: if sizes are not finite, or there are too few distinct ones.
    """
    from scipy.cluster.vq import kmeans2  # takes half a second to import, which no start should wait for

    sizes = _large(sizes)
    random = np.random.default_rng(seed)
    if len(sizes) > sample:
        sizes = random.choice(sizes, sample, replace=False)
    different = len(np.unique(sizes, axis=0))
    if different < count:
        raise UserError(
            f"{count} anchors cannot be fitted to {different} distinct sizes of boxes of at least {MIN_SIDE:g} pixels: "
            "use more boxes or fewer anchors."
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
    """Points far from each other: each is sampled in proportion to its squared distance to the nearest earlier one.

    Arthur & Vassilvitskii 2007 ("k-means++", section 2.2). SciPy has this too, but the name of its seed argument
    differs between versions.
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
        # A few of the sides, each multiplied, since the fitness depends on ratios
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
    """How well anchors fit the boxes of a data set; ``str`` gives a readable summary."""

    anchors: tuple[tuple[float, float], ...]
    """Widths and heights in pixels."""
    threshold: float
    """See the module's docstring."""
    boxes: int
    """Boxes that were used."""
    small: int
    """Boxes left out, with a side shorter than ``MIN_SIDE``."""
    recall: float
    """:func:`best_possible_recall`."""
    per_box: float
    """:func:`anchors_per_box`."""
    fitness: float
    """:func:`fitness`."""

    @property
    def refit(self) -> bool:
        """Whether new anchors should be fitted."""
        return self.recall < MIN_RECALL

    def __str__(self) -> str:
        """Six lines."""
        left_out = f" ({self.small:,} with a side below {MIN_SIDE:g} pixels left out)" if self.small else ""
        # Rounded down, so that a value below MIN_RECALL never looks as if it reached it
        recall = np.floor(self.recall * 1e4) / 1e2
        advice = (
            f"Below {100 * MIN_RECALL:g} %: fit anchors to this data, or the unmatched boxes are never learned."
            if self.refit
            else f"The anchors fit: new ones are needed below a best possible recall of {100 * MIN_RECALL:g} %."
        )
        return "\n".join(
            [
                f"{len(self.anchors)} anchors, {self.boxes:,} boxes{left_out}",
                "  anchors: " + ", ".join(f"{width:.4g} x {height:.4g}" for width, height in self.anchors),
                f"  best possible recall: {recall:.2f} % of the boxes have an anchor whose sides differ by less than a "
                f"factor of {self.threshold:g}",
                f"  anchors per box: {self.per_box:.2f}",
                f"  fitness: {self.fitness:.4f} (1 if every box has an anchor of its size)",
                advice,
            ]
        )


def anchor_report(sizes: Sizes, anchors: Anchors, threshold: float = 4.0) -> AnchorReport:
    """How well ``anchors`` fit all boxes except those with a side below ``MIN_SIDE``.

    Raises:
      UserError: if sizes are not finite, or none is large enough.
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
    """Sizes with both sides of ``MIN_SIDE`` pixels or more, as float64; at least one."""
    if not np.isfinite(sizes).all():
        raise UserError("Some sizes of boxes are not finite: check the annotations.")
    large = sizes[(sizes >= MIN_SIDE).all(axis=1)].astype(np.float64)
    if not len(large):
        raise UserError(
            f"There are no boxes to fit anchors to: of {len(sizes)} none has both sides of at least {MIN_SIDE:g} "
            "pixels."
        )
    return large
