"""How the error of samplers falls with their steps, on a mixture whose score is known in closed form."""

import jax
import numpy as np
import pytest

from tests.diffusion.closed_form import walked_mixture
from vision.diffusion.continuous import EDM, VariancePreserving
from vision.diffusion.grids import time_grid
from vision.diffusion.process import sigmas
from vision.diffusion.samplers.ddim import ddim
from vision.diffusion.samplers.heun import heun
from vision.diffusion.samplers.multistep import dpm_solver, unipc

START = np.asarray(jax.random.normal(jax.random.key(7), (256,)), np.float64)
STEPS = (40, 80, 160, 320)


def slope(process, sampler, *, to=0.02):
    """Least-squares slope of the logarithm of the error against that of the steps, evenly spaced in ln sigma.

    The last step, from sigma = ``to`` to the clean image, is the same for all and is no part of the comparison: the
    exact solution is that of very many steps down to ``to``, followed by the same last step.
    """
    high = sigmas(process, np.asarray([process.noisiest]))[0]

    def end(kind, steps):
        times = process.time_at(np.exp(np.linspace(np.log(high), np.log(to), steps + 1)))
        plan = kind(process, times)
        return walked_mixture(process, plan, START * plan.start)

    exact = end(heun, 4000)
    errors = [np.sqrt(np.mean((end(sampler, steps) - exact) ** 2)) for steps in STEPS]
    return -np.polyfit(np.log(STEPS), np.log(errors), 1)[0]


@pytest.mark.parametrize("process", [EDM(), VariancePreserving()], ids=["edm", "vp"])
@pytest.mark.parametrize(
    ("sampler", "order"), [(ddim, 1), (heun, 2), (dpm_solver, 2), (unipc, 3)], ids=["ddim", "heun", "2m", "unipc"]
)
def test_order(process, sampler, order):
    """UniPC with a predictor of order 2 is of order 3, by its corrector (Zhao et al. 2023, theorem 3.1)."""
    assert slope(process, sampler) == pytest.approx(order, abs=0.25)


def test_grids_change_the_constant_and_not_the_order():
    process = EDM()
    error = {}
    for spacing in ("karras", "log_snr"):
        times = time_grid(process, spacing, 64)
        assert (np.diff(times) < 0).all()
        exact = walked_mixture(process, heun(process, time_grid(process, spacing, 2000)), START * 80.0)
        error[spacing] = np.abs(walked_mixture(process, heun(process, times), START * 80.0) - exact).mean()
    assert error["karras"] < error["log_snr"] < 1e-2
