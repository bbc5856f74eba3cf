"""Recipes of autoencoders: what they refuse, in one line."""

import pytest

from experiments import autoencoder_cifar as autoencoder_cifar
from experiments import hvae_cifar, vae_cifar, vae_mnist
from vision.launch import run as launcher


@pytest.mark.parametrize(
    ("module", "options", "words"),
    [
        (
            vae_cifar,
            "--objective.free-bits 1 --microbatches 2",
            "depend on the rate of a full batch: leave microbatches",
        ),
        (vae_cifar, "--objective.capacity 9 --objective.warmup 9", "objective.warmup have no part in it: choose one"),
        (vae_cifar, "--likelihood.kind gaussian --likelihood.smallest 0.1", "leave likelihood.smallest out"),
        (vae_cifar, "--likelihood.kind bernoulli", "likelihood.kind bernoulli is of black and white pixels"),
        (vae_cifar, "--bound.importance -1", "bound.importance must be at least 0"),
        (vae_cifar, "--bound.importance-images 0", "bound.importance_images must be at least 1"),
        (vae_cifar, "--model.latent 0", "model.latent must be at least 1"),
        (vae_cifar, "--model.widths 0", "model.widths must be at least 1"),
        (vae_cifar, "--model.hidden 0", "model.hidden must be at least 1"),
        (vae_cifar, "--model.patch 5", "images of 32 pixels cannot be halved so often"),
        (vae_mnist, "--binarise none", "likelihood.kind bernoulli is of black and white pixels"),
        (hvae_cifar, "--model.bottleneck 0", "model.bottleneck must be at least 1"),
        (hvae_cifar, "--model.width 2", "model.width must be at least model.bottleneck, 4, but is 2"),
        (hvae_cifar, "--model.sides 0 8 16", "model.sides must be at least 1"),
        (autoencoder_cifar, "--model.codes 0", "model.codes must be at least 1"),
        (autoencoder_cifar, "--model.dead-below 2", "model.dead_below must be at least 0 and at most 1"),
        (autoencoder_cifar, "--model.decay 1.5", "model.decay must be at least 0 and less than 1"),
        (
            autoencoder_cifar,
            "--loss.adversarial 1 --patch-layers 4",
            "patch_layers is 1 to 3 for images of 32 pixels, not 4",
        ),
        (autoencoder_cifar, "--loss.perceptual 1", "needs a network to compare images in"),
    ],
)
def test_mistakes_are_one_line(module, options, words, tmp_path, capsys):
    name = module.__name__.removeprefix("experiments.")
    arguments = ["--quick", *options.split(), "--workdir", str(tmp_path / "run")]
    done = launcher.main(
        name, config=module.Config(), quick=module.QUICK, build=module.build, description="", arguments=arguments
    )
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert done == 2, said
    assert said.startswith("error: ")
    assert words in said
