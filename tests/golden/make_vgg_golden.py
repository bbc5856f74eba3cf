"""Make vgg.npz with PyTorch, in an environment of its own; no test needs PyTorch.

    pip install torch && pip install --no-deps torchvision
    python tests/golden/make_vgg_golden.py

Logits and activations in float64 of a narrow VGG16 made by torchvision's functions, with the weights that a formula
gives by name (tests/pretrained/published_weights.py); and the names of the state dict of the whole one.
"""
# ruff: noqa: E402 - torchvision's compiled operators, which are not needed, are declared before it is imported

import json
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "pretrained"))
_library = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _library.define(f"{_name}(Tensor a, Tensor b, float c) -> Tensor")

import torchvision.models
from published_weights import golden_image, published_array
from torchvision.models.vgg import VGG, cfgs, make_layers

WIDTHS, HIDDEN = {64: 4, 128: 4, 256: 8, 512: 8}, 16


def narrow():
    """VGG16 with few channels."""
    model = VGG(make_layers([width if width == "M" else WIDTHS[width] for width in cfgs["D"]]), num_classes=10)
    model.classifier[0] = torch.nn.Linear(WIDTHS[512] * 7 * 7, HIDDEN)
    model.classifier[3] = torch.nn.Linear(HIDDEN, HIDDEN)
    model.classifier[6] = torch.nn.Linear(HIDDEN, 10)
    shapes = {name: tuple(array.shape) for name, array in model.state_dict().items()}
    weights = {name: torch.from_numpy(published_array(name, shape)) for name, shape in shapes.items()}
    model.load_state_dict(weights, strict=True)
    return model.double().eval()


def given(height, width):
    """The golden images, [2 3 h w]."""
    return torch.from_numpy(golden_image(height, width)).permute(0, 3, 1, 2).double()


arrays = {}
with torch.no_grad():
    for height, width in ((100, 75), (224, 224), (260, 290)):
        arrays[f"logits_{height}x{width}"] = narrow()(given(height, width)).numpy()
    # layers 12 and 13 of the list are the second convolution of the third stage and its activation
    for name, end in (("conv3_2", 13), ("relu3_2", 14), ("pool2", 10)):
        # in place, activations would overwrite what is kept
        layers = [torch.nn.ReLU() if isinstance(layer, torch.nn.ReLU) else layer for layer in narrow().features[:end]]
        made = torch.nn.Sequential(*layers)(given(40, 36))
        arrays[name] = made.permute(0, 2, 3, 1).numpy().astype(np.float32)
for name in ("vgg16", "vgg19"):
    with torch.device("meta"):
        whole = getattr(torchvision.models, name)()
    arrays[f"names_{name}"] = np.array(
        json.dumps({key: list(array.shape) for key, array in whole.state_dict().items()})
    )
for name, array in arrays.items():
    print(name, array.shape, np.abs(array).max() if array.dtype.kind == "f" else "")
np.savez_compressed(HERE / "vgg.npz", **arrays)
