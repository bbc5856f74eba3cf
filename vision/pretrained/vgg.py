"""The names of published VGGs: torchvision's and, of the features, those that many files of features alone share.

They expect images normalised by ``IMAGENET_MEAN`` and ``IMAGENET_STD`` (``vision.ops.resize.normalise``).
"""

import numpy as np

from vision.models.vgg import GRID, VggConfig
from vision.pretrained.rules import CONV, Layout, Rule, dense_rules


def vgg_rules(config: VggConfig) -> tuple[Rule, ...]:
    """The names of torchvision, which numbers convolutions, activations and pools in one list."""
    rules: list[Rule] = []
    number = 0
    for stage, depth in enumerate(config.depths, start=1):
        for index in range(1, depth + 1):
            theirs, ours = f"features.{number}", f"params/stage_{stage}/conv_{index}"
            rules += [Rule(f"{theirs}.weight", f"{ours}/kernel", CONV), Rule(f"{theirs}.bias", f"{ours}/bias")]
            number += 2  # a convolution and its activation
        number += 1  # the pool
    rules += dense_rules("classifier.0", "dense_1", flattened(config.widths[-1]))
    return (*rules, *dense_rules("classifier.3", "dense_2"), *dense_rules("classifier.6", "head"))


def flattened(channels: int) -> Layout:
    """A linear layer of all pixels of the grid: [out, c h w] published, [h w c, out] here, three axes as one."""

    def to_ours(kernel: np.ndarray) -> np.ndarray:
        grid = kernel.reshape(len(kernel), channels, GRID, GRID)
        return grid.transpose(2, 3, 1, 0).reshape(-1, len(kernel))

    def to_published(kernel: np.ndarray) -> np.ndarray:
        outputs = kernel.shape[1]
        return kernel.reshape(GRID, GRID, channels, outputs).transpose(3, 2, 0, 1).reshape(outputs, -1)

    return Layout(to_ours, to_published)
