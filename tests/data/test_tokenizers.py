"""Tokenizers: CLIP's files against transformers, small ones trained and kept, what is cut and unknown, damaged files.

The golden tokens are made by make_clip_golden.py with transformers' CLIPTokenizer.
"""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.data.shapes.captions import phrasings
from vision.data.shapes.world import ShapesConfig, render_scenes
from vision.data.text.clip import read_clip_tokenizer
from vision.data.text.tokenizer import Tokenizer
from vision.data.text.training import END, PADDING, START, UNKNOWN, trained_tokenizer
from vision.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "pretrained"))
from tiny_clip_vocabulary import MERGES, TEXTS, VOCABULARY  # noqa: E402

GOLDEN = np.load(ROOT / "tests" / "golden" / "clip.npz")
CORPUS = ["a red star", "a small red star", "a blue circle, at the top", "two hearts and a star"]


def put(folder, **files):
    """A folder of CLIP's files, some of them replaced, or left out by None."""
    folder.mkdir(exist_ok=True)
    plain = {"vocab.json": json.dumps(VOCABULARY), "merges.txt": "#version: 0.2\n" + "\n".join(MERGES) + "\n"}
    for name, content in {**plain, **{name.replace("_", "."): text for name, text in files.items()}}.items():
        if content is not None:
            (folder / name).write_text(content)
    return folder


def test_tokens_of_transformers(tmp_path):
    tokenizer = read_clip_tokenizer(put(tmp_path / "clip"), length=12)
    tokens = tokenizer.encode(TEXTS)
    np.testing.assert_array_equal(tokens, GOLDEN["tokens"])
    assert (tokenizer.start, tokenizer.end, tokenizer.padding) == (521, 522, 522)
    assert (tokenizer.vocabulary, tokenizer.length, tokenizer.unknown) == (523, 12, None)
    assert tokenizer.decode(tokens)[:4] == ["a red star", "red stars !!", "", "café 4 2"]


def test_the_json_of_a_tokenizer_is_read_too(tmp_path):
    first = read_clip_tokenizer(put(tmp_path / "clip"), length=12)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "tokenizer.json").write_text(first.definition)
    again = read_clip_tokenizer(tmp_path / "other", length=9)
    np.testing.assert_array_equal(again.encode(TEXTS[:4]), first.encode(TEXTS[:4])[:, :9])
    assert read_clip_tokenizer(tmp_path / "clip").length == 77


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("value", ["!", {"content": "!"}])
def test_padding_is_what_the_settings_say(name, value, tmp_path):
    put(tmp_path / "clip")
    (tmp_path / "clip" / name).write_text(json.dumps({"pad_token": value}))
    tokenizer = read_clip_tokenizer(tmp_path / "clip", length=12)
    assert tokenizer.padding == VOCABULARY["!"] == 0
    assert tokenizer.encode(["red"]).tolist() == [[521, 513, 522, *[0] * 9]]
    (tmp_path / "clip" / name).write_text(json.dumps({"pad_token": "missing"}))
    with pytest.raises(UserError, match="the padding 'missing' is no token"):
        read_clip_tokenizer(tmp_path / "clip")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"vocab_json": None}, "has neither tokenizer.json nor vocab.json and merges.txt"),
        ({"vocab_json": "{"}, "vocab.json is damaged"),
        ({"vocab_json": "[1]"}, "holds no table of entries"),
        ({"vocab_json": '{"a": "b"}'}, "a token whose number is none"),
        ({"vocab_json": '{"a": 0}'}, "has no token <|startoftext|>"),
        ({"vocab_json": "[" * 50_000}, "is damaged"),
        ({"merges_txt": "a b c\n"}, "line 1 of .*merges.txt is no pair"),
        ({"merges_txt": "x qq\n"}, "merges.txt is damaged"),
        ({"tokenizer_json": "{}"}, "tokenizer.json is damaged"),
        ({"tokenizer_json": "\udcff"}, "tokenizer.json is damaged"),
    ],
)
def test_damaged_files(files, words, tmp_path):
    if files.get("tokenizer_json") == "\udcff":
        put(tmp_path / "clip")
        (tmp_path / "clip" / "tokenizer.json").write_bytes(b"\xff\xfe")
    else:
        put(tmp_path / "clip", **files)
    with pytest.raises(UserError, match=words) as error:
        read_clip_tokenizer(tmp_path / "clip")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="there is no folder"):
        read_clip_tokenizer(tmp_path / "nowhere")


def test_trained_on_bytes():
    tokenizer = trained_tokenizer(CORPUS, kind="bytes", vocabulary=280, length=24)
    assert (tokenizer.start, tokenizer.end, tokenizer.padding, tokenizer.unknown) == (START, END, PADDING, None)
    assert tokenizer.vocabulary <= 280
    texts = ["a RED  star", "ein grüner Stern 日本", "", "🙂"]
    tokens = tokenizer.encode(texts)
    assert tokens.dtype == np.int32
    assert tokens.shape == (4, 24)
    assert (tokens[:, 0] == START).all()
    assert tokens[2].tolist() == [START, END, *[PADDING] * 22]
    assert tokenizer.decode(tokenizer.encode(texts[:1] + texts[3:])) == ["a red star", "🙂"]
    # merges make the corpus shorter than its bytes
    assert (tokens[0] != PADDING).sum() < 2 + len("a red star")


def test_trained_on_words():
    tokenizer = trained_tokenizer(CORPUS, kind="words", vocabulary=10, length=8)
    assert (tokenizer.vocabulary, tokenizer.unknown) == (10, UNKNOWN)
    tokens = tokenizer.encode(["a star", "a zebra, star"])
    assert UNKNOWN not in tokens[0]
    assert tokens[1].tolist().count(UNKNOWN) >= 1
    assert tokenizer.decode(tokens) == ["a star", tokenizer.decode(tokens)[1]]
    whole = trained_tokenizer(CORPUS, kind="words", vocabulary=100, length=12)
    assert whole.decode(whole.encode(CORPUS)) == CORPUS
    assert UNKNOWN not in whole.encode(CORPUS)


@pytest.mark.parametrize("kind", ["bytes", "words"])
def test_long_texts_are_cut_and_counted(kind):
    tokenizer = trained_tokenizer(CORPUS, kind=kind, vocabulary=300, length=5)
    tokens = tokenizer.encode(["a red star and a small blue circle", "a"])
    assert tokens[0, -1] == END
    assert PADDING not in tokens[0]
    found = tokenizer.coverage(["a red star and a small blue circle", "a", "zebra" if kind == "words" else "a"])
    assert (found.texts, found.cut, found.unknown) == (3, 1, int(kind == "words"))


@pytest.mark.parametrize("kind", ["bytes", "words"])
def test_training_is_a_function_of_the_set_of_texts(kind):
    """In any order, with repetitions, and in another process."""
    scenes = render_scenes(ShapesConfig(), seed=3, indices=np.arange(60))
    texts = [text for of in phrasings(scenes, ShapesConfig()) for text in of]
    of = {"kind": kind, "vocabulary": 320, "length": 16}
    one = trained_tokenizer(texts, **of)
    assert trained_tokenizer([*texts[::-1], *texts[:9]], **of) == one
    program = (
        "import json, sys; from vision.data.text.training import trained_tokenizer;"
        "texts, of = json.load(sys.stdin); print(trained_tokenizer(texts, **of).definition, end='')"
    )
    given = json.dumps([texts, of])
    command = [sys.executable, "-c", program]
    again = subprocess.run(command, input=given, capture_output=True, text=True, cwd=ROOT, check=True)
    assert again.stdout == one.definition


def test_a_definition_is_all_there_is():
    one = trained_tokenizer(CORPUS, kind="bytes", vocabulary=280, length=24)
    again = Tokenizer(one.definition)
    np.testing.assert_array_equal(again.encode(CORPUS), one.encode(CORPUS))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(one)).encode(CORPUS), one.encode(CORPUS))


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(max_size=30), max_size=3))
def test_any_text_is_encoded(texts):
    tokenizer = trained_tokenizer(CORPUS, kind="bytes", vocabulary=280, length=12)
    tokens = tokenizer.encode(texts)
    assert tokens.shape == (len(texts), 12)
    assert ((tokens == END).sum(1) == 1).all()
    assert len(tokenizer.decode(tokens)) == len(texts)


@pytest.mark.parametrize(
    ("of", "words"),
    [
        ({"kind": "bytes", "vocabulary": 258, "length": 8}, "vocabulary of bytes has at least 259 tokens, not 258"),
        ({"kind": "words", "vocabulary": 4, "length": 8}, "vocabulary of words has at least 5 tokens, not 4"),
        ({"kind": "words", "vocabulary": 9, "length": 2}, "at least 3 tokens"),
    ],
)
def test_impossible_tokenizers(of, words):
    with pytest.raises(UserError, match=words):
        trained_tokenizer(CORPUS, **of)
    with pytest.raises(UserError, match="no texts to train"):
        trained_tokenizer(["", " "], kind="words", vocabulary=9, length=8)


def test_damaged_definitions():
    one = trained_tokenizer(CORPUS, kind="words", vocabulary=9, length=8)
    content = json.loads(one.definition)
    for change, words in (
        ({"truncation": None}, "does not cut and pad"),
        ({"post_processor": None}, "start and an end token"),
        ({"model": {"type": "BPE"}}, "is damaged"),
    ):
        with pytest.raises(UserError, match=words):
            Tokenizer(json.dumps({**content, **change}))
    with pytest.raises(UserError, match="is damaged"):
        Tokenizer("{")
    with pytest.raises(ValueError, match=r"in \[0, 9\), and not from 0 to 9"):
        one.decode(np.array([[0, 9]]))
