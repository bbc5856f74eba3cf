"""Make condition_unets.npz with PyTorch and diffusers, in an environment of its own; no test needs either.

    pip install torch diffusers transformers
    python tests/golden/make_condition_unets_golden.py

Predictions in float64 of narrow UNet2DConditionModels, of the transformer in them, and of the text projection of Karlo,
with the weights that a formula gives by name (tests/pretrained/published_weights.py); and the names and shapes of the
arrays of published networks, made from their configurations without their weights. That of Karlo's networks is in
diffusers' scripts/convert_kakao_brain_unclip_to_diffusers.py.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "pretrained"))
from published_weights import published_array, uniform  # noqa: E402

DOWN, UP = "DownBlock2D", "UpBlock2D"
CROSS_DOWN, CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
RESNET_DOWN, RESNET_UP = "ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"
SIMPLE_DOWN, SIMPLE_UP = "SimpleCrossAttnDownBlock2D", "SimpleCrossAttnUpBlock2D"
SMALL = {
    **{"sample_size": 8, "norm_num_groups": 4, "cross_attention_dim": 12, "block_out_channels": [16, 32]},
    **{"down_block_types": [CROSS_DOWN, DOWN], "up_block_types": [UP, CROSS_UP], "layers_per_block": 1},
}
KARLO = {
    **{"down_block_types": [RESNET_DOWN, SIMPLE_DOWN], "up_block_types": [SIMPLE_UP, RESNET_UP]},
    **{"mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "resnet_time_scale_shift": "scale_shift"},
    **{"in_channels": 3, "out_channels": 6, "class_embed_type": "identity", "attention_head_dim": 8},
}
UNETS = {
    "sd1": {**SMALL, "attention_head_dim": 2},
    "sd2": {
        **SMALL,
        **{"attention_head_dim": [2, 4], "use_linear_projection": True, "transformer_layers_per_block": [2, 1]},
        **{"layers_per_block": [2, 1], "upcast_attention": True, "in_channels": 9},
    },
    "only_cross": {
        **SMALL,
        **{"only_cross_attention": [True, False], "num_class_embeds": 5, "attention_head_dim": 4, "in_channels": 8},
        **{"time_embedding_act_fn": "gelu"},
    },
    "times": {**SMALL, "class_embed_type": "timestep", "attention_head_dim": 4, "time_embedding_dim": 24},
    "projected": {
        **SMALL,
        **{"class_embed_type": "projection", "projection_class_embeddings_input_dim": 6, "attention_head_dim": 4},
        **{"flip_sin_to_cos": False, "freq_shift": 1, "down_block_types": [DOWN, CROSS_DOWN]},
        **{"up_block_types": [CROSS_UP, UP]},
    },
    "linear": {
        **{**SMALL, "class_embed_type": "simple_projection", "projection_class_embeddings_input_dim": 6},
        **{"attention_head_dim": 4},
    },
    "karlo": {**SMALL, **KARLO},
    "karlo_context": {**SMALL, **KARLO, "class_embed_type": None, "only_cross_attention": True},
}
SD1 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
SD2 = {
    **{"sample_size": 64, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20]},
    "use_linear_projection": True,
}
WIDE = {"block_out_channels": [320, 640, 960, 1280], "layers_per_block": 3}
PUBLISHED = {
    "stable-diffusion-v1-5": SD1,
    "stable-diffusion-2-1": SD2,
    "instruct-pix2pix": {**SD1, "in_channels": 8},
    "stable-diffusion-inpainting": {**SD1, "in_channels": 9},
    "karlo-decoder": {
        **{**KARLO, **WIDE, "sample_size": 64, "cross_attention_dim": 1536, "attention_head_dim": 64},
        "down_block_types": [RESNET_DOWN, *[SIMPLE_DOWN] * 3],
        "up_block_types": [*[SIMPLE_UP] * 3, RESNET_UP],
    },
}
KARLO_SUPER_RESOLUTION = {
    **{**WIDE, "sample_size": 256, "in_channels": 6, "out_channels": 3, "add_attention": False},
    **{"down_block_types": [RESNET_DOWN] * 4, "up_block_types": [RESNET_UP] * 4},
}
TEXT_PROJECTION = {
    "clip_extra_context_tokens": 2,
    "clip_embeddings_dim": 6,
    "time_embed_dim": 8,
    "cross_attention_dim": 12,
}


def filled(model):
    """The network with the weights that the names give, in float64."""
    weights = {name: published_array(name, tuple(array.shape)) for name, array in model.state_dict().items()}
    model.load_state_dict({name: torch.from_numpy(np.asarray(w)) for name, w in weights.items()}, strict=True)
    return model.double().eval()


def shapes(model):
    """Names and shapes as JSON."""
    return np.array(json.dumps({name: list(array.shape) for name, array in model.state_dict().items()}))


def values(name, *shape):
    """Numbers of about unit variance by name, float64 from float32, as a test makes them."""
    return torch.from_numpy((2.0 * uniform(name, shape)).astype(np.float32)).double()


def predicted(model):
    """Predictions [b h w c] of two images, with a mask where the network takes one for its context."""
    config = model.config
    options = {}
    if config.num_class_embeds:
        options["class_labels"] = torch.tensor([1, 4])
    elif config.class_embed_type == "timestep":
        options["class_labels"] = torch.tensor([20.0, 500.0])
    elif config.class_embed_type == "identity":
        options["class_labels"] = values("embedding", 2, 4 * config.block_out_channels[0])
    elif config.class_embed_type is not None:
        options["class_labels"] = values("embedding", 2, config.projection_class_embeddings_input_dim)
    if "Simple" in config.mid_block_type and not config.only_cross_attention:  # where diffusers can follow a mask
        options["attention_mask"] = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    image = values("image", 2, 8, 8, config.in_channels).permute(0, 3, 1, 2)
    with torch.no_grad():
        made = model(image, torch.tensor([3, 700]), values("context", 2, 5, 12), **options).sample
    return made.permute(0, 2, 3, 1).numpy().astype(np.float32)


arrays = {}
for name, config in UNETS.items():
    torch.manual_seed(0)
    model = filled(UNet2DConditionModel(**config))
    if "karlo" in name:  # sums in the order of the paper, and not fused ones of lower precision
        model.set_default_attn_processor()
    arrays[f"{name}_out"] = predicted(model)
    arrays[f"{name}_names"] = shapes(model)
    arrays[f"{name}_config"] = np.array(json.dumps({"_class_name": "UNet2DConditionModel", **config}))
transformer = filled(
    Transformer2DModel(
        **{"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 16, "num_layers": 2},
        **{"cross_attention_dim": 12, "norm_num_groups": 4},
    )
)
with torch.no_grad():
    features = values("image", 2, 4, 4, 16).permute(0, 3, 1, 2)
    made = transformer(features, encoder_hidden_states=values("context", 2, 5, 12)).sample
    arrays["transformer_out"] = made.permute(0, 2, 3, 1).numpy().astype(np.float32)
    arrays["transformer_names"] = shapes(transformer)
    projection = filled(UnCLIPTextProjModel(**TEXT_PROJECTION))
    tokens, embedding = projection(
        image_embeddings=values("image", 1, 6),
        prompt_embeds=values("text", 2, 6),
        text_encoder_hidden_states=values("tokens", 2, 5, 6),
        do_classifier_free_guidance=True,
    )
    arrays["projection_context"] = tokens.numpy().astype(np.float32)
    arrays["projection_embedding"] = embedding.numpy().astype(np.float32)
    arrays["projection_names"] = shapes(projection)
    arrays["projection_config"] = np.array(json.dumps({"_class_name": "UnCLIPTextProjModel", **TEXT_PROJECTION}))
with torch.device("meta"):
    for name, config in PUBLISHED.items():
        arrays[f"published_{name}_names"] = shapes(UNet2DConditionModel(**config))
        arrays[f"published_{name}_config"] = np.array(json.dumps({"_class_name": "UNet2DConditionModel", **config}))
    arrays["published_karlo-super-resolution_names"] = shapes(UNet2DModel(**KARLO_SUPER_RESOLUTION))
    config = {"_class_name": "UNet2DModel", **KARLO_SUPER_RESOLUTION}
    arrays["published_karlo-super-resolution_config"] = np.array(json.dumps(config))
    arrays["published_karlo-text-projection_names"] = shapes(
        UnCLIPTextProjModel(time_embed_dim=1280, cross_attention_dim=1536)
    )
for name, array in arrays.items():
    print(name, array.shape, np.abs(array).max() if array.dtype.kind == "f" else "")
np.savez_compressed(HERE / "condition_unets.npz", **arrays)
print((HERE / "condition_unets.npz").stat().st_size)
