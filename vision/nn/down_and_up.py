"""The way of features through a U-Net (Ronneberger et al. 2015): down, through the middle, and up the same levels.

    hidden = down_and_up(stem, blocks=(2, 2), block=block, halve=halve, middle=middle, double=double)

Every result of the way down is concatenated to what a block of the way up is given, the last ones first.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

Way = Literal["down", "up"]


def down_and_up(
    features: Float[Array, "b h w c"],
    *,
    blocks: Sequence[int],
    block: Callable[[Array, Way, int, int], Array],
    halve: Callable[[Array, int], Array],
    middle: Callable[[Array], Array],
    double: Callable[[Array, int], Array],
) -> Float[Array, "b h w n"]:
    """Run the parts of a U-Net; to be called in a compact method, where the parts create their layers.

    Args:
      features: after the first layer.
      blocks: number of blocks of each level of the way down, from the highest resolution on; one more on the way up.
      block: (features, way, level, index) -> features of the same sides.
      halve: (features, level) -> features of half the sides, between ``level`` and the next.
      middle: features -> features of the same shape, at the lowest resolution.
      double: (features, level) -> features of twice the sides, between ``level`` and the one before.
    """
    hidden, skips = features, [features]
    for level, count in enumerate(blocks):
        for index in range(count):
            hidden = block(hidden, "down", level, index)
            skips.append(hidden)
        if level < len(blocks) - 1:
            hidden = halve(hidden, level)
            skips.append(hidden)
    hidden = middle(hidden)
    for level in reversed(range(len(blocks))):
        for index in range(blocks[level] + 1):
            hidden = block(jnp.concatenate([hidden, skips.pop()], axis=-1), "up", level, index)
        if level > 0:
            hidden = double(hidden, level)
    return hidden
