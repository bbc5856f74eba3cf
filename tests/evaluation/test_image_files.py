"""Files that a model predicts: decoded or skipped with a reason."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from vision.data.image_file import MAX_PIXELS
from vision.evaluation.image_files import nothing_to_predict, opened_or_reason, skipped, write_json


@pytest.mark.parametrize(
    ("pixels", "size"),
    [
        (np.arange(6, dtype=np.uint16).reshape(2, 3) * 9_000, (3, 2)),
        (np.full((2, 3, 4), 7, np.uint8), (3, 2)),
        (np.full((1, 1), 7, np.uint8), (1, 1)),
    ],
)
def test_images_of_any_kind_are_rgb(pixels, size, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = opened_or_reason(tmp_path / "a.png", MAX_PIXELS)
    assert isinstance(image, Image.Image)
    assert (image.mode, image.size) == ("RGB", size)


def test_images_are_turned_upright(tmp_path):
    image = Image.new("RGB", (6, 2))
    exif = image.getexif()
    exif[0x112] = 6
    image.save(tmp_path / "a.jpg", exif=exif.tobytes())
    turned = opened_or_reason(tmp_path / "a.jpg", MAX_PIXELS)
    assert isinstance(turned, Image.Image)
    assert turned.size == (2, 6)


def test_other_files_have_a_reason(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(b"nothing")
    reason = opened_or_reason(file, MAX_PIXELS)
    assert isinstance(reason, str)
    assert skipped(file, reason) == f"{file}: skipped, it cannot be decoded ({reason})"
    Image.new("RGB", (5, 5)).save(file)
    assert "more than the limit of 24" in str(opened_or_reason(file, 24))


def test_an_error_names_the_first_file(tmp_path):
    one, more = tmp_path / "a.png", tmp_path / "b.png"
    assert str(nothing_to_predict([one])) == f"there is nothing to predict: {one} cannot be decoded as images"
    assert str(nothing_to_predict([one, more, more])).endswith("a.png and 2 more cannot be decoded as images")


def test_names_of_files_keep_their_bytes(tmp_path):
    """On some disks names are bytes of any kind, which Python has as lone surrogates."""
    name = os.fsdecode(b"caf\xc3\xa9\xff.png")
    write_json(tmp_path / "a.json", [{"file": name}])
    assert "café" in (tmp_path / "a.json").read_text("utf-8", "surrogateescape")
    (read,) = json.loads((tmp_path / "a.json").read_text("utf-8", "surrogateescape"))
    assert os.fsencode(read["file"]) == b"caf\xc3\xa9\xff.png"
