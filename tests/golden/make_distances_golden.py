"""Make the golden values of distances between sets of features with public packages, in an environment of its own.

    pip install torch torchvision pytorch-fid torch-fidelity prdc scikit-learn
    python tests/golden/make_distances_golden.py

Writes distances.npz beside itself, of the features in tests/metrics/seeded_features.py: the Fréchet distance of
pytorch-fid 0.3.0 (Apache 2.0), the kernel distance and the score of torch-fidelity 0.4.0 (Apache 2.0), the kernel
distance on the subsets that our function draws, and precision, recall, density and coverage of prdc 0.2 (MIT). The
packages are run, and nothing is copied from them.
"""

import sys
from pathlib import Path

import numpy as np
import torch

_library = torch.library.Library("torchvision", "DEF")  # of a torchvision without its compiled operators
for _name in ("nms", "qnms"):
    _library.define(f"{_name}(Tensor a, Tensor b, float c) -> Tensor")

from prdc import compute_prdc  # noqa: E402 - after the operators
from pytorch_fid.fid_score import calculate_frechet_distance  # noqa: E402
from torch_fidelity.metric_isc import isc_features_to_metric  # noqa: E402
from torch_fidelity.metric_kid import kernel_mmd, kid_features_to_metric  # noqa: E402

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "metrics"))
from seeded_features import CASES, pair, probabilities  # noqa: E402 - from the folder above

SUBSETS, SUBSET_SIZE = 7, 100
KERNEL = {
    "kid_kernel": "poly",
    "kid_kernel_poly_degree": 3,
    "kid_kernel_poly_gamma": None,
    "kid_kernel_poly_coef0": 1,
}


def random_subsets(m, n, *, subsets, subset_size, seed):
    """As vision/metrics/generation/kernel_distance.py draws them; written again, since that needs jaxtyping."""
    bits = np.random.Philox(np.random.SeedSequence(seed))
    for _ in range(subsets):
        yield tuple(np.argsort(bits.random_raw(size), kind="stable")[:subset_size] for size in (m, n))


values = {}
for name in CASES:
    one, other = pair(name)
    gaussians = [array for each in (one, other) for array in (each.mean(0), np.cov(each, rowvar=False))]
    values[f"frechet_{name}"] = calculate_frechet_distance(*gaussians)
    draws = random_subsets(len(one), len(other), subsets=SUBSETS, subset_size=SUBSET_SIZE, seed=3)
    each = [kernel_mmd(one[rows], other[columns], **KERNEL) for rows, columns in draws]
    values[f"kernel_{name}"] = [np.mean(each), np.std(each)]
    overlap = compute_prdc(real_features=one, fake_features=other, nearest_k=5)
    values[f"overlap_{name}"] = [overlap[key] for key in ("precision", "recall", "density", "coverage")]
# All samples at once: one subset that is the complete set
one, other = pair("small")
whole = kid_features_to_metric(
    torch.from_numpy(one[:260]),
    torch.from_numpy(other),
    kid_subsets=1,
    kid_subset_size=260,
    rng_seed=0,
    verbose=False,
    **KERNEL,
)
values["kernel_whole"] = whole["kernel_inception_distance_mean"]
score = isc_features_to_metric(torch.log(torch.from_numpy(probabilities(5, 333, 10))), splits=4, shuffle=False)
values["score"] = [score["inception_score_mean"], score["inception_score_std"]]
np.savez_compressed(HERE / "distances.npz", **values)
print(values)
