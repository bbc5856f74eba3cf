"""First stages and training on their latents: runs and published networks, latents on disk and encoded in the step."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import autoencoder_cifar
from vision.data.dataset import DataConfig
from vision.data.image_data import image_data
from vision.errors import UserError
from vision.launch import run as launcher
from vision.models.autoencoder import Autoencoder
from vision.models.autoencoder_kl import AutoencoderKl, AutoencoderKlConfig
from vision.nn.latent import standard_normal
from vision.ops.pixels import to_float
from vision.pretrained.autoencoder_kl import PublishedAutoencoder, write_autoencoder_kl
from vision.recipes import latents as latents_module
from vision.recipes.assemble import assemble
from vision.recipes.first_stage import NAME, first_stage
from vision.recipes.latents import FirstStageConfig, host_encoder, latent_space
from vision.recipes.run_config import RunConfig
from vision.train.checkpoint import Checkpoints
from vision.train.content_hash import content_hash
from vision.train.experiment import Evaluation, Intervals
from vision.train.records import read_metrics
from vision.train.step import gradient

TINY = autoencoder_cifar.TINY
DATA = replace(TINY.data, shapes_count=40)
IMAGES = image_data(DATA, classes=4, channels=3)
OPTION = "first_stage.path"


def train_autoencoder(folder, *options):
    arguments = ["--workdir", str(folder), "--images", "16", *options]
    module = autoencoder_cifar
    code = launcher.main(
        "autoencoder_cifar", config=TINY, quick=TINY, build=module.build, description="", arguments=arguments
    )
    assert code == 0
    return folder


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """The folders of runs, by the kind of their latents."""
    root = tmp_path_factory.mktemp("first")
    return {
        "kl": train_autoencoder(root / "kl", "--model.bottleneck", "kl", "--model.latent", "3"),
        "vq": train_autoencoder(root / "vq"),
    }


def write_published(folder, seed=0):
    """A published network of random weights."""
    config = AutoencoderKlConfig(latent=2, widths=(4, 8), blocks=1, groups=2)
    image = jnp.zeros((1, 4, 4, 3))
    variables = AutoencoderKl(config).init(jax.random.key(seed), image, key=jax.random.key(0))
    scale = {"mean": np.array([0.5, -0.5]), "deviation": np.array([2.0, 4.0])}
    shutil.rmtree(folder, ignore_errors=True)
    write_autoencoder_kl(folder, PublishedAutoencoder(config=config, variables=variables, **scale))
    return folder


@pytest.fixture
def published(tmp_path):
    return write_published(tmp_path / "vae")


@pytest.fixture(params=["kl", "vq", "published"])
def stage(request, runs, published):
    path = published if request.param == "published" else runs[request.param]
    return request.param, first_stage(path, option=OPTION)


def images(count=6):
    return IMAGES.source("train").rows(np.arange(count))["image"]


def test_moments_and_images(stage):
    """Moments are those of the network; their latents decode to the network's reconstruction."""
    kind, stage = stage
    variables, image = stage.frozen.load(), to_float(jnp.asarray(images()))
    described = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert described(variables) == described(stage.frozen.shapes)
    assert stage.content() == content_hash(variables)
    moments = jax.jit(stage.encode)(variables, image)
    assert moments.shape == (6, *stage.moments_shape((16, 16, 3)))
    assert stage.latent_shape((16, 32, 3)) == (16 // stage.factor, 32 // stage.factor, stage.channels)
    key = jax.random.key(3)
    latent = stage.sample(moments, key=key)
    assert latent.shape == (6, *stage.latent_shape((16, 16, 3)))
    assert stage.gaussian == (kind != "vq")
    if kind == "vq":
        model = Autoencoder(replace(TINY.model))
        made = model.apply(variables, image, key=key, train=False)
        np.testing.assert_array_equal(latent, moments)
        codes = np.asarray(variables["codebook"]["quantizer"]["codes"])
        assert np.abs(np.asarray(latent).reshape(-1, 1, 32) - codes).max(-1).min(-1).max() < 1e-5
        np.testing.assert_allclose(stage.decode(variables, latent), made.image, atol=1e-5)
        np.testing.assert_allclose(stage.decode(variables, latent + 1e-4), made.image, atol=1e-5)
        return
    mean, deviation = np.split(np.asarray(moments), 2, axis=-1)
    assert (deviation > 0).all()
    np.testing.assert_allclose(latent, mean + deviation * standard_normal(mean.shape, key=key), atol=1e-5)
    if kind == "kl":
        model = Autoencoder(replace(TINY.model, bottleneck="kl", latent=3))
        made = model.apply(variables, image, key=key, train=False).image
    else:
        made = AutoencoderKl(AutoencoderKlConfig(latent=2, widths=(4, 8), blocks=1, groups=2)).apply(
            variables, image, key=key
        )
    np.testing.assert_allclose(stage.decode(variables, latent), made, atol=1e-4)


def test_variables_of_a_run_are_its_averages(runs):
    variables = first_stage(runs["kl"], option=OPTION).frozen.load()
    with Checkpoints(runs["kl"] / "checkpoints", read_only=True) as checkpoints:
        arrays = checkpoints.arrays()
    kernel = variables["params"]["encoder"]["stem"]["kernel"]
    np.testing.assert_array_equal(kernel, arrays["ema/ema/encoder/stem/kernel"])
    assert np.any(kernel != arrays["params/autoencoder/encoder/stem/kernel"])


def folder_of(path, content):
    path.mkdir()
    (path / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def run_config(**model):
    return {"experiment": "thing", "config": {"model": {"bottleneck": "kl", **model}}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            {"experiment": "vae_cifar", "config": {"model": {"latent": 8}}},
            "is a run of vae_cifar, whose network has no",
        ),
        ({"experiment": "hvae", "config": {"model": {"bottleneck": 8}}}, "whose network has no grid of latents"),
        ({"experiment": "resnet", "config": {"model": 3}}, "whose network has no grid of latents: name a run of"),
        ({"experiment": "resnet", "config": None}, "whose network has no grid of latents"),
        (run_config(bottlenecks=3), "whose network has no grid of latents"),
        ({**run_config(), "replicas": {"seeds": 2}}, "holds several runs of thing as one: name a single run"),
        (run_config(widths="wide"), "has 'wide' for model.widths: restore the file"),
        (run_config(widths=[True]), r"has [True] for model.widths"),
        (run_config(patch=2.5), "has 2.5 for model.patch"),
        (run_config(decay=7), "is of no possible network (decay must be at least 0 and less than 1, not 7)"),
        ({"_class_name": "UNet2DModel"}, "is of 'UNet2DModel': name the folder of an AutoencoderKL"),
        ({}, 'has no "_class_name"'),
        ("{", "is damaged"),
    ],
)
def test_what_is_no_first_stage_is_one_sentence(content, words, tmp_path):
    path = folder_of(tmp_path / "run", content)
    with pytest.raises(UserError) as error:
        first_stage(path, option=OPTION)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_folders_and_images_that_do_not_fit(tmp_path, runs):
    with pytest.raises(UserError, match=f"there is no folder .*, where {OPTION} says that the first stage is"):
        first_stage(tmp_path / "nothing", option=OPTION)
    stage = first_stage(runs["kl"], option=OPTION)
    with pytest.raises(UserError, match=r"the images have 1 channels and the first stage in .* is of images with 3"):
        stage.latent_shape((16, 16, 1))
    with pytest.raises(UserError, match=r"images of 16x18 pixels cannot be divided .* choose a multiple of 4"):
        stage.latent_shape((16, 18, 3))


@pytest.mark.parametrize("flip", [False, True])
def test_data_on_disk(flip, published, tmp_path, monkeypatch):
    """The same moments as in the step, with their labels; a second start encodes nothing."""
    config = FirstStageConfig(path=published, latents=tmp_path / "latents", stored="float32", batch=16)
    space = latent_space(IMAGES, config, option="first_stage", flip=flip)
    assert {name: leaf.shape for name, leaf in space.data.sample.items()} == {"latent": (8, 8, 4), "label": ()}
    batch = next(space.data.train_batches(8, seed=0, start_step=0, process_index=0, process_count=1))
    assert {name: (x.shape[1:], x.dtype) for name, x in batch.items()} == {
        name: (leaf.shape, leaf.dtype) for name, leaf in space.data.sample.items()
    }
    source = space.data.source("train")
    assert len(source) == (80 if flip else 40)
    want = host_encoder(space.stage)(images(40))
    for index in (0, 7, 39):
        np.testing.assert_allclose(source[index * (2 if flip else 1)]["latent"], want[index], atol=1e-4)
        label = IMAGES.source("train")[index]["label"]
        assert source[index * (2 if flip else 1)]["label"] == label
    if flip:
        mirrored = host_encoder(space.stage)(images(8)[:, :, ::-1])
        np.testing.assert_allclose(source[15]["latent"], mirrored[7], atol=1e-4)
    assert len(next(space.data.test_batches(1000))["mask"]) == 1000
    assert space.data.content("train") == IMAGES.content("train")

    monkeypatch.setattr(latents_module, "host_encoder", lambda stage: pytest.fail("encoded again"))
    again = latent_space(IMAGES, config, option="first_stage", flip=flip)
    np.testing.assert_array_equal(again.data.source("train")[3]["latent"], source[3]["latent"])
    scale = again.statistics()
    values = np.stack([source[k]["latent"] for k in range(len(source))]).astype(np.float64)
    mean, deviation = np.split(values, 2, axis=-1)
    np.testing.assert_allclose(scale["latents/mean"], mean.mean((0, 1, 2)), rtol=1e-4)
    spread = np.sqrt(mean.var((0, 1, 2)) + np.square(deviation).mean((0, 1, 2)))
    np.testing.assert_allclose(scale["latents/deviation"], spread, rtol=1e-4)


def test_another_network_or_other_data_is_encoded_anew(published, tmp_path):
    root = tmp_path / "latents"
    config = FirstStageConfig(path=published, latents=root, batch=16)
    latent_space(IMAGES, config, option="first_stage", flip=False).data.source("train")
    assert len(list(root.iterdir())) == 1
    write_published(published, seed=1)
    latent_space(IMAGES, config, option="first_stage", flip=False).data.source("train")
    assert len(list(root.iterdir())) == 2
    other = image_data(replace(DATA, shapes_count=41), classes=4, channels=3)
    latent_space(other, config, option="first_stage", flip=False).data.source("train")
    assert len(list(root.iterdir())) == 3


def test_scale_of_latents(published, runs):
    measured, given = (
        latent_space(IMAGES, FirstStageConfig(path=published, scale=scale, measured=20), option="f", flip=False)
        for scale in ("measured", "published")
    )
    np.testing.assert_array_equal(given.statistics()["latents/mean"], [0.5, -0.5])
    np.testing.assert_array_equal(given.statistics()["latents/deviation"], [2, 4])
    mean, deviation = np.split(host_encoder(measured.stage)(images(20)).astype(np.float64), 2, axis=-1)
    found = measured.statistics()
    np.testing.assert_allclose(found["latents/mean"], mean.mean((0, 1, 2)), rtol=1e-4)
    spread = np.sqrt(mean.var((0, 1, 2)) + np.square(deviation).mean((0, 1, 2)))
    np.testing.assert_allclose(found["latents/deviation"], spread, rtol=1e-4)
    with pytest.raises(UserError, match=r"f.scale published needs a published first stage"):
        latent_space(IMAGES, FirstStageConfig(path=runs["kl"], scale="published"), option="f", flip=False)


def test_latents_of_images_and_back(published):
    """Of mean 0 and deviation 1 under the measured scale; decoded, they are the network's reconstructions."""
    space = latent_space(IMAGES, FirstStageConfig(path=published, measured=40), option="f", flip=False)
    scale = {name.removeprefix("latents/"): x for name, x in space.statistics().items()}
    state = {"frozen": {NAME: space.stage.frozen.load()}, "latents": scale}
    key = jax.random.key(0)
    batch = jax.jit(lambda x: space.encoded(state, {"image": x, "label": jnp.arange(40)}, key=key))(images(40))
    assert batch["image"].shape == (40, *space.shape)
    assert set(batch) == {"image", "label"}
    np.testing.assert_allclose(batch["image"].mean((0, 1, 2)), 0.0, atol=0.1)
    np.testing.assert_allclose(batch["image"].std((0, 1, 2)), 1.0, atol=0.1)
    moments = space.stage.encode(state["frozen"][NAME], to_float(jnp.asarray(images(40))))
    stored = space.encoded(state, {"latent": moments}, key=key)["image"]
    np.testing.assert_allclose(stored, batch["image"], atol=1e-3)
    want = space.stage.decode(state["frozen"][NAME], space.stage.sample(moments, key=key))
    np.testing.assert_allclose(space.decode(state, stored), want, atol=1e-3)


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """A run that learns the mean of latents."""

    data: DataConfig = DATA
    first_stage: FirstStageConfig = FirstStageConfig(batch=16)
    images: int = 32
    batch_size: int = 8
    flip: bool = True
    intervals: Intervals = Intervals(log=8, evaluate=32, save=16)


def build(config):
    """The experiment."""
    space = latent_space(
        image_data(config.data, classes=0, channels=3), config.first_stage, option="first_stage", flip=config.flip
    )

    def loss(params, model_state, batch, *, key, step):
        return jnp.mean(jnp.square(batch["image"] - params["mean"])), (model_state, {})

    def evaluation(compiler):
        decode = compiler.function(lambda state: space.decode(state.model_state, jnp.zeros((8, *space.shape))))
        return lambda state: Evaluation({"brightness": float(np.mean(decode(state)))}, {}, {"brightness": "of a mean"})

    optimizer = optax.sgd(0.1)
    return assemble(
        config,
        variables=lambda key: {"params": {"mean": jnp.zeros(space.shape)}, **space.variables()},
        step=gradient(space.loss(loss), optimizer),
        optimizer=optimizer,
        data=space.data,
        statistics=space.statistics,
        evaluation=evaluation,
        frozen={NAME: space.stage.frozen},
        caches=space.caches,
    )


@pytest.fixture
def command(capsys):
    def call(folder, *options):
        capsys.readouterr()
        arguments = ["--workdir", str(folder), *map(str, options)]
        code = launcher.main(
            "latents", config=Config(), quick=Config(), build=build, description="", arguments=arguments
        )
        return code, capsys.readouterr().err

    return call


def last_loss(folder):
    return [line["train/loss"] for line in read_metrics(folder / "metrics.jsonl") if "train/loss" in line][-1]


def test_a_run_on_latents(command, runs, tmp_path):
    """On disk and in the step; the state holds the scale and not the network; a moved cache is the same run."""
    on_disk = ["--first-stage.path", runs["kl"], "--first-stage.latents"]
    code, said = command(tmp_path / "a", *on_disk, tmp_path / "latents")
    assert code == 0, said
    assert "encoding the shapes world (train), 16x16 to " in said
    assert "40/40 images 100.0%" in said
    with Checkpoints(tmp_path / "a" / "checkpoints", read_only=True) as checkpoints:
        arrays = checkpoints.arrays()
    assert arrays["model_state/latents/deviation"].shape == (3,)
    assert not [name for name in arrays if "frozen" in name or "encoder" in name]
    assert list(json.loads((tmp_path / "a" / "frozen.json").read_text())) == [NAME]

    code, said = command(tmp_path / "b", *on_disk, tmp_path / "latents")
    assert code == 0, said
    assert "encoding" not in said
    assert last_loss(tmp_path / "a") == last_loss(tmp_path / "b")

    (tmp_path / "latents").rename(tmp_path / "moved")
    code, said = command(tmp_path / "a", *on_disk, tmp_path / "moved")
    assert code == 0, said
    assert "encoding" not in said

    code, said = command(tmp_path / "c", "--first-stage.path", runs["kl"])
    assert code == 0, said
    assert "encoding" not in said
    assert last_loss(tmp_path / "c") == pytest.approx(last_loss(tmp_path / "a"), rel=0.3)


def test_another_first_stage_is_refused(command, published, tmp_path):
    run = tmp_path / "run"
    options = ["--first-stage.path", published, "--first-stage.scale", "published"]
    code, said = command(run, *options)
    assert code == 0, said
    write_published(published, seed=1)
    code, said = command(run, *options)
    assert code == 2
    assert "the first stage of" in said
    assert "is not what is in" in said


BUILT = """
import sys
from dataclasses import replace
from pathlib import Path
import jax
from experiments.autoencoder_cifar import TINY, build
from vision.launch.describe import simulate_devices
from vision.recipes.first_stage import first_stage
for path in sys.argv[1:]:
    first_stage(Path(path), option="first_stage.path")
loss, perceptual = replace(TINY.loss, perceptual=1.0), replace(TINY.perceptual, weights=Path(sys.argv[1]))
build(replace(TINY, loss=loss, perceptual=perceptual))
simulate_devices(3)
assert len(jax.devices()) == 3
"""


def test_building_touches_no_devices(runs, published):
    """Frozen networks are described before processes join each other, and before devices are simulated."""
    folders = [*map(str, runs.values()), str(published)]
    done = subprocess.run([sys.executable, "-c", BUILT, *folders], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
