"""Make samplers.npz with diffusers, in an environment of its own; no test needs PyTorch.

    pip install torch diffusers
    python tests/golden/make_samplers_golden.py

The path of each scheduler, step by step, for a network in closed form (``tests/diffusion/closed_form.py`` has it in
NumPy): the start, the times the network saw, and the sample after each call. Schedulers in sigma hold x / signal.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

STEPS = 8
LINEAR = {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
COSINE = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2"}


def network(x: torch.Tensor, time: float) -> torch.Tensor:
    """The network: a smooth function of image and time."""
    return torch.tanh(0.8 * x + 0.3 * np.cos(time / 150.0)) + 0.2 * np.sin(time / 400.0) * x


def path(scheduler, start: torch.Tensor, *, noises: list[torch.Tensor] | None = None, edm: bool = False) -> dict:
    """Times and samples of a scheduler."""
    sample, times, samples = start.clone(), [], []
    for number, time in enumerate(scheduler.timesteps):
        seen = scheduler.scale_model_input(sample, time) if hasattr(scheduler, "scale_model_input") else sample
        output = network(seen, float(time) * (100.0 if edm else 1.0))
        extra = {}
        if noises is not None:
            extra = {"variance_noise": noises[number]}
        if isinstance(scheduler, DDIMScheduler) and scheduler.config.clip_sample:
            extra = {"use_clipped_model_output": True}  # the noise follows the clipped image
        sample = scheduler.step(output, time, sample, **extra).prev_sample
        times.append(float(time))
        samples.append(sample.numpy())
    return {"times": np.asarray(times), "samples": np.stack(samples)}


def main() -> None:
    """Write samplers.npz."""
    generator = np.random.default_rng(0)
    start = torch.from_numpy(generator.normal(size=(2, 2, 2, 1)).astype(np.float32))
    noises = [torch.from_numpy(generator.normal(size=(2, 2, 2, 1)).astype(np.float32)) for _ in range(STEPS)]
    clean = torch.from_numpy(np.tanh(generator.normal(size=(2, 2, 2, 1))).astype(np.float32))
    image = {"clip_sample": False}
    cases = {
        "ddim": DDIMScheduler(**LINEAR, **image, timestep_spacing="leading"),
        "ddim_trailing": DDIMScheduler(**COSINE, **image, timestep_spacing="trailing", prediction_type="v_prediction"),
        "ddim_zero_snr": DDIMScheduler(
            **SCALED, **image, timestep_spacing="trailing", prediction_type="v_prediction", rescale_betas_zero_snr=True
        ),
        "ddim_clipped": DDIMScheduler(**LINEAR, timestep_spacing="leading", prediction_type="sample"),
        "euler": EulerDiscreteScheduler(**LINEAR, timestep_spacing="trailing"),
        "euler_karras": EulerDiscreteScheduler(**SCALED, use_karras_sigmas=True),
        "heun": HeunDiscreteScheduler(**LINEAR, timestep_spacing="trailing"),
        "dpm_solver": DPMSolverMultistepScheduler(**LINEAR, timestep_spacing="trailing"),
        "dpm_solver_v": DPMSolverMultistepScheduler(
            **COSINE, timestep_spacing="leading", prediction_type="v_prediction"
        ),
        "dpm_solver_karras": DPMSolverMultistepScheduler(**SCALED, use_karras_sigmas=True),
        "dpm_solver_sde": DPMSolverMultistepScheduler(
            **LINEAR, timestep_spacing="trailing", algorithm_type="sde-dpmsolver++"
        ),
        "unipc": UniPCMultistepScheduler(**LINEAR, timestep_spacing="trailing"),
        "unipc_3": UniPCMultistepScheduler(**LINEAR, timestep_spacing="trailing", solver_order=3),
        "unipc_bh1": UniPCMultistepScheduler(**SCALED, timestep_spacing="leading", solver_type="bh1"),
        "flow": FlowMatchEulerDiscreteScheduler(shift=3.0),
        "flow_heun": FlowMatchHeunDiscreteScheduler(),
        "edm_euler": EDMEulerScheduler(),
        "edm_dpm_solver": EDMDPMSolverMultistepScheduler(),
    }
    arrays = {"start": start.numpy(), "noises": torch.stack(noises).numpy(), "clean": clean.numpy()}
    for name, scheduler in cases.items():
        scheduler.set_timesteps(STEPS)
        sigma_start = {"euler", "euler_karras", "heun", "edm_euler", "edm_dpm_solver"}
        first = start * float(scheduler.sigmas[0]) if name in sigma_start else start
        found = path(scheduler, first, noises=noises if name == "dpm_solver_sde" else None, edm=name.startswith("edm"))
        arrays |= {f"{name}/{key}": value for key, value in found.items()}
        if hasattr(scheduler, "sigmas"):
            arrays[f"{name}/sigmas"] = np.asarray(scheduler.sigmas, np.float64)
    inverse = DDIMInverseScheduler(**LINEAR, **image, timestep_spacing="leading")
    inverse.set_timesteps(STEPS)
    arrays |= {f"inversion/{key}": value for key, value in path(inverse, clean).items()}
    np.savez_compressed(Path(__file__).parent / "samplers.npz", **arrays)


if __name__ == "__main__":
    main()
