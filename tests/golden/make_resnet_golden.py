"""Make the golden files of tests/pretrained with PyTorch, in an environment of its own; no test needs PyTorch.

    pip install torch timm && pip install --no-deps torchvision
    python tests/golden/make_resnet_golden.py

Writes resnet_logits.npz, tensors.pth and legacy.pth beside itself.
"""
# ruff: noqa: E402 - torchvision's compiled operators, which are not needed, are declared before it is imported

import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "pretrained"))
_library = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _library.define(f"{_name}(Tensor a, Tensor b, float c) -> Tensor")

import timm.models.resnet
import torchvision.models
from published_weights import golden_image, published_array
from torch.nn import functional as F  # noqa: N812 - as everyone writes it


class CifarBlock(torch.nn.Module):
    """A basic block with option A of He et al. 2016: every other pixel, channels of zeros on both sides."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(outputs)
        self.conv2 = torch.nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(outputs)
        self.stride, self.zeros = stride, (outputs - inputs) // 2

    def forward(self, x):
        branch = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        past = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.zeros, self.zeros))
        return F.relu(branch + past)


class CifarResNet(torch.nn.Module):
    """The 6n + 2 layers of He et al. 2016, section 4.2, under the names that are usual."""

    def __init__(self, depth):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(16)
        blocks = lambda inputs, outputs, stride: torch.nn.Sequential(
            CifarBlock(inputs, outputs, stride),
            *(CifarBlock(outputs, outputs, 1) for _ in range((depth - 2) // 6 - 1)),
        )
        self.layer1, self.layer2, self.layer3 = blocks(16, 16, 1), blocks(16, 32, 2), blocks(32, 64, 2)
        self.linear = torch.nn.Linear(64, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


def logits(model, height, width):
    """The logits of the golden images with the weights that the names give, [2 10]."""
    shapes = {name: tuple(array.shape) for name, array in model.state_dict().items() if "num_batches" not in name}
    weights = {name: torch.from_numpy(published_array(name, shape)) for name, shape in shapes.items()}
    model.load_state_dict(weights, strict=True)
    image = torch.from_numpy(golden_image(height, width)).permute(0, 3, 1, 2)
    with torch.no_grad():
        return model.double().eval()(image.double()).numpy()


# Everything that timm's ResNets add, in one small network
variants = timm.models.resnet.ResNet(
    timm.models.resnet.Bottleneck,
    [1, 2, 1, 1],
    num_classes=10,
    cardinality=32,
    base_width=4,
    stem_type="deep",
    stem_width=32,
    avg_down=True,
    block_args={"attn_layer": "se"},
)
np.savez(
    HERE / "resnet_logits.npz",
    resnet18=logits(torchvision.models.resnet18(num_classes=10), 65, 49),
    resnet50=logits(torchvision.models.resnet50(num_classes=10), 65, 49),
    variants=logits(variants, 65, 49),
    **{f"cifar_resnet{depth}": logits(CifarResNet(depth), 32, 32) for depth in (20, 32, 44, 56, 110)},
)

base = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 4
tensors = OrderedDict(
    plain=base,
    transposed=base.T,
    part=base[1:3, 2:5],
    expanded=torch.tensor([[1.5]]).expand(2, 3),
    parameter=torch.nn.Parameter(base[0].clone()),
    half=base[0].half(),
    bfloat=base[0].bfloat16(),
    double=base[0].double(),
    long=torch.tensor(7),
    truth=torch.tensor([True, False, True]),
    empty=torch.zeros(0, 3),
)
tensors._metadata = {"": {"version": 1}}  # as Module.state_dict() has it
torch.save({"epoch": 3, "shape": base.shape, "model": {"state_dict": tensors}}, HERE / "tensors.pth")
torch.save({"w": base[0, :2].clone()}, HERE / "legacy.pth", _use_new_zipfile_serialization=False)
