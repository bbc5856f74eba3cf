"""Boxes in the plane: their two forms, areas, and measures of similarity (IoU, GIoU, DIoU, CIoU).

A box is (x0, y0, x1, y1): its left, upper, right and lower border, in pixels. A box whose right border is left of its
left one, or whose lower border is above its upper one, is empty. The measures of similarity and their gradients are
finite for all boxes within 1e9 pixels of the origin: a quotient whose denominator is below 1e-12 counts as 0. Their
ranges hold for boxes that are not empty; a box may be a line or a point.

The arithmetic is on single borders, not on pairs of them: XLA fuses it then, which on CPU is ten times as fast.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# A smaller denominator counts as 0. Its square, which a gradient divides by, is still a normal float32.
_ZERO = 1e-12


def corners_to_centre_size(boxes: Float[Array, "*b 4"]) -> Float[Array, "*b 4"]:
    """(x0, y0, x1, y1) to (cx, cy, w, h)."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return jnp.concatenate([(low + high) / 2, high - low], axis=-1)


def centre_size_to_corners(boxes: Float[Array, "*b 4"]) -> Float[Array, "*b 4"]:
    """(cx, cy, w, h) to (x0, y0, x1, y1), the inverse of :func:`corners_to_centre_size`."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return jnp.concatenate([centre - half, centre + half], axis=-1)


def area(boxes: Float[Array, "*b 4"]) -> Float[Array, "*b"]:
    """Square pixels; 0 for an empty box."""
    width, height = _sides(boxes)
    return width * height


def clip_to_image(
    boxes: Float[Array, "*b 4"], *, width: Float[Array, "..."] | float, height: Float[Array, "..."] | float
) -> Float[Array, "*b 4"]:
    """Clip boxes to an image of ``width`` and ``height`` pixels; a box outside of it gets a side of 0.

    Both may be arrays that broadcast with the boxes' leading axes.
    """
    bounds = (width, height, width, height)
    return jnp.stack([jnp.clip(boxes[..., k], 0.0, bound) for k, bound in enumerate(bounds)], axis=-1)


def pairwise_iou(a: Float[Array, "*#b n 4"], b: Float[Array, "*#b m 4"]) -> Float[Array, "*b n m"]:
    """:func:`iou` of every box of ``a`` with every box of ``b``."""
    return iou(a[..., :, None, :], b[..., None, :, :])


def iou(a: Float[Array, "*#b 4"], b: Float[Array, "*#b 4"]) -> Float[Array, "*b"]:
    """Intersection over union, in [0, 1]; 0 where the union has no area. Leading axes broadcast."""
    return _union_and_iou(a, b)[1]


def giou(a: Float[Array, "*#b 4"], b: Float[Array, "*#b 4"]) -> Float[Array, "*b"]:
    """Generalised IoU (Rezatofighi et al. 2019, algorithm 1), in [-1, 1]. Leading axes broadcast.

    The share of the smallest enclosing box that neither box covers is subtracted from the IoU.
    """
    union, overlap = _union_and_iou(a, b)
    width, height = _enclosing_sides(a, b)
    hull = width * height
    return overlap - _quotient(hull - union, hull)


def diou(a: Float[Array, "*#b 4"], b: Float[Array, "*#b 4"]) -> Float[Array, "*b"]:
    """Distance IoU (Zheng et al. 2020, equations 5 to 7), in [-1, 1]. Leading axes broadcast.

    The squared distance of the centres, over the squared diagonal of the smallest enclosing box, is subtracted from
    the IoU.
    """
    return iou(a, b) - _distance(a, b)


def ciou(a: Float[Array, "*#b 4"], b: Float[Array, "*#b 4"]) -> Float[Array, "*b"]:
    """Complete IoU (Zheng et al. 2020, equations 8 to 11), in [-2, 1]. Leading axes broadcast.

    DIoU less a penalty for different aspect ratios. Its weight alpha is a constant to the gradient, as in the paper.
    The derivative of the aspect ratio is exact; the paper's experiments omit its factor 1 / (w^2 + h^2). A box without
    width and height has no aspect ratio, and no penalty.
    """
    overlap = iou(a, b)
    # equation 9: v = 4 / pi^2 (arctan(w_gt / h_gt) - arctan(w / h))^2
    v = 4 / jnp.pi**2 * _angle_between_diagonals(a, b) ** 2
    # equation 11: alpha = v / ((1 - IoU) + v)
    alpha = jax.lax.stop_gradient(_quotient(v, (1 - overlap) + v))
    return overlap - _distance(a, b) - alpha * v


def _sides(boxes: Float[Array, "*b 4"]) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """Width and height, 0 where negative."""
    x0, y0, x1, y1 = (boxes[..., k] for k in range(4))
    return jnp.maximum(x1 - x0, 0.0), jnp.maximum(y1 - y0, 0.0)


def _union_and_iou(a: Float[Array, "*#b 4"], b: Float[Array, "*#b 4"]) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """The area of the union, and the intersection's share of it."""
    low = lambda k: jnp.maximum(a[..., k], b[..., k])
    high = lambda k: jnp.minimum(a[..., k], b[..., k])
    intersection = jnp.maximum(high(2) - low(0), 0.0) * jnp.maximum(high(3) - low(1), 0.0)
    union = area(a) + area(b) - intersection
    return union, _quotient(intersection, union)


def _enclosing_sides(
    a: Float[Array, "*#b 4"], b: Float[Array, "*#b 4"]
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """Width and height of the smallest box around two."""
    low = lambda k: jnp.minimum(a[..., k], b[..., k])
    high = lambda k: jnp.maximum(a[..., k], b[..., k])
    return jnp.maximum(high(2) - low(0), 0.0), jnp.maximum(high(3) - low(1), 0.0)


def _distance(a: Float[Array, "*#b 4"], b: Float[Array, "*#b 4"]) -> Float[Array, "*b"]:
    """The squared distance of the centres over the squared diagonal of the enclosing box (equation 6), in [0, 1]."""
    offset = lambda k: (a[..., k] + a[..., k + 2] - b[..., k] - b[..., k + 2]) / 2
    width, height = _enclosing_sides(a, b)
    return _quotient(offset(0) ** 2 + offset(1) ** 2, width**2 + height**2)


def _angle_between_diagonals(a: Float[Array, "*#b 4"], b: Float[Array, "*#b 4"]) -> Float[Array, "*b"]:
    """arctan(w_a / h_a) - arctan(w_b / h_b); 0 if either box is a point, which has no such angle, nor a derivative."""
    (width_a, height_a), (width_b, height_b) = _sides(a), _sides(b)
    extended = (width_a**2 + height_a**2 > _ZERO) & (width_b**2 + height_b**2 > _ZERO)
    angle = lambda width, height: jnp.arctan2(width, jnp.where(extended, height, 1.0))
    return jnp.where(extended, angle(width_a, height_a) - angle(width_b, height_b), 0.0)


def _quotient(numerator: Float[Array, "*b"], denominator: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """0 where the denominator is (nearly) 0; the inner `where` keeps the gradient of that branch finite."""
    defined = denominator > _ZERO
    return jnp.where(defined, numerator / jnp.where(defined, denominator, 1.0), 0.0)
