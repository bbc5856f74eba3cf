"""Bits per dimension: the code length of an image under a model, in bits per value.

A number is comparable only with its protocol: images of 256 levels, all h w c values counted, nats converted to bits. A
model of probabilities of levels is measured directly. A density of real numbers is measured on images with noise in [0,
1) levels added (uniform dequantisation); by Jensen's inequality its expected log density, in units of levels, is at
most the log-likelihood of the discrete model that results from integrating the density over each level (Theis et al.
2016, section 3.1). Then the number is an upper bound.
"""

import math


def bits_per_dimension(nats: float, shape: tuple[int, int, int]) -> float:
    """-log2 P(x) for each value of an image of levels.

    Args:
      nats: -log P(x), or an upper bound on it, of a complete image; probabilities of levels, not a density.
      shape: of the image, [h w c].
    """
    return nats / (math.prod(shape) * math.log(2.0))


def bits_per_dimension_of_density(nats: float, shape: tuple[int, int, int], *, step: float) -> float:
    """-log2 P(x) for each value, bounded from above by a density of dequantised images.

    Args:
      nats: -log p(x), or an upper bound on it, of a complete image, averaged over noise of one level.
      shape: of the image, [h w c].
      step: the distance between two levels in the density's variable: 1 for levels, 1/256 for images in [0, 1), 1/127.5
        for ``vision.ops.pixels.to_float``. A density in units of levels is larger by this factor for each value.
    """
    return bits_per_dimension(nats, shape) - math.log2(step)
