"""Make the golden values of image similarity with public packages, in an environment of its own.

    pip install scikit-image torch pytorch-msssim
    python tests/golden/make_similarity_golden.py

Writes similarity.npz beside itself: PSNR and SSIM of scikit-image and MS-SSIM of pytorch-msssim, all in float64, for
the images of tests/metrics/similarity_images.py. The mean of scikit-image's SSIM leaves out five pixels at each border,
which are the places where the window is not inside the image.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from pytorch_msssim import ms_ssim
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "metrics"))
from similarity_images import pairs  # noqa: E402 - from the folder above


def ssim(image, reference):
    """The mean over the valid region, which is checked, of the mean over channels."""
    mean, full = structural_similarity(
        reference,
        image,
        data_range=1.0,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    np.testing.assert_allclose(mean, full[5:-5, 5:-5].mean(), rtol=1e-12)
    return mean


values = {}
for name, shape in (("colour", (27, 34, 3)), ("grey", (16, 11, 1))):
    both = [array.astype(np.float64) for array in pairs(*shape)]
    values[f"psnr_{name}"] = [peak_signal_noise_ratio(y, x, data_range=1.0) for x, y in zip(*both, strict=True)]
    values[f"ssim_{name}"] = [ssim(x, y) for x, y in zip(*both, strict=True)]
# Sides that sixteen divides: elsewhere pytorch-msssim pads with zeros and we leave out a row or a column
both = [torch.from_numpy(array).permute(0, 3, 1, 2).double() for array in pairs(176, 192, 3)]
values["ms_ssim"] = ms_ssim(*both, data_range=1.0, size_average=False).numpy()
np.savez_compressed(HERE / "similarity.npz", **values)
print(values)
