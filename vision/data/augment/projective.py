"""Random motions of whole pictures: scale, rotation, shear, perspective, translation and mirror images.

The parts of a motion are 3x3 matrices in the convention of `vision.ops.projective`, so that pictures are sampled once
and boxes follow by the same matrix.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from vision.ops.projective import compose, matrix


def random_motions(
    centre: Float[Array, "b 2"],
    side: int,
    size: int,
    *,
    degrees: float = 0.0,
    translate: float = 0.0,
    scale: float = 0.0,
    shear: float = 0.0,
    perspective: float = 0.0,
    flip: float = 0.0,
    flip_vertical: float = 0.0,
    key: Key[Array, ""],
) -> Float[Array, "b 3 3"]:
    """Matrices that move pictures about their centres and show what is around these in a window.

    By default nothing moves. Without rotation, shear and perspective the matrices only stretch, mirror and move along
    the axes.

    Args:
      centre: the point (x, y) of each picture that comes to the window's centre, but for the translation.
      side: so many pixels of a picture fill the window where the scale is 1.
      size: side of the window in pixels.
      degrees: largest rotation either way.
      translate: largest move either way along both axes, as a share of the window's side.
      scale: the factor of size is drawn evenly from [1 - scale, 1 + scale]; less than 1.
      shear: largest angle in degrees of the shears along both axes; less than 45.
      perspective: the largest change of w, from 1, at a distance of ``side`` from the centre along either axis; where
        w is 1 + p, things look as if they were 1 + p times as far away. Less than 0.5 if nothing within ``side`` of the
        centre along both axes shall be behind the horizon.
      flip: probability of a mirror image, left to right.
      flip_vertical: probability of a mirror image, top to bottom.
      key: one for the batch; each part draws from its own, so that turning one on changes no draw of another.

    Returns:
      from a position in the picture to one in the window: perspective first, then rotation and scale, shear, mirror
      image, translation.
    """
    keys = jax.random.split(key, 7)
    count = centre.shape[0]
    spread = lambda key, most: jax.random.uniform(key, (2, count), minval=-most, maxval=most)
    sign = lambda key, chance: jnp.where(jax.random.uniform(key, (count,)) < chance, -1.0, 1.0)
    tilt = spread(keys[0], perspective) / side
    angle = jnp.deg2rad(spread(keys[1], degrees)[0])
    factor = (size / side) * (1.0 + spread(keys[2], scale)[0])
    slant = jnp.tan(jnp.deg2rad(spread(keys[3], shear)))
    move = size * (0.5 + spread(keys[6], translate))
    cos, sin = factor * jnp.cos(angle), factor * jnp.sin(angle)
    return compose(
        matrix(c=move[0], f=move[1]),
        matrix(a=sign(keys[4], flip), e=sign(keys[5], flip_vertical)),
        matrix(b=slant[0], d=slant[1]),
        matrix(a=cos, b=-sin, d=sin, e=cos),
        matrix(g=tilt[0], h=tilt[1]),
        matrix(c=-centre[:, 0], f=-centre[:, 1]),
    )
