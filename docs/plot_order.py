"""How the error of samplers falls with their steps, on the mixture of ``tests/diffusion/test_order_of_accuracy.py``.

python docs/plot_order.py docs/images/order_of_accuracy.png
"""

import argparse
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

from tests.diffusion.closed_form import walked_mixture
from vision.diffusion.continuous import EDM
from vision.diffusion.process import sigmas
from vision.diffusion.samplers.ddim import ddim
from vision.diffusion.samplers.heun import heun
from vision.diffusion.samplers.multistep import dpm_solver, unipc

STEPS = (10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 448, 640)
SAMPLERS = {
    "DDIM, which is Euler's method": (ddim, "o", "#0072b2"),
    "Heun": (heun, "s", "#d55e00"),
    "DPM-Solver++ 2M": (dpm_solver, "^", "#009e73"),
    "UniPC (order 2)": (unipc, "D", "#cc79a7"),
}
LAST = 0.02
"""The sigma from which all take the same last step, to the clean image."""


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    process = EDM()
    start = np.asarray(jax.random.normal(jax.random.key(7), (256,)), np.float64)
    high = sigmas(process, np.asarray([process.noisiest]))[0]

    def end(sampler, steps: int) -> np.ndarray:
        times = process.time_at(np.exp(np.linspace(np.log(high), np.log(LAST), steps + 1)))
        plan = sampler(process, times)
        return walked_mixture(process, plan, start * plan.start)

    exact = end(heun, 8000)
    figure, axes = plt.subplots(figsize=(5.6, 4.2), dpi=110, layout="constrained")
    for name, (sampler, marker, colour) in SAMPLERS.items():
        errors = [np.sqrt(np.mean((end(sampler, steps) - exact) ** 2)) for steps in STEPS]
        slope = -np.polyfit(np.log(STEPS[4:-2]), np.log(errors[4:-2]), 1)[0]
        print(f"{name}: slope {slope:.2f} between {STEPS[4]} and {STEPS[-3]} steps")
        axes.plot(STEPS, errors, marker=marker, markersize=5, color=colour, linewidth=1.4, label=name)
    ends = np.asarray([80, 640])
    for order, level in ((1, 6e-3), (2, 2.2e-4), (3, 2.5e-5)):
        axes.plot(ends, level * (ends / ends[0]) ** -order, color="#777777", linestyle="--", linewidth=1)
        axes.annotate(
            f"steps$^{{-{order}}}$",
            (ends[1], level * (ends[1] / ends[0]) ** -order),
            textcoords="offset points",
            xytext=(6, -3),
            color="#555555",
            size=9,
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="steps",
        ylabel="root mean square error",
        title="A mixture of three Gaussians, steps even in ln sigma",
    )
    axes.set_xlim(right=1500)
    axes.set_xticks([10, 20, 40, 80, 160, 320, 640], ["10", "20", "40", "80", "160", "320", "640"])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left")
    figure.savefig(options.picture)


if __name__ == "__main__":
    main()
