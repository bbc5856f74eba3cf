"""Make yolo.npz with PyTorch, in an environment of its own; no test needs PyTorch.

    pip install torch numpy
    python tests/golden/make_yolo_golden.py

A YOLOv5 written here from the public description of its sixth version, under the published names: what a small one
predicts in float64 with the weights that a formula gives by name (tests/pretrained/published_weights.py), the boxes
that this means, and the names of the state dicts of sizes n and s with their shapes.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "pretrained"))
from published_weights import published_array, uniform  # noqa: E402 - the path comes first

ANCHORS = ((10, 13, 16, 30, 33, 23), (30, 61, 62, 45, 59, 119), (116, 90, 156, 198, 373, 326))
STRIDES = (8, 16, 32)


class Conv(nn.Module):
    """Convolution, batch normalisation, SiLU."""

    def __init__(self, inputs, outputs, size=1, stride=1, padding=None):
        super().__init__()
        padding = size // 2 if padding is None else padding
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03)

    def forward(self, x):
        return nn.functional.silu(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3, and perhaps the input in addition."""

    def __init__(self, width, add):
        super().__init__()
        self.cv1, self.cv2, self.add = Conv(width, width), Conv(width, width, 3), add

    def forward(self, x):
        hidden = self.cv2(self.cv1(x))
        return x + hidden if self.add else hidden


class C3(nn.Module):
    """Cross-stage partial block with three convolutions."""

    def __init__(self, inputs, outputs, depth, add=True):
        super().__init__()
        half = outputs // 2
        self.cv1, self.cv2, self.cv3 = Conv(inputs, half), Conv(inputs, half), Conv(2 * half, outputs)
        self.m = nn.Sequential(*(Bottleneck(half, add) for _ in range(depth)))

    def forward(self, x):
        return self.cv3(torch.cat([self.m(self.cv1(x)), self.cv2(x)], 1))


class SPPF(nn.Module):
    """Maxima over windows of 5, 9 and 13 pixels, one after another."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.cv1, self.cv2 = Conv(inputs, inputs // 2), Conv(2 * inputs, outputs)

    def forward(self, x):
        levels = [self.cv1(x)]
        for _ in range(3):
            levels.append(nn.functional.max_pool2d(levels[-1], 5, 1, 2))
        return self.cv2(torch.cat(levels, 1))


class Detect(nn.Module):
    """A 1x1 convolution for each level: for each anchor a box, an objectness, classes."""

    def __init__(self, inputs, classes):
        super().__init__()
        self.m = nn.ModuleList(nn.Conv2d(width, 3 * (5 + classes), 1) for width in inputs)
        strides = torch.tensor(STRIDES).view(3, 1, 1)
        self.register_buffer("anchors", torch.tensor(ANCHORS, dtype=torch.float32).view(3, 3, 2) / strides)


class Model(nn.Module):
    """The layers 0 to 24 under the name "model"."""

    def __init__(self, depth, width, classes):
        super().__init__()
        c = lambda of_l: math.ceil(of_l * width / 8) * 8
        n = lambda of_l: max(round(of_l * depth), 1)
        self.model = nn.ModuleList(
            [
                Conv(3, c(64), 6, 2, 2),
                Conv(c(64), c(128), 3, 2),
                C3(c(128), c(128), n(3)),
                Conv(c(128), c(256), 3, 2),
                C3(c(256), c(256), n(6)),
                Conv(c(256), c(512), 3, 2),
                C3(c(512), c(512), n(9)),
                Conv(c(512), c(1024), 3, 2),
                C3(c(1024), c(1024), n(3)),
                SPPF(c(1024), c(1024)),
                Conv(c(1024), c(512)),
                nn.Upsample(scale_factor=2),
                nn.Identity(),
                C3(2 * c(512), c(512), n(3), add=False),
                Conv(c(512), c(256)),
                nn.Upsample(scale_factor=2),
                nn.Identity(),
                C3(2 * c(256), c(256), n(3), add=False),
                Conv(c(256), c(256), 3, 2),
                nn.Identity(),
                C3(2 * c(256), c(512), n(3), add=False),
                Conv(c(512), c(512), 3, 2),
                nn.Identity(),
                C3(2 * c(512), c(1024), n(3), add=False),
                Detect((c(256), c(512), c(1024)), classes),
            ]
        )

    def forward(self, x):
        layers, join = self.model, lambda *parts: torch.cat(parts, 1)
        for layer in layers[:5]:
            x = layer(x)
        fine = x
        middle = layers[6](layers[5](fine))
        coarse = layers[10](layers[9](layers[8](layers[7](middle))))
        lateral = layers[14](layers[13](join(layers[11](coarse), middle)))
        p3 = layers[17](join(layers[15](lateral), fine))
        p4 = layers[20](join(layers[18](p3), lateral))
        p5 = layers[23](join(layers[21](p4), coarse))
        return [conv(level) for conv, level in zip(layers[24].m, (p3, p4, p5), strict=True)]


def boxes(raw, level):
    """Centre, width and height in pixels of [b 3 h w (5 + classes)]: (2 s - 0.5 + cell) stride, (2 s)^2 anchor."""
    rows, columns = torch.meshgrid(torch.arange(raw.shape[2]), torch.arange(raw.shape[3]), indexing="ij")
    squashed = 2 * torch.sigmoid(raw[..., :4])
    centre = (squashed[..., :2] - 0.5 + torch.stack([columns, rows], -1)) * STRIDES[level]
    anchors = torch.tensor(ANCHORS[level], dtype=torch.float64).view(1, 3, 1, 1, 2)
    return torch.cat([centre, squashed[..., 2:] ** 2 * anchors], -1)


def image(height, width):
    """Two images in [0, 1], float64 [2 3 h w]."""
    return torch.from_numpy((uniform("image", (2, height, width, 3)) + 1) / 2).permute(0, 3, 1, 2)


small = Model(0.67, 0.125, classes=2)
state = small.state_dict()
for name, array in state.items():
    if array.dtype == torch.float32 and not name.endswith("anchors"):
        state[name] = torch.from_numpy(published_array(name, tuple(array.shape)))
small.load_state_dict(state, strict=True)
arrays = {}
with torch.no_grad():
    for index, raw in enumerate(small.double().eval()(image(64, 96))):
        b, _, h, w = raw.shape
        raw = raw.view(b, 3, 7, h, w).permute(0, 1, 3, 4, 2)
        # [b h w anchor value]
        arrays[f"level_{index}"] = raw.permute(0, 2, 3, 1, 4).numpy()
        arrays[f"boxes_{index}"] = boxes(raw, index).permute(0, 2, 3, 1, 4).numpy()
        print(index, np.abs(arrays[f"level_{index}"]).max(), arrays[f"level_{index}"].std())
for size, (depth, width) in {"n": (0.33, 0.25), "s": (0.33, 0.5)}.items():
    model = Model(depth, width, classes=80)
    print(size, sum(parameter.numel() for parameter in model.parameters()))
    arrays[f"names_{size}"] = np.array(json.dumps({k: tuple(v.shape) for k, v in model.state_dict().items()}))
np.savez_compressed(HERE / "yolo.npz", **arrays)
