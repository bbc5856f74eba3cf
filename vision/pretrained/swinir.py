"""The names of published SwinIRs.

Their files also hold what follows from the architecture: ``relative_position_index``, which must be the one that is
used here, and ``attn_mask``, which follows from the size of the images that the network was trained with and is left
out.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vision.errors import UserError
from vision.models.restoration.swinir import SwinIrConfig
from vision.nn.shifted_windows import relative_positions, visible
from vision.pretrained.adapted import Adapt, Adapted
from vision.pretrained.edsr import upsampling_rules
from vision.pretrained.pixel_shuffle import shuffled_rules
from vision.pretrained.rules import CONV, QKV, QKV_BIAS, Rule, dense_rules, norm_rules, to_published
from vision.pretrained.state_dict import StateDict


def swinir_rules(config: SwinIrConfig) -> tuple[Rule, ...]:
    """The published names."""
    theirs, ours = "layers.{group}.residual_group.blocks.{block}", "group_{group}_block_{block}"
    if config.upsampling == "shuffle direct":
        last = shuffled_rules("upsample.0", "conv_last", config.scale)
    else:
        last = dense_rules("conv_last", "conv_last", CONV)
    return (
        *dense_rules("conv_first", "conv_first", CONV),
        *norm_rules("patch_embed.norm", "norm_first"),
        *norm_rules(f"{theirs}.norm1", f"{ours}/norm_attention"),
        Rule(f"{theirs}.attn.qkv.weight", f"params/{ours}/attention/qkv/kernel", QKV),
        Rule(f"{theirs}.attn.qkv.bias", f"params/{ours}/attention/qkv/bias", QKV_BIAS),
        Rule(f"{theirs}.attn.relative_position_bias_table", f"params/{ours}/attention/position_bias"),
        *dense_rules(f"{theirs}.attn.proj", f"{ours}/attention/out"),
        *norm_rules(f"{theirs}.norm2", f"{ours}/norm_dense"),
        *dense_rules(f"{theirs}.mlp.fc1", f"{ours}/dense_in"),
        *dense_rules(f"{theirs}.mlp.fc2", f"{ours}/dense_out"),
        *dense_rules("layers.{group}.conv", "group_{group}_conv", CONV),
        *norm_rules("norm", "norm_last"),
        *dense_rules("conv_after_body", "conv_after", CONV),
        *dense_rules("conv_before_upsample.0", "conv_before", CONV),
        *(upsampling_rules("upsample", config.scale) if config.upsampling == "shuffle" else ()),
        *last,
    )


def swinir_weights(config: SwinIrConfig) -> Adapt:
    """For files with published names: leaves out what follows from the architecture.

    The result raises ``UserError`` where the file's windows are others.
    """

    def adapt(tensors: StateDict, variables: Mapping[str, Any]) -> Adapted:
        del variables
        expected = relative_positions(config.window)
        for name, array in tensors.items():
            if name.endswith("attn.relative_position_index") and not np.array_equal(array, expected):
                raise UserError(
                    f"these weights are for other windows than model.window {config.window}: {name} has the shape "
                    f"{array.shape}, where {expected.shape} is expected"
                )
        derived = re.compile(r"attn\.relative_position_index$|attn_mask$")
        return Adapted({name: array for name, array in tensors.items() if not derived.search(name)})

    return adapt


def swinir_state_dict(variables: Any, config: SwinIrConfig, *, side: int = 64) -> StateDict:
    """A SwinIR under the published names, with what follows from the architecture.

    Args:
      variables: {"params": ...} of arrays, of a `SwinIr` of ``config``.
      config: its configuration.
      side: ``img_size`` of the PyTorch module that is to read it, whose masks have this size.
    """
    index = relative_positions(config.window).astype(np.int64)
    rows = -(-side // config.window) * config.window
    hidden = ~visible(rows, rows, config.window, config.window // 2)
    arrays = to_published(variables, rules=swinir_rules(config))
    for group, depth in enumerate(config.depths):
        for block in range(depth):
            name = f"layers.{group}.residual_group.blocks.{block}"
            arrays[f"{name}.attn.relative_position_index"] = index
            if block % 2:
                arrays[f"{name}.attn_mask"] = np.where(hidden, np.float32(-100.0), np.float32(0.0))
    return arrays
