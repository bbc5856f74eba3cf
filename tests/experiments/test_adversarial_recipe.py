"""Two players as one experiment: a run that is killed and resumed is the run left alone, bit for bit."""

from dataclasses import replace

import chex
import numpy as np
import pytest
from kill_loop import differences, final_state, killed, logged

from experiments.gan_cifar import QUICK, Config, build
from vision.launch import run as launcher

ROUNDS, SIZE = 8, 8
# all that a state may hold: statistics of a batch norm, singular vectors, an average, a strength that is adapted
SMALL = (
    "--quick --model.architecture dcgan --model.resolution 16 --model.classes 4 --model.latent 4 "
    "--model.generator-width 4 --model.discriminator-width 4 "
    "--augmentation.parts translation --augmentation.adaptive --augmentation.following.images 64 "
    "--augmentation.following.interval 1 --augmentation.probability 0.5 --flip "
    "--data.resolution 16 --data.shapes-count 64 --data.shapes.shapes circle star --data.shapes.colours red blue "
    f"--data.shapes.min-size 0.4 --metrics.features none --samples 4 --batch-size {SIZE} "
    f"--images {ROUNDS * SIZE} --intervals.log {SIZE} --intervals.evaluate {ROUNDS * SIZE} "
    f"--intervals.save {2 * SIZE}"
).split()


def run(*arguments):
    return launcher.main(
        "gan_cifar", config=Config(), quick=QUICK, build=build, description="", arguments=[*SMALL, *arguments]
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    assert run("--workdir", str(workdir)) == 0
    return workdir


def test_killed_and_resumed_equals_uninterrupted(whole, tmp_path, capsys):
    # any moment will do at which the first checkpoint is whole, which is waited for before the second one
    seed = np.random.SeedSequence().entropy
    print(f"moment of the kill: numpy seed {seed}")
    workdir, lines = tmp_path / "run", int(np.random.default_rng(seed).integers(5, ROUNDS))
    assert killed("gan_cifar", SMALL, workdir, tmp_path / "log", seconds=0.0, lines=lines)
    assert run("--workdir", str(workdir)) == 0
    assert "resuming after step" in capsys.readouterr().err
    assert differences("gan_cifar", SMALL, whole, workdir) == []
    state = final_state("gan_cifar", SMALL, whole)
    assert int(state.step) == ROUNDS
    assert 0.0 < float(state.model_state["augmentation"]["probability"]) != 0.5


def test_a_run_starts_from_both_players_of_another(whole, tmp_path, capsys):
    """The discriminator has no average, so that neither player starts from one; what adapts starts anew."""
    rate = ("--generator-optimizer.lr", "0", "--discriminator-optimizer.lr", "0")
    assert run("--init-from", str(whole), *rate, "--workdir", str(tmp_path / "next")) == 0
    assert f"starting from the variables in {whole}" in capsys.readouterr().err
    before, after = (final_state("gan_cifar", SMALL, folder) for folder in (whole, tmp_path / "next"))
    chex.assert_trees_all_equal(before.params, after.params)


def test_a_round_has_a_batch_for_each_step_or_one_for_both():
    for steps, size in ((1, 8), (5, 48)):
        config = replace(QUICK, discriminator_steps=steps, batch_size=8)
        assert build(config).batch["image"].shape[0] == size


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--augmentation.probability 0.3", "augmentation has options set and nothing to apply them to"),
        ("--augmentation.adaptive", "augmentation has options set and nothing to apply them to"),
        (
            "--augmentation.parts cutout --augmentation.following.target 0.5",
            "belongs to --augmentation.adaptive, which is",
        ),
        (
            "--augmentation.parts cutout --augmentation.probability 2",
            "augmentation.probability must be at least 0 and at most 1, not 2",
        ),
        ("--loss wasserstein --model.discriminator-norm none", "needs a discriminator with a bounded gradient"),
        ("--loss wasserstein --model.discriminator-norm batch", "needs a discriminator with a bounded gradient"),
        ("--penalty.r1 1 --model.discriminator-norm batch", "batch normalisation mixes images"),
        ("--model.classes -1", "model.classes must be at least 0 and at most 1,000,000, not -1"),
        ("--model.architecture r3gan --model.discriminator-norm none --model.generator-width 12", "multiples of 8"),
        ("--model.resolution 64", "the networks are for images of 64 pixels: set --model.resolution 32"),
        ("--batch-size 0", "batch_size must be at least 1, not 0"),
    ],
)
def test_mistakes_are_one_line(options, words, tmp_path, capsys):
    arguments = ["--quick", *options.split(), "--workdir", str(tmp_path / "run")]
    assert (
        launcher.main("gan_cifar", config=Config(), quick=QUICK, build=build, description="", arguments=arguments) == 2
    )
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ")
    assert words in said


def test_what_is_logged(whole):
    lines = [line for line in logged(whole) if any(name.startswith("train/") for name in line)]
    assert [line["step"] for line in lines] == list(range(1, ROUNDS + 1))
    names = {"discriminator_loss", "generator_loss", "real_logit", "fake_logit", "augmentation"}
    assert {f"train/{name}" for name in names} <= set(lines[0]), sorted(lines[0])
