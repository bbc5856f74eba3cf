"""A decoder between a prior and upsamplers: from the folders of runs to images, and what does not fit together."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import decoder_shapes, prior_shapes, upsampler_shapes
from vision.data import notices
from vision.data.provenance import record_of
from vision.errors import UserError
from vision.launch import run as launcher
from vision.launch import verbs
from vision.launch.load_run import load_run
from vision.launch.web import Painter
from vision.recipes.cascade import PriorOfTexts, cascade
from vision.recipes.clip_encoder import NAME, SHAPES, clip_encoder
from vision.recipes.prior_sampler import Prior, stored_prior
from vision.recipes.stored_upsampler import stored_upsampler
from vision.recipes.text_conditions import REFERENCE, ClipConditions
from vision.recipes.upsampler import upsampler_parts
from vision.types import SampleRequest

pytestmark = pytest.mark.usefixtures("on_one_device")

STEPS = ("--sampling.steps", "1")
TEXTS = ("a red star", "a blue circle")


def train(module, folder, *words):
    of = {"config": module.TINY, "quick": module.TINY, "build": module.build, "description": ""}
    name = module.__name__.split(".")[-1]
    assert launcher.main(name, arguments=["--workdir", str(folder), *words], **of) == 0
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A prior, an upsampler with texts, and the decoder between them."""
    root = tmp_path_factory.mktemp("runs")
    train(prior_shapes, root / "prior")
    train(upsampler_shapes, root / "upsampler", "--data.resolution", "32", "--clip.weights", str(SHAPES))
    parts = ("--prior", str(root / "prior"), "--upsampler", str(root / "upsampler"))
    train(decoder_shapes, root / "decoder", *parts)
    return root


def encoder():
    return clip_encoder(SHAPES, option="clip.weights")


def conditions(kind="both"):
    return ClipConditions(clip=encoder(), kind=kind)


def last_numbers(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {name: value for line in lines for name, value in line.items() if name.startswith("eval/")}


def sampled(run, out, *words):
    assert verbs.main(["sample", str(run), "--out", str(out), "--count", "2", *words, *STEPS]) == 0
    return sorted(path.name for path in Path(out).iterdir())


def test_the_parts_are_known_by_their_content_and_evaluated(runs):
    records = json.loads((runs / "decoder" / "frozen.json").read_text())
    assert set(records) == {"clip", "prior", "upsampler"}
    assert [name for name in sorted(records) if records[name].get("optional")] == ["prior", "upsampler"]
    numbers = last_numbers(runs / "decoder")
    assert {"eval/text_facts_single", "eval/large_facts_single", "eval/large_facts_single_real"} <= set(numbers)
    assert list((runs / "decoder" / "samples").glob("text_samples-*.png"))
    protocol = json.loads((runs / "decoder" / "evaluation.json").read_text())["protocol"]
    assert "from captions by the prior" in protocol["text_facts_single"]
    assert "enlarged to 32 pixels" in protocol["large_facts_single"]


def test_sentences_go_through_prior_decoder_and_upsampler(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(notices, "_REPORTED", set())
    names = sampled(runs / "decoder", tmp_path / "out", "--prompt", *TEXTS, "--baseline", str(runs / "decoder"))
    assert {"00001.png", "baseline-00001.png", "baseline-grid.png"} <= set(names)
    record = record_of(tmp_path / "out" / "00001.png")
    assert (record["made"], record["experiment"], record["caption"]) == ("generated", "decoder_shapes", TEXTS[1])
    assert record["request"] == {"count": 2, "prompts": list(TEXTS), "seed": 0, "best_of": 1}
    assert len(record["parameters"]) == len(record["options"]) == 64
    page = (tmp_path / "out" / "samples.html").read_text()
    assert page.count('class="pair"') == 2
    assert "Right: decoder_shapes after 16 images" in page
    assert "there is no prior" not in capsys.readouterr().err


def test_a_page_generates_with_the_system(runs):
    """As many images as were asked for, enlarged; each guidance scale has a sampler of its own."""
    painter = Painter(load_run(runs / "decoder", overrides=STEPS), STEPS)
    assert painter.guidance == 2.0
    made = painter(SampleRequest(count=2, prompts=TEXTS), None)
    assert (made.images.shape, made.captions) == ((2, 32, 32, 3), TEXTS)
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    assert painter(SampleRequest(count=2, images=(image,)), None).images.shape == (2, 32, 32, 3)
    painter._sample(1.0)
    assert list(painter._samples) == [2.0, 1.0]


def test_parts_are_named_anew_or_left_out(runs, tmp_path, capsys, monkeypatch):
    """A run that has them does without, and says so in one sentence; a prior that has moved is named anew."""
    monkeypatch.setattr(notices, "_REPORTED", set())
    sampled(runs / "decoder", tmp_path / "out", "--prompt", *TEXTS, "--prior", "None", "--upsampler", "None")
    said = capsys.readouterr().err
    assert said.count("there is no prior, so that the embedding of the text itself stands for") == 1
    moved = (runs / "prior").rename(tmp_path / "moved")
    try:
        assert verbs.main(["sample", str(runs / "decoder"), "--prompt", *TEXTS]) == 2
        assert "there is no folder" in capsys.readouterr().err
        named = load_run(runs / "decoder", overrides=("--prior", str(moved), *STEPS))
        assert named.config.prior == moved
    finally:
        moved.rename(runs / "prior")


def test_an_upsampler_of_a_folder_is_that_of_its_run(runs):
    """The sampler of the stored part gives what the run's own recipe gives with the averages of its checkpoint."""
    part = stored_upsampler(runs / "upsampler", option="upsampler", clip=encoder())
    assert (part.small, part.large, part.has_text) == (16, 32, True)
    loaded = load_run(runs / "upsampler")
    clip = jax.tree.map(jnp.asarray, encoder().frozen.load())
    small = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8))
    given = {REFERENCE: small, "tokens": jnp.asarray(encoder().tokenizer.encode(TEXTS))}
    key, index = jax.random.key(0), jnp.arange(2)
    found = jax.jit(part.sample)({**part.frozen.load(), NAME: clip}, given, index, key)
    own = upsampler_parts(loaded.config).objective().sample
    expected = jax.jit(own)({"params": loaded.state.ema["ema"], NAME: clip}, given, index, key)
    assert found.dtype == jnp.uint8
    np.testing.assert_allclose(found / 127.5 - 1.0, jnp.clip(expected, -1, 1), atol=1.01 / 127.5)


def test_the_seed_is_the_key_of_the_prior(runs, monkeypatch):
    """Equal seeds are equal keys, which are not those of the decoder's noise."""
    noise = lambda self, texts, *, key: np.asarray(jax.random.normal(key, (len(texts), 3)))
    monkeypatch.setattr(Prior, "embeddings", noise)
    made = PriorOfTexts(prior=stored_prior(runs / "prior", option="prior"))
    np.testing.assert_array_equal(made(TEXTS, seed=3), made(TEXTS, seed=3))
    assert np.abs(made(TEXTS, seed=3) - made(TEXTS, seed=4)).max() > 1e-3
    assert np.abs(made(TEXTS, seed=3) - jax.random.normal(jax.random.key(3), (2, 3))).max() > 1e-3


def test_an_upsampler_of_another_clip_is_refused(runs, tmp_path):
    content = json.loads((runs / "upsampler" / "frozen.json").read_text())
    content["clip"]["sha256"] = "0" * 64
    (tmp_path / "other").mkdir()
    for path in (runs / "upsampler").iterdir():
        if path.name != "frozen.json":
            (tmp_path / "other" / path.name).symlink_to(path)
    (tmp_path / "other" / "frozen.json").write_text(json.dumps(content))
    part = stored_upsampler(tmp_path / "other", option="upsampler", clip=encoder())
    with pytest.raises(UserError, match="trained with another CLIP"):
        part.frozen.load()


@pytest.mark.parametrize(
    ("kind", "paths", "side", "words"),
    [
        ("text", {"prior": "prior"}, 16, "conditioned on texts alone: leave --prior out"),
        ("both", {"prior": "upsampler"}, 16, "which is no prior"),
        ("both", {"upsampler": "prior"}, 16, "which is no upsampler"),
        ("both", {"upsampler": "nowhere"}, 16, "there is no folder"),
        ("both", {"upsampler": "upsampler"}, 32, "enlarges images of 16 pixels, and those before it have 32"),
        ("both", {"upsampler": "upsampler", "second_upsampler": "upsampler"}, 16, "and those before it have 32"),
    ],
)
def test_what_does_not_fit_together(runs, kind, paths, side, words):
    with pytest.raises(UserError, match=words):
        cascade({name: runs / place for name, place in paths.items()}, conditions(kind), side=side)
