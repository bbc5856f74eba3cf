"""Make autoencoder_kl.npz with diffusers, in an environment of its own; no test needs PyTorch.

    pip install torch diffusers
    python tests/golden/make_autoencoder_kl_golden.py

Moments and reconstructions in float64 of small networks of the published kind, with the weights that a formula gives
by name (tests/pretrained/published_weights.py); the names and shapes of the state dicts of Stable Diffusion's network
and of one without projections and with 16 channels of latents; and the configurations that diffusers writes.
"""
# ruff: noqa: E402 - the formula of weights is not in a package

import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "pretrained"))
from published_weights import golden_image, published_array, uniform

SMALL = {
    "full": {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 3},
    "bare": {
        **{"block_out_channels": (12, 12, 24), "layers_per_block": 2, "norm_num_groups": 6, "latent_channels": 5},
        **{"use_quant_conv": False, "use_post_quant_conv": False, "mid_block_add_attention": False},
        **{"scaling_factor": 0.3611, "shift_factor": 0.1159},
    },
    "attentive": {
        **{"block_out_channels": (6, 6, 12), "layers_per_block": 1, "norm_num_groups": 3, "latent_channels": 2},
        "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        "up_block_types": ("UpDecoderBlock2D", "AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
    },
}
LARGE = {
    "stable_diffusion": {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2},
    "without_projections": {
        **{"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 16},
        **{"use_quant_conv": False, "use_post_quant_conv": False},
    },
}


def network(settings):
    levels = len(settings["block_out_channels"])
    blocks = {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
    }
    return AutoencoderKL(**{**blocks, **settings})


arrays = {}
for name, settings in SMALL.items():
    model = network(settings).double().eval()
    weights = {key: published_array(key, tuple(x.shape), gain=1.5) for key, x in model.state_dict().items()}
    model.load_state_dict({key: torch.from_numpy(x).double() for key, x in weights.items()}, strict=True)
    image = torch.from_numpy(golden_image(16, 24)).permute(0, 3, 1, 2).double() / 2
    with torch.no_grad():
        moments = model.encode(image).latent_dist
        latent = torch.from_numpy(uniform("latent", tuple(moments.mean.shape)))
        made = {"mean": moments.mean, "log_variance": moments.logvar, "image": model.decode(latent).sample}
    for key, value in made.items():
        array = value.permute(0, 2, 3, 1).numpy().astype(np.float32)
        arrays[f"{name}_{key}"] = array
        print(name, key, array.shape, np.abs(array).max(), array.std())
    arrays[f"{name}_config"] = np.array(model.to_json_string())
for name, settings in LARGE.items():
    with torch.device("meta"):
        model = network(settings)
    print(name, sum(x.numel() for x in model.parameters()))
    arrays[f"{name}_names"] = np.array(json.dumps({key: list(x.shape) for key, x in model.state_dict().items()}))
np.savez_compressed(HERE / "autoencoder_kl.npz", **arrays)
print((HERE / "autoencoder_kl.npz").stat().st_size)
