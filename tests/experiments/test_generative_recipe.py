"""Recipes of diffusion and flows: networks by name, likelihood, samplers compared, streamed images, refusals."""

import json
import shutil
from dataclasses import replace

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import reduce
from PIL import Image

from experiments import (
    compare_samplers,
    diffusion_cifar,
    distill_cifar,
    dit_imagenet,
    edm_cifar,
    flow_cifar,
    latent_diffusion,
    meanflow_cifar,
)
from vision.errors import UserError
from vision.evaluation import generation
from vision.launch import run as launcher
from vision.launch import verbs
from vision.models.edm2 import EDM2Config
from vision.models.unet import UNetConfig
from vision.recipes.diffusion_networks import NETWORKS, diffusion_network
from vision.train.state import attach_frozen

pytestmark = pytest.mark.usefixtures("on_one_device")

SHAPES = (
    "--quick --data.resolution 16 --data.shapes-count 64 --data.shapes.shapes circle star "
    "--data.shapes.colours red blue --data.shapes.min-size 0.4 --model.classes 4 --model.width 16 "
    "--model.multipliers 1 --batch-size 8 --images 16 --samples 4 --classified 4 --held-out 8 --intervals.log 8 "
    "--intervals.evaluate 16 --intervals.save 16"
)


def train_flow(folder, *options):
    """A tiny run of flow_cifar."""
    arguments = [*SHAPES.split(), "--sampling.steps", "2", "--workdir", str(folder), *options]
    arguments += ["--optimizer.warmup", "0"]
    of = {"config": flow_cifar.Config(), "quick": flow_cifar.QUICK, "build": flow_cifar.build}
    assert launcher.main("flow_cifar", description="", arguments=arguments, **of) == 0
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train_flow(tmp_path_factory.mktemp("runs") / "flow")


@pytest.fixture(scope="module")
def other_seed(tmp_path_factory):
    return train_flow(tmp_path_factory.mktemp("runs") / "other", "--seed", "1")


@flax.struct.dataclass
class Brightness:
    """Features for tests: the mean colour of each quarter of an image."""

    one: jax.Array
    name = "brightness"

    def features_and_probabilities(self, images):
        quarters = self.one * reduce(images, "b (r h) (s w) c -> b (r s c)", "mean", r=2, s=2)
        return quarters, jax.nn.softmax(quarters)

    def protocol(self):
        return "mean colours of quarters"


def first_loss(module, config):
    """The loss of the first step, and the state after two, since rates are 0 at the first."""
    experiment = module.build(config)
    initial = [experiment.initial_values()] if experiment.initial_values is not None else []
    state = jax.jit(experiment.init)(jax.random.key(0), *initial)
    state = attach_frozen(state, {name: part.load() for name, part in experiment.frozen.items()})
    batch = next(experiment.batches(seed=0, start_step=0, process_index=0, process_count=1))
    step = jax.jit(experiment.step)
    state, scalars = step(state, batch)
    return float(scalars["loss"]), step(state, batch)[0]


def test_the_magnitude_preserving_network_keeps_its_weights_normalised():
    """Karras et al. 2024, section 2.4: after each step all weights have unit norm over their inputs; u is learned."""
    small = {"width": 16, "multipliers": (1, 2), "blocks": 1, "attention": (), "head_channels": 16, "classes": 4}
    model = EDM2Config(**small, uncertainty=True)
    loss, state = first_loss(edm_cifar, replace(edm_cifar.TINY, model=model))
    assert np.isfinite(loss)
    weights = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state.params) if "weight" in str(path[-1])]
    assert weights
    for weight in weights:
        norms = np.sqrt((np.asarray(weight, np.float64) ** 2).sum(tuple(range(weight.ndim - 1))))
        np.testing.assert_allclose(norms / np.sqrt(np.prod(weight.shape[:-1])), 1.0, atol=0.02)
    assert float(np.abs(state.params["uncertainty"]["kernel"]).max()) > 0


def test_every_network_by_name_has_a_module():
    for name, config in NETWORKS.items():
        side = 64 if name.startswith("adm") or name == "ddpm_256" else 32
        made = diffusion_network(config, (side, side, config.channels))
        assert made.module is not None
        assert made.rules
        assert (made.onto is not None) == name.startswith("edm2")


@pytest.mark.parametrize(
    ("config", "shape", "message"),
    [
        (UNetConfig(heads=3), (32, 32, 3), "model.heads 3 must divide"),
        (UNetConfig(), (36, 32, 3), "images of 36x32 pixels cannot be divided by 8"),
        (UNetConfig(), (32, 32, 4), "set --model.channels 4"),
        (EDM2Config(), (30, 30, 3), "cannot be divided by"),
    ],
)
def test_networks_that_do_not_fit(config, shape, message):
    with pytest.raises(UserError, match=message):
        diffusion_network(config, shape)


@pytest.mark.parametrize(
    ("module", "field", "changes", "message"),
    [
        (flow_cifar, "diffusion", {"transport": 3}, "must divide the batch of 8"),
        (flow_cifar, "diffusion", {"prediction": "epsilon"}, "says nothing of the image"),
        (flow_cifar, "sampling", {"churn": 1.0}, "sampling.churn is for heun"),
        (edm_cifar, "sampling", {"eta": 0.5}, "sampling.eta is for ddim"),
        (edm_cifar, "diffusion", {"times": "uniform"}, "set diffusion.times log_normal"),
        (edm_cifar, "diffusion", {"prediction": "v"}, "grows with the noise"),
        (edm_cifar, "sampling", {"guidance_range": (5.0, 0.1)}, "a lower and an upper"),
        (diffusion_cifar, "model", {"durations": True}, "leave it False"),
        (diffusion_cifar, "sampling", {"method": "ancestral", "variance": "learned"}, "diffusion.variance learned"),
        (flow_cifar, "diffusion", {"variance": "learned"}, "it needs a discrete diffusion.schedule"),
        (distill_cifar, "diffusion", {"schedule": "cosine", "variance": "learned"}, "which have no variance"),
        (meanflow_cifar, "model", {"durations": False}, "set --model.durations"),
        (latent_diffusion, "sampling", {"threshold": "static"}, "threshold none"),
        (distill_cifar, "distillation", {"teacher_images": 0}, "there is no teacher"),
    ],
)
def test_settings_that_contradict_each_other(module, field, changes, message):
    with pytest.raises(UserError, match=message):
        module.build(replace(module.TINY, **{field: replace(getattr(module.TINY, field), **changes)}))


def test_transport_changes_the_training_and_not_the_noise():
    velocity = replace(flow_cifar.TINY.diffusion, prediction="velocity", weighting="simple")
    loss = lambda transport: first_loss(
        flow_cifar, replace(flow_cifar.TINY, diffusion=replace(velocity, transport=transport))
    )[0]
    assert loss(0) > loss(4)  # the velocity between an image and its nearest noise is smaller


def test_likelihood_of_a_run(trained, capsys):
    options = ["--likelihood.images", "6", "--likelihood.steps", "4", "--likelihood.samples", "2"]
    words = ["evaluate", str(trained), *options]
    assert verbs.main(words) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "bits_per_dimension " in said
    assert "bits_per_dimension_bound " in said
    assert "6 images of the shapes world" in said
    assert "Rademacher" in said


def test_samplers_are_compared(trained, other_seed, tmp_path, capsys, monkeypatch):
    chosen, choose = [], generation._chosen
    monkeypatch.setattr(generation, "_chosen", lambda *of: chosen.append(of) or choose(*of))
    monkeypatch.setattr(generation, "load_features", lambda config, name: Brightness(jnp.ones(())))
    metrics = "--metrics.samples 20 --metrics.reference 24 --metrics.batch 10 --metrics.neighbours 2"
    metrics += " --metrics.subsets 2 --metrics.subset-size 16 --metrics.splits 2"
    words = ["--run", str(trained), str(other_seed), "--methods", "ddim", "heun", "unipc", "--evaluations", "1", "4"]
    out = tmp_path / "out"
    options = ["--", "--samples", "4", *metrics.split()]
    assert compare_samplers.main([*words, "--out", str(out), *options]) == 0, capsys.readouterr().err
    rows = json.loads((out / "samplers.json").read_text())
    # guided, so that an evaluation counts twice: one network evaluation is too few, and 2 steps of heun are 3
    assert [(row["method"], row["evaluations"]) for row in rows] == [
        *(("ddim", 2), ("ddim", 4), ("heun", 2), ("unipc", 4)),
    ]
    name = "brightness_frechet"
    for row in rows:
        numbers = [run[name] for run in row["runs"]]
        assert [run["seed"] for run in row["runs"]] == [0, 1]
        assert row[name]["mean"] == pytest.approx(np.mean(numbers))
        # Student's t with one degree of freedom
        assert row[name]["half_width"] == pytest.approx(12.706 * np.std(numbers, ddof=1) / np.sqrt(2), rel=1e-3)
    assert "difference" not in rows[0][name]
    for row, base in ((rows[2], rows[0]), (rows[3], rows[1])):
        apart = [run[name] - of[name] for run, of in zip(row["runs"], base["runs"], strict=True)]
        assert row[name]["difference"]["mean"] == pytest.approx(np.mean(apart), abs=1e-6)
        assert row[name]["difference"]["n"] == 2
    # Euler's method is the first step of Heun's, and the only one where it ends
    assert rows[2][name]["difference"]["mean"] == pytest.approx(0.0, abs=1e-3)
    assert len(chosen) == 2  # the features of real images, of either split, were computed once
    printed = capsys.readouterr().out
    assert "difference from ddim at as many" in printed
    with Image.open(out / "samplers.png") as plot:
        assert plot.size[0] > 300
    page = (out / "samplers.html").read_text()
    assert page.count("<img ") == 1
    assert "2 runs, 95 % intervals over their seeds" in page


def test_runs_that_cannot_be_compared(trained, other_seed, tmp_path, capsys):
    refused = lambda *words: (compare_samplers.main(["--run", *map(str, words)]), capsys.readouterr().err)
    code, said = refused(tmp_path)
    assert code == 2
    assert "is no run folder" in said
    code, said = refused(trained, trained)
    assert code == 2
    assert "both have seed 0: name runs of different seeds" in said
    changed = tmp_path / "changed"
    shutil.copytree(other_seed, changed)
    stored = json.loads((changed / "config.json").read_text())
    stored["config"]["diffusion"]["shift"] = 2.0
    (changed / "config.json").write_text(json.dumps(stored))
    code, said = refused(trained, changed)
    assert code == 2
    assert "differ in diffusion.shift: name runs that differ in their seed" in said


def test_streamed_images_are_those_in_memory(tmp_path):
    """A folder of images that are larger than the resolution and not square: the same batches, decoded when needed."""
    generator = np.random.default_rng(0)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for number in range(12):
            pixels = generator.integers(0, 255, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    model = replace(diffusion_cifar.TINY.model, classes=2)
    data = replace(diffusion_cifar.TINY.data, name="folder", dir=tmp_path, resolution=16)
    batches = []
    for stream in (False, True):
        config = replace(diffusion_cifar.TINY, model=model, data=replace(data, stream=stream))
        made = diffusion_cifar.build(config).batches(seed=0, start_step=3, process_index=0, process_count=1)
        batches.append(next(made))
    np.testing.assert_array_equal(batches[0]["image"], batches[1]["image"])
    np.testing.assert_array_equal(batches[0]["label"], batches[1]["label"])
    grey = replace(diffusion_cifar.TINY, model=replace(model, channels=1), data=replace(data, stream=True))
    with pytest.raises(UserError, match=r"data\.stream is for colour images"):
        diffusion_cifar.build(grey)


def test_a_learned_variance_from_training_to_likelihood(tmp_path, capsys):
    """The bound trains the second half of the outputs, and nothing but the squared error reaches the first."""
    learned = replace(diffusion_cifar.TINY.diffusion, variance="learned")
    loss, state = first_loss(diffusion_cifar, replace(diffusion_cifar.TINY, diffusion=learned))
    plain, other = first_loss(diffusion_cifar, diffusion_cifar.TINY)
    assert loss > plain  # equal noise, and the bound in addition
    size = lambda state: sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert size(state) > size(other)
    folder = tmp_path / "run"
    arguments = [*SHAPES.split(), "--diffusion.steps", "10", "--diffusion.variance", "learned", "--sampling.steps", "3"]
    arguments += ["--sampling.method", "ancestral", "--sampling.variance", "learned", "--workdir", str(folder)]
    of = {"config": diffusion_cifar.Config(), "quick": diffusion_cifar.QUICK, "build": diffusion_cifar.build}
    assert launcher.main("diffusion_cifar", description="", arguments=arguments, **of) == 0
    capsys.readouterr()
    words = [
        "evaluate",
        str(folder),
        "--likelihood.images",
        "4",
        "--likelihood.steps",
        "2",
        "--likelihood.samples",
        "2",
    ]
    assert verbs.main(words) == 0, capsys.readouterr().err
    assert "variational bound of 10 discrete steps with the learned variance" in capsys.readouterr().out


def test_autoguidance_of_a_run(trained, other_seed, tmp_path, capsys):
    """A finished run is sampled from with another one as its guide, which is no part of it; scale 1 is without it."""

    def sampled(run, *options):
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        words = ["sample", str(run), "--count", "4", "--out", str(out), "--sampling.guidance", "1", *options]
        assert verbs.main(words) == 0, capsys.readouterr().err
        return np.asarray(Image.open(out / "grid.png")).astype(int)

    of = lambda scale: sampled(trained, "--sampling.guide", str(other_seed), "--sampling.guide-scale", scale)
    plain = sampled(trained)
    np.testing.assert_array_equal(of("1"), plain)
    assert np.abs(of("6") - plain).max() > 5
    assert np.abs(of("0") - sampled(other_seed)).max() <= 1  # the guide by itself
    assert not (trained / "frozen.json").exists()


def changed_run(folder, start, **fields):
    shutil.copytree(start, folder)
    stored = json.loads((folder / "config.json").read_text())
    for name, value in fields.items():
        first, _, last = name.partition("__")
        stored["config"][first][last] = value
    (folder / "config.json").write_text(json.dumps(stored))
    return folder


def test_runs_that_are_no_guides(trained, tmp_path, capsys):
    def said(guide, *options):
        words = ["sample", str(trained), "--count", "1", "--sampling.guidance", "1", "--sampling.guide", str(guide)]
        code = verbs.main([*words, *options])
        text = capsys.readouterr().err
        assert code == 2, text
        return text

    assert "there is no folder" in said(tmp_path / "nothing")
    made = iter("abcdefg")
    of = lambda **fields: changed_run(tmp_path / next(made), trained, **fields)
    assert "has diffusion.schedule vp and this run flow" in said(of(diffusion__schedule="vp"))
    assert "is of 3 channels and 3 classes, and this run of 3 and 4" in said(of(model__classes=3))
    assert "is of latents and this run of pixels" in said(of(first_stage__path="somewhere"))
    assert "has 'wide' for model.width: restore the file" in said(of(model__width="wide"))
    assert "which is no guide" in said(of(model__type="ResNetConfig"))
    assert "two kinds of guidance" in said(trained, "--sampling.guidance", "2")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    assert "is of something else, which is no guide" in said(tmp_path / "other")


def test_the_full_recipe_of_dit_needs_a_published_first_stage():
    """Nothing is trained on ImageNet's images as the first stage of rendered shapes would encode them."""
    part = dit_imagenet.build(dit_imagenet.Config()).frozen["first_stage"]
    with pytest.raises(UserError, match=r"name its folder with --first-stage\.path"):
        part.load()
    assert dit_imagenet.build(dit_imagenet.TINY).frozen["first_stage"].load()["params"]


def test_a_first_stage_of_other_images_is_noticed():
    config = latent_diffusion.Config()
    assert any("the first stage is that of the shapes world" in notice for notice in config.notices())
    assert not any("first stage" in notice for notice in latent_diffusion.QUICK.notices())
