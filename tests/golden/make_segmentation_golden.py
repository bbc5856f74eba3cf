"""Make segmentation.npz with PyTorch, in an environment of its own; no test needs PyTorch.

    pip install torch && pip install --no-deps torchvision
    python tests/golden/make_segmentation_golden.py

Logits in float64 of torchvision's FCN and DeepLabV3 on narrow dilated ResNets, at every fourth pixel of images whose
sides are no multiples of the stride, with the weights that a formula gives by name
(tests/pretrained/published_weights.py); and the names of the state dicts of the whole networks.
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

import torchvision.models.segmentation
from published_weights import golden_image, published_array
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.segmentation.deeplabv3 import DeepLabHead, DeepLabV3
from torchvision.models.segmentation.fcn import FCN, FCNHead

WIDTH, CLASSES = 8, 5


class NarrowResNet(ResNet):
    """torchvision's stages, dilation and blocks, with ``WIDTH`` channels in place of 64."""

    def __init__(self, dilated):
        nn.Module.__init__(self)
        self._norm_layer, self.groups, self.base_width = nn.BatchNorm2d, 1, 64
        self.inplanes, self.dilation = WIDTH, 1
        self.conv1 = nn.Conv2d(3, WIDTH, 7, 2, 3, bias=False)
        self.bn1, self.relu, self.maxpool = nn.BatchNorm2d(WIDTH), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        self.layer1 = self._make_layer(Bottleneck, WIDTH, 1)
        self.layer2 = self._make_layer(Bottleneck, 2 * WIDTH, 2, stride=2)
        self.layer3 = self._make_layer(Bottleneck, 4 * WIDTH, 2, stride=2, dilate=dilated[0])
        self.layer4 = self._make_layer(Bottleneck, 8 * WIDTH, 3, stride=2, dilate=dilated[1])


def narrow(kind, head, dilated):
    """A network of the published kind with an auxiliary head, and the weights that the names give."""
    backbone = IntermediateLayerGetter(NarrowResNet(dilated), {"layer4": "out", "layer3": "aux"})
    model = kind(backbone, head(32 * WIDTH, CLASSES), FCNHead(16 * WIDTH, CLASSES))
    shapes = {name: tuple(array.shape) for name, array in model.state_dict().items() if "num_batches" not in name}
    weights = {name: torch.from_numpy(published_array(name, shape)) for name, shape in shapes.items()}
    model.load_state_dict(weights, strict=True)
    return model.double().eval()


NETWORKS = {
    "fcn_8": narrow(FCN, FCNHead, (True, True)),
    "deeplab_8": narrow(DeepLabV3, DeepLabHead, (True, True)),
    "deeplab_16": narrow(DeepLabV3, lambda *sizes: DeepLabHead(*sizes, (6, 12, 18)), (False, True)),
}
arrays = {}
for network, model in NETWORKS.items():
    with torch.no_grad():
        made = model(torch.from_numpy(golden_image(65, 50)).permute(0, 3, 1, 2).double())
    for key, logits in made.items():
        arrays[f"{network}_{key}"] = logits[:, :, ::4, ::4].permute(0, 2, 3, 1).numpy().astype(np.float32)
for network in ("fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_resnet101"):
    build = getattr(torchvision.models.segmentation, network)
    with torch.device("meta"):
        whole = build(weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    shapes = {name: list(array.shape) for name, array in whole.state_dict().items()}
    arrays[f"names_{network}"] = np.array(json.dumps(shapes))
for network, array in arrays.items():
    print(network, array.shape, np.abs(array).max() if array.dtype.kind == "f" else "")
np.savez_compressed(HERE / "segmentation.npz", **arrays)
