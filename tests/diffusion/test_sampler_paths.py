"""The paths of samplers against those of diffusers' schedulers, step by step, at equal times and noise.

``tests/golden/make_samplers_golden.py`` makes the golden paths.
"""

from pathlib import Path

import numpy as np
import pytest

from tests.diffusion.closed_form import golden_network, walk
from vision.diffusion.continuous import EDM, Flow
from vision.diffusion.grids import time_grid
from vision.diffusion.process import sigmas
from vision.diffusion.samplers.ddim import ddim, inversion
from vision.diffusion.samplers.heun import euler, heun
from vision.diffusion.samplers.multistep import dpm_solver, unipc
from vision.diffusion.schedules import cosine, linear, scaled_linear, zero_terminal_snr

STEPS = 8
GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "samplers.npz")
IN_SIGMA = ("euler", "heun", "edm")  # schedulers that hold x / signal


def followed(name, process, plan, prediction, *, start, clip=False, noises=None, network_times=None):
    """Our path for the closed-form network, which sees the golden file's times."""
    signal, noise = process.scales(np.asarray(plan.times, np.float64))
    seen_times = GOLDEN[f"{name}/times"] if network_times is None else network_times

    def estimate(x, number):
        a, s = signal[number], noise[number]
        seen = x if process.preserves_variance else x / np.sqrt(s**2 + 0.25)
        output = golden_network(seen, seen_times[number])
        if prediction == "edm":  # c_skip and c_out of Karras et al. 2022, table 1
            x0 = 0.25 / (s**2 + 0.25) * x + s * 0.5 / np.sqrt(s**2 + 0.25) * output
        elif prediction == "v":
            x0 = a * x - s * output
        elif prediction == "velocity":
            x0 = x - s * output
        else:
            x0 = output if prediction == "x0" else (x - s * output) / a
        return np.clip(x0, -1, 1) if clip else x0

    return walk(plan, estimate, start, noises)


def compare(name, process, plan, prediction, **options):
    """Assert that our path is the golden one, to 1e-5 of the size of its samples."""
    expected = GOLDEN[f"{name}/samples"].astype(np.float64)
    start = GOLDEN["start"].astype(np.float64)
    if name.startswith(IN_SIGMA):
        levels = GOLDEN[f"{name}/sigmas"]
        start = start * levels[0]
        if process.preserves_variance:
            scale = 1.0 / np.sqrt(1.0 + levels**2)
            expected, start = expected * scale[1:, None, None, None, None], start * scale[0]
    found = followed(name, process, plan, prediction, start=start, **options)
    assert found.shape == expected.shape
    if name == "unipc_bh1":
        assert np.isnan(expected[-1]).all(), "of infinity times zero in the last step, which is of order 1"
        assert np.isfinite(found[-1]).all()
        expected, found = expected[:-1], found[:-1]
    size = np.abs(expected).max(axis=(1, 2, 3, 4), keepdims=True)
    assert (np.abs(found - expected) / np.maximum(size, 1.0)).max() < 1e-5


@pytest.mark.parametrize(
    ("name", "process", "spacing", "prediction"),
    [
        ("ddim", linear(), "leading", "epsilon"),
        ("ddim_trailing", cosine(), "trailing", "v"),
        ("ddim_zero_snr", zero_terminal_snr(scaled_linear()), "trailing", "v"),
        ("euler", linear(), "trailing", "epsilon"),
        ("euler_karras", scaled_linear(), "karras", "epsilon"),
    ],
)
def test_ddim_and_euler(name, process, spacing, prediction):
    times = time_grid(process, spacing, STEPS)
    np.testing.assert_allclose(times, GOLDEN[f"{name}/times"], atol=1e-2)
    compare(name, process, (euler if name.startswith("euler") else ddim)(process, times), prediction)


def test_ddim_with_clipped_estimates():
    process = linear()
    compare("ddim_clipped", process, ddim(process, time_grid(process, "leading", STEPS)), "x0", clip=True)


def test_heun():
    process = linear()
    plan = heun(process, time_grid(process, "trailing", STEPS))
    np.testing.assert_array_equal(plan.times, GOLDEN["heun/times"])
    compare("heun", process, plan, "epsilon")


@pytest.mark.parametrize(
    ("name", "process", "prediction"),
    [
        ("dpm_solver", linear(), "epsilon"),
        ("dpm_solver_v", cosine(), "v"),
        ("dpm_solver_karras", scaled_linear(), "epsilon"),
        ("dpm_solver_sde", linear(), "epsilon"),
    ],
)
def test_dpm_solver(name, process, prediction):
    times = process.time_at(GOLDEN[f"{name}/sigmas"][:-1]) if "karras" in name else GOLDEN[f"{name}/times"]
    stochastic = name.endswith("sde")
    noises = GOLDEN["noises"] if stochastic else None
    compare(name, process, dpm_solver(process, times, stochastic=stochastic), prediction, noises=noises)


@pytest.mark.parametrize(
    ("name", "process", "options"),
    [
        ("unipc", linear(), {}),
        ("unipc_3", linear(), {"order": 3}),
        ("unipc_bh1", scaled_linear(), {"variant": "bh1"}),
    ],
)
def test_unipc(name, process, options):
    compare(name, process, unipc(process, GOLDEN[f"{name}/times"], **options), "epsilon")


def test_flow():
    process = Flow()
    times = GOLDEN["flow/sigmas"][:-1]
    grid = time_grid(process, "uniform", STEPS, shift=3.0)
    # diffusers applies the shift to the ends of its grid too, which starts again from the shifted last time
    np.testing.assert_allclose(grid[:-1], process.time_at(3.0 * sigmas(process, np.linspace(1, 1e-3, STEPS)))[:-1])
    compare("flow", process, euler(process, times), "velocity")
    times = GOLDEN["flow_heun/times"][[0, *range(1, 15, 2)]] / 1000.0
    compare("flow_heun", process, heun(process, times), "velocity")


@pytest.mark.parametrize(("name", "solver"), [("edm_euler", euler), ("edm_dpm_solver", dpm_solver)])
def test_edm(name, solver):
    process = EDM()
    times = process.times(STEPS)
    np.testing.assert_allclose(times, GOLDEN[f"{name}/sigmas"][:-1], rtol=1e-5)
    compare(name, process, solver(process, times), "edm", network_times=100.0 * GOLDEN[f"{name}/times"])


def test_inversion():
    process = linear()
    times = time_grid(process, "leading", STEPS)
    plan = inversion(process, times)
    np.testing.assert_array_equal(plan.times, GOLDEN["inversion/times"])
    expected = GOLDEN["inversion/samples"]
    found = followed("inversion", process, plan, "epsilon", start=GOLDEN["clean"].astype(np.float64))
    np.testing.assert_allclose(found, expected, atol=1e-5)
