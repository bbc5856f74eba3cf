"""Write restoration.npz: what PyTorch computes with networks of restoration, of weights by a formula of their names.

    python tests/golden/make_restoration_golden.py

in an environment with PyTorch and spandrel 0.4.2 (MIT), whose SwinIR, RRDB and DnCNN are used; SRCNN, VDSR and EDSR are
a few lines below, from their papers, with the names of the implementations whose weights are published.
"""

# ruff: noqa: E402 - as in make_vgg_golden.py

import json
import sys
from pathlib import Path

import numpy as np
import torch

# a build of torchvision without its compiled operators does not import without these
_LIBRARY = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _LIBRARY.define(f"{_name}(Tensor a, Tensor b, float c) -> Tensor")
from torch import nn

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "pretrained"))
from published_weights import published_array
from restoration_images import golden_unit_image
from spandrel.architectures.DnCNN.__arch.network_dncnn import DnCNN
from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet
from spandrel.architectures.SwinIR.__arch.SwinIR import SwinIR


def conv(inputs, outputs, size=3, bias=True):
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=bias)


class SRCNN(nn.Module):
    def __init__(self, middle):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = conv(1, 8, 9), conv(8, 4, middle), conv(4, 1, 5)

    def forward(self, x):
        return self.conv3(self.conv2(self.conv1(x).relu()).relu())


class Unit(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = conv(width, width, bias=False)

    def forward(self, x):
        return self.conv(x).relu()


class VDSR(nn.Module):
    def __init__(self, depth=20, width=64):
        super().__init__()
        self.residual_layer = nn.Sequential(*[Unit(width) for _ in range(depth - 2)])
        self.input, self.output = conv(1, width, bias=False), conv(width, 1, bias=False)

    def forward(self, x):
        return x + self.output(self.residual_layer(self.input(x).relu()))


class Branch(nn.Module):
    def __init__(self, width, scale):
        super().__init__()
        self.body, self.scale = nn.Sequential(conv(width, width), nn.ReLU(), conv(width, width)), scale

    def forward(self, x):
        return x + self.scale * self.body(x)


def shuffles(width, scale):
    factors = {2: (2,), 3: (3,), 4: (2, 2)}[scale]
    return nn.Sequential(*[m for n in factors for m in (conv(width, n * n * width), nn.PixelShuffle(n))])


class EDSR(nn.Module):
    """With the names of its authors; takes values of 0 to 255."""

    def __init__(self, scale, blocks=16, width=64, residual=1.0):
        super().__init__()
        self.sub_mean, self.add_mean = conv(3, 3, 1), conv(3, 3, 1)
        for layer, sign in ((self.sub_mean, -1), (self.add_mean, 1)):
            layer.weight.data = torch.eye(3)[:, :, None, None]
            layer.bias.data = sign * 255 * torch.tensor([0.4488, 0.4371, 0.4040])
        self.head = nn.Sequential(conv(3, width))
        self.body = nn.Sequential(*[Branch(width, residual) for _ in range(blocks)], conv(width, width))
        self.tail = nn.Sequential(shuffles(width, scale), conv(width, 3))

    def forward(self, x):
        x = self.head(self.sub_mean(x))
        return self.add_mean(self.tail(x + self.body(x)))


def filled(model):
    """The model in float64 with weights by the formula; buffers and means as they are."""
    own = model.state_dict()
    fixed = ("sub_mean", "add_mean")
    for name, array in own.items():
        if array.is_floating_point() and not name.startswith(fixed) and not name.endswith("attn_mask"):
            own[name] = torch.from_numpy(published_array(name, tuple(array.shape)))
    model.load_state_dict(own, strict=True)
    return model.double().eval()


def given(height, width, channels):
    return torch.from_numpy(golden_unit_image(height, width, channels)).permute(0, 3, 1, 2).double()


def swinir(**options):
    return SwinIR(img_size=16, window_size=4, img_range=1.0, mlp_ratio=2, resi_connection="1conv", **options)


small = {"embed_dim": 12, "depths": [2, 3], "num_heads": [3, 3]}
arrays = {}
with torch.no_grad():
    for middle in (1, 5):
        arrays[f"srcnn_9{middle}5"] = filled(SRCNN(middle))(given(13, 12, 1))
    arrays["vdsr"] = filled(VDSR(depth=6, width=8))(given(13, 12, 1))
    for scale in (2, 3, 4):
        model = filled(EDSR(scale, blocks=2, width=8, residual=0.5))
        arrays[f"edsr_x{scale}"] = model(255 * given(5, 6, 3)) / 255
    for scale, side in ((4, 6), (2, 8), (1, 12)):
        model = RRDBNet(
            in_nc=3 * (4 // scale) ** 2,
            num_filters=8,
            num_blocks=2,
            scale=4,
            shuffle_factor=None,
            norm=None,
            plus=False,
        )
        x = given(side, side + 4, 3)
        arrays[f"rrdb_x{scale}"] = filled(model)(x if scale == 4 else nn.functional.pixel_unshuffle(x, 4 // scale))
    arrays["dncnn"] = filled(DnCNN(in_nc=1, out_nc=1, nc=8, nb=5, act_mode="R"))(given(13, 12, 1))
    arrays["dncnn_norm"] = filled(DnCNN(in_nc=3, out_nc=3, nc=8, nb=5, act_mode="BR"))(given(13, 12, 3))
    for scale in (2, 3, 4):
        arrays[f"swinir_light_x{scale}"] = filled(swinir(upscale=scale, upsampler="pixelshuffledirect", **small))(
            given(6, 9, 3)
        )
    arrays["swinir_medium_x4"] = filled(swinir(upscale=4, upsampler="pixelshuffle", **small))(given(6, 9, 3))
    arrays["swinir_denoising"] = filled(swinir(upscale=1, upsampler="", in_chans=1, **small))(given(6, 9, 1))
arrays = {name: array.permute(0, 2, 3, 1).numpy().astype(np.float32) for name, array in arrays.items()}


def listed(model):
    return np.array(json.dumps({name: list(array.shape) for name, array in model.state_dict().items()}))


for name, make in {
    "edsr_baseline_x2": lambda: EDSR(2),
    "edsr_large_x3": lambda: EDSR(3, blocks=32, width=256, residual=0.1),
    "vdsr": VDSR,
    "rrdb_x4": lambda: RRDBNet(),
    "dncnn_s": lambda: DnCNN(in_nc=1, out_nc=1, nc=64, nb=17, act_mode="R"),
    "swinir_light_x2": lambda: SwinIR(
        upscale=2,
        img_size=64,
        window_size=8,
        img_range=1.0,
        depths=[6] * 4,
        embed_dim=60,
        num_heads=[6] * 4,
        mlp_ratio=2,
        upsampler="pixelshuffledirect",
        resi_connection="1conv",
    ),
    "swinir_medium_x4": lambda: SwinIR(
        upscale=4,
        img_size=48,
        window_size=8,
        img_range=1.0,
        depths=[6] * 6,
        embed_dim=180,
        num_heads=[6] * 6,
        mlp_ratio=2,
        upsampler="pixelshuffle",
        resi_connection="1conv",
    ),
}.items():
    arrays[f"names_{name}"] = listed(make())
for name, array in arrays.items():
    print(name, array.shape, np.abs(array).max() if array.dtype.kind == "f" else "")
np.savez_compressed(HERE / "restoration.npz", **arrays)
