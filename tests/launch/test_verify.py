"""Records in files and what ``python -m vision verify`` says of them, before and after images are changed."""

import io
import json
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from vision.data.provenance import KEYWORD, message_of, pixel_hash, record_of
from vision.errors import UserError
from vision.launch import verbs
from vision.launch.provenance import mark_for, request_record, save_generated

RECORD = {"made": "generated", "experiment": "diffusion_cifar", "request": {"seed": 3, "prompts": ["a red star"]}}


def smooth(count=2, side=64):
    """Images of soft gradients, which JPEG keeps well."""
    across = np.linspace(40, 200, side)
    image = np.stack(
        [across[:, None] + 0 * across, across[::-1] + 0 * across[:, None], np.full((side, side), 90.0)], -1
    )
    return np.stack([np.round(image + 3 * index) for index in range(count)]).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two marked images with their records."""
    place = tmp_path_factory.mktemp("generated")
    paths = [place / f"{index:05d}.png" for index in range(2)]
    save_generated(paths, smooth(), RECORD, captions=("one", "two"), watermark=True)
    return place


def said(capsys, *words):
    assert verbs.main(["verify", *map(str, words)]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_a_record_and_its_watermark(folder, capsys):
    text = said(capsys, folder / "00001.png")
    assert "a record, whose pixels are these" in text
    assert 'request: {"prompts": ["a red star"], "seed": 3}' in text
    assert "caption: two" in text
    assert "watermark: 48 of 48 bits of the record" in text


def test_a_changed_image_is_told_apart(folder, tmp_path, capsys):
    """An editor that keeps text chunks: the record is still there, the pixels are others, the mark is gone."""
    with Image.open(folder / "00000.png") as image:
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt(KEYWORD, image.text[KEYWORD])
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "a.png", pnginfo=chunks)
    text = said(capsys, tmp_path / "a.png")
    assert "pixels were others: the image has been changed" in text
    assert "which is chance: it is gone" in text


def test_a_file_without_its_record_is_found_by_its_watermark(folder, tmp_path, capsys):
    with Image.open(folder / "00001.png") as image:
        image.save(tmp_path / "a.jpg", quality=75)
    assert "not looked for" in said(capsys, tmp_path / "a.jpg")
    assert f"that of {folder / '00001.png'}, 48 bits agree" in said(capsys, tmp_path / "a.jpg", "--records", folder)
    Image.fromarray(smooth(1)[0]).save(tmp_path / "b.png")
    assert "that of none of 2 records" in said(capsys, tmp_path / "b.png", "--records", folder)


def test_wrong_requests(folder, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("no image")
    assert f"{tmp_path / 'a.txt'}: " in said(capsys, tmp_path / "a.txt")
    for words, problem in (
        (["nowhere.png"], "nowhere.png names no file"),
        (["--record", str(folder)], "verify has no option --record"),
        (["--records", str(folder)], "verify needs files"),
    ):
        assert verbs.main(["verify", *words]) == 2
        assert problem in capsys.readouterr().err
    assert "Print what is known" in said(capsys)
    assert mark_for(31, 64) is None
    for images in (smooth(1, 16), smooth(1)[..., :1]):
        with pytest.raises(UserError, match="a watermark needs colour images of at least 32x32 pixels"):
            save_generated([tmp_path / "x.png"], images, RECORD, watermark=True)


def test_grey_images_have_records_too(tmp_path, capsys):
    save_generated([tmp_path / "grey.png"], smooth(1)[..., :1], RECORD)
    assert "whose pixels are these" in said(capsys, tmp_path / "grey.png")


@settings(max_examples=60)
@given(st.one_of(st.text(max_size=200), st.builds(json.dumps, st.recursive(st.none() | st.integers(), st.lists))))
def test_hostile_records_are_none(text):
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt(KEYWORD, text.replace("\0", ""))
    encoded = io.BytesIO()
    Image.new("RGB", (3, 2)).save(encoded, "PNG", pnginfo=chunks)
    encoded.seek(0)
    assert record_of(encoded) is None


def test_deep_nesting_is_none(tmp_path):
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt(KEYWORD, "[" * 90_000)
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png", pnginfo=chunks)
    assert record_of(tmp_path / "a.png") is None


def test_messages_are_of_what_is_said_alone(tmp_path):
    """The hash of the pixels is not known when they are marked."""
    save_generated([tmp_path / "a.png"], smooth(1), RECORD)
    found = record_of(tmp_path / "a.png")
    assert found == {**RECORD, "index": 0, "format": 1, "pixels": pixel_hash(smooth(1)[0])}
    np.testing.assert_array_equal(message_of(found, 48), message_of({**RECORD, "index": 0}, 48))
    assert (message_of({**RECORD, "index": 1}, 48) != message_of(RECORD, 48)).sum() > 8


def test_requests_keep_hashes_of_images():
    @dataclass(frozen=True)
    class Request:
        seed: int = 0
        prompts: tuple = ()
        images: tuple = ()
        mask: np.ndarray | None = None

    image = smooth(1)[0]
    assert request_record(Request(prompts=("a",), images=(image,), mask=image[..., :1])) == {
        "seed": 0,
        "prompts": ["a"],
        "images": [pixel_hash(image)],
        "mask": pixel_hash(image[..., :1]),
    }
