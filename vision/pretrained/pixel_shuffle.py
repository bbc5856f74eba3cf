"""Convolutions before and after a change of resolution by channels: published weights order these as (c p p).

PyTorch's ``pixel_shuffle`` takes the channels of a pixel as (colour, row, column) of a square; here they are (row,
column, colour), ``vision.nn.resample.depth_to_space``. The order is a permutation of a kernel's outputs or inputs.
"""

from collections.abc import Callable

import numpy as np
from einops import rearrange

from vision.pretrained.rules import CONV, Layout, Rule


def shuffled_rules(published: str, ours: str, factor: int) -> tuple[Rule, ...]:
    """A convolution with bias whose outputs become squares of ``factor`` x ``factor`` pixels."""
    pixels = {"p": factor, "q": factor}
    last: Callable[[np.ndarray], np.ndarray] = lambda x: rearrange(x, "... (c p q) -> ... (p q c)", **pixels)
    back: Callable[[np.ndarray], np.ndarray] = lambda x: rearrange(x, "... (p q c) -> ... (c p q)", **pixels)
    kernel = Layout(lambda x: last(CONV.to_ours(x)), lambda x: CONV.to_published(back(x)))
    return Rule(f"{published}.weight", f"params/{ours}/kernel", kernel), Rule(
        f"{published}.bias", f"params/{ours}/bias", Layout(last, back)
    )


def unshuffled_rules(published: str, ours: str, factor: int) -> tuple[Rule, ...]:
    """A convolution with bias whose inputs are squares of ``factor`` x ``factor`` pixels."""
    pixels = {"p": factor, "q": factor}
    kernel = Layout(
        lambda x: rearrange(x, "n (c p q) h w -> h w (p q c) n", **pixels),
        lambda x: rearrange(x, "h w (p q c) n -> n (c p q) h w", **pixels),
    )
    return Rule(f"{published}.weight", f"params/{ours}/kernel", kernel), Rule(
        f"{published}.bias", f"params/{ours}/bias"
    )
