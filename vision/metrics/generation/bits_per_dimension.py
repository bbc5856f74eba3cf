"""Bits per dimension: what a model needs to write down an image, for each of its values, in bits.

A number is comparable only with its protocol: images of 256 levels, all h w c values counted, the natural logarithm's
nats turned into bits. A model that gives probabilities to levels is measured directly. One that gives a density to
real numbers is measured on images with noise in [0, 1) levels added (uniform dequantisation); by Jensen's inequality
its expected log density, in units of levels, is no more than the log-likelihood of the discrete model that the density
makes when it is integrated over each level (Theis et al. 2016, section 3.1). Then the number is a bound from above.
"""

import math


def bits_per_dimension(nats: float, shape: tuple[int, int, int]) -> float:
    """-log2 P(x) for each value of an image of levels.

    Args:
      nats: -log P(x), or a bound on it from above, of a whole image; probabilities of levels, not a density.
      shape: of the image, [h w c].
    """
    return nats / (math.prod(shape) * math.log(2.0))


def bits_per_dimension_of_density(nats: float, shape: tuple[int, int, int], *, step: float) -> float:
    """-log2 P(x) for each value, bounded from above by a density of dequantised images.

    Args:
      nats: -log p(x), or a bound on it from above, of a whole image, in the mean over noise of one level.
      shape: of the image, [h w c].
      step: how far two levels lie apart in what the density is of: 1 for levels, 1/256 for images in [0, 1), 1/127.5
        for ``vision.ops.pixels.to_float``. A density in units of levels is larger by this factor for each value.
    """
    return bits_per_dimension(nats, shape) - math.log2(step)
