"""The names of published vision transformers: torchvision's and timm's; and position embeddings on other grids."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Float

from vision.models.vit import ViTConfig
from vision.ops.resize import resize
from vision.pretrained.adapted import Adapted
from vision.pretrained.rules import CONV, Layout, Rule, dense_rules, norm_rules
from vision.pretrained.state_dict import StateDict

_POSITION = "params/position"
_POSITIONS = ("encoder.pos_embedding", "pos_embed", _POSITION)
"""The position embeddings' names: torchvision's, timm's, and this project's."""

QKV = Layout(
    lambda x: x.reshape(3, -1, x.shape[-1]).transpose(2, 0, 1),
    lambda x: np.ascontiguousarray(x.transpose(1, 2, 0)).reshape(-1, x.shape[0]),
)
"""Kernels of queries, keys and values: [3 out, in] published, [in, 3, out] here."""
QKV_BIAS = Layout(lambda x: x.reshape(3, -1), lambda x: x.reshape(-1))


def vit_rules(config: ViTConfig) -> tuple[Rule, ...]:
    """The names of torchvision, which are those that are written, and those of timm; the same for every ``config``."""
    del config
    return (*torchvision_rules(), *timm_rules())


def torchvision_rules() -> tuple[Rule, ...]:
    """The names of torchvision."""
    theirs, ours = "encoder.layers.encoder_layer_{block}", "block_{block}"
    return (
        Rule("class_token", "params/class_token"),
        Rule("encoder.pos_embedding", "params/position"),
        *dense_rules("conv_proj", "stem", CONV),
        *norm_rules(f"{theirs}.ln_1", f"{ours}/norm_attention"),
        Rule(f"{theirs}.self_attention.in_proj_weight", f"params/{ours}/qkv/kernel", QKV),
        Rule(f"{theirs}.self_attention.in_proj_bias", f"params/{ours}/qkv/bias", QKV_BIAS),
        *dense_rules(f"{theirs}.self_attention.out_proj", f"{ours}/out"),
        *norm_rules(f"{theirs}.ln_2", f"{ours}/norm_dense"),
        *dense_rules(f"{theirs}.mlp.0", f"{ours}/dense_in"),
        *dense_rules(f"{theirs}.mlp.3", f"{ours}/dense_out"),
        # the names of files before torchvision 0.13
        *dense_rules(f"{theirs}.mlp.linear_1", f"{ours}/dense_in"),
        *dense_rules(f"{theirs}.mlp.linear_2", f"{ours}/dense_out"),
        *norm_rules("encoder.ln", "norm"),
        *dense_rules("heads.head", "head"),
    )


def timm_rules() -> tuple[Rule, ...]:
    """The names of timm."""
    theirs, ours = "blocks.{block}", "block_{block}"
    return (
        Rule("cls_token", "params/class_token"),
        Rule("pos_embed", "params/position"),
        *dense_rules("patch_embed.proj", "stem", CONV),
        *norm_rules(f"{theirs}.norm1", f"{ours}/norm_attention"),
        Rule(f"{theirs}.attn.qkv.weight", f"params/{ours}/qkv/kernel", QKV),
        Rule(f"{theirs}.attn.qkv.bias", f"params/{ours}/qkv/bias", QKV_BIAS),
        *dense_rules(f"{theirs}.attn.proj", f"{ours}/out"),
        *norm_rules(f"{theirs}.norm2", f"{ours}/norm_dense"),
        *dense_rules(f"{theirs}.mlp.fc1", f"{ours}/dense_in"),
        *dense_rules(f"{theirs}.mlp.fc2", f"{ours}/dense_out"),
        *norm_rules("norm", "norm"),
        *dense_rules("head", "head"),
    )


def vit_weights(tensors: StateDict, variables: Mapping[str, Any]) -> Adapted:
    """Position embeddings of a square grid of patches on the network's own, where that is another square."""
    wanted = variables["params"]["position"].shape
    names = [name for name in _POSITIONS if name in tensors and tensors[name].ndim == len(wanted) == 3]
    sides = {name: (_side(tensors[name].shape), _side(wanted)) for name in names}
    changed = {name: (one, other) for name, (one, other) in sides.items() if one and other and one != other}
    made = {name: resampled_positions(tensors[name], (side, side)) for name, (_, side) in changed.items()}
    notes = (f"position embeddings of {a}x{a} patches are interpolated to {b}x{b}" for a, b in changed.values())
    return Adapted({**tensors, **made}, notes=tuple(notes))


def resampled_positions(embeddings: Float[np.ndarray, "1 n d"], grid: tuple[int, int]) -> Float[np.ndarray, "1 m d"]:
    """Position embeddings of a square grid on another one, bicubic and antialiased; the class token's stays.

    Args:
      embeddings: of the class token and then of each patch, row by row.
      grid: rows and columns of patches.

    Returns:
      the same for ``grid``, in float32: m = 1 + rows * columns.
    """
    patches = rearrange(jnp.asarray(embeddings[:, 1:], jnp.float32), "b (h w) d -> b h w d", h=_side(embeddings.shape))
    found = rearrange(resize(patches, grid, method="bicubic"), "b h w d -> b (h w) d")
    return np.concatenate([embeddings[:, :1].astype(np.float32), np.asarray(found)], 1)


def _side(shape: tuple[int, ...]) -> int:
    """The side of the square grid of embeddings [1 n d]; 0 where it is none."""
    side = math.isqrt(max(shape[1] - 1, 0))
    return side if side**2 == shape[1] - 1 else 0
