"""Images at the depth of their files: what is read, what is written, and damaged files."""

import io
from pathlib import Path

import numpy as np
import png
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vision.data.exact_image import ExactImage, read_exact, write_exact
from vision.data.image_file import ImageError

GENERATOR = np.random.default_rng(0)


def image_of(channels, dtype, *, alpha):
    most = np.iinfo(dtype).max
    values = lambda count: GENERATOR.integers(0, most, (5, 7, count), endpoint=True).astype(dtype)
    return ExactImage(values(channels), values(1) if alpha else None)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("alpha", [False, True])
def test_what_is_written_is_read(channels, dtype, alpha, tmp_path):
    image = image_of(channels, dtype, alpha=alpha)
    write_exact(tmp_path / "a" / "b.png", image)
    found = read_exact(tmp_path / "a" / "b.png")
    np.testing.assert_array_equal(found.pixels, image.pixels)
    assert found.bits == 8 * np.dtype(dtype).itemsize
    assert (found.alpha is None) == (not alpha)
    if alpha:
        np.testing.assert_array_equal(found.alpha, image.alpha)
    if dtype == np.uint16:  # by a reader that is not ours
        with (tmp_path / "a" / "b.png").open("rb") as file:
            rows = png.Reader(file=file).asDirect()[2]
            values = np.vstack([np.uint16(row) for row in rows]).reshape(5, 7, -1)
        np.testing.assert_array_equal(values[..., 0], image.pixels[..., 0])


def test_other_files(tmp_path):
    Image.fromarray(image_of(1, np.uint8, alpha=False).pixels[..., 0]).save(tmp_path / "grey.jpg")
    assert read_exact(tmp_path / "grey.jpg").words == "grey of 8 bits"
    Image.new("P", (4, 3)).save(tmp_path / "palette.png")
    assert read_exact(tmp_path / "palette.png").words == "RGB of 8 bits"
    Image.new("RGBA", (4, 3), (9, 8, 7, 6)).save(tmp_path / "clear.webp", lossless=True, exact=True)
    found = read_exact(tmp_path / "clear.webp")
    assert found.words == "RGB of 8 bits with alpha"
    assert (found.pixels[0, 0].tolist(), found.alpha[0, 0].tolist()) == ([9, 8, 7], [6])


@pytest.mark.parametrize("name", ["deep.tif", "deep.pgm"])
def test_deep_greys_keep_their_values(name, tmp_path):
    values = image_of(1, np.uint16, alpha=False).pixels
    Image.fromarray(values[..., 0]).save(tmp_path / name)
    found = read_exact(tmp_path / name)
    assert found.words == "grey of 16 bits"
    np.testing.assert_array_equal(found.pixels, values)


def test_twelve_bits_reach_white(tmp_path):
    (tmp_path / "twelve.pgm").write_bytes(b"P5 3 1 4095\n" + np.array([0, 2048, 4095], ">u2").tobytes())
    np.testing.assert_allclose(
        read_exact(tmp_path / "twelve.pgm").pixels[0, :, 0], [0, 2048 / 4095 * 65535, 65535], atol=1
    )


def test_deep_greys_of_unknown_range_are_refused(tmp_path):
    Image.fromarray(np.full((5, 7), 70_000, np.int32)).save(tmp_path / "wide.tif")
    with pytest.raises(ImageError, match="nothing declares their range"):
        read_exact(tmp_path / "wide.tif")


@pytest.mark.parametrize("turn", range(1, 9))
def test_deep_images_are_turned_as_others(turn, tmp_path):
    image = Image.new("RGB", (7, 5))
    exif = image.getexif()
    exif[0x112] = turn
    plain, deep = image_of(3, np.uint8, alpha=False), io.BytesIO()
    Image.fromarray(plain.pixels).save(tmp_path / "plain.png", exif=exif.tobytes())
    png.Writer(7, 5, greyscale=False, bitdepth=16).write(deep, (257 * plain.pixels.astype(np.uint16)).reshape(5, -1))
    # the chunk with the orientation comes after the header
    source, target = (tmp_path / "plain.png").read_bytes(), deep.getvalue()
    start = source.index(b"eXIf") - 4
    chunk = source[start : start + 12 + int.from_bytes(source[start : start + 4])]
    (tmp_path / "deep.png").write_bytes(target[:33] + chunk + target[33:])
    expected = read_exact(tmp_path / "plain.png").pixels
    np.testing.assert_array_equal(read_exact(tmp_path / "deep.png").pixels, 257 * expected.astype(np.uint16))


@given(st.integers(0, 10**6), st.binary(max_size=6), st.integers(0, 200))
def test_damaged_files_are_an_error_of_one_sentence(place, change, cut):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.png"
        write_exact(file, image_of(3, np.uint16, alpha=True))
        content = bytearray(file.read_bytes())
        place %= len(content)
        content[place : place + len(change)] = change
        file.write_bytes(bytes(content[: len(content) - cut % len(content)]))
        said = ""
        try:
            said = read_exact(file).words
        except ImageError as error:
            said = str(error)
        assert "\n" not in said
        assert said.startswith(("RGB", "grey", str(file)))


def test_limits_hold(tmp_path):
    write_exact(tmp_path / "a.png", image_of(3, np.uint16, alpha=False))
    with pytest.raises(ImageError, match="7x5 pixels, more than the limit of 30"):
        read_exact(tmp_path / "a.png", max_pixels=30)
