"""The prior as a run: with stored embeddings and without, as a part of other systems, exported, with another CLIP."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import prior_shapes
from vision.data.captions.data import captioned_data
from vision.data.latents import LATENT
from vision.errors import UserError
from vision.evaluation.prior import PriorEvaluationConfig, shared_texts
from vision.launch import actions
from vision.launch import run as launcher
from vision.launch.load_run import load_run
from vision.ops.pixels import to_float
from vision.pretrained.prior import read_prior
from vision.pretrained.scheduler_config import FILE
from vision.recipes.clip_encoder import SHAPES, clip_encoder
from vision.recipes.embeddings import embedded, scale_of
from vision.recipes.prior import prior
from vision.recipes.prior_sampler import stored_prior

pytestmark = pytest.mark.usefixtures("on_one_device")

TINY = prior_shapes.TINY
OPTION = "prior.weights"
TEXTS = ["a red star", "a blue circle", "a red star"]
KEY = jax.random.key(0)


def train(folder, *options):
    of = {"config": TINY, "quick": TINY, "build": prior_shapes.build, "description": ""}
    fast = ["--optimizer.warmup", "0", "--optimizer.lr", "0.05"]  # so that two steps leave the mean of all embeddings
    return launcher.main("prior_shapes", arguments=["--workdir", str(folder), *fast, *options], **of)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("prior")


@pytest.fixture(scope="module")
def run(root):
    """A finished run."""
    assert train(root / "small") == 0
    return root / "small"


def test_numbers_and_what_they_are_compared_with(run):
    found = json.loads((run / "evaluation.json").read_text())
    line = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    scalars = {name: value for each in line for name, value in each.items() if name.startswith("eval/")}
    depths = [f"{rival}r{depth}" for rival in ("", "text_", "zeros_", "chance_") for depth in (1, 5, 10)]
    margins = [f"{rival}cosine_margin" for rival in ("", "text_", "zeros_")]
    for name in (*depths, *margins, "variance_share", "mse"):
        assert name in found["protocol"]
        assert np.isfinite(scalars[f"eval/{name}"])
    assert scalars["eval/zeros_r1"] == scalars["eval/zeros_cosine_margin"] == 0.0
    assert scalars["eval/chance_r1"] == 1 / 8
    assert scalars["eval/mse"] < 2.0
    assert (run / found["files"][0]).exists()


def test_stored_embeddings_change_nothing(run, root):
    assert train(root / "stored", "--clip.embeddings", str(root / "embeddings")) == 0
    assert len(list((root / "embeddings").iterdir())) == 2
    one, other = (load_run(folder).state for folder in (run, root / "stored"))
    for left, right in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)


def test_embeddings_in_memory_and_their_scale():
    clip = clip_encoder(SHAPES, option="clip.weights")
    images = captioned_data(TINY.data, tokenizer=lambda: clip.tokenizer, length=clip.tokenizer.length)
    data = embedded(images, clip, root=None, batch=24)  # of which 64 are no multiple
    pixels = images.source("train").first(64)["image"]
    want = np.asarray(clip.encode_image(clip.frozen.load(), to_float(jnp.asarray(pixels))))
    found = data.source("train").arrays[LATENT]
    np.testing.assert_allclose(found, want, atol=1e-4)
    mean, deviation = scale_of(data)
    np.testing.assert_allclose(mean, want.mean(0), atol=1e-4)
    np.testing.assert_allclose(deviation, want.std(0), rtol=1e-3)


def test_embeddings_for_texts(run):
    made = stored_prior(run, option=OPTION)
    found = made.embeddings(TEXTS, key=KEY)
    assert found.shape == (3, made.embedding)
    assert found.dtype == np.float32
    np.testing.assert_allclose(made.embeddings(TEXTS, key=KEY), found)
    assert np.abs(found[0] - found[2]).max() > 1e-3  # the same text at another place
    np.testing.assert_allclose(made.embeddings(TEXTS[:2], key=KEY), found[:2], atol=1e-5)
    assert np.abs(made.embeddings(TEXTS, key=jax.random.key(1)) - found).max() > 1e-3
    alone = made.embeddings(TEXTS, key=KEY, candidates=1, guidance=1.0)
    assert np.abs(alone - found).max() > 1e-3
    clip = made.clip
    text = clip.encode_text(clip.frozen.load(), jnp.asarray(clip.tokenizer.encode(TEXTS)))["embedding"]
    np.testing.assert_allclose(made.embeddings(TEXTS, key=KEY, source="text"), text, atol=1e-5)
    np.testing.assert_array_equal(made.embeddings(TEXTS, key=KEY, source="zeros"), np.zeros_like(found))
    assert made.embeddings([], key=KEY).shape == (0, made.embedding)
    state = load_run(run).state
    values = {**state.ema["ema"], "frozen": state.model_state["frozen"]}
    pure = jax.jit(made.sampler())(values, clip.tokenizer.encode(TEXTS), np.arange(3), KEY)
    np.testing.assert_allclose(pure, found, atol=1e-4)
    with pytest.raises(UserError, match="candidates are at least 1, not 0"):
        made.embeddings(TEXTS, key=KEY, candidates=0)


def test_another_source_of_embeddings_is_an_error(run, unchecked):
    with pytest.raises(ValueError, match="prior, text or zeros"):
        stored_prior(run, option=OPTION).embeddings(TEXTS, key=KEY, source="noise")


def other_clip(folder):
    """A CLIP of the same shapes whose tokenizer is another."""
    shutil.copytree(SHAPES, folder / "clip")
    definition = json.loads((folder / "clip" / "tokenizer.json").read_text())
    definition["added_tokens"][0]["lstrip"] = True
    (folder / "clip" / "tokenizer.json").write_text(json.dumps(definition))
    return folder / "clip"


def test_another_clip_is_refused(run, tmp_path):
    other = stored_prior(run, option=OPTION, clip=other_clip(tmp_path))
    with pytest.raises(UserError, match="was trained with another CLIP than the one in"):
        other.embeddings(TEXTS, key=KEY)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"experiment": "thing", "config": {}},
            "is a run of thing, which is no prior: name a run of exp",
        ),
        ({"config": None}, "which is no prior"),
        ({"replicas": {"seeds": 2}}, "holds several runs"),
        ({"text": "sound"}, "has 'sound' for prior.text: restore"),
        ({"model": {"width": "x"}}, "'x' for model.width: restore"),
        ({"sampling": {"limit": 0.5, "steps": 2}}, "sampling.limit 0.5 would cut embeddings"),
        ({"clip": {"weights": None}}, "has no clip.weights: restore the file"),
        ({"clip": {"weights": "nowhere"}}, "there is no folder nowhere, where clip.weights says"),
    ],
)
def test_folders_that_are_no_prior(change, words, run, tmp_path):
    content = json.loads((run / "config.json").read_text())
    whole = ("experiment", "config", "replicas")
    content["config"].update({name: value for name, value in change.items() if name not in whole})
    content.update({name: value for name, value in change.items() if name in whole})
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=words):
        stored_prior(tmp_path / "no", option=OPTION)
    with pytest.raises(UserError, match=r"there is no folder .* where prior.weights says that the prior is"):
        stored_prior(tmp_path / "nowhere", option=OPTION)


def test_a_folder_of_diffusers_there_and_back(root, tmp_path):
    """Without hidden states of texts."""
    assert train(root / "alone", "--text", "embedding") == 0
    loaded = load_run(root / "alone")
    actions.export(loaded, tmp_path / "folder")
    _, variables = read_prior(tmp_path / "folder")
    averaged = loaded.state.ema["ema"]
    for one, other in zip(jax.tree.leaves(variables), jax.tree.leaves(averaged), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert json.loads((tmp_path / "folder" / FILE).read_text())["clip_sample_range"] == 5.0
    published = stored_prior(tmp_path / "folder", option=OPTION, clip=SHAPES)
    own = stored_prior(root / "alone", option=OPTION)
    of = {"key": KEY, "guidance": 2.0, "steps": 2}
    np.testing.assert_allclose(published.embeddings(TEXTS, **of), own.embeddings(TEXTS, **of), atol=1e-4)
    with pytest.raises(UserError, match="does not say which CLIP it belongs to"):
        stored_prior(tmp_path / "folder", option=OPTION)
    config = dataclasses.replace(TINY, text="embedding", init_from=tmp_path / "folder")
    values = prior(config).initial_values()
    np.testing.assert_allclose(values["embeddings/mean"], averaged["embeddings"]["mean"], atol=1e-6)


def test_texts_that_several_images_have():
    captions = [("a", "b"), ("c", "b"), ("a", "b", "b"), ("d",), ("a",)]
    texts, images = shared_texts(captions, PriorEvaluationConfig(texts=5, scenes=2))
    assert (texts, [of.tolist() for of in images]) == (("a", "b"), [[0, 2], [0, 1]])
    assert shared_texts(captions, PriorEvaluationConfig(texts=1, scenes=3))[0] == ("a",)
    assert shared_texts(captions, PriorEvaluationConfig(texts=0, scenes=2))[0] == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": {"width": 20, "heads": 3}}, "model.width 20 must be an even multiple of model.heads, 3"),
        ({"sampling": {"limit": 1.0}}, "sampling.limit 1 would cut embeddings"),
        ({"diffusion": {"transport": 3}}, "must divide the batch"),
    ],
)
def test_settings_that_contradict_each_other(change, words):
    ((name, fields),) = change.items()
    with pytest.raises(UserError, match=words):
        prior(dataclasses.replace(TINY, **{name: dataclasses.replace(getattr(TINY, name), **fields)}))


def test_other_images_need_another_clip(tmp_path):
    config = dataclasses.replace(prior_shapes.Config(), clip=dataclasses.replace(TINY.clip, weights=tmp_path / "no"))
    with pytest.raises(UserError, match=r"there is no folder .*, where clip.weights says that the CLIP is: name a run"):
        prior(config)
    with pytest.raises(UserError, match="it is of the shapes world, and the prior of other images needs a CLIP"):
        prior(prior_shapes.Config()).frozen["clip"].load()
