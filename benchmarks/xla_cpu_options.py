"""Effect of XLA's library fusions on a training step on a CPU: the reason for ``train.compile.compiler_options``.

    python benchmarks/xla_cpu_options.py

One process compiles the same step (the quick experiment's UNet with batch 32, the published one with batch 16) under
each setting and times the programs alternately, round by round, so that a drift of the machine's speed affects all
alike. Reported are medians in milliseconds.
"""

import argparse
import statistics
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from experiments.diffusion_cifar import QUICK, Config, build
from vision.models.unet import UNetConfig

OPTION = "xla_cpu_experimental_ynn_fusion_type"
SETTINGS: dict[str, dict[str, str | bool]] = {
    "XLA's default": {},
    "nothing": {OPTION: ""},
    "matrix products and reductions (ours)": {OPTION: "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"},
}
MODELS = {"quick": QUICK, "published": replace(QUICK, model=UNetConfig(classes=36), batch_size=16)}


def main() -> None:
    """Print a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    for name, config in MODELS.items():
        medians = measure(config, rounds)
        print(f"| {name} UNet: library for | ms a step | of the default |\n| --- | --- | --- |")
        for setting, value in medians.items():
            print(f"| {setting} | {value:.0f} | {value / medians[next(iter(SETTINGS))]:.2f} |", flush=True)
        print()


def measure(config: Config, rounds: int) -> dict[str, float]:
    """Median milliseconds of a step under each setting."""
    experiment = build(config)
    state = jax.jit(experiment.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    batch = {
        "image": jnp.asarray(rng.integers(0, 256, experiment.batch["image"].shape, np.uint8)),
        "label": jnp.asarray(rng.integers(0, config.model.classes, experiment.batch["label"].shape, np.int32)),
    }
    lowered = jax.jit(experiment.step).lower(state, batch)
    programs = {name: lowered.compile(compiler_options=options) for name, options in SETTINGS.items()}
    times: dict[str, list[float]] = {name: [] for name in programs}
    for index in range(rounds + 1):
        for name, program in programs.items():
            started = time.perf_counter()
            jax.block_until_ready(program(state, batch))
            if index:
                times[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
