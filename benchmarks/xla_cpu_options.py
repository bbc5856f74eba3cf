"""What XLA's library fusions do to a training step on a CPU: the reason for ``train.compile.compiler_options``.

    python benchmarks/xla_cpu_options.py

One process compiles the same step of a small UNet (the quick experiment's) under each setting and times the programs
in turn, round by round, so that a drift of the machine's speed hits all alike. Reported are medians in milliseconds.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments.diffusion_cifar import QUICK, build

OPTION = "xla_cpu_experimental_ynn_fusion_type"
DOT, CONVOLUTION = "LIBRARY_FUSION_TYPE_DOT", "LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
SETTINGS: dict[str, dict[str, str | bool]] = {
    "XLA's default": {},
    "no library": {OPTION: ""},
    "matrix products": {OPTION: DOT},
    "convolutions": {OPTION: CONVOLUTION},
    "both": {OPTION: f"{DOT},{CONVOLUTION}"},
}


def main() -> None:
    """Print a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    experiment = build(QUICK)
    state = jax.jit(experiment.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    batch = {
        "image": jnp.asarray(rng.integers(0, 256, experiment.batch["image"].shape, np.uint8)),
        "label": jnp.asarray(rng.integers(0, QUICK.model.classes, experiment.batch["label"].shape, np.int32)),
    }
    lowered = jax.jit(experiment.step).lower(state, batch)
    programs = {name: lowered.compile(compiler_options=options) for name, options in SETTINGS.items()}
    times: dict[str, list[float]] = {name: [] for name in programs}
    for index in range(rounds + 2):
        for name, program in programs.items():
            started = time.perf_counter()
            jax.block_until_ready(program(state, batch))
            if index >= 2:
                times[name].append(1e3 * (time.perf_counter() - started))
    base = statistics.median(times["XLA's default"])
    print("| library for | ms a step | of the default |\n| --- | --- | --- |")
    for name, values in times.items():
        print(f"| {name} | {statistics.median(values):.0f} | {statistics.median(values) / base:.2f} |")


if __name__ == "__main__":
    main()
