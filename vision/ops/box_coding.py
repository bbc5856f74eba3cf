"""Boxes as offsets from reference boxes, which is what region-based detectors predict.

Girshick et al. 2014, "Rich feature hierarchies", appendix C:
t_x = (x - x_a) / w_a, t_y = (y - y_a) / h_a, t_w = log(w / w_a), t_h = log(h / h_a), of centres and sides, each times a
weight, which the published networks choose so that the offsets have about unit variance.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from vision.ops.boxes import centre_size_to_corners, corners_to_centre_size

Weights = tuple[float, float, float, float]

LARGEST = math.log(1000.0 / 16)
"""Of log(w / w_a) and log(h / h_a), so that the exponential of a prediction stays finite, as published."""


def encode(
    boxes: Float[Array, "... 4"], references: Float[Array, "... 4"], *, weights: Weights = (1.0, 1.0, 1.0, 1.0)
) -> Float[Array, "*b 4"]:
    """The offsets of boxes from their references, both corners; not finite where either has no side."""
    own, theirs = corners_to_centre_size(boxes), corners_to_centre_size(references)
    shift = (own[..., :2] - theirs[..., :2]) / theirs[..., 2:]
    return jnp.concatenate([shift, jnp.log(own[..., 2:] / theirs[..., 2:])], axis=-1) * jnp.array(weights)


def decode(
    offsets: Float[Array, "... 4"], references: Float[Array, "... 4"], *, weights: Weights = (1.0, 1.0, 1.0, 1.0)
) -> Float[Array, "*b 4"]:
    """The boxes at these offsets, the inverse of :func:`encode` up to sides of 62.5 times the reference's."""
    offsets = offsets / jnp.array(weights)
    theirs = corners_to_centre_size(references)
    centre = theirs[..., :2] + offsets[..., :2] * theirs[..., 2:]
    sides = jnp.exp(jnp.minimum(offsets[..., 2:], LARGEST)) * theirs[..., 2:]
    return centre_size_to_corners(jnp.concatenate([centre, sides], axis=-1))
