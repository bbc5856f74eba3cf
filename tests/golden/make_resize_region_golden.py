"""Write resize_region.npz: an image resized by PyTorch without antialiasing.

    python tests/golden/make_resize_region_golden.py

in an environment with PyTorch.
"""

from pathlib import Path

import numpy as np
import torch

image = np.random.default_rng(0).uniform(size=(1, 12, 10, 1)).astype(np.float32)
arrays = {"image": image}
for method in ("bilinear", "bicubic", "area"):
    for size in ((5, 8), (20, 31), (7, 23)):
        how = {} if method == "area" else {"align_corners": False}
        made = torch.nn.functional.interpolate(torch.from_numpy(image).permute(0, 3, 1, 2), size, mode=method, **how)
        arrays[f"{method}_{size[0]}x{size[1]}"] = made.permute(0, 2, 3, 1).numpy()
np.savez_compressed(Path(__file__).parent / "resize_region.npz", **arrays)
