"""Diffusion runs that start from a folder of diffusers, and are exported as one, by the command line."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.launch import verbs
from vision.models.dit import DiT, DiTConfig
from vision.models.unet import UNet, UNetConfig
from vision.pretrained.diffusers_folder import read_folder
from vision.pretrained.dit import dit_source, read_dit
from vision.pretrained.unet2d import read_unet2d, unet2d_source

UNET = UNetConfig(
    width=16, multipliers=(1, 2), blocks=1, attention=(8,), dropout=0.0, classes=4, conditioning="scale_shift", groups=4
)
DIT = DiTConfig(patch=4, width=16, depth=1, heads=2, classes=4)
NETWORKS = {
    "diffusion_cifar": (
        *(UNet(UNET), unet2d_source, read_unet2d),
        "--model.width 16 --model.attention 8 --model.patch 1 --model.groups 4",
    ),
    "dit_cifar": (DiT(DIT), dit_source, read_dit, "--model.width 16 --model.depth 1 --model.heads 2"),
}
DATA = "--data.resolution 16 --data.shapes.shapes circle star --data.shapes.colours red blue --model.classes 4"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each network, with random variables none of which is zero."""
    made = {}
    for name, (model, source, _, _) in NETWORKS.items():
        inputs = jnp.zeros((1, 16, 16, 3)), jnp.zeros(1), {"label": jnp.zeros(1, jnp.int32)}
        shapes = jax.eval_shape(lambda *of, model=model: model.init(jax.random.key(0), *of, train=False), *inputs)
        generator = np.random.default_rng(0)
        variables = jax.tree.map(lambda leaf, g=generator: g.normal(size=leaf.shape).astype(np.float32), shapes)
        made[name] = tmp_path_factory.mktemp("published") / name
        source(model.config, side=16).write(made[name], variables)
    return made


@pytest.fixture
def export(capsys, tmp_path, monkeypatch):
    """Export an experiment that starts from a folder; gives (exit code, what it said)."""
    monkeypatch.chdir(tmp_path)

    def call(name, start, *more, out="mine"):
        options = f"{NETWORKS[name][-1]} {DATA}".split()
        words = ["export", name, out, "--quick", *options, "--init-from", str(start), *more]
        code = verbs.main(words)
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


@pytest.mark.parametrize("name", NETWORKS)
def test_from_folder_to_folder(name, folders, export, tmp_path):
    code, said = export(name, folders[name])
    assert code == 0, said
    assert "starting from published weights in" in said
    config, expected = NETWORKS[name][2](folders[name])
    again, found = NETWORKS[name][2](tmp_path / "mine")
    assert again == config
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert "mine exists already" in export(name, folders[name])[1]


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("diffusion_cifar", ["--model.multipliers", "1", "2", "2"], "this run has: add --model.multipliers 1 2\n"),
        ("diffusion_cifar", ["--model.epsilon", "1e-5"], "this run has: add --model.epsilon 1e-06\n"),
        ("dit_cifar", ["--model.depth", "2"], "this run has: add --model.depth 1\n"),
        ("dit_cifar", ["--model.channels", "1"], "model.channels"),
    ],
)
def test_another_network_is_refused_with_the_options_to_add(name, more, words, folders, export, tmp_path):
    code, said = export(name, folders[name], *more)
    assert code == 2
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert words in said
    assert list(tmp_path.iterdir()) == []


def test_the_other_kind_of_network_and_files_are_refused(folders, export):
    for name, other in (("diffusion_cifar", "dit_cifar"), ("dit_cifar", "diffusion_cifar")):
        code, said = export(name, folders[other])
        assert (code, said.count("\n")) == (2, 1)
        assert "and the weights of a " in said
    assert "name a new one, such as mine" in export("dit_cifar", folders["dit_cifar"], out="mine.safetensors")[1]
    code, said = export("dit_cifar", next(folders["dit_cifar"].glob("*.safetensors")))
    assert (code, said.count("\n")) == (2, 1)
    assert "with their config.json: name their folder" in said


def test_a_network_that_diffusers_has_not(folders, export, tmp_path):
    code, said = export("diffusion_cifar", folders["diffusion_cifar"], "--model.patch", "2")
    assert (code, said.count("\n")) == (2, 1)
    assert "add --model.patch 1" in said
    values, _ = read_folder(folders["diffusion_cifar"])
    assert json.loads((folders["diffusion_cifar"] / "config.json").read_text()) == values


def test_the_process_goes_with_the_network(folders, export, tmp_path):
    """scheduler_config.json is written beside the network, and a run with another process is refused."""
    assert export("diffusion_cifar", folders["diffusion_cifar"])[0] == 0
    stated = json.loads((tmp_path / "mine" / "scheduler_config.json").read_text())
    assert (stated["beta_schedule"], stated["prediction_type"]) == ("squaredcos_cap_v2", "sample")
    assert export("diffusion_cifar", tmp_path / "mine", out="again")[0] == 0
    other = ["--diffusion.prediction", "v", "--diffusion.schedule", "flow"]
    code, said = export("diffusion_cifar", tmp_path / "mine", *other, out="third")
    assert code == 2
    assert "scheduler_config.json describes another process than this run has: add --diffusion.schedule cosine" in said
    assert "--diffusion.prediction x0" in said


def test_published_networks_are_sampled_at_once(folders, tmp_path, capsys):
    options = f"{NETWORKS['dit_cifar'][-1]} {DATA} --sampling.steps 2".split()
    start = ["--init-from", str(folders["dit_cifar"])]
    words = ["sample", "dit_cifar", "--count", "3", "--out", str(tmp_path / "out"), "--quick", *options, *start]
    assert verbs.main(words) == 0, capsys.readouterr().err
    assert len(list((tmp_path / "out").glob("[0-9]*.png"))) == 3
    assert verbs.main(["sample", "dit_cifar", "--quick", *options]) == 2
    assert "has random weights until it is trained" in capsys.readouterr().err
