"""Make diffusers.npz with PyTorch and diffusers, in an environment of its own; no test needs either.

    pip install torch diffusers transformers
    python tests/golden/make_diffusers_golden.py

Predictions in float64 of narrow UNets and transformers of diffusers, with the weights that a formula gives by name
(tests/pretrained/published_weights.py), none of which is zero; and the names and shapes of the arrays of published
networks, made from their configurations without their weights.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import DiTTransformer2DModel, Transformer2DModel, UNet2DModel

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "pretrained"))
from published_weights import published_array, uniform  # noqa: E402

DOWN, ATTN_DOWN, RESNET_DOWN = "DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"
UP, ATTN_UP, RESNET_UP = "UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"
DDPM = {
    **{"act_fn": "silu", "attention_head_dim": None, "center_input_sample": False, "downsample_padding": 0},
    **{"flip_sin_to_cos": False, "freq_shift": 1, "in_channels": 3, "out_channels": 3, "layers_per_block": 2},
    **{"mid_block_scale_factor": 1, "norm_eps": 1e-6, "norm_num_groups": 32, "time_embedding_type": "positional"},
}
ADM = {
    **{"attention_head_dim": 64, "attn_norm_num_groups": 32, "resnet_time_scale_shift": "scale_shift"},
    **{"downsample_type": "resnet", "upsample_type": "resnet"},
}
SMALL = {"norm_num_groups": 4, "sample_size": 16}
UNETS = {
    "ddpm": {
        **DDPM,
        **SMALL,
        "block_out_channels": [16, 32, 32],
        "down_block_types": [DOWN, ATTN_DOWN, DOWN],
        "up_block_types": [UP, ATTN_UP, UP],
    },
    "adm": {
        **ADM,
        **SMALL,
        "attention_head_dim": 8,
        "attn_norm_num_groups": 4,
        "block_out_channels": [16, 32],
        "down_block_types": [RESNET_DOWN, ATTN_DOWN],
        "up_block_types": [ATTN_UP, RESNET_UP],
        "layers_per_block": 1,
        "num_class_embeds": 5,
        "out_channels": 6,
    },
    "fourier": {
        **SMALL,
        "attention_head_dim": 16,
        "block_out_channels": [16, 32],
        "center_input_sample": True,
        "down_block_types": [ATTN_DOWN, DOWN],
        "up_block_types": [UP, ATTN_UP],
        "layers_per_block": 1,
        "mid_block_scale_factor": 1.5,
        "resnet_time_scale_shift": "scale_shift",
        "time_embedding_dim": 24,
        "time_embedding_type": "fourier",
    },
    "unattended": {
        **SMALL,
        "add_attention": False,
        "block_out_channels": [16],
        "down_block_types": [DOWN],
        "up_block_types": [UP],
        "freq_shift": 0.5,
        "layers_per_block": 1,
    },
}
DIT = {
    **{"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 8, "num_layers": 2},
    **{"sample_size": 8, "patch_size": 2, "num_embeds_ada_norm": 5, "norm_eps": 1e-2},
}
OLD_DIT = {
    **{"attention_bias": True, "activation_fn": "gelu-approximate", "norm_type": "ada_norm_zero"},
    **{"norm_elementwise_affine": False, "cross_attention_dim": None, "dropout": 0.0, "norm_num_groups": 32},
    **{"num_vector_embeds": None, "only_cross_attention": False, "upcast_attention": False},
    "use_linear_projection": False,
}
PUBLISHED = {
    "ddpm-cifar10-32": {
        **DDPM,
        "sample_size": 32,
        "block_out_channels": [128, 256, 256, 256],
        "down_block_types": [DOWN, ATTN_DOWN, DOWN, DOWN],
        "up_block_types": [UP, UP, ATTN_UP, UP],
    },
    "ddpm-church-256": {
        **DDPM,
        "sample_size": 256,
        "block_out_channels": [128, 128, 256, 256, 512, 512],
        "down_block_types": [DOWN, DOWN, DOWN, DOWN, ATTN_DOWN, DOWN],
        "up_block_types": [UP, ATTN_UP, UP, UP, UP, UP],
    },
    "imagenet64": {
        **ADM,
        "sample_size": 64,
        "layers_per_block": 3,
        "num_class_embeds": 1000,
        "block_out_channels": [192, 384, 576, 768],
        "down_block_types": [RESNET_DOWN, ATTN_DOWN, ATTN_DOWN, ATTN_DOWN],
        "up_block_types": [ATTN_UP, ATTN_UP, ATTN_UP, RESNET_UP],
    },
    "bedroom256": {
        **ADM,
        "sample_size": 256,
        "resnet_time_scale_shift": "default",
        "block_out_channels": [256, 256, 512, 512, 1024, 1024],
        "down_block_types": [*[RESNET_DOWN] * 3, *[ATTN_DOWN] * 3],
        "up_block_types": [*[ATTN_UP] * 3, *[RESNET_UP] * 3],
    },
}
DIT_XL = {"out_channels": 8}


def filled(model):
    """The network with the weights that the names give, in float64."""
    weights = {name: published_array(name, tuple(array.shape)) for name, array in model.state_dict().items()}
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()}, strict=True)
    return model.double().eval()


def shapes(model):
    """Names and shapes as JSON."""
    return np.array(json.dumps({name: list(array.shape) for name, array in model.state_dict().items()}))


def predicted(model, time, labels=None):
    """Predictions [b h w c] for two images."""
    config = model.config
    image = 2.0 * uniform("image", (2, config.sample_size, config.sample_size, config.in_channels))
    image = torch.from_numpy(image.astype(np.float32)).permute(0, 3, 1, 2).double()
    options = {} if labels is None else {"class_labels": torch.tensor(labels)}
    with torch.no_grad():
        out = model(image, timestep=torch.tensor(time), **options).sample
    return out.permute(0, 2, 3, 1).numpy().astype(np.float32)


arrays = {}
for name, config in UNETS.items():
    torch.manual_seed(0)
    model = filled(UNet2DModel(**config))
    time = [0.5, 7.0] if name == "fourier" else [3, 700]
    arrays[f"{name}_out"] = predicted(model, time, [1, 4] if name == "adm" else None)
    arrays[f"{name}_names"] = shapes(model)
    arrays[f"{name}_config"] = np.array(json.dumps({"_class_name": "UNet2DModel", **config}))
each = filled(DiTTransformer2DModel(**DIT))
arrays["dit_each_out"] = predicted(each, [3, 700], [1, 5])
for block in each.transformer_blocks[1:]:
    block.norm1.emb.load_state_dict(each.transformer_blocks[0].norm1.emb.state_dict())
arrays["dit_shared_out"] = predicted(each, [3, 700], [1, 5])
old = Transformer2DModel(**DIT, **OLD_DIT).double().eval()
old.load_state_dict(each.state_dict(), strict=True)
assert np.array_equal(predicted(old, [3, 700], [1, 5]), arrays["dit_shared_out"])
arrays["dit_names"] = shapes(each)
arrays["dit_config"] = np.array(json.dumps({"_class_name": "DiTTransformer2DModel", **DIT}))
arrays["dit_old_config"] = np.array(json.dumps({"_class_name": "Transformer2DModel", **DIT, **OLD_DIT}))
with torch.device("meta"):
    for name, config in PUBLISHED.items():
        arrays[f"published_{name}_names"] = shapes(UNet2DModel(**config))
        arrays[f"published_{name}_config"] = np.array(json.dumps({"_class_name": "UNet2DModel", **config}))
    arrays["published_dit-xl_names"] = shapes(DiTTransformer2DModel(**DIT_XL))
    arrays["published_dit-xl_config"] = np.array(json.dumps({"_class_name": "DiTTransformer2DModel", **DIT_XL}))
for name, array in arrays.items():
    print(name, array.shape, np.abs(array).max() if array.dtype.kind == "f" else "")
np.savez_compressed(HERE / "diffusers.npz", **arrays)
