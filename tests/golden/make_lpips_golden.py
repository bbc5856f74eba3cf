"""Write lpips.npz: distances of images by the package lpips, with narrow random networks.

    python tests/golden/make_lpips_golden.py

in an environment with PyTorch, torchvision and lpips 0.1.4 (BSD-2-Clause). The package's own networks are given fewer
channels, and weights by a formula of their names.
"""
# ruff: noqa: E402 - torchvision's compiled operators, which are not needed, are declared before it is imported

import sys
import types
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "pretrained"))
_library = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _library.define(f"{_name}(Tensor a, Tensor b, float c) -> Tensor")

# the package imports its trainer, which needs more packages and is not used
sys.modules["lpips.trainer"] = types.ModuleType("lpips.trainer")
import lpips
from published_weights import published_array
from restoration_images import golden_unit_image
from torch import nn
from torchvision.models.vgg import make_layers

WIDTHS = {"vgg16": (4, 4, 8, 8, 8), "alexnet": (4, 6, 8, 8, 6)}
VGG = [4, 4, "M", 4, 4, "M", 8, 8, 8, "M", 8, 8, 8, "M", 8, 8, 8, "M"]


def alexnet():
    one, two, three, four, five = WIDTHS["alexnet"]
    layers = [nn.Conv2d(3, one, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    layers += [nn.Conv2d(one, two, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    layers += [nn.Conv2d(two, three, 3, padding=1), nn.ReLU(), nn.Conv2d(three, four, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(four, five, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2))


def filled(features):
    own = {name: tuple(array.shape) for name, array in features.state_dict().items()}
    features.load_state_dict({k: torch.from_numpy(published_array(f"features.{k}", s)) for k, s in own.items()})
    return features


arrays = {}
ends = {"vgg16": (0, 4, 9, 16, 23, 30), "alexnet": (0, 2, 5, 8, 10, 12)}
for name, features in (("vgg16", make_layers(VGG)), ("alexnet", alexnet())):
    short = name.removesuffix("16").removesuffix("net")
    model = lpips.LPIPS(net=short, pnet_rand=True, pretrained=False, verbose=False)
    features = filled(features)
    for number in range(5):
        first, last = ends[name][number : number + 2]
        # in place, activations would overwrite what is kept
        part = [nn.ReLU() if isinstance(layer, nn.ReLU) else layer for layer in features[first:last]]
        setattr(model.net, f"slice{number + 1}", nn.Sequential(*part))
        weight = np.abs(published_array(f"lin{number}.model.1.weight", (1, WIDTHS[name][number], 1, 1)))
        linear = nn.Conv2d(WIDTHS[name][number], 1, 1, bias=False)
        linear.weight.data = torch.from_numpy(weight)
        getattr(model, f"lin{number}").model[-1] = linear
        model.lins[number].model[-1] = linear
    one, other = torch.from_numpy(2 * golden_unit_image(70, 64, 3) - 1).permute(0, 3, 1, 2).double()
    with torch.no_grad():
        model = model.double().eval()
        pairs = ((one, other), (one, 0.9 * one + 0.1 * other))
        arrays[name] = np.array([model(a[None], b[None]).item() for a, b in pairs])
    print(name, arrays[name])
np.savez(HERE / "lpips.npz", **arrays)
