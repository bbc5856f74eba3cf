"""Flow matching on CIFAR-10, after Lipman et al. 2023 and Tong et al. 2024.

A straight line from data to noise, whose velocity the network learns, with the UNet of 35,746,307 parameters. The
settings are those of Tong et al. for their comparison: Adam 2e-4 with 5000 steps of warm-up, batch 128, EMA 0.9999,
400k steps. They report a Frechet distance of 4.44 with 100 steps of Euler's method where noise is assigned to images by
minibatch optimal transport (``--diffusion.transport 128``), and 3.58 with an adaptive solver. This code has not been
run to that length.

    python -m experiments.flow_cifar --quick                             a laptop: shapes world, 3 minutes
    python -m experiments.flow_cifar --data.dir ~/tensorflow_datasets    the recipe
    python -m experiments.flow_cifar --diffusion.transport 128           with optimal transport
    python -m experiments.flow_cifar --diffusion.times log_normal --diffusion.time-mean 0 --diffusion.time-deviation 1
                                                                         with the times of Esser et al. 2024
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

from vision.launch.about import About
from vision.launch.run import main
from vision.models.unet import UNetConfig
from vision.recipes.diffusion import DiffusionRunConfig, diffusion
from vision.recipes.diffusion_networks import SMALL_UNET, NetworkConfig, network_by_name
from vision.recipes.generative import QUICK_GENERATION
from vision.recipes.quick_data import tiny, tiny_data
from vision.tasks.diffusion import DiffusionConfig
from vision.tasks.sampling import SamplingConfig
from vision.train.experiment import Experiment

ABOUT = About(
    task="diffusion",
    paper="Lipman et al. 2023, arXiv:2210.02747; Tong et al. 2024, arXiv:2302.00482",
    quick="3 minutes",
)


@dataclass(frozen=True, kw_only=True)
class Config(DiffusionRunConfig):
    """The recipe."""

    model: NetworkConfig = network_by_name(UNetConfig())
    diffusion: DiffusionConfig = DiffusionConfig(schedule="flow", prediction="velocity")
    sampling: SamplingConfig = SamplingConfig(steps=100)
    images: int = 51_200_000


QUICK = Config(
    model=SMALL_UNET,
    **{
        **QUICK_GENERATION,
        # the image, from which the velocity follows, as in diffusion_cifar: a network this narrow copies no noise then
        "diffusion": DiffusionConfig(schedule="flow", prediction="x0", weighting="truncated_snr"),
        "sampling": SamplingConfig(steps=20, guidance=2.0),
    },
)
TINY = tiny(
    QUICK,
    model=replace(SMALL_UNET, width=16, multipliers=(1,), classes=4),
    data=tiny_data(QUICK.data),
    diffusion=replace(QUICK.diffusion, transport=4),
    sampling=replace(QUICK.sampling, steps=2),
    samples=4,
    classified=4,
    held_out=8,
)

ABLATIONS: dict[str, dict[str, Any]] = {
    "transport": {"diffusion.transport": 32},
    "logit_normal": {"diffusion.times": "log_normal", "diffusion.time_mean": 0.0, "diffusion.time_deviation": 1.0},
    "shifted": {"diffusion.shift": 2.0, "sampling.shift": 2.0},
    "v": {"diffusion.prediction": "v"},
    "x0": {"diffusion.prediction": "x0", "diffusion.weighting": "truncated_snr"},
    "velocity": {"diffusion.prediction": "velocity", "diffusion.weighting": "simple"},
    "weighted_as_epsilon": {"diffusion.weighting": "epsilon"},
    "euler_10": {"sampling.steps": 10},
    "euler_50": {"sampling.steps": 50},
    "heun": {"sampling.method": "heun", "sampling.steps": 10},
    "dpm_solver": {"sampling.method": "dpm_solver"},
    "unipc": {"sampling.method": "unipc"},
    "unguided": {"sampling.guidance": 1.0},
    "strong_guidance": {"sampling.guidance": 4.0},
}


def build(config: Config) -> Experiment:
    """The recipe of diffusion models, with the process of a flow."""
    return diffusion(config)


if __name__ == "__main__":
    sys.exit(main("flow_cifar", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
