"""Make backbone_logits.npz with PyTorch, in an environment of its own; no test needs PyTorch.

    pip install torch timm && pip install --no-deps torchvision
    python tests/golden/make_backbone_golden.py

For each network, its logits in float64 with the weights that a formula gives by name
(tests/pretrained/published_weights.py), and the names of its state dict with their shapes; and position embeddings that
timm has brought to other grids.
"""
# ruff: noqa: E402 - torchvision's compiled operators, which are not needed, are declared before it is imported

import itertools
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "pretrained"))
_library = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _library.define(f"{_name}(Tensor a, Tensor b, float c) -> Tensor")

import timm
import timm.models.convnext
import timm.models.vision_transformer
import torchvision.models
from published_weights import golden_image, published_array, uniform
from timm.layers import resample_abs_pos_embed
from torchvision.models.convnext import CNBlockConfig


class FacebookBlock(torch.nn.Module):
    """Liu et al. 2022, figure 4, under the names of the published code."""

    def __init__(self, width):
        super().__init__()
        self.dwconv = torch.nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = torch.nn.LayerNorm(width, eps=1e-6)
        self.pwconv1, self.pwconv2 = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)
        self.gamma = torch.nn.Parameter(torch.ones(width))

    def forward(self, x):
        hidden = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        hidden = self.pwconv2(torch.nn.functional.gelu(self.pwconv1(hidden)))
        return x + (self.gamma * hidden).permute(0, 3, 1, 2)


class ChannelNorm(torch.nn.LayerNorm):
    """LayerNorm of the channels of [b c h w]."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class FacebookConvNeXt(torch.nn.Module):
    """Liu et al. 2022, section 2, under the names of the published code."""

    def __init__(self, depths, widths):
        super().__init__()
        norm = partial(ChannelNorm, eps=1e-6)
        stem = torch.nn.Sequential(torch.nn.Conv2d(3, widths[0], 4, 4), norm(widths[0]))
        downs = [torch.nn.Sequential(norm(a), torch.nn.Conv2d(a, b, 2, 2)) for a, b in itertools.pairwise(widths)]
        self.downsample_layers = torch.nn.ModuleList([stem, *downs])
        self.stages = torch.nn.ModuleList(
            torch.nn.Sequential(*(FacebookBlock(width) for _ in range(depth)))
            for depth, width in zip(depths, widths, strict=True)
        )
        self.norm = torch.nn.LayerNorm(widths[-1], eps=1e-6)
        self.head = torch.nn.Linear(widths[-1], 10)

    def forward(self, x):
        for down, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(down(x))
        return self.head(self.norm(x.mean((2, 3))))


def filled(model, gain):
    """The model with the weights that the names give."""
    shapes = {name: tuple(array.shape) for name, array in model.state_dict().items() if "num_batches" not in name}
    weights = {name: published_array(name, shape, gain=gain) for name, shape in shapes.items()}
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()}, strict=True)
    return model.double().eval()


def logits(model, size, gain):
    """The logits of the golden images, [2 10]."""
    with torch.no_grad():
        return filled(model, gain)(torch.from_numpy(golden_image(size, size)).permute(0, 3, 1, 2).double()).numpy()


vision_transformer = partial(torchvision.models.VisionTransformer, image_size=32, patch_size=8, num_layers=2)
stages = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, 24, 1), CNBlockConfig(24, 32, 2), CNBlockConfig(32, None, 1)]
NETWORKS = {
    "convnext_torchvision": (torchvision.models.ConvNeXt(stages, num_classes=10), 64),
    "convnext_timm": (
        timm.models.convnext.ConvNeXt(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32), num_classes=10),
        64,
    ),
    "convnext_facebook": (FacebookConvNeXt((1, 1, 2, 1), (8, 16, 24, 32)), 64),
    "vit_torchvision": (vision_transformer(num_heads=2, hidden_dim=16, mlp_dim=64, num_classes=10), 32),
    "vit_timm": (
        timm.models.vision_transformer.VisionTransformer(
            img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=10
        ),
        32,
    ),
    "convnext_tiny_torchvision": (torchvision.models.convnext_tiny(num_classes=10), 64),
    "convnext_tiny_timm": (timm.create_model("convnext_tiny", num_classes=10), 64),
    "vit_s16_timm": (timm.create_model("vit_small_patch16_224", num_classes=10), 224),
    "vit_b16_torchvision": (torchvision.models.vit_b_16(num_classes=10), 224),
    "mobilenet_torchvision": (torchvision.models.mobilenet_v2(num_classes=10), 64),
    "mobilenet_timm": (timm.create_model("mobilenetv2_050", num_classes=10), 64),
}
arrays = {}
for network, (built, side) in NETWORKS.items():
    # with a gain of 2 ReLU6 cuts, and the image is not lost in 17 blocks without activation at their ends
    arrays[network] = logits(built, side, 2.0 if "mobilenet" in network else 1.0)
    shapes = {name: tuple(array.shape) for name, array in built.state_dict().items()}
    arrays[f"names_{network}"] = np.array(json.dumps(shapes))
    print(network, np.abs(arrays[network]).max(), len(shapes))

for grid in ((6, 6), (3, 5), (2, 2)):
    position = torch.from_numpy(uniform("position", (1, 17, 3)).astype(np.float32))
    arrays[f"position_{grid[0]}x{grid[1]}"] = resample_abs_pos_embed(position, list(grid)).numpy()
np.savez_compressed(HERE / "backbone_logits.npz", **arrays)
