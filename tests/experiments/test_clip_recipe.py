"""CLIP as a run: its tokenizer is kept, it predicts and is exported, and it is a frozen part of other systems."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import clip_shapes, clip_weights
from vision.data.captions.data import captioned_data
from vision.data.latents import open_latents
from vision.data.shapes.world import render_scenes
from vision.data.text.tokenizer import Tokenizer
from vision.errors import UserError
from vision.launch import actions
from vision.launch import run as launcher
from vision.launch.load_run import load_run
from vision.models.clip.clip import Clip
from vision.ops.pixels import to_float
from vision.ops.resize import resize
from vision.ops.spherical import normalised
from vision.pretrained.clip import read_clip
from vision.pretrained.state_dict import read_state_dict
from vision.recipes import embeddings as embeddings_module
from vision.recipes.clip import TokenizerConfig, clip
from vision.recipes.clip_encoder import SHAPES, clip_encoder, prepared
from vision.recipes.embeddings import EMBEDDING, embedded, image_embeddings
from vision.recipes.quick_data import CAPTIONED
from vision.report.grid import save_png
from vision.train.content_hash import content_hash
from vision.train.kept import TOKENIZER

pytestmark = pytest.mark.usefixtures("on_one_device")

TINY = clip_shapes.TINY
OPTION = "clip.path"


def train(folder, *options):
    of = {"config": TINY, "quick": TINY, "build": clip_shapes.build, "description": ""}
    return launcher.main("clip_shapes", arguments=["--workdir", str(folder), *options], **of)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("clip") / "small"
    assert train(folder) == 0
    return folder


@pytest.fixture
def data(run):
    encoder = clip_encoder(run, option=OPTION)
    return captioned_data(TINY.data, tokenizer=lambda: encoder.tokenizer, length=encoder.tokenizer.length)


def test_the_tokenizer_is_kept(run, tmp_path, capsys):
    kept = (run / TOKENIZER).read_text()
    assert Tokenizer(kept).length == TINY.model.text.length
    # a longer run reads what is there, whatever it would be trained to now
    other = shutil.copytree(run, tmp_path / "other")
    lowered = json.loads(kept)
    lowered["version"] = "1.0"
    (other / TOKENIZER).write_text(json.dumps(lowered))
    assert train(other) == 0
    assert json.loads((other / TOKENIZER).read_text()) == lowered
    (other / TOKENIZER).unlink()
    assert train(other) == 2
    assert f"has no {TOKENIZER}, by which it reads texts: restore the file" in capsys.readouterr().err


def test_predictions_by_texts(run, tmp_path):
    for index in range(2):
        save_png(tmp_path / f"{index}.png", np.full((20, 30, 3), 60 * index, np.uint8))
    loaded = load_run(run, overrides=["--zero-shot.classes", "red star", "blue circle"])
    lines = actions.predict(loaded, [str(tmp_path / "*.png")], tmp_path / "out")
    assert len(lines) == 3
    shares = [dict(zip(["red star", "blue circle"], [0, 0], strict=True)) for _ in range(2)]
    for line, of in zip(lines, shares, strict=False):
        for part in line.split(": ")[1].split(", "):
            name, share = part.rsplit(" ", 1)
            of[name] = float(share)
    assert all(sum(of.values()) == pytest.approx(1, abs=0.01) for of in shares)
    with pytest.raises(UserError, match="say what the images may show"):
        actions.predict(load_run(run), [str(tmp_path / "*.png")], tmp_path / "out")


def test_exports(run, tmp_path):
    """As transformers' folder, which is read back with its tokenizer, and under OpenAI's names."""
    loaded = load_run(run)
    said = actions.export(loaded, tmp_path / "folder")
    assert "for transformers' CLIPModel" in said
    published, own = clip_encoder(tmp_path / "folder", option=OPTION), clip_encoder(run, option=OPTION)
    assert published.config == own.config
    texts = ["a red star", "a small blue circle on the left"]
    np.testing.assert_array_equal(published.tokenizer.encode(texts), own.tokenizer.encode(texts))
    for one, other in zip(
        jax.tree.leaves(read_clip(tmp_path / "folder").variables),
        jax.tree.leaves({name: tree for name, tree in own.frozen.load().items() if name != "tokenizer"}),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    actions.export(loaded, tmp_path / "clip.safetensors")
    assert "visual.class_embedding" in read_state_dict(tmp_path / "clip.safetensors")


def test_a_run_starts_from_another_and_from_a_folder(run, tmp_path, capsys):
    actions.export(load_run(run), tmp_path / "folder")
    for start in (run, tmp_path / "folder"):
        experiment = clip_shapes.build(dataclasses.replace(TINY, init_from=start))
        values = experiment.initial_values()
        own = load_run(run).state.ema["ema"]["params"]["image"]["projection"]["kernel"]
        np.testing.assert_array_equal(values["params/image/projection/kernel"], own)
        assert len(values) == len(jax.tree.leaves(load_run(run).state.params))
    capsys.readouterr()


def test_a_run_as_a_frozen_part(run):
    encoder = clip_encoder(run, option=OPTION)
    variables = encoder.frozen.load()
    described = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert described(variables) == described(encoder.frozen.shapes)
    assert encoder.content() == content_hash(variables)
    assert bytes(variables["tokenizer"]).decode() == encoder.tokenizer.definition == (run / TOKENIZER).read_text()
    image = jax.random.uniform(jax.random.key(0), (3, 16, 16, 3)) * 2 - 1
    tokens = jnp.asarray(encoder.tokenizer.encode(["a red star", "a blue circle", "a"]))
    model = Clip(encoder.config)
    averaged = load_run(run).state.ema["ema"]
    pairs = model.apply(averaged, prepared(image, clip_statistics=True), tokens, train=False)
    images, texts = encoder.encode_image(variables, image), encoder.encode_text(variables, tokens)
    assert images.shape == (3, encoder.embedding)
    assert texts["tokens"].shape == (3, encoder.tokenizer.length, encoder.config.text.width)
    for found, expected in ((images, pairs.image), (texts["embedding"], pairs.text)):
        np.testing.assert_allclose(found / np.linalg.norm(found, axis=1, keepdims=True), expected, atol=1e-5)
    np.testing.assert_allclose(
        encoder.similarity(variables, images, texts["embedding"]),
        pairs.scale * (pairs.image * pairs.text).sum(1),
        rtol=1e-4,
    )
    large = jnp.repeat(jnp.repeat(image, 3, axis=1), 3, axis=2)
    np.testing.assert_allclose(
        encoder.encode_image(variables, large),
        encoder.encode_image(variables, resize(large, (16, 16), method="bicubic")),
        atol=1e-5,
    )


def test_the_weights_that_come_with_the_project(run, tmp_path):
    """Of a run they are written in half precision; those of the shapes world know its shapes and colours."""
    clip_weights.write(clip_weights.Config(run=run, out=tmp_path / "out"))
    made, own = (clip_encoder(folder, option=OPTION) for folder in (tmp_path / "out", run))
    assert (made.config, made.resolution, made.tokenizer) == (own.config, own.resolution, own.tokenizer)
    for one, other in zip(jax.tree.leaves(made.frozen.load()), jax.tree.leaves(own.frozen.load()), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6)
    clip = clip_encoder(SHAPES, option=OPTION)
    world, variables = CAPTIONED.shapes, clip.frozen.load()
    scenes = render_scenes(world, seed=0, indices=np.arange(100), split="test", fields=("image", "label"))
    texts = [f"one {shape}, which is {colour}" for shape in world.shapes for colour in world.colours]
    image = clip.encode_image(variables, to_float(jnp.asarray(scenes["image"])))
    text = clip.encode_text(variables, jnp.asarray(clip.tokenizer.encode(texts)))["embedding"]
    found = np.argmax(normalised(image) @ normalised(text).T, axis=1)
    assert np.mean(found == scenes["label"]) > 0.5  # of 36


def test_another_tokenizer_is_another_network(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    content = json.loads((run / TOKENIZER).read_text())
    content["added_tokens"][0]["lstrip"] = True
    (other / TOKENIZER).write_text(json.dumps(content))
    assert clip_encoder(other, option=OPTION).content() != clip_encoder(run, option=OPTION).content()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"experiment": "thing", "config": {}}, "is a run of thing, which is no CLIP: name a run of experiments.clip"),
        ({"config": None}, "is no CLIP"),
        ({"replicas": {"seeds": 2}}, "holds several runs"),
        ({"model": {"type": "TransformerClipConfig", "embedding": "x"}}, "'x' for model.embedding: restore"),
        ({"model": {"type": "TransformerClipConfig", "image": {"patch": -1}}}, "is of no possible network"),
        ({"model": {"type": "TransformerClipConfig", "new": 1}}, "has model.new, which is not known here"),
        ({"clip_statistics": 3}, "has no data.resolution or clip_statistics"),
    ],
)
def test_folders_that_are_no_clip(change, words, run, tmp_path):
    content = json.loads((run / "config.json").read_text())
    for name in ("model", "clip_statistics"):
        if name in change:
            content["config"][name] = change[name]
    content.update({name: value for name, value in change.items() if name in ("experiment", "config", "replicas")})
    folder = tmp_path / "no"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=words):
        clip_encoder(folder, option=OPTION)
    with pytest.raises(UserError, match=r"there is no folder .* where clip.path says that the CLIP is"):
        clip_encoder(tmp_path / "nowhere", option=OPTION)


def test_embeddings_are_computed_once(run, data, tmp_path, monkeypatch):
    encoder = clip_encoder(run, option=OPTION)
    found = image_embeddings(data, "train", encoder, root=tmp_path, batch=24)
    assert len(found) == 64
    variables, images = encoder.frozen.load(), data.source("train").first(9)["image"]
    want = encoder.encode_image(variables, to_float(jnp.asarray(images)))
    for index in range(9):
        np.testing.assert_allclose(found[index]["latent"], want[index], atol=1e-5)
    assert open_latents(tmp_path, found.identity) is not None
    monkeypatch.setattr(embeddings_module, "on_this_host", lambda *_: pytest.fail("computed again"))
    again = image_embeddings(data, "train", encoder, root=tmp_path, batch=24)
    np.testing.assert_array_equal(again[7]["latent"], found[7]["latent"])


def test_batches_of_embeddings_have_the_captions_of_their_images(run, data, tmp_path):
    encoder = clip_encoder(run, option=OPTION)
    made = embedded(data, encoder, root=tmp_path, batch=24)
    assert made.sample.keys() == {EMBEDDING, "tokens"}
    assert made.sample[EMBEDDING].shape == (encoder.embedding,)
    share = {"seed": 3, "start_step": 5, "process_index": 0, "process_count": 1}
    one, other = next(data.train_batches(8, **share)), next(made.train_batches(8, **share))
    np.testing.assert_array_equal(one["tokens"], other["tokens"])
    want = encoder.encode_image(encoder.frozen.load(), to_float(jnp.asarray(one["image"])))
    np.testing.assert_allclose(other[EMBEDDING], want, atol=1e-5)
    test = next(made.test_batches(8))
    assert test.keys() == {EMBEDDING, "tokens", "mask"}
    np.testing.assert_array_equal(test["tokens"], next(data.test_batches(8))["tokens"])
    assert made.content("train") == data.content("train")
    assert "embedded by CLIP small" in made.description("test")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"microbatches": 2}, "leave microbatches 1"),
        ({"tokenizer": TokenizerConfig(kind="bytes", path=clip_shapes.Path("x"))}, "tokenizer.path is of CLIP's"),
        ({"model": dataclasses.replace(TINY.model, text=dataclasses.replace(TINY.model.text, end=7))}, "text.end 1"),
        ({"model": dataclasses.replace(TINY.model, channels=1)}, "colour images"),
    ],
)
def test_settings_that_contradict_each_other(change, words):
    with pytest.raises(UserError, match=words):
        clip(dataclasses.replace(TINY, **change))


@pytest.mark.parametrize(
    ("tokenizer", "text", "words"),
    [
        (TokenizerConfig(kind="clip"), {}, "name their folder with --tokenizer.path, or train one with"),
        (TokenizerConfig(kind="bytes"), {"vocabulary": 100}, "a vocabulary of bytes has at least 259"),
    ],
)
def test_tokenizers_that_cannot_be(tokenizer, text, words):
    model = dataclasses.replace(TINY.model, text=dataclasses.replace(TINY.model.text, **text))
    experiment = clip(dataclasses.replace(TINY, tokenizer=tokenizer, model=model))
    with pytest.raises(UserError, match=words):
        experiment.tokenizer.content()
