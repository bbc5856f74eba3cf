"""Which of many overlapping boxes to keep: greedy non-maximum suppression, matrix NMS (of masks too) and soft-NMS.

All compile, with shapes that depend only on shapes, and can be vmapped over images. They take n boxes with scores
and return indices in descending order of scores; among equal scores the lower index goes first. Scores that are NaN,
-inf or below the threshold are never kept. With labels, boxes suppress only boxes of the same label. Memory is O(n),
never O(n^2). No boxes (n = 0) and n < ``max_detections`` are fine.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Shaped

from vision.ops.boxes import iou, pairwise_iou

# Boxes per block. Larger blocks mean fewer rounds and more work in each; measured on CPU.
_BLOCK = 256

Number = float | Float[Array, ""]
Decay = Callable[[Float[Array, "..."]], Float[Array, "..."]]
"""From an IoU to the factor of a score: 1 at an IoU of 0, decreasing, never negative."""


class Kept(NamedTuple):
    """The kept boxes, in descending order of scores; valid entries come first."""

    index: Int[Array, " max_detections"]
    """Indices into the boxes; 0 where not valid."""
    valid: Bool[Array, " max_detections"]
    """Whether the entry is a box."""


class Rescored(NamedTuple):
    """The kept boxes after decay, in descending order of decayed scores; valid entries come first."""

    index: Int[Array, " max_detections"]
    """Indices into the boxes; 0 where not valid."""
    score: Float[Array, " max_detections"]
    """The decayed score; 0 where not valid."""
    valid: Bool[Array, " max_detections"]
    """Whether the entry is a box."""


def gaussian_decay(overlap: Float[Array, "*b"], *, sigma: Number = 0.5) -> Float[Array, "*b"]:
    """exp(-IoU^2 / sigma): Bodla et al. 2017, section 3, and Wang et al. 2020, "Matrix NMS"."""
    return jnp.exp(-(overlap**2) / sigma)


def linear_decay(overlap: Float[Array, "*b"], *, threshold: Number = 0.0) -> Float[Array, "*b"]:
    """1 - IoU from the threshold on, 1 below it.

    Bodla et al. 2017, section 3, has a threshold (0.3 in its experiments), Wang et al. 2020 none.
    """
    return jnp.where(overlap >= threshold, 1.0 - overlap, 1.0)


def non_maximum_suppression(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, " n"],
    *,
    labels: Int[Array, " n"] | None = None,
    iou_threshold: Number,
    score_threshold: Number,
    max_detections: int,
) -> Kept:
    """Greedy suppression: repeatedly keep the best remaining box and drop those that overlap it too much.

    The result is that of the sequential algorithm. It is computed in blocks of descending scores: a block drops boxes
    suppressed by earlier ones, then resolves the others. Blocks beyond the last kept box are skipped.

    Args:
      boxes: corners (x0, y0, x1, y1).
      scores: larger is better.
      labels: boxes suppress only those of their label; None for a single label.
      iou_threshold: boxes with an IoU above it with a kept one are dropped; in [0, 1].
      score_threshold: boxes with a score below it are dropped.
      max_detections: maximum number of boxes to keep.
    """
    boxes, scores, labels = _candidates(boxes, scores, labels, score_threshold)
    size = min(_BLOCK, len(scores))
    slots = jnp.arange(max_detections)

    def unfinished(carry):
        left, count, *_ = carry
        return (count < max_detections) & (jnp.max(left) > -jnp.inf)

    def block(carry):
        left, count, index = carry
        score, at = lax.top_k(left, size)
        suppressed = _overlap(boxes[index], labels[index], boxes[at], labels[at]) > iou_threshold
        alive = (score > -jnp.inf) & ~jnp.any(suppressed & (slots < count)[:, None], axis=0)
        within = _overlap(boxes[at], labels[at], boxes[at], labels[at]) > iou_threshold
        kept = _greedy(alive, jnp.triu(within, 1))
        # boxes that are not kept, or beyond the maximum, are written past the end
        slot = jnp.where(kept, count + jnp.cumsum(kept) - 1, max_detections)
        left = left.at[at].set(-jnp.inf)
        return left, count + jnp.sum(kept), index.at[slot].set(at, mode="drop")

    _, count, index = lax.while_loop(unfinished, block, (scores, jnp.int32(0), jnp.zeros(max_detections, jnp.int32)))
    return Kept(index, slots < count)


def matrix_nms(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, " n"],
    *,
    labels: Int[Array, " n"] | None = None,
    decay: Decay = gaussian_decay,
    score_threshold: Number,
    max_detections: int,
) -> Rescored:
    """Matrix NMS (Wang et al. 2020, "SOLOv2", the section of that name): all scores decay at once.

    A score decays by the overlap with each better box, less if that box is itself overlapped by a better one. The work
    is O(n^2) for the n boxes above the threshold; the paper uses the best 500.

    Args:
      boxes: corners (x0, y0, x1, y1).
      scores: larger is better; those from the threshold on are finite and not negative.
      labels: boxes decay only by those of their label; None for a single label.
      decay: f of the paper, :func:`gaussian_decay` or :func:`linear_decay` or similar.
      score_threshold: boxes with a decayed score below it are dropped.
      max_detections: maximum number of boxes to keep.
    """
    return _matrix_nms(boxes, scores, labels, pairwise_iou, decay, score_threshold, max_detections)


def mask_matrix_nms(
    masks: Bool[Array, "n h w"],
    scores: Float[Array, " n"],
    *,
    labels: Int[Array, " n"] | None = None,
    decay: Decay = gaussian_decay,
    score_threshold: Number,
    max_detections: int,
) -> Rescored:
    """:func:`matrix_nms` by the IoU of masks in place of that of boxes, as in the paper.

    The overlaps of two blocks of masks are one product of matrices, float32 while it is computed. An empty mask
    overlaps nothing.

    Args:
      masks: whether each pixel is of the object; of at most 2^24 pixels, so that float32 counts them.
      scores: larger is better; those from the threshold on are finite and not negative.
      labels: masks decay only by those of their label; None for a single label.
      decay: f of the paper, :func:`gaussian_decay` or :func:`linear_decay` or similar.
      score_threshold: masks with a decayed score below it are dropped.
      max_detections: maximum number of masks to keep.
    """

    def overlaps(one, other):
        one, other = one.astype(jnp.float32), other.astype(jnp.float32)
        shared = one @ other.T
        union = jnp.sum(one, axis=1)[:, None] + jnp.sum(other, axis=1) - shared
        return shared / jnp.maximum(union, 1.0)

    flat = masks.reshape(len(masks), masks.shape[1] * masks.shape[2])
    return _matrix_nms(flat, scores, labels, overlaps, decay, score_threshold, max_detections)


def soft_nms(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, " n"],
    *,
    labels: Int[Array, " n"] | None = None,
    decay: Decay = gaussian_decay,
    score_threshold: Number,
    max_detections: int,
) -> Rescored:
    """Soft-NMS (Bodla et al. 2017, figure 2): repeatedly keep the best box and decay the scores of the others.

    At most ``max_detections`` rounds, each of O(n).

    Args:
      boxes: corners (x0, y0, x1, y1).
      scores: larger is better; those from the threshold on are finite and not negative.
      labels: boxes decay only by those of their label; None for a single label.
      decay: f of the paper, :func:`gaussian_decay` or :func:`linear_decay` or similar.
      score_threshold: boxes whose score falls below it are dropped.
      max_detections: maximum number of boxes to keep.
    """
    boxes, scores, labels = _candidates(boxes, scores, labels, score_threshold)

    def unfinished(carry):
        left, count, *_ = carry
        return (count < max_detections) & (jnp.max(left) > -jnp.inf)

    def pick(carry):
        left, count, index, score = carry
        best = jnp.max(left)
        # the first of the best; on CPU twice as fast as argmax
        at = jnp.min(jnp.where(left == best, jnp.arange(len(left)), len(left)))
        factor = jnp.where(labels == labels[at], decay(iou(boxes, boxes[at])), 1.0)
        left = _eligible(left * factor, score_threshold).at[at].set(-jnp.inf)
        return left, count + 1, index.at[count].set(at), score.at[count].set(best)

    empty = (jnp.int32(0), jnp.zeros(max_detections, jnp.int32), jnp.full(max_detections, -jnp.inf))
    _, _, index, score = lax.while_loop(unfinished, pick, (scores, *empty))
    return _rescored(index, score, max_detections)


def _block(x: Array, block: Array) -> Array:
    """The part of an array of sorted boxes that is one block of them."""
    return lax.dynamic_slice_in_dim(x, block * _BLOCK, _BLOCK)


def _matrix_nms(
    items: Shaped[Array, "n k"],
    scores: Float[Array, " n"],
    labels: Int[Array, " n"] | None,
    overlaps: Callable[[Array, Array], Float[Array, "_ _"]],
    decay: Decay,
    threshold: Number,
    max_detections: int,
) -> Rescored:
    """Matrix NMS of boxes or flat masks by the ``overlaps`` of two blocks of them, block by block."""
    items, scores, labels = _candidates(items, scores, labels, threshold, multiple=_BLOCK)
    n = len(scores)
    ranked, order = lax.top_k(scores, n)
    items, labels = items[order], labels[order]

    def overlap(i, j):
        same = _block(labels, i)[:, None] == _block(labels, j)
        return jnp.where(same, overlaps(_block(items, i), _block(items, j)), 0.0)

    put = lambda x, block, part: lax.dynamic_update_slice_in_dim(x, part, block * _BLOCK, axis=0)

    def smallest(overlap, own):
        # Wang et al. 2020: decay_j = min over better i of f(iou_ij) / f(iou_.i). A box i whose score has decayed to
        # zero, f(iou_.i) = 0, does not affect j: the boxes that suppress it do.
        share = decay(overlap) / jnp.where(own > 0, own, 1.0)[:, None]
        return jnp.min(jnp.where((own > 0)[:, None], share, 1.0), axis=0)

    def column(j, carry):
        """Resolve block j by all blocks i <= j, of which the earlier ones are resolved."""
        own, factor = carry

        def tile(i, carry):
            largest, least = carry
            part = overlap(i, j)
            return jnp.maximum(largest, jnp.max(part, axis=0)), jnp.minimum(least, smallest(part, _block(own, i)))

        largest, least = lax.fori_loop(0, j, tile, (jnp.zeros(_BLOCK), jnp.ones(_BLOCK)))
        within = jnp.triu(overlap(j, j), 1)
        # Wang et al. 2020: f(iou_.j) = min over better k of f(iou_kj), which is f of the largest, since f falls
        settled = decay(jnp.maximum(largest, jnp.max(within, axis=0)))
        least = jnp.minimum(least, smallest(within, settled))
        return put(own, j, settled), put(factor, j, least)

    blocks = -(-jnp.sum(ranked > -jnp.inf) // _BLOCK)
    _, factor = lax.fori_loop(0, blocks, column, (jnp.ones(n), jnp.ones(n)))
    decayed = _eligible(ranked * factor, threshold)
    # back in the order of the boxes, where top_k breaks ties by the lower index
    score, index = lax.top_k(jnp.zeros_like(decayed).at[order].set(decayed), min(max_detections, n))
    return _rescored(index, score, max_detections)


def _candidates(
    boxes: Shaped[Array, "n k"],
    scores: Float[Array, " n"],
    labels: Int[Array, " n"] | None,
    threshold: Number,
    multiple: int = 1,
) -> tuple[Shaped[Array, "m k"], Float[Array, " m"], Int[Array, " m"]]:
    """Boxes or masks, scores with -inf for those that are never kept, and labels, padded to a multiple above 0."""
    n = len(scores)
    padding = max(-n % multiple, multiple if n == 0 else 0)
    labels = jnp.zeros(n, jnp.int32) if labels is None else labels
    return (
        jnp.pad(boxes, ((0, padding), (0, 0))),
        jnp.pad(_eligible(scores, threshold), (0, padding), constant_values=-jnp.inf),
        jnp.pad(labels, (0, padding)),
    )


def _eligible(scores: Float[Array, " n"], threshold: Number) -> Float[Array, " n"]:
    """Scores, -inf where NaN or below the threshold."""
    # top_k ranks -0 below 0, although they are equal
    return jnp.where(scores >= threshold, jnp.where(scores == 0, 0.0, scores), -jnp.inf)


def _overlap(
    a: Float[Array, "n 4"], label_a: Int[Array, " n"], b: Float[Array, "m 4"], label_b: Int[Array, " m"]
) -> Float[Array, "n m"]:
    """IoU of boxes with the same label, 0 otherwise."""
    return jnp.where(label_a[:, None] == label_b, pairwise_iou(a, b), 0.0)


def _greedy(alive: Bool[Array, " n"], suppresses: Bool[Array, "n n"]) -> Bool[Array, " n"]:
    """Which boxes are kept if each kept box drops the later ones that it suppresses.

    Repeats "kept if alive and not suppressed by one kept" until nothing changes. The first k boxes are final after at
    most k rounds, so this terminates with the result of the sequential algorithm, since by induction there is only one
    fixed point. The number of rounds is the length of the longest chain of suppressions, usually small.
    """
    step = lambda kept: alive & ~jnp.any(suppresses & kept[:, None], axis=0)
    carry = (alive, step(alive))
    return lax.while_loop(lambda pair: jnp.any(pair[0] != pair[1]), lambda pair: (pair[1], step(pair[1])), carry)[1]


def _rescored(index: Int[Array, " k"], score: Float[Array, " k"], max_detections: int) -> Rescored:
    """``max_detections`` entries from k <= ``max_detections``; a score of -inf is not a box."""
    valid = score > -jnp.inf
    filled = Rescored(jnp.where(valid, index, 0), jnp.where(valid, score, 0.0), valid)
    return Rescored(*(jnp.pad(x, (0, max_detections - len(score))) for x in filled))
