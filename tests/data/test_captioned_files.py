"""Captioned images from folders, COCO's JSON and the emoji set: what is read, left out and counted, and refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vision.data import notices
from vision.data.captions.coco import coco_captions
from vision.data.captions.emoji import emoji_source, on_white
from vision.data.captions.folder import captioned_folder
from vision.data.captions.source import LONGEST
from vision.errors import UserError


@pytest.fixture(autouse=True)
def _heard_anew(monkeypatch):
    monkeypatch.setattr(notices, "_REPORTED", set())


def images(folder, *names):
    for index, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), (10 * index, 0, 0)).save(path)
    return folder


def lines(folder, *entries):
    text = "\n".join(each if isinstance(each, str) else json.dumps(each) for each in entries)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")


def test_metadata(tmp_path, capsys):
    images(tmp_path, "a.png", "deep/b.png", "c.png", "none.png")
    lines(
        tmp_path,
        {"file_name": "c.png", "text": "third"},
        "",
        {"file_name": "a.png", "text": ["first\n one", "  first two "], "other": 3},
        {"file_name": "deep/b.png", "text": "second é"},
        {"file_name": "c.png", "text": "third again"},
        {"file_name": "gone.png", "text": "nothing"},
        {"file_name": "none.png", "text": "  "},
    )
    found = captioned_folder(tmp_path, resolution=4)
    assert found.first(9) == [("first one", "first two"), ("third", "third again"), ("second é",)]
    assert found.images[2]["image"][0, 0, 0] == 10
    assert found.images[0]["image"].shape == (4, 4, 3)
    said = capsys.readouterr().err
    assert "1 image without a caption and captions of 1 missing image, which are left out." in said
    part = found.only(np.array([2, 0]))
    assert part.texts(np.array([1, 0])) == [("first one", "first two"), ("second é",)]
    assert part.images[0]["image"][0, 0, 0] == 10


def test_text_files(tmp_path, capsys):
    images(tmp_path, "a.png", "b.jpg", "c.png")
    (tmp_path / "a.txt").write_text("one\n\n two  words\r\n")
    (tmp_path / "b.txt").write_text("\ufeffthree")
    found = captioned_folder(tmp_path, resolution=None)
    assert found.first(5) == [("one", "two words"), ("three",)]
    assert found.images[0]["image"].shape == (4, 6, 3)
    assert capsys.readouterr().err == f"{tmp_path} has 1 image without a caption, which are left out.\n"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("{", "line 1 of .*metadata.jsonl is not JSON"),
        ("[" * 50_000, "is not JSON"),
        ("[1]", 'is no object with "file_name" and "text"'),
        ({"text": "a"}, "line.1. of .* has no 'file_name', only 'text'"),
        ({"file_name": "a.png"}, "has no 'text', only 'file_name'"),
        ({"file_name": 3, "text": "a"}, "a file_name that is not text"),
        ({"file_name": "../a.png", "text": "a"}, "not inside the folder"),
        ({"file_name": "/a.png", "text": "a"}, "not inside the folder"),
        ({"file_name": "a\0.png", "text": "a"}, "which no file can have"),
        ({"file_name": "a.png", "text": ["a", 3]}, "neither text nor a list of texts"),
        ({"file_name": "a.png", "text": "x" * (LONGEST + 1)}, "a caption of 100,001 characters"),
        ({"file_name": "b.png", "text": "a"}, "none of the 1 images in .* has a caption: metadata.jsonl names none"),
        ('{"file_name": "a.png", "text": "' + "x" * 2**20 + '"}', "has more than 1,048,576 bytes"),
    ],
)
def test_metadata_that_cannot_be_read(entry, words, tmp_path):
    images(tmp_path, "a.png")
    lines(tmp_path, entry)
    with pytest.raises(UserError, match=words) as error:
        captioned_folder(tmp_path, resolution=4)
    assert "\n" not in str(error.value)


def test_folders_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="There is no folder"):
        captioned_folder(tmp_path / "nowhere", resolution=4)
    with pytest.raises(UserError, match="has no images"):
        captioned_folder(tmp_path, resolution=4)
    images(tmp_path, "a.png")
    with pytest.raises(UserError, match=r"none of the 1 images in .*: put metadata.jsonl there, or a .txt beside each"):
        captioned_folder(tmp_path, resolution=4)
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(UserError, match="cannot be read as text in UTF-8"):
        captioned_folder(tmp_path, resolution=4)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
LINE = JSON | st.fixed_dictionaries({"file_name": st.just("a.png") | JSON, "text": st.text(max_size=5) | JSON})


@settings(max_examples=100, deadline=None)
@given(entries=st.lists(LINE, max_size=3))
def test_any_metadata_is_read_or_refused_in_a_sentence(tmp_path_factory, entries):
    folder = tmp_path_factory.getbasetemp() / "any"
    images(folder, "a.png")
    lines(folder, *[json.dumps(each) for each in entries])
    said = ""
    try:
        assert all(all(of) for of in captioned_folder(folder, resolution=4).first(3))
    except UserError as error:
        said = str(error)
    assert "\n" not in said


def coco(folder, **change):
    images(folder / "images", "1.png", "2.png", "3.png")
    content = {
        "images": [{"id": number, "file_name": f"{number}.png"} for number in (3, 1, 2, 9)],
        "annotations": [
            {"id": 1, "image_id": 1, "caption": "one"},
            {"id": 2, "image_id": 3, "caption": "three\n"},
            {"id": 3, "image_id": 1, "caption": "one again"},
            {"id": 4, "image_id": 9, "caption": "missing file"},
            {"id": 5, "image_id": 7, "caption": "no such image"},
            {"id": 6, "image_id": 2, "caption": " "},
        ],
        **change,
    }
    (folder / "captions.json").write_text(json.dumps(content))
    return folder / "captions.json", folder / "images"


def test_coco(tmp_path, capsys):
    found = coco_captions(*coco(tmp_path), resolution=4)
    assert found.first(9) == [("three",), ("one", "one again")]
    assert [file.name for file in found.images.files] == ["3.png", "1.png"]
    said = capsys.readouterr().err
    assert "1 image without a caption and captions of 2 missing images, which are left out." in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"annotations": None}, "'annotations' is not a list"),
        ({"annotations": []}, "lists 4 images, such as '3.png', and no annotation is of one"),
        ({"annotations": [{"image_id": 1, "caption": 3}]}, "a caption that is not text: 3"),
        ({"annotations": [{"image_id": 1}]}, "has no 'caption', only 'image_id'"),
        ({"annotations": [{"image_id": 9, "caption": "a"}]}, "and none of them is in"),
        ({"images": []}, "has no images"),
    ],
)
def test_coco_that_cannot_be_read(change, words, tmp_path):
    path, folder = coco(tmp_path, **change)
    with pytest.raises(UserError, match=words):
        coco_captions(path, folder, resolution=4)
    with pytest.raises(UserError, match="There is no folder"):
        coco_captions(path, tmp_path / "nowhere", resolution=4)


def emoji(folder, entries=None, array=None):
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (3, 4, 4, 4), np.uint8) if array is None else array
    if entries is None:
        entries = [
            {"codepoints": ["23"], "caption": "number sign", "skin_tone": False},
            {"codepoints": ["1f44b", "1f3fb"], "caption": "waving hand: light", "skin_tone": True},
            {"codepoints": ["1f600"], "caption": "grinning face", "skin_tone": False},
        ]
    np.savez(folder / "images64_rgba.npz", images=array)
    (folder / "captions.json").write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return array


def test_emoji(tmp_path):
    array = emoji(tmp_path)
    found, names = emoji_source(tmp_path, skin_tones=False)
    assert (found.first(5), names) == ([("number sign",), ("grinning face",)], ("23", "1f600"))
    np.testing.assert_array_equal(found.images[1]["image"], on_white(array[2:])[0])
    assert len(emoji_source(tmp_path, skin_tones=True)[0]) == 3


def test_transparent_pixels_are_white():
    image = np.array([[[[200, 100, 0, 0], [200, 100, 0, 255], [200, 100, 0, 51]]]], np.uint8)
    np.testing.assert_array_equal(on_white(image)[0, 0], [[255, 255, 255], [200, 100, 0], [244, 224, 204]])


@pytest.mark.parametrize(
    ("entries", "array", "words"),
    [
        ("{", None, "is no list of emoji"),
        ("3", None, "is no list of emoji"),
        ([{"caption": "a"}], None, "is no list of emoji"),
        ([{"caption": "", "codepoints": ["1"]}], None, "an entry without a caption"),
        ([], None, "no entries"),
        (None, np.zeros((3, 4, 4, 3), np.uint8), "does not hold one array of RGBA"),
        (None, np.zeros((2, 4, 4, 4), np.uint8), "has 2 images and captions.json 3 captions"),
        (None, np.array([None]), "is damaged"),
    ],
)
def test_emoji_that_cannot_be_read(entries, array, words, tmp_path):
    emoji(tmp_path, entries, array)
    with pytest.raises(UserError, match=words):
        emoji_source(tmp_path, skin_tones=True)
    (tmp_path / "images64_rgba.npz").write_bytes(b"PK\3\4nonsense")
    with pytest.raises(UserError):
        emoji_source(tmp_path, skin_tones=True)
    (tmp_path / "captions.json").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        emoji_source(tmp_path, skin_tones=True)


def test_the_set_at_hand():
    shared = Path(__file__).resolve().parents[3] / "shared" / "data" / "emoji"
    if not shared.is_dir():
        pytest.skip(f"no emoji in {shared}")
    found, _ = emoji_source(shared, skin_tones=False)
    assert len(found) == 1687
    assert found.images[0]["image"].shape == (64, 64, 3)
