"""Batches of captioned data: functions of seed and step, one caption of several, splits, identity, held-out kinds."""

import collections
import dataclasses
import functools
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vision.data import notices
from vision.data.captions import data as data_module
from vision.data.captions.content import captioned_content
from vision.data.captions.data import CaptionedConfig, captioned_data, open_captioned, training_texts
from vision.data.captions.source import sampled
from vision.data.shapes.world import ShapesConfig
from vision.data.source import in_memory
from vision.data.text.training import UNKNOWN, trained_tokenizer
from vision.errors import UserError

LENGTH = 24
SHAPES = CaptionedConfig(
    resolution=16,
    shapes_count=40,
    shapes=ShapesConfig(shapes=("circle", "star"), colours=("red", "blue"), min_size=0.4),
)


@pytest.fixture(autouse=True)
def _heard_anew(monkeypatch, tmp_path):
    monkeypatch.setattr(notices, "_REPORTED", set())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def data_of(config, kind="words", vocabulary=60):
    of = {"kind": kind, "vocabulary": vocabulary, "length": LENGTH}
    made = functools.cache(lambda: trained_tokenizer(training_texts(open_captioned(config, "train")), **of))
    return captioned_data(config, tokenizer=made, length=LENGTH)


def stream(data, batch_size=8, *, seed=0, start_step=0, process_index=0, process_count=1):
    return data.train_batches(
        batch_size, seed=seed, start_step=start_step, process_index=process_index, process_count=process_count
    )


def write_png(value):
    made = io.BytesIO()
    Image.new("RGB", (9, 7), (value, 100, 0)).save(made, "PNG")
    return made.getvalue()


def folder(path):
    """Thirty images of a brightness, each with two captions that name it."""
    path.mkdir(parents=True)
    lines = []
    for index in range(30):
        (path / f"{index}.png").write_bytes(write_png(8 * index))
        lines.append(json.dumps({"file_name": f"{index}.png", "text": [f"number {index}", f"image {index} here"]}))
    (path / "metadata.jsonl").write_text("\n".join(lines))
    return CaptionedConfig(name="folder", dir=path, resolution=8)


def tars(path):
    path.mkdir(parents=True)
    with tarfile.open(path / "0.tar", "w") as archive:
        for index in range(30):
            captions = f"number {index}\nimage {index} here".encode()
            for suffix, content in (("png", write_png(8 * index)), ("txt", captions)):
                entry = tarfile.TarInfo(f"{index}.{suffix}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return CaptionedConfig(name="shards", dir=path, resolution=8)


@pytest.mark.parametrize("kind", ["shapes", "folder", "streamed folder", "shards", "streamed shards"])
def test_a_batch_is_a_function_of_seed_and_step(kind, tmp_path):
    make = {"folder": folder, "shards": tars}.get(kind.split()[-1])
    config = SHAPES if make is None else make(tmp_path / "set")
    data = data_of(dataclasses.replace(config, stream=kind.startswith("streamed")))
    first = stream(data)
    batches = [next(first) for _ in range(8)]  # more than an epoch
    again = stream(data, start_step=5)
    for found, expected in zip((next(again), next(again)), batches[5:7], strict=True):
        assert found.keys() == expected.keys() == {"image", "tokens"}
        for name in found:
            np.testing.assert_array_equal(found[name], expected[name])
    shares = [next(stream(data, start_step=2, process_index=index, process_count=2)) for index in range(2)]
    for name in ("image", "tokens"):
        np.testing.assert_array_equal(np.concatenate([each[name] for each in shares]), batches[2][name])
    other = next(stream(data, seed=1))
    assert np.any(other["image"] != batches[0]["image"])
    assert data.sample["image"].shape == batches[0]["image"].shape[1:]
    assert data.sample["tokens"].shape == batches[0]["tokens"].shape[1:] == (LENGTH,)


@pytest.mark.parametrize("kind", [folder, tars])
def test_captions_are_of_their_images(kind, tmp_path):
    """In training and in evaluation, where each is the first."""
    data = data_of(kind(tmp_path / "set"), "bytes", 280)
    tokenizer, seen = data.tokenizer(), collections.Counter()
    for batch, _ in zip(stream(data), range(20), strict=False):
        for image, text in zip(batch["image"], tokenizer.decode(batch["tokens"]), strict=True):
            index = image[0, 0, 0] // 8
            assert text in (f"number {index}", f"image {index} here")
            seen[text.split()[0]] += 1
    assert min(seen.values()) > 50  # of 160
    count = 0
    for batch in data.test_batches(4):
        for image, text, real in zip(batch["image"], tokenizer.decode(batch["tokens"]), batch["mask"], strict=True):
            assert not real or text == f"number {image[0, 0, 0] // 8}"
            count += real
    assert count == len(data.captioned("test")) == len(data.source("test"))
    assert count + len(data.captioned("train")) == 30


def test_splits_and_identity_are_those_of_names(tmp_path):
    one, other = folder(tmp_path / "a"), folder(tmp_path / "deep" / "b")
    for split in ("train", "test"):
        assert data_of(one).content(split) == data_of(other).content(split)
    (tmp_path / "a" / "metadata.jsonl").write_text(
        (tmp_path / "a" / "metadata.jsonl").read_text().replace("number 3", "number three")
    )
    data_module._whole_folder.cache_clear()
    assert data_of(one).content("train") != data_of(other).content("train")


def test_one_caption_is_chosen_by_seed_and_place_alone():
    captions = [("a", "b", "c")] * 300
    places = np.arange(300)
    found = sampled(captions, places, seed=0)
    assert found == sampled(captions, places, seed=0)
    assert found[7] == sampled(captions[:1], places[7:8], seed=0)[0]
    assert found != sampled(captions, places, seed=1)
    assert found[:299] != sampled(captions, places + 1, seed=0)[:299]
    assert min(collections.Counter(found).values()) > 70
    assert sampled([("only",)], places[:1], seed=3) == ["only"]


def test_the_shapes_world_has_several_phrasings():
    data = data_of(SHAPES)
    assert len(data.captioned("train").first(1)[0]) == 5
    facts = data.captioned("test").facts()
    assert set(facts) == {"shape", "colour"}
    texts = data.captioned("test").first(200)
    for index, of in enumerate(texts):
        for name in ("shape", "colour"):
            assert facts[name].names[facts[name].values[index]] in of[0].split()
    graphs = data.captioned("test").texts.graphs(np.arange(3))
    assert [len(graph.figures) for graph in graphs] == [1, 1, 1]
    assert data.content("train") != data.content("test")
    assert UNKNOWN not in next(stream(data))["tokens"]


def test_kinds_that_are_held_out():
    config = dataclasses.replace(SHAPES, held_out=("red star",), shapes_count=200)
    train, test = (open_captioned(config, split) for split in ("train", "test"))
    whole = open_captioned(dataclasses.replace(config, held_out=()), "train")
    texts = [of[0] for of in train.first(200)]
    assert len(train) < len(whole) == 200
    assert not any("red" in text and "star" in text for text in texts)
    assert any("red" in text for text in texts)
    assert any("star" in text for text in texts)
    unseen = test.unseen()
    for index, of in enumerate(test.first(300)):
        assert unseen[index] == ("red" in of[0] and "star" in of[0])
    assert whole.unseen is None
    assert captioned_content(train) != captioned_content(whole)
    # images and captions stay together
    images = in_memory(train.images).arrays["image"]
    reds = np.array(["red" in text for text in texts])
    redness = images[..., 0].astype(int).max((1, 2)) - images[..., 2].astype(int).max((1, 2))
    assert redness[reds].mean() > redness[~reds].mean() + 20
    part = test.only(np.flatnonzero(unseen))
    assert part.unseen().all()
    assert len(part.facts()["shape"].values) == unseen.sum()
    with pytest.raises(UserError, match=r"data.held_out has 'green star', which is none of the kinds"):
        open_captioned(dataclasses.replace(config, held_out=("green star",)), "train")
    everything = tuple(f"{colour} {shape}" for colour in ("red", "blue") for shape in ("star", "circle"))
    with pytest.raises(UserError, match="every scene has one of the kinds"):
        open_captioned(dataclasses.replace(config, held_out=everything), "train")


def test_what_is_cut_and_unknown_is_said_once(capsys):
    data = data_of(SHAPES, vocabulary=7)
    next(stream(data))
    next(stream(data))
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "have words that are not in the vocabulary" in said
    short = captioned_data(
        SHAPES, tokenizer=lambda: trained_tokenizer(["a"], kind="bytes", vocabulary=259, length=6), length=6
    )
    assert next(stream(short))["tokens"].shape == (8, 6)
    assert "are longer than 6 tokens and are cut" not in capsys.readouterr().err  # once for a data set


def test_damaged_images_are_left_out_with_their_captions(tmp_path, capsys):
    config = dataclasses.replace(folder(tmp_path / "set"), skip_damaged=True)
    train = [of[0] for of in open_captioned(dataclasses.replace(config, skip_damaged=False), "train").first(99)]
    (tmp_path / "set" / f"{train[4].split()[1]}.png").write_bytes(b"nothing")
    found = open_captioned(config, "train")
    assert [of[0] for of in found.first(99)] == [*train[:4], *train[5:]]
    for index, text in enumerate(train[:4] + train[5:]):
        assert found.images[index]["image"][0, 0, 0] // 8 == int(text.split()[1])
    assert "1 of 30 images cannot be decoded and are left out" in capsys.readouterr().err


def test_what_cannot_be(tmp_path):
    with pytest.raises(UserError, match="colour images"):
        captioned_data(SHAPES, tokenizer=lambda: None, length=4, channels=1)
    with pytest.raises(UserError, match="rendered and not streamed"):
        captioned_data(dataclasses.replace(SHAPES, stream=True), tokenizer=lambda: None, length=4)
    one = tmp_path / "one"
    one.mkdir()
    (one / "a.png").write_bytes(write_png(1))
    (one / "a.txt").write_text("a")
    with pytest.raises(UserError, match=r"choose them as test images: add images, or set --data.test-dir"):
        open_captioned(CaptionedConfig(name="folder", dir=one, resolution=8), "train")


def test_captions_of_tfds():
    shared = Path(__file__).resolve().parents[3] / "shared" / "data" / "tfds"
    if not shared.is_dir():
        pytest.skip(f"no data sets of TFDS in {shared}")
    config = CaptionedConfig(name="cifar10", dir=shared, resolution=32, text_feature="captions/text")
    with pytest.raises(UserError, match=r"the data set has no feature 'captions/text' of texts, only id, image, label"):
        open_captioned(config, "test")
    found = open_captioned(dataclasses.replace(config, text_feature="id"), "test")
    assert found.first(2)[1][0].startswith("test_")
