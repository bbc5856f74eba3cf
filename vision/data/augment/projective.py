"""Random projective transforms of images: scale, rotation, shear, perspective, translation and flips.

The parts of a transform are 3x3 matrices in the convention of `vision.ops.projective`, so that images are resampled
once and boxes are mapped by the same matrix.
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
    """Matrices that transform images about their centres and map the surroundings of these to an output window.

    By default nothing changes. Without rotation, shear and perspective the matrices only scale, flip and translate
    along the axes.

    Args:
      centre: the point (x, y) of each image that is mapped to the window's centre, before the translation.
      side: the number of pixels of an image that fill the window at a scale of 1.
      size: size of the window in pixels.
      degrees: largest rotation in either direction.
      translate: largest translation along both axes in either direction, as a share of the window's size.
      scale: the scale factor is sampled uniformly from [1 - scale, 1 + scale]; less than 1.
      shear: largest angle in degrees of the shears along both axes; less than 45.
      perspective: the largest deviation of w from 1 at a distance of ``side`` from the centre along either axis; where
        w is 1 + p, objects look as if they were 1 + p times as far away. Less than 0.5 if nothing within ``side`` of
        the centre along both axes may be behind the horizon.
      flip: probability of a horizontal flip.
      flip_vertical: probability of a vertical flip.
      key: one for the batch; each part has its own subkey, so that enabling one does not change the others.

    Returns:
      from a position in the image to one in the window: perspective first, then rotation and scale, shear, flips,
      translation.
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
