"""Published weights of networks that are a chain of convolutions, whatever their names: SRCNN, VDSR and DnCNN.

There are many implementations of these, each with names of its own (``residual_layer.0.conv.weight``,
``body.1.0.weight``, ``model.2.weight``). What all have in common is the order: a kernel is recognised by its shape, and
kernels of the same shape follow each other by the numbers in their names. Nothing may be missing or left over.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vision.models.restoration.dncnn import DncnnConfig
from vision.models.restoration.srcnn import SrcnnConfig
from vision.models.restoration.vdsr import VdsrConfig
from vision.pretrained.adapted import Adapt, Adapted
from vision.pretrained.rules import CONV, Rule, WeightRules, batch_norm_rules, dense_rules, named, to_published
from vision.pretrained.state_dict import StateDict


def srcnn_rules(config: SrcnnConfig) -> tuple[Rule, ...]:
    """``conv1`` to ``conv3``, of the implementations in PyTorch."""
    del config
    return dense_rules("conv{number}", "conv_{number}", CONV)


def vdsr_rules(config: VdsrConfig) -> tuple[Rule, ...]:
    """``input``, ``residual_layer.0.conv``, ``output``, of the implementation pytorch-vdsr."""
    middle = [
        rule
        for number in range(2, config.depth)
        for rule in dense_rules(f"residual_layer.{number - 2}.conv", f"conv_{number}", CONV)
    ]
    first, last = dense_rules("input", "conv_1", CONV), dense_rules("output", f"conv_{config.depth}", CONV)
    return (*first, *middle, *last)


def dncnn_rules(config: DncnnConfig) -> tuple[Rule, ...]:
    """``model.0``, ``model.2``: numbers in a list of convolutions, normalisations and activations, as in KAIR.

    The names that begin with ``dncnn.`` in place of ``model.`` have the same numbers and are read too.
    """
    rules: list[Rule] = []
    for prefix in ("model", "dncnn"):
        place = 0
        for number in range(1, config.depth + 1):
            rules += dense_rules(f"{prefix}.{place}", f"conv_{number}", CONV)
            place += 1
            if config.norm and 1 < number < config.depth:
                rules += batch_norm_rules(f"{prefix}.{place}", f"norm_{number}")
                place += 1
            place += 1  # the activation
    return tuple(rules)


def chain_weights(rules: WeightRules) -> Adapt:
    """For files of any names without normalisation: renames their arrays to those of ``rules``.

    Files whose kernels do not have the shapes of the network are left as they are, so that the rules say what is wrong.
    """

    def adapt(tensors: StateDict, variables: Mapping[str, Any]) -> Adapted:
        empty = {path: np.broadcast_to(np.float32(0), leaf.shape) for path, leaf in named(variables).items()}
        wanted = to_published(_tree(empty), rules=rules)
        kernels = sorted((name for name in tensors if tensors[name].ndim == 4), key=_by_numbers)
        places = sorted((name for name in wanted if wanted[name].ndim == 4), key=_by_numbers)
        free = {name: wanted[name].shape for name in places}
        names: dict[str, str] = {}
        for name in kernels:
            place = next((each for each, shape in free.items() if shape == tensors[name].shape), None)
            if place is None:
                return Adapted(tensors)
            del free[place]
            names[name] = place
            names[_bias(name)] = _bias(place)
        return Adapted({names.get(name, name): array for name, array in tensors.items()})

    return adapt


def _tree(leaves: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *above, last = path.split("/")
        inner = tree
        for each in above:
            inner = inner.setdefault(each, {})
        inner[last] = leaf
    return tree


def _bias(kernel: str) -> str:
    return f"{kernel.removesuffix('weight')}bias"


def _by_numbers(name: str) -> list[tuple[int, str]]:
    """A key that sorts 2 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
