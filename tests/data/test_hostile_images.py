"""Image files of every kind that somebody may have: read as meant, or refused in one sentence with the file."""

import os
import threading
import time
import warnings

import hostile_images
import numpy as np
import pytest
from hostile_images import png
from hostile_inputs import MEMORY, outcome, outcomes
from PIL import Image, features

from vision.data import image_file
from vision.data.folder import check_images, folder_source, square
from vision.data.grey_levels import rgb
from vision.data.image_file import ImageError, opened, upright
from vision.errors import UserError


def picture(side=8, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def read(file, **options):
    with opened(file, **options) as image:
        return np.asarray(upright(image))


def test_mutated_files_are_read_or_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as outside of tests, where Pillow's warnings are no errors
        found = [outcome(hostile_images.read, 1, index) for index in range(300)]
    assert [one for one in found if one.ending == "failed"] == []
    assert 20 < sum(one.ending == "read" for one in found) < 280


def fatal(seed, index, folder):
    """Input 1 ends the process, 2 hangs, 3 is a mistake of the reader, 4 is refused; the others are good."""
    match index:
        case 1:
            os._exit(9)
        case 2:
            time.sleep(60)
        case 3:
            raise ValueError("odd")
        case 4:
            raise UserError("a sentence")
    return "good"


def test_a_crash_and_a_hang_of_a_process_are_seen(monkeypatch):
    """By the runner of the scripts."""
    monkeypatch.setattr("hostile_inputs.HANG", 3.0)
    found = outcomes(fatal, inputs=6, seed=0, processes=1)
    assert [one.index for one in found] == list(range(6))
    assert [one.ending for one in found] == ["read", "failed", "failed", "failed", "refused", "read"]
    assert [found[n].reason for n in (1, 2, 4)] == ["the process ended with 9", "no answer in 3 s", "a sentence"]
    assert found[3].reason.startswith("ValueError: odd (test_hostile_images.py:")


@pytest.mark.parametrize(("form", "suffix"), [("EPS", "jpg"), ("ICO", "png"), ("JPEG2000", "jpg"), ("DDS", "png")])
def test_other_formats_are_not_opened_whatever_they_are_called(tmp_path, form, suffix, monkeypatch):
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was started"))
    picture(32).save(tmp_path / f"x.{suffix}", form)
    with pytest.raises(ImageError, match=rf"x\.{suffix} cannot be decoded \(cannot identify image file"):
        read(tmp_path / f"x.{suffix}")


def test_a_format_under_the_suffix_of_another(tmp_path):
    picture().save(tmp_path / "x.jpg", "PNG")
    np.testing.assert_array_equal(read(tmp_path / "x.jpg"), np.asarray(picture()))


def test_a_pipe_and_a_folder_are_no_images(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    (tmp_path / "y.png").mkdir()
    for name in ("x.png", "y.png"):
        with pytest.raises(ImageError, match=rf"{name} cannot be decoded \(it is not a file\)"):
            read(tmp_path / name)


@pytest.mark.parametrize("form", ["png", "jpg", "webp", "bmp", "gif", "tif", "ppm", "avif"])
def test_files_that_are_cut_or_changed(tmp_path, form):
    if form == "avif" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    file = tmp_path / f"x.{form}"
    picture(40).save(file)
    whole = file.read_bytes()
    for length in (0, 1, 11, 20, len(whole) // 3):
        file.write_bytes(whole[:length])
        with pytest.raises(ImageError, match=rf"^{file} cannot be decoded \(.+\); repair or remove it\.$") as caught:
            read(file)
        assert "\n" not in str(caught.value)


def test_pixels_are_limited_before_anything_is_decoded(tmp_path, monkeypatch):
    (tmp_path / "x.png").write_bytes(png(9000, 9000, depth=1, colour=0))
    source = folder_source(tmp_path, resolution=4)
    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
        advice = "reduce it, or raise the limit with --data.max-pixels 81000000"
        with pytest.raises(UserError, match=f"x.png has 9000x9000 pixels, more than the limit of 64,000,000: {advice}"):
            source[0]
    with pytest.raises(UserError, match=r"None of the 1 images can be decoded, such as .*x.png \(9000x9000 pixels"):
        check_images(source)
    with pytest.raises(ImageError, match=r"limit of 64,000,000: reduce it\.$"):
        read(tmp_path / "x.png", adjustable=False)
    (tmp_path / "x.png").write_bytes(png(9, 11, depth=1, colour=0))
    with pytest.raises(UserError, match=r"x.png has 9x11 pixels, more than the limit of 98"):
        folder_source(tmp_path, resolution=4, max_pixels=98)[0]
    assert not folder_source(tmp_path, resolution=4, max_pixels=99)[0]["image"].any()


def test_only_the_first_frame_is_decoded(tmp_path):
    first, huge = Image.new("L", (4, 4), 7), Image.new("1", (9000, 9000))
    first.save(tmp_path / "x.tif", save_all=True, append_images=[huge])
    assert read(tmp_path / "x.tif").tolist() == [[[7] * 3] * 4] * 4
    frames = [Image.new("P", (4, 4), shade) for shade in (1, 2)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert read(tmp_path / "x.gif").shape == (4, 4, 3)


def test_what_is_decoded_at_once_is_limited(tmp_path, monkeypatch):
    """Of images that need more than half of the budget one is decoded at a time; small ones do not wait for them."""
    monkeypatch.setattr(image_file, "_BUDGET", image_file._Budget(12_000_000))
    (tmp_path / "large.png").write_bytes(png(1100, 1000, depth=8, colour=2))
    picture().save(tmp_path / "small.png")
    inside, most = [], []

    def decode():
        with opened(tmp_path / "large.png"):
            inside.append(None)
            most.append(len(inside))
            assert read(tmp_path / "small.png").shape == (8, 8, 3)
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=decode) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]


def test_threads_do_not_keep_the_memory_of_large_images(tmp_path, monkeypatch):
    """Eight threads and eight images, of which one at a time fits into the budget."""
    monkeypatch.setattr(image_file, "_BUDGET", image_file._Budget(2**28))
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    content = png(4000, 4000, depth=8, colour=6)

    def bombs(seed, index, folder):
        for number in range(8):
            (folder / f"{number}.png").write_bytes(content)
        return str(check_images(folder_source(folder, resolution=8))[1])

    one = outcome(bombs, 0, 0)
    assert (one.ending, one.kind) == ("read", "All 8 images can be decoded."), one.reason
    assert one.peak < 6 * 4000**2 * 4  # of eight that are decoded at once, each has two copies


@pytest.mark.parametrize(("width", "height"), [(8000, 8000), (1, 60_000), (4_000_000, 2)])
def test_bombs_within_the_limit(tmp_path, width, height):
    """The largest image that is read, and lines, which a resize of the shorter side would make enormous."""

    def bomb(seed, index, folder):
        (folder / "x.png").write_bytes(png(width, height, depth=8, colour=6))
        return str(folder_source(folder, resolution=224)[0]["image"].shape)

    one = outcome(bomb, 0, 0)
    assert (one.ending, one.kind) == ("read", "(224, 224, 3)"), one.reason
    assert one.peak < MEMORY / 2


def test_the_crop_of_a_long_line_is_its_middle():
    """The way of large images gives what the usual one does, to the rounding of weights."""
    line = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 9000, 3), dtype=np.uint8))
    found = square(line, 200).astype(int)  # 200 x 225,000 pixels before the crop
    middle = line.crop((4300, 0, 4700, 8)).resize((10_000, 200), Image.Resampling.LANCZOS)
    expected = np.asarray(middle.crop((4900, 0, 5100, 200))).astype(int)
    assert np.abs(found - expected).max() <= 1


def test_transparency_of_large_images_is_composed_in_strips(monkeypatch):
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (37, 11, 4), dtype=np.uint8))]
    images.append(images[0].convert("LA"))
    palette = images[0].convert("RGB").quantize(16)
    palette.info["transparency"] = bytes(rng.integers(0, 256, 16, dtype=np.uint8))
    images.append(palette)
    whole = [np.asarray(rgb(image)) for image in images]
    monkeypatch.setattr("vision.data.grey_levels._STRIP", 5 * 11)
    for image, expected in zip(images, whole, strict=True):
        np.testing.assert_array_equal(np.asarray(rgb(image)), expected)


def save_deep(path, values):
    Image.fromarray(np.asarray(values)).save(path)
    return path


def test_floats_within_the_unit_interval_are_scaled(tmp_path):
    values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    found = read(save_deep(tmp_path / "x.tif", values))
    np.testing.assert_array_equal(found, np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[0, 255]], np.float32), r"its floats reach from 0 to 255, a range that nothing declares"),
        (np.array([[-0.1, 1]], np.float32), r"its floats reach from -0.1 to 1"),
        (np.array([[0, np.nan]], np.float32), r"its floats reach from nan to nan"),
        (np.array([[0, np.inf]], np.float32), r"its floats reach from 0 to inf"),
        (np.array([[0, 70_000]], np.int32), r"its values have 32 bits or a sign"),
    ],
)
def test_values_of_an_unknown_range_are_refused_by_file(tmp_path, values, message):
    file = save_deep(tmp_path / "x.tif", values)
    with pytest.raises(ImageError, match=rf"x.tif cannot be decoded \({message}.*; repair or remove it"):
        read(file)


def test_sixteen_bits_of_every_format(tmp_path):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    for name in ("x.png", "x.tif", "x.pgm"):
        np.testing.assert_array_equal(read(save_deep(tmp_path / name, ramp))[..., 0], ramp >> 8)


def test_sixteen_bits_that_look_like_twelve_are_reported_once_a_folder(tmp_path, capsys):
    for name in ("x.png", "y.png"):
        save_deep(tmp_path / name, np.array([[0, 4095]], np.uint16))
        assert read(tmp_path / name)[0, 1].tolist() == [15] * 3
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{tmp_path / 'x.png'} has 16-bit values up to 4095, which look like 12 bits" in said


def test_twelve_bits_that_a_tiff_declares(tmp_path):
    """Two pixels of 12 bits, packed into three bytes."""
    tags = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 3)]
    content = b"II*\0" + (12).to_bytes(4, "little") + bytes([0x80, 0x0F, 0xFF, 0])
    content += len(tags).to_bytes(2, "little")
    for tag, value in tags:
        content += tag.to_bytes(2, "little") + (4).to_bytes(2, "little") + (1).to_bytes(4, "little")
        content += value.to_bytes(4, "little")
    (tmp_path / "x.tif").write_bytes(content + bytes(4))
    assert read(tmp_path / "x.tif")[0, :, 0].tolist() == [0x80, 0xFF]


def test_what_is_not_read_is_counted_in_one_sentence(tmp_path, capsys):
    for name in ("a/1.png", "a/2.PNG", "b/3.jfif", "b/4.jpe"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture().save(tmp_path / name, "PNG")
    for name in ("a/x.heic", "a/y.HEIC", "b/z.jp2", "notes", "a/.hidden"):
        (tmp_path / name).write_text("")
    (tmp_path / "b" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert len(folder_source(tmp_path, resolution=8)) == 4
    assert capsys.readouterr().err == (
        f"{tmp_path} has 5 files that are not read as images (2 .heic, 1 without suffix, 1 .png, 1 .jp2, such as "
        "notes).\n"
    )
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "x.heic").write_text("")
    with pytest.raises(UserError, match=r"folder .*c has no images; add some or remove it \(it has 1 .heic, such as x"):
        folder_source(tmp_path, resolution=8)


def linked(tmp_path):
    """A class with two pictures and a link to a shelf with two more, and links in circles."""
    for name in ("set/red/0.png", "set/red/own/1.png", "set/blue/5.png", "shelf/2.png", "shelf/deep/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture().save(tmp_path / name)
    red = tmp_path / "set" / "red"
    (red / "more").symlink_to(tmp_path / "shelf")
    return red


def names(source, root):
    return [file.relative_to(root).as_posix() for file in source.files]


def test_linked_folders_are_followed(tmp_path, capsys):
    linked(tmp_path)
    source = folder_source(tmp_path / "set", resolution=8)
    expected = ["blue/5.png", "red/0.png", "red/more/2.png", "red/more/deep/3.png", "red/own/1.png"]
    assert names(source, tmp_path / "set") == expected
    assert source.labels.tolist() == [0, 1, 1, 1, 1]
    assert capsys.readouterr().err == ""


def test_links_in_circles_end(tmp_path, capsys):
    red = linked(tmp_path)
    (red / "again").symlink_to(red)
    (red / "own" / "up").symlink_to(tmp_path / "set")
    (tmp_path / "shelf" / "back").symlink_to(red / "own")
    (tmp_path / "shelf" / "all").symlink_to(tmp_path)
    (red / "twice").symlink_to(tmp_path / "shelf" / "deep")
    source = folder_source(tmp_path / "set", resolution=8)
    assert len(source) == 5
    assert "5 linked folders not followed, to a folder that is read already" in capsys.readouterr().err
    (tmp_path / "set" / "green").symlink_to(tmp_path / "set")
    with pytest.raises(UserError, match="green has no images"):
        folder_source(tmp_path / "set", resolution=8)


def test_a_linked_class_folder(tmp_path):
    linked(tmp_path)
    (tmp_path / "set" / "green").symlink_to(tmp_path / "shelf")
    source = folder_source(tmp_path / "set", resolution=8)
    assert source.class_names == ("blue", "green", "red")
    assert np.bincount(source.labels).tolist() == [1, 2, 4]


@pytest.mark.parametrize("name", [b"a\nb", b"a\xffb", "a\u2028b".encode(), b"a\x1bb"])
def test_class_folders_whose_name_cannot_be_printed(tmp_path, name):
    folder = tmp_path / os.fsdecode(name)
    folder.mkdir()
    picture().save(folder / "x.png")
    with pytest.raises(UserError, match=r"^The class folder '.*' has a class name with the character U\+") as caught:
        folder_source(tmp_path, resolution=8)
    assert "\n" not in str(caught.value)
