"""Ablations: compare changes of an experiment over several seeds, and write the table that goes into the paper.

    python -m experiments.ablate diffusion_cifar --quick --vary sampling.guidance 1,2,4 --seeds 3
    python -m experiments.ablate diffusion_cifar --named epsilon,v --parallel 4 -- --data.dir ~/tensorflow_datasets
    python -m experiments.ablate diffusion_cifar --grid model.width 32,64 --grid model.attention '16 8,8,()'
    python -m experiments.ablate diffusion_cifar --workdir runs/ablate/diffusion_cifar/quick --report

``--help`` lists all options. Trials are ordinary runs in processes of their own; the same command continues after any
interruption, and any number of machines that share the directory may run it at the same time.
"""

import sys

import jax

from vision.ablation.command import main

if __name__ == "__main__":
    # Checking configurations needs no device, and one that is held here would be missing in the trials.
    jax.config.update("jax_platforms", "cpu")
    sys.exit(main(sys.argv[1:], package="experiments"))
