"""Make the golden values of Inception and its resizing with public packages, in an environment of its own.

    pip install torch torch-fidelity && pip install --no-deps torchvision pytorch-fid
    python tests/golden/make_inception_golden.py

Writes three files beside itself. inception.npz: what torch-fidelity and pytorch-fid make of the weights that a formula
gives by name (tests/pretrained/published_weights.py), in float64. resize_legacy.npz: TensorFlow 1's resizing, as
torch-fidelity has it. legacy_state.pth: a state dict in the format of the published weights, PyTorch's before 1.6. Says
by how much the packages differ.
"""
# ruff: noqa: E402 - torchvision's compiled operators, which are not needed, are declared before it is imported

import sys
import tempfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "pretrained"))
_library = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _library.define(f"{_name}(Tensor a, Tensor b, float c) -> Tensor")

import pytorch_fid.inception
import torchvision.models
from published_weights import golden_image, published_array, uniform
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

# The names and shapes are those of torchvision's network without its auxiliary classifier
names = torchvision.models.inception_v3(num_classes=1008, aux_logits=False, weights=None, init_weights=False)
shapes = {name: tuple(array.shape) for name, array in names.state_dict().items() if "num_batches" not in name}
# twice the scales of the formula, with which 94 layers neither fade nor explode
gain = lambda name: np.float32(2 if name.endswith("bn.weight") else 1)
weights = {name: torch.from_numpy(published_array(name, shape) * gain(name)) for name, shape in shapes.items()}
levels_of = lambda height, width: np.floor(128 * (uniform("levels", (2, height, width, 3)) + 1)).astype(np.uint8)
channels_first = lambda array: torch.from_numpy(array).permute(0, 3, 1, 2)
channels_last = lambda array: array.permute(0, 2, 3, 1).numpy()

pytorch_fid.inception.load_state_dict_from_url = lambda *_, **__: weights
theirs = pytorch_fid.inception.InceptionV3([3], resize_input=False, normalize_input=False).double().eval()
other = pytorch_fid.inception.fid_inception_v3().double().eval()

# Only the network, at sizes that differ and leave more than one pixel to pool over
small = channels_first(golden_image(139, 107)).double()
with torch.no_grad():
    features = theirs(small)[0][:, :, 0, 0]
    logits = other.fc(features)
    np.testing.assert_allclose(other(small), logits, rtol=1e-12)

levels = levels_of(32, 32)
with tempfile.NamedTemporaryFile() as file:
    torch.save(weights, file.name)
    asked = ["2048", "logits_unbiased", "logits"]
    extractor = FeatureExtractorInceptionV3("inception", asked, file.name, "float64")
with torch.no_grad():
    pool, unbiased, biased = (array.numpy() for array in extractor(channels_first(levels)))
    resized = interpolate_bilinear_2d_like_tensorflow1x(
        channels_first(levels).float(), size=(299, 299), align_corners=False
    )
    again = theirs((resized.double() - 128) / 128)[0][:, :, 0, 0].numpy()
print(
    "pytorch-fid's network on torch-fidelity's input differs by", np.abs(again - pool).max(), "of", np.abs(pool).max()
)
with torch.no_grad():
    half = torch.nn.functional.interpolate(channels_first(levels).double() / 255, size=(299, 299), mode="bilinear")
    whole = theirs(2 * half - 1)[0][:, :, 0, 0].numpy()
print("with pytorch-fid's own resizing and scaling", np.abs(whole - pool).max())


def legacy(images, size):
    images = channels_first(images).float()
    return channels_last(interpolate_bilinear_2d_like_tensorflow1x(images, size=size, align_corners=False))


np.savez_compressed(
    HERE / "inception.npz",
    features=features.float().numpy(),
    logits=logits.float().numpy(),
    protocol_features=pool,
    protocol_unbiased_logits=unbiased,
    protocol_logits=biased,
    protocol_resized=legacy(levels, (299, 299))[:, ::23, ::29],
)
few, many = levels_of(5, 8), levels_of(23, 17)
np.savez_compressed(HERE / "resize_legacy.npz", few=few, up=legacy(few, (13, 9)), many=many, down=legacy(many, (7, 11)))

base = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 4
state = OrderedDict(plain=base, transposed=base.T, part=base[1:3, 2:5], half=base[0].half(), counter=torch.tensor(7))
state._metadata = {"": {"version": 1}}  # as Module.state_dict() has it
torch.save(state, HERE / "legacy_state.pth", _use_new_zipfile_serialization=False)
