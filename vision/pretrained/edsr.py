"""The names of published EDSRs: BasicSR's, and those of the paper's authors in PyTorch (EDSR-PyTorch).

The authors' files also hold the subtraction of the mean as 1x1 convolutions with fixed weights, ``sub_mean`` and
``add_mean``: these must have the numbers that this network has built in.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vision.errors import UserError
from vision.models.restoration.edsr import LEVELS, EdsrConfig
from vision.models.restoration.scales import Scale, mean_of, steps_of
from vision.pretrained.adapted import Adapt, Adapted
from vision.pretrained.pixel_shuffle import shuffled_rules
from vision.pretrained.rules import CONV, Rule, dense_rules, to_published
from vision.pretrained.state_dict import StateDict

_FIXED = ("sub_mean", "add_mean")


def edsr_rules(config: EdsrConfig) -> tuple[Rule, ...]:
    """Both kinds of names; BasicSR's are written."""
    return (*basicsr_rules(config), *authors_rules(config))


def basicsr_rules(config: EdsrConfig) -> tuple[Rule, ...]:
    """``conv_first``, ``body.0.conv1``, ``conv_after_body``, ``upsample.0``, ``conv_last``."""
    return (
        *dense_rules("conv_first", "conv_first", CONV),
        *dense_rules("body.{block}.conv1", "block_{block}/conv_1", CONV),
        *dense_rules("body.{block}.conv2", "block_{block}/conv_2", CONV),
        *dense_rules("conv_after_body", "conv_after", CONV),
        *upsampling_rules("upsample", config.scale),
        *dense_rules("conv_last", "conv_last", CONV),
    )


def authors_rules(config: EdsrConfig) -> tuple[Rule, ...]:
    """``head.0``, ``body.0.body.0``, ``body.16``, ``tail.0.0``, ``tail.1``."""
    return (
        *dense_rules("head.0", "conv_first", CONV),
        *dense_rules("body.{block}.body.0", "block_{block}/conv_1", CONV),
        *dense_rules("body.{block}.body.2", "block_{block}/conv_2", CONV),
        *dense_rules(f"body.{config.blocks}", "conv_after", CONV),
        *upsampling_rules("tail.0", config.scale),
        *dense_rules("tail.1", "conv_last", CONV),
    )


def upsampling_rules(published: str, scale: Scale) -> tuple[Rule, ...]:
    """A list of convolutions and shuffles in turn, as ``PixelShuffleUpsampling`` has them."""
    steps = enumerate(steps_of(scale))
    rules = [shuffled_rules(f"{published}.{2 * n}", f"upsampling/conv_{n + 1}", factor) for n, factor in steps]
    return tuple(rule for pair in rules for rule in pair)


def edsr_weights(config: EdsrConfig) -> Adapt:
    """For files with the authors' names: compares the mean and leaves it out.

    The result raises ``UserError`` where the mean is another, or the images have other values than 0 to 255.
    """

    def adapt(tensors: StateDict, variables: Mapping[str, Any]) -> Adapted:
        del variables
        for name, expected in _fixed(config).items():
            found = tensors.get(name)
            if found is not None and not (found.shape == expected.shape and np.allclose(found, expected, atol=1e-3)):
                raise UserError(
                    f"these weights subtract another mean than EDSR's: {name} is not {expected.reshape(-1).tolist()}"
                )
        return Adapted({name: array for name, array in tensors.items() if name.split(".")[0] not in _FIXED})

    return adapt


def edsr_authors_state_dict(variables: Any, config: EdsrConfig) -> StateDict:
    """An EDSR under its authors' names, with the subtraction of the mean.

    Args:
      variables: {"params": ...} of arrays, of an `Edsr` of ``config``.
      config: its configuration.
    """
    return {**to_published(variables, rules=authors_rules(config)), **_fixed(config)}


def _fixed(config: EdsrConfig) -> StateDict:
    identity = np.eye(config.channels, dtype=np.float32)[:, :, None, None]
    mean = LEVELS * np.asarray(mean_of(config.channels))
    arrays = {f"{name}.weight": identity for name in _FIXED}
    return arrays | {"sub_mean.bias": -mean, "add_mean.bias": mean}
