"""Make lamb.npz with timm, in an environment of its own; no test needs PyTorch.

    pip install torch timm && pip install --no-deps torchvision
    python tests/golden/make_lamb_golden.py

Thirty steps of timm's LAMB on a kernel with decay, a vector and a vector that starts at zero, both without, with the
gradients that were given to it.
"""
# ruff: noqa: E402 - torchvision's compiled operators, which are not needed, are declared before it is imported

from pathlib import Path

import numpy as np
import torch

_library = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _library.define(f"{_name}(Tensor a, Tensor b, float c) -> Tensor")

from timm.optim import Lamb

STEPS = 30
SHAPES = {"kernel": (3, 3, 2, 4), "vector": (4,), "zero": (4,)}

generator = np.random.default_rng(0)
start = {name: generator.normal(0, 0.3, shape) * (name != "zero") for name, shape in SHAPES.items()}
gradients = {name: generator.normal(0, 1, (STEPS, *shape)) for name, shape in SHAPES.items()}
weights = {name: torch.nn.Parameter(torch.from_numpy(array.copy())) for name, array in start.items()}
groups = [
    {"params": [weights["kernel"]], "weight_decay": 0.02},
    {"params": [weights["vector"], weights["zero"]], "weight_decay": 0.0},
]
optimizer = Lamb(groups, lr=0.01, betas=(0.9, 0.95), eps=1e-6, max_grad_norm=None)
passed = {name: [] for name in SHAPES}
for step in range(STEPS):
    for name, weight in weights.items():
        weight.grad = torch.from_numpy(gradients[name][step])
    optimizer.step()
    for name, weight in weights.items():
        passed[name].append(weight.detach().numpy().copy())
arrays = {f"start_{name}": array for name, array in start.items()}
arrays |= {f"gradients_{name}": array for name, array in gradients.items()}
arrays |= {f"passed_{name}": np.stack(each) for name, each in passed.items()}
np.savez_compressed(Path(__file__).parent / "lamb.npz", **{n: a.astype(np.float32) for n, a in arrays.items()})
print({name: float(np.abs(each[-1]).mean()) for name, each in passed.items()})
