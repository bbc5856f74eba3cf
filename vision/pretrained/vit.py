"""The names of published vision transformers: torchvision's and timm's."""

import numpy as np

from vision.models.vit import ViTConfig
from vision.pretrained.rules import CONV, Layout, Rule, dense_rules

_QKV = Layout(
    lambda x: x.reshape(3, -1, x.shape[-1]).transpose(2, 0, 1),
    lambda x: np.ascontiguousarray(x.transpose(1, 2, 0)).reshape(-1, x.shape[0]),
)
"""Kernels of queries, keys and values: [3 out, in] published, [in, 3, out] here."""
_QKV_BIAS = Layout(lambda x: x.reshape(3, -1), lambda x: x.reshape(-1))


def _norm(published: str, ours: str) -> tuple[Rule, ...]:
    return Rule(f"{published}.weight", f"params/{ours}/scale"), Rule(f"{published}.bias", f"params/{ours}/bias")


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
        *_norm(f"{theirs}.ln_1", f"{ours}/norm_attention"),
        Rule(f"{theirs}.self_attention.in_proj_weight", f"params/{ours}/qkv/kernel", _QKV),
        Rule(f"{theirs}.self_attention.in_proj_bias", f"params/{ours}/qkv/bias", _QKV_BIAS),
        *dense_rules(f"{theirs}.self_attention.out_proj", f"{ours}/out"),
        *_norm(f"{theirs}.ln_2", f"{ours}/norm_dense"),
        *dense_rules(f"{theirs}.mlp.0", f"{ours}/dense_in"),
        *dense_rules(f"{theirs}.mlp.3", f"{ours}/dense_out"),
        # the names of files before torchvision 0.13
        *dense_rules(f"{theirs}.mlp.linear_1", f"{ours}/dense_in"),
        *dense_rules(f"{theirs}.mlp.linear_2", f"{ours}/dense_out"),
        *_norm("encoder.ln", "norm"),
        *dense_rules("heads.head", "head"),
    )


def timm_rules() -> tuple[Rule, ...]:
    """The names of timm."""
    theirs, ours = "blocks.{block}", "block_{block}"
    return (
        Rule("cls_token", "params/class_token"),
        Rule("pos_embed", "params/position"),
        *dense_rules("patch_embed.proj", "stem", CONV),
        *_norm(f"{theirs}.norm1", f"{ours}/norm_attention"),
        Rule(f"{theirs}.attn.qkv.weight", f"params/{ours}/qkv/kernel", _QKV),
        Rule(f"{theirs}.attn.qkv.bias", f"params/{ours}/qkv/bias", _QKV_BIAS),
        *dense_rules(f"{theirs}.attn.proj", f"{ours}/out"),
        *_norm(f"{theirs}.norm2", f"{ours}/norm_dense"),
        *dense_rules(f"{theirs}.mlp.fc1", f"{ours}/dense_in"),
        *dense_rules(f"{theirs}.mlp.fc2", f"{ours}/dense_out"),
        *_norm("norm", "norm"),
        *dense_rules("head", "head"),
    )
