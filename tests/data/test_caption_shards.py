"""Tar shards of WebDataset: read at random, indexed once, samples that are left out, damaged and hostile files."""

import io
import json
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vision.data import notices
from vision.data.captions import shards
from vision.data.captions.shards import captioned_shards, sample_name
from vision.data.content import content_of
from vision.errors import UserError


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(notices, "_REPORTED", set())


def png(value):
    made = io.BytesIO()
    Image.new("RGB", (5, 4), (value, 0, 0)).save(made, "PNG")
    return made.getvalue()


def shard(path, members, mode="w"):
    """Members by name: bytes, or text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            content = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def two(folder):
    shard(
        folder / "0.tar",
        [
            ("a/1.png", png(10)),
            ("a/1.txt", "first\nfirst again\n"),
            ("a/1.json", '{"caption": "not this"}'),
            ("a/2.json", json.dumps({"caption": "second", "width": 3})),
            ("a/2.seg.png", png(99)),
            ("a/2.PNG", png(20)),
            ("a/lonely.png", png(1)),
        ],
    )
    shard(folder / "1.tar", [("3.txt", "third"), ("3.png", png(30)), ("nothing.txt", "no image"), ("README", "x")])
    return folder


def test_samples(tmp_path, capsys):
    found, names = captioned_shards(two(tmp_path / "set"))
    assert names == ("a/1", "a/2", "3")
    assert found.texts(np.array([2, 0, 1])) == [("third",), ("first", "first again"), ("second",)]
    assert [found.images[index]["image"][0, 0, 0] for index in range(3)] == [10, 20, 30]
    assert found.images[0]["image"].shape == (4, 5, 3)
    for index in (-1, 3):
        with pytest.raises(IndexError):
            found.images[index]
    said = capsys.readouterr().err
    assert "1 image without a caption and captions of 1 missing image, which are left out." in said
    one, _ = captioned_shards(tmp_path / "set" / "1.tar")
    assert one.first(5) == [("third",)]


def test_a_shard_is_read_through_once(tmp_path, monkeypatch):
    folder = two(tmp_path / "set")
    first, names = captioned_shards(folder)
    monkeypatch.setattr(shards, "_read_through", lambda *_: pytest.fail("read through again"))
    again, names_again = captioned_shards(folder)
    assert names == names_again
    assert content_of(first.images) == content_of(again.images)
    assert again.first(9) == first.first(9)


def test_a_changed_shard_is_read_through_again(tmp_path):
    folder = two(tmp_path / "set")
    captioned_shards(folder)
    shard(
        folder / "1.tar", [("4.txt", "fourth, which is longer"), ("4.png", png(40)), ("5.png", png(1)), ("5.txt", "e")]
    )
    assert captioned_shards(folder)[1] == ("a/1", "a/2", "4", "5")


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\3\4"])
def test_a_damaged_index_is_as_if_it_were_not_there(content, tmp_path):
    folder = two(tmp_path / "set")
    captioned_shards(folder)
    kept = list((tmp_path / "cache" / shards.CACHE).iterdir())
    assert len(kept) == 2
    for file in kept:
        file.write_bytes(content)
    assert captioned_shards(folder)[1] == ("a/1", "a/2", "3")
    good = dict(np.load(io.BytesIO(kept[0].read_bytes())))
    np.savez(kept[0], **{**good, "images": good["images"] + 10**9})  # places beyond the end
    assert captioned_shards(folder)[1] == ("a/1", "a/2", "3")


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        ("a/b.jpg", ("a/b", ".jpg")),
        ("b.JPG", ("b", ".jpg")),
        ("b.seg.png", ("b", ".seg.png")),
        ("a.b/c.txt", ("a.b/c", ".txt")),
        ("noext", ("noext", "")),
    ],
)
def test_names_of_samples(member, expected):
    assert sample_name(member) == expected


def test_texts_that_cannot_be_read(tmp_path):
    for name, content, words in (
        ("1.txt", b"\xff\xfe\xfd", "has a text that cannot be read"),
        ("1.txt", b"  \n ", "has an empty text"),
        ("1.json", b"{", "has a text that cannot be read"),
        ("1.json", b"[" * 50_000, "has a text that cannot be read"),
        ("1.json", b"{}", '.json without "caption"'),
        ("1.json", b'{"caption": [1]}', '.json without "caption"'),
        ("1.txt", b"x" * (2**22 + 1), "has a text of 4,194,305 bytes"),
        ("1.txt", b"x" * 200_000, "a caption of 200,000 characters"),
    ):
        path = shard(tmp_path / "one.tar", [("1.png", png(1)), (name, content)])
        found, _ = captioned_shards(path)
        with pytest.raises(UserError, match=words) as error:
            found.first(1)
        assert "\n" not in str(error.value)
        assert "1 in " in str(error.value)


def test_images_that_cannot_be_read(tmp_path):
    found, _ = captioned_shards(shard(tmp_path / "one.tar", [("1.png", b"no image"), ("1.txt", "a")]))
    with pytest.raises(UserError, match=r"1 in .*one.tar cannot be decoded"):
        found.images[0]


def test_a_shard_that_shrinks_is_one_sentence(tmp_path):
    path = shard(tmp_path / "one.tar", [("1.txt", "a"), ("1.png", png(1))])
    found, _ = captioned_shards(path)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(UserError, match="has become shorter"):
        found.images[0]
    path.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        found.images[0]


def test_files_that_are_no_shards(tmp_path):
    with pytest.raises(UserError, match=r"has no .tar files"):
        captioned_shards(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"has no .tar files"):
        captioned_shards(empty)
    good = shard(
        tmp_path / "good.tar", [("1.txt", "a"), ("1.png", png(1)), ("2.txt", "b"), ("2.png", png(2))]
    ).read_bytes()
    cases = {
        "compressed": shard(tmp_path / "z.tar", [("1.txt", "a")], "w:gz").read_bytes(),
        "nothing": b"",
        "text": b"hello" * 300,
        "cut": good[: len(good) // 4],
        "broken header": good[:1024] + b"\x99" * 512 + good[1536:],
    }
    for name, content in cases.items():
        path = tmp_path / "bad" / f"{name}.tar"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        with pytest.raises(UserError, match="no plain tar file, or is damaged") as error:
            captioned_shards(path)
        assert "\n" not in str(error.value), name
    with pytest.raises(UserError, match=r"no sample in .* has an image and a text"):
        captioned_shards(shard(tmp_path / "images.tar", [("1.png", png(1))]))


def test_links_and_paths_lead_nowhere(tmp_path):
    """Members are never extracted; links and folders are no samples."""
    path = tmp_path / "links.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (("1.png", tarfile.SYMTYPE), ("1.txt", tarfile.LNKTYPE), ("2.png", tarfile.DIRTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
        for name, content in (("../../3.png", png(3)), ("../../3.txt", b"up")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    found, names = captioned_shards(path)
    assert names == ("../../3",)
    assert found.first(1) == [("up",)]


@settings(max_examples=80, deadline=None)
@given(places=st.lists(st.tuples(st.integers(0, 3071), st.binary(min_size=1, max_size=40)), max_size=3))
def test_any_damage_is_read_or_refused_in_a_sentence(tmp_path_factory, places):
    path = tmp_path_factory.getbasetemp() / "any" / "any.tar"
    content = bytearray(shard(path, [("1.txt", "a"), ("1.png", png(1))]).read_bytes())
    for place, new in places:
        content[place : place + len(new)] = new
    path.write_bytes(bytes(content))
    said = ""
    try:
        found, _ = captioned_shards(path)
        found.first(1)
        found.images[0]
    except UserError as error:
        said = str(error)
    assert "\n" not in said
