"""Text-to-image runs: conditions by a CLIP, requests by texts and images, a prior in between, refusals."""

import functools
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import decoder_shapes, text_to_image_shapes, upsampler_shapes
from vision.data import notices
from vision.diffusion.conditions import TEXT
from vision.errors import UserError
from vision.evaluation.generator import generate
from vision.launch import run as launcher
from vision.launch import verbs
from vision.launch.load_run import load_run
from vision.models.unet import UNCLIP_64, UNCLIP_256, UNCLIP_1024, UNet, UNetConfig
from vision.ops.pixels import to_float
from vision.recipes.clip_encoder import NAME, SHAPES, clip_encoder
from vision.recipes.generative import generator_of
from vision.recipes.latents import FirstStageConfig
from vision.recipes.text_conditions import DESCRIBED, EMBEDDING, REFERENCE, ClipConditions, ClipPartConfig, unit_scale
from vision.recipes.text_requests import fitted
from vision.recipes.text_to_image import given_texts, requests, text_to_image, text_to_image_parts
from vision.recipes.upsampler import upsampler, upsampler_parts
from vision.report.grid import save_png
from vision.tasks.sampling import SamplingConfig
from vision.types import SampleRequest

pytestmark = pytest.mark.usefixtures("on_one_device")

TINY = decoder_shapes.TINY
TEXT_TINY = text_to_image_shapes.TINY
ENLARGE_TINY = upsampler_shapes.TINY
STEPS = ("--sampling.steps", "1")


@functools.cache
def encoder():
    return clip_encoder(SHAPES, option="clip.weights")


@functools.cache
def clip_variables():
    return jax.tree.map(jnp.asarray, encoder().frozen.load())


def conditions(kind="both"):
    return ClipConditions(clip=encoder(), kind=kind)


def train(module, folder):
    of = {"config": module.TINY, "quick": module.TINY, "build": module.build, "description": ""}
    assert launcher.main(module.__name__.split(".")[-1], arguments=["--workdir", str(folder)], **of) == 0
    return folder


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """A finished run of the decoder, conditioned on both."""
    return train(decoder_shapes, tmp_path_factory.mktemp("runs") / "decoder")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two images of other sizes."""
    folder = tmp_path_factory.mktemp("images")
    for name, level in (("a", 40), ("b", 220)):
        pixels = np.full((20, 26, 3), level, np.uint8)
        pixels[5:15, 5:15, 0] = 255 - level
        save_png(folder / f"{name}.png", pixels)
    return [str(folder / "a.png"), str(folder / "b.png")]


def random_run(run):
    """A run whose averages are random: those of two steps make images that are grey whatever they are asked for."""
    loaded = load_run(run, overrides=STEPS)
    leaves, structure = jax.tree.flatten(loaded.state.ema["ema"])
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    ema = {**loaded.state.ema, "ema": jax.tree.unflatten(structure, moved)}
    return replace(loaded, state=loaded.state.replace(ema=ema))


def sampled(run, out, *words):
    assert verbs.main(["sample", str(run), "--out", str(out), *words, *STEPS]) == 0
    return sorted(path.name for path in Path(out).iterdir())


def test_the_network_has_the_widths_of_the_clip():
    clip = encoder().config
    text = conditions("text").network(TINY.model)
    assert (text.text, text.text_length, text.text_embedding) == (clip.text.width, clip.text.length, clip.embedding)
    assert (text.embedding, text.embedding_tokens) == (0, 0)
    both = conditions().network(TINY.model)
    assert (both.text, both.embedding, both.embedding_tokens) == (clip.text.width, clip.embedding, 4)
    assert set(conditions("embedding").conditioning().nulls) == {EMBEDDING}
    assert set(conditions().conditioning().nulls) == {EMBEDDING, *TEXT}
    assert conditions("text").dropout(condition=0.1, text=0.5) == {TEXT: 0.1}
    assert conditions("embedding").dropout(condition=0.1, text=0.5) == {(EMBEDDING,): 0.1}
    assert conditions().dropout(condition=0.1, text=0.5) == {(EMBEDDING,): 0.1, TEXT: 0.5}
    plain = ClipConditions(clip=encoder(), kind="both", attended=False)
    without = plain.network(TINY.model)
    assert (without.text, without.text_embedding, without.embedding_tokens) == (0, clip.embedding, 0)
    assert set(plain.conditioning().nulls) == {EMBEDDING, "text_embedding"}
    with pytest.raises(UserError, match="embedding follows from conditions and from the CLIP"):
        conditions().network(replace(TINY.model, embedding=3))


def test_conditions_are_what_the_clip_says():
    """Embeddings have a mean square of 1; what has no end token is no text, and zeros are no embedding."""
    made = conditions()
    image = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    tokens = jnp.asarray(encoder().tokenizer.encode(["a red star", "a blue circle"]))
    request = {"tokens": jnp.concatenate([tokens, made.no_text(2)]), REFERENCE: jnp.tile(image, (2, 1, 1, 1))}
    found = made.of_request(clip_variables(), request)
    said = encoder().encode_text(clip_variables(), tokens)
    np.testing.assert_allclose(found["text"][:2], said["tokens"], atol=1e-5)
    np.testing.assert_array_equal(found["text"][2:], 0.0)
    np.testing.assert_array_equal(found["text_embedding"][2:], 0.0)
    for rows in (found["text_embedding"][:2], found[EMBEDDING]):
        np.testing.assert_allclose(jnp.mean(jnp.square(rows), axis=1), 1.0, rtol=1e-5)
    own = encoder().encode_image(clip_variables(), to_float(jnp.asarray(image)))
    again = made.of_request(clip_variables(), {"tokens": tokens, EMBEDDING: 7.0 * own})[EMBEDDING]
    np.testing.assert_allclose(again, found[EMBEDDING][:2], atol=1e-4)
    in_training = made.of_batch(clip_variables(), {"image": to_float(jnp.asarray(image)), "tokens": tokens})
    np.testing.assert_allclose(in_training[EMBEDDING], again, atol=1e-4)
    instead = made.of_request(clip_variables(), {"tokens": tokens, DESCRIBED: tokens})[EMBEDDING]
    np.testing.assert_allclose(instead, found["text_embedding"][:2], atol=1e-5)
    np.testing.assert_array_equal(unit_scale(jnp.zeros((1, 4))), 0.0)


@pytest.mark.parametrize(
    "experiment",
    [
        text_to_image(TINY),
        upsampler(replace(ENLARGE_TINY, clip=ClipPartConfig(SHAPES), sampling=SamplingConfig(steps=2, guidance=2.0))),
    ],
    ids=["decoder", "upsampler"],
)
def test_every_parameter_receives_a_gradient(experiment):
    """At random parameters, since the layers that start at zero hide those behind them."""
    state = jax.jit(experiment.init)(jax.random.key(0))
    leaves, structure = jax.tree.flatten(state.params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    state = state.replace(params=jax.tree.unflatten(structure, moved), model_state={"frozen": {NAME: clip_variables()}})
    batch = next(experiment.batches(seed=0, start_step=0, process_index=0, process_count=1))
    after, scalars = jax.jit(experiment.step)(state, batch)
    assert np.isfinite(float(scalars["loss"]))
    first_moments = jax.tree_util.tree_leaves_with_path(optax.tree_utils.tree_get(after.opt_state, "mu"))
    assert len(first_moments) == len(leaves)
    unmoved = [jax.tree_util.keystr(path) for path, moment in first_moments if not np.asarray(moment).any()]
    assert not unmoved


def test_a_sentence_becomes_files_and_a_page(decoder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(notices, "_REPORTED", set())
    names = sampled(
        decoder, tmp_path / "out", "--prompt", "a red star", "a violet <dodo>", "--count", "4", "--seed", "3"
    )
    assert names == ["00000.png", "00001.png", "00002.png", "00003.png", "grid.png", "samples.html"]
    said = capsys.readouterr()
    assert "4 samples after 16 images" in said.out
    assert "'a violet <dodo>' has words that are not in the vocabulary." in said.err
    page = (tmp_path / "out" / "samples.html").read_text()
    assert page.count("<figure>") == 4
    assert page.count("a violet &lt;dodo&gt;") == 4  # two captions, two descriptions of images


def test_samples_follow_their_texts_and_seeds(decoder):
    loaded = random_run(decoder)
    sample = loaded.experiment.sampling(loaded.compiler)
    of = lambda *texts, seed=0: sample(loaded.state, SampleRequest(count=2, prompts=texts, seed=seed)).images
    stars = of("a red star")
    assert np.abs(stars[0].astype(int) - stars[1].astype(int)).max() > 3  # of different noise
    np.testing.assert_array_equal(of("a red star"), stars)
    assert np.abs(of("a red star", seed=1).astype(int) - stars.astype(int)).max() > 3
    mixed = of("a red star", "a blue circle")
    np.testing.assert_allclose(mixed[0].astype(int), stars[0].astype(int), atol=1)
    assert np.abs(mixed[1].astype(int) - stars[1].astype(int)).max() > 3
    held_out = sample(loaded.state, SampleRequest(count=3))
    assert len(held_out.captions) == 3


def test_variations_and_interpolations_of_images(decoder, files, tmp_path):
    loaded = random_run(decoder)
    images = tuple(np.asarray(fitted(np.zeros((20, 26, 3), np.uint8) + value, 16)) for value in (30, 200))
    sample = loaded.experiment.sampling(loaded.compiler)
    found = sample(loaded.state, SampleRequest(count=4, images=images))
    assert found.columns == 2
    assert found.images.shape == (4, 16, 16, 3)
    np.testing.assert_array_equal(found.given, np.stack(images))
    between = sample(loaded.state, SampleRequest(count=5, images=images, interpolate=True))
    assert between.captions == ("0.00", "0.25", "0.50", "0.75", "1.00")
    # with one noise the ends are what the images give by themselves with the noise of the first place
    ends = [sample(loaded.state, SampleRequest(count=1, images=(image,))).images[0] for image in images]
    for end, place in zip(ends, (0, -1), strict=True):
        assert np.abs(end.astype(int) - between.images[place].astype(int)).max() <= 1
    assert np.abs(between.images[0].astype(int) - between.images[-1].astype(int)).max() > 3
    assert "samples.html" in sampled(decoder, tmp_path / "out", "--image", *files, "--count", "4")


def test_images_move_along_the_difference_of_two_texts(decoder):
    """With one noise; the first step is the image itself, and each image has a column."""
    loaded = random_run(decoder)
    images = tuple(np.full((16, 16, 3), value, np.uint8) for value in (30, 200))
    sample = loaded.experiment.sampling(loaded.compiler)
    texts = ("a red star", "a blue circle")
    found = sample(loaded.state, SampleRequest(count=4, images=images, difference=texts))
    assert (found.captions, found.columns) == (("0.00", "0.00", "0.50", "0.50"), 2)
    ends = [sample(loaded.state, SampleRequest(count=1, images=(image,))).images[0] for image in images]
    for end, made in zip(ends, found.images[:2], strict=True):
        assert np.abs(end.astype(int) - made.astype(int)).max() <= 1
    assert np.abs(found.images[2].astype(int) - found.images[0].astype(int)).max() > 3


def test_images_are_reconstructed_from_principal_components(decoder):
    """With all of them the image's own variation; with none the same image for all."""
    loaded = random_run(decoder)
    images = tuple(np.full((16, 16, 3), value, np.uint8) for value in (30, 200))
    sample = loaded.experiment.sampling(loaded.compiler)
    most = min(64, len(text_to_image_parts(TINY).data.source("test")) - 1)
    with pytest.raises(UserError, match=f"--components are at most {most} here, not {most + 1}"):
        sample(loaded.state, SampleRequest(count=2, images=images, components=(most + 1,)))
    found = sample(loaded.state, SampleRequest(count=4, images=images, components=(0, most)))
    assert (found.columns, found.captions[:2]) == (2, ("0 components", f"{most} components"))
    np.testing.assert_allclose(found.images[0].astype(int), found.images[2].astype(int), atol=1)
    assert np.abs(found.images[1].astype(int) - found.images[3].astype(int)).max() > 3


def test_the_best_of_several_is_that_of_the_largest_cosine(decoder):
    loaded = random_run(decoder)
    sample = loaded.experiment.sampling(loaded.compiler)
    texts = ("a red star", "a blue circle")
    best = sample(loaded.state, SampleRequest(count=2, prompts=texts, best_of=3))
    parts = text_to_image_parts(replace(TINY, sampling=replace(TINY.sampling, steps=1)))
    generator = generator_of(parts.config, parts.samples, parts.objective())
    tokens = encoder().tokenizer.encode([text for text in texts for _ in range(3)])
    embedding = encoder().encode_text(clip_variables(), jnp.asarray(tokens))["embedding"]
    condition = {"tokens": tokens, EMBEDDING: np.asarray(embedding)}
    variables = generator.variables(loaded.state)
    every = generate(loaded.compiler, generator, variables, condition, count=6, seed=0)
    shown = unit_scale(encoder().encode_image(clip_variables(), to_float(jnp.asarray(every))))
    cosines = np.asarray(jnp.sum(shown * unit_scale(embedding), axis=1)).reshape(2, 3)
    np.testing.assert_array_equal(best.images, every.reshape(2, 3, 16, 16, 3)[np.arange(2), cosines.argmax(1)])


def test_a_prior_stands_between_texts_and_images(decoder):
    """A function of texts to embeddings: what it says is what is decoded."""
    loaded = random_run(decoder)
    parts = text_to_image_parts(replace(TINY, sampling=replace(TINY.sampling, steps=1)))
    generator = generator_of(parts.config, parts.samples, parts.objective())
    asked = []
    image = np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)
    embedding = np.asarray(encoder().encode_image(clip_variables(), to_float(jnp.asarray(image[None]))))[0]

    def prior(texts, *, seed):
        asked.append((tuple(texts), seed))
        return np.stack([3.0 * embedding] * len(texts))

    texts = ("a red star",)
    by_prior = requests(parts, prior, generator)(loaded.compiler)
    by_image = requests(parts, None, generator)(loaded.compiler)
    one = by_prior(loaded.state, SampleRequest(count=2, prompts=texts, seed=5))
    other = by_image(loaded.state, SampleRequest(count=2, prompts=texts, images=(image,), seed=5))
    assert asked == [(texts * 2, 5)]
    assert np.abs(one.images.astype(int) - other.images.astype(int)).max() <= 1
    by_text = by_image(loaded.state, SampleRequest(count=2, prompts=texts, seed=5))
    assert np.abs(one.images.astype(int) - by_text.images.astype(int)).max() > 3
    assert one.captions == texts * 2
    evaluated = given_texts(parts.conditions, prior, "text", texts, None)
    np.testing.assert_allclose(evaluated[EMBEDDING][0], 3.0 * embedding, rtol=1e-6)
    zeros = given_texts(parts.conditions, None, "zeros", texts, None)
    assert not zeros[EMBEDDING].any()
    assert set(given_texts(conditions("embedding"), None, "text", texts, None)) == {DESCRIBED}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--best-of", "2"], "say which with --prompt"),
        (["--interpolate", "--prompt", "a"], "name two with --image or with --prompt"),
        (["--interpolate", "--prompt", "a", "b", "--best-of", "2"], "give one of them"),
        (["--interpolate", "--prompt", "a", "b", "--substitute", "zeros"], "set --substitute text"),
        (["--difference", "a", "b"], "--difference takes two texts"),
        (["--difference", "a", "--image", "{image}"], "--difference takes two texts"),
        (["--difference", "a", "b", "--image", "{image}", "--count", "1"], "set --count 8"),
        (["--difference", "a", "a", "--image", "{image}"], "that the CLIP does not tell apart"),
        (["--components", "1"], "name them with --image"),
        (["--labels", "3"], "generates images without classes"),
    ],
)
def test_requests_that_cannot_be_answered(words, said, decoder, files, capsys):
    words = [files[0] if word == "{image}" else word for word in words]
    assert verbs.main(["sample", str(decoder), "--count", "2", *words, *STEPS]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clip": ClipPartConfig()}, "train one with experiments.clip_shapes"),
        ({"clip": ClipPartConfig(Path("nowhere"))}, "there is no folder nowhere"),
        ({"first_stage": FirstStageConfig(path=SHAPES)}, "a decoder of embeddings generates pixels"),
        ({"text_dropout": 0.0}, "set every dropout above 0"),
        ({"model": UNetConfig(classes=3)}, "model.classes follows from conditions"),
        ({"sampling": SamplingConfig(guide=Path("x"))}, "sampling.guide is for runs of classes"),
        (
            {"conditions": "text", "sampling": SamplingConfig(steps=2, text_guidance=2.0)},
            "a text and another condition",
        ),
        (
            {"conditions": "embedding", "sampling": SamplingConfig(steps=2, text_guidance=2.0)},
            "a text and another condition",
        ),
        ({"data": replace(TINY.data, resolution=18)}, "cannot be divided by"),
    ],
)
def test_settings_that_contradict_each_other(change, words):
    with pytest.raises(UserError, match=words):
        text_to_image(replace(TINY, **change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"upsampling": replace(ENLARGE_TINY.upsampling, crop=10)}, "cannot be divided by"),
        ({"upsampling": replace(ENLARGE_TINY.upsampling, factor=3)}, "no multiple of upsampling.factor"),
        ({"model": replace(ENLARGE_TINY.model, condition_channels=3)}, "model.condition_channels follows"),
        ({"first_stage": FirstStageConfig(path=SHAPES)}, "upsamplers generate pixels"),
    ],
)
def test_upsamplers_that_contradict_themselves(change, words):
    with pytest.raises(UserError, match=words):
        upsampler(replace(ENLARGE_TINY, **change))


def test_latents_for_texts():
    """The baseline in the latents of a first stage: two steps."""
    from vision.recipes.first_stage import SHAPES as STAGE

    model = replace(TEXT_TINY.model, channels=4, patch=2)
    data = replace(TEXT_TINY.data, resolution=32)
    changed = {"first_stage": FirstStageConfig(path=STAGE, measured=16), "data": data, "model": model}
    config = replace(TEXT_TINY, **changed, sampling=replace(TEXT_TINY.sampling, threshold="none"))
    with pytest.raises(UserError, match="captioned images are encoded in each step"):
        text_to_image(replace(config, first_stage=replace(config.first_stage, latents=Path("x"))))
    experiment = text_to_image(config)
    state = jax.jit(experiment.init)(jax.random.key(0))
    frozen = {name: part.load() for name, part in experiment.frozen.items()}
    state = state.replace(model_state={**state.model_state, "frozen": frozen})
    batch = next(experiment.batches(seed=0, start_step=0, process_index=0, process_count=1))
    _, scalars = jax.jit(experiment.step)(state, batch)
    assert np.isfinite(float(scalars["loss"]))


def test_an_upsampler_enlarges_given_images(tmp_path, files):
    run = train(upsampler_shapes, tmp_path / "run")
    names = sampled(run, tmp_path / "out", "--image", *files, "--count", "4", "--upsampling.sampled-level", "0.2")
    assert "00003.png" in names
    loaded = load_run(run)
    assert upsampler_parts(loaded.config).text is None
    answer = loaded.experiment.sampling(loaded.compiler)(loaded.state, SampleRequest(count=2))
    assert answer.images.shape == (2, 16, 16, 3)


def parameters(config):
    """Millions, without making them."""
    shapes = {
        "text": (1, config.text_length, config.text),
        "text_embedding": (1, config.text_embedding),
        "embedding": (1, config.embedding),
        "image": (1, 64, 64, config.condition_channels),
    }
    condition = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items() if shape[-1]}
    condition |= {"level": jax.ShapeDtypeStruct((1,), jnp.float32)} if config.levels else {}
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    init = functools.partial(UNet(config).init, train=False)
    made = jax.eval_shape(init, jax.random.key(0), image, jax.ShapeDtypeStruct((1,), jnp.float32), condition)
    return sum(leaf.size for leaf in jax.tree.leaves(made)) / 1e6


@pytest.mark.parametrize(
    ("config", "counted"),
    [
        (UNCLIP_64, 2_097.6),
        (replace(UNCLIP_256, condition_channels=3, levels=True), 731.8),
        (replace(UNCLIP_1024, condition_channels=3, levels=True), 282.8),
    ],
    ids=["decoder", "256", "1024"],
)
def test_the_networks_of_the_paper(config, counted):
    """In millions; table 3 of Ramesh et al. 2022 has 3.5 B with the text encoder of the decoder, 700 M and 300 M."""
    assert parameters(config) == pytest.approx(counted, abs=0.1)
