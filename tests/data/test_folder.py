import numpy as np
import pytest
from PIL import Image, ImageOps

from vision.data.folder import check_images, folder_source, square
from vision.data.grey_levels import rgb
from vision.data.pipeline import evaluation_batches
from vision.errors import UserError


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path, array=None, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(4, 4) if array is None else array).save(path, **kwargs)
    return path


def test_classes_are_sorted_sub_folders(tmp_path):
    save(tmp_path / "dog" / "b.png", noise(4, 4, 1))
    save(tmp_path / "dog" / "a.PNG", noise(4, 4, 2))
    save(tmp_path / "cat" / "deep" / "c.png", noise(4, 4, 3))
    save(tmp_path / ".cache" / "d.png")
    save(tmp_path / "cat" / ".hidden" / "e.png")
    (tmp_path / "dog" / "notes.txt").write_text("not an image")
    (tmp_path / "readme.md").write_text("not an image")
    for labelled in (None, True):
        source = folder_source(tmp_path, resolution=4, labelled=labelled)
        assert source.class_names == ("cat", "dog")
        assert [int(source[i]["label"]) for i in range(len(source))] == [0, 1, 1]
        assert source[0]["label"].dtype == np.int32
        for i, seed in enumerate((3, 2, 1)):
            np.testing.assert_array_equal(source[i]["image"], noise(4, 4, seed))
    unlabelled = folder_source(tmp_path, resolution=4, labelled=False)
    assert unlabelled.class_names == ()
    assert unlabelled[0].keys() == {"image"}
    assert len(unlabelled) == 3


def test_images_directly_in_the_folder_have_no_classes(tmp_path):
    for i in (2, 0, 1):
        save(tmp_path / f"{i}.png", noise(4, 4, i))
    for labelled in (None, False):
        source = folder_source(str(tmp_path), resolution=4, labelled=labelled)
        assert source.class_names == ()
        assert len(source) == 3
        for i in range(3):
            assert source[i].keys() == {"image"}
            np.testing.assert_array_equal(source[i]["image"], noise(4, 4, i))


@pytest.mark.parametrize("form", ["jpg", "jpeg", "webp", "bmp", "gif", "tiff", "ppm"])
def test_forms_are_reported_by_suffix(tmp_path, form):
    flat = np.full((6, 6, 3), (200, 100, 50), np.uint8)
    save(tmp_path / f"x.{form}", flat)
    image = folder_source(tmp_path, resolution=6)[0]["image"]
    assert np.abs(image.astype(int) - flat).max() <= 3


@pytest.mark.parametrize(("height", "width"), [(8, 20), (20, 8), (7, 9), (5, 5)])
def test_the_shorter_side_is_resized_and_the_centre_cropped(height, width):
    # A horizontal and a vertical ramp: after scaling by s the pixel centres stay on the ramps, up to
    # rounding.
    y, x = np.mgrid[:height, :width]
    ramps = np.stack([10 * y, 10 * x, 0 * x], axis=-1).astype(np.uint8)
    for resolution in (height, 4, 16):
        image = square(Image.fromarray(ramps), resolution).astype(float)
        assert image.shape == (resolution, resolution, 3)
        scale = resolution / min(height, width)
        size = np.round(np.array([height, width]) * scale)
        centres = (np.arange(resolution)[:, None] + 0.5 + (size - resolution) // 2) * [
            height,
            width,
        ] / size - 0.5
        inner = slice(resolution // 4, -(resolution // 4))
        assert np.abs(image[inner, inner, 0] - 10 * centres[inner, :1]).max() <= 2
        assert np.abs(image[inner, inner, 1] - 10 * centres[inner, 1]).max() <= 2


def test_reduction_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(square(Image.fromarray(stripes), 8).astype(int) - 127).max() <= 8


def test_one_pixel_images_and_extreme_shapes():
    assert square(Image.new("RGB", (1, 1), "red"), 3).tolist() == [[[255, 0, 0]] * 3] * 3
    assert square(Image.new("RGB", (1, 300)), 2).shape == (2, 2, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.zeros((16, 16, 3), np.uint8)
    upright[:8, :8] = (255, 0, 0)
    upright[:8, 8:] = (0, 255, 0)
    upright[8:, :8] = (0, 0, 255)
    # What the camera stores, which a viewer rotates or flips: the inverse of the operation that Exif 2.3 defines.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    save(tmp_path / "x.png", np.ascontiguousarray(stored), exif=exif)
    np.testing.assert_array_equal(folder_source(tmp_path, resolution=16)[0]["image"], upright)


def test_every_mode_becomes_rgb():
    colour = Image.fromarray(noise(5, 6))
    grey = np.asarray(colour.convert("L"))
    np.testing.assert_array_equal(rgb(Image.fromarray(grey)), np.repeat(grey[:, :, None], 3, axis=2))
    np.testing.assert_array_equal(rgb(colour.quantize(64)), np.asarray(colour.quantize(64).convert("RGB")))
    assert np.asarray(rgb(Image.new("CMYK", (1, 1), (0, 255, 255, 0)))).tolist() == [[[255, 0, 0]]]
    assert np.asarray(rgb(Image.new("1", (1, 1), 1))).tolist() == [[[255, 255, 255]]]


def test_transparency_lies_on_white():
    pixel = Image.new("RGBA", (1, 1), (0, 100, 200, 51))
    # 51/255 is one fifth: c/5 + 255 * 4/5.
    assert np.abs(np.asarray(rgb(pixel)).astype(int) - [204, 224, 244]).max() <= 1
    assert np.asarray(rgb(Image.new("LA", (1, 1), (0, 0)))).tolist() == [[[255, 255, 255]]]
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([10, 20, 30])
    palette.info["transparency"] = 0
    assert np.asarray(rgb(palette)).tolist() == [[[255, 255, 255]]]


def test_sixteen_bits_keep_their_range(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "x.png")
    image = folder_source(tmp_path, resolution=8)[0]["image"]
    np.testing.assert_array_equal(image, np.repeat((ramp >> 8)[:, :, None], 3, axis=2))


def test_exif_agrees_with_pillow(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "x.png", noise(6, 9), exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert expected.shape == (9, 6, 3)
    np.testing.assert_array_equal(folder_source(tmp_path, resolution=6)[0]["image"], expected[1:7])


def test_it_feeds_the_pipeline(tmp_path):
    for i in range(3):
        save(tmp_path / "a" / f"{i}.png", noise(3 + i, 5))
    stream = list(evaluation_batches(folder_source(tmp_path, resolution=4), batch_size=2))
    assert [batch["image"].shape for batch in stream] == [(2, 4, 4, 3)] * 2
    assert stream[1]["mask"].tolist() == [True, False]


def test_unusable_folders_are_named(tmp_path):
    with pytest.raises(UserError, match=r"There is no folder .*absent to read images from"):
        folder_source(tmp_path / "absent", resolution=4)
    with pytest.raises(UserError, match=r"has no images \(\.apng, .*\) and no folders of classes"):
        folder_source(tmp_path, resolution=4)
    with pytest.raises(UserError, match="has no images at any depth"):
        folder_source(tmp_path, resolution=4, labelled=False)
    with pytest.raises(UserError, match="at least 1 pixel, got 0"):
        folder_source(tmp_path, resolution=0)
    (tmp_path / "cat").mkdir()
    save(tmp_path / "dog" / "a.png")
    with pytest.raises(UserError, match=r"The class folder .*cat has no images; add some or remove it"):
        folder_source(tmp_path, resolution=4)
    save(tmp_path / "loose.png")
    for labelled in (None, True):
        with pytest.raises(UserError, match=r"both images \(loose.png, ...\) and sub-folders \(cat, ...\)"):
            folder_source(tmp_path, resolution=4, labelled=labelled)
    with pytest.raises(UserError, match="has images without classes"):
        folder_source(tmp_path / "dog", resolution=4, labelled=True)


def test_an_unreadable_image_is_named(tmp_path):
    save(tmp_path / "a.png")
    whole = save(tmp_path / "b.png", noise(64, 64)).read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "c.jpg").write_text("not an image")
    (tmp_path / "d.png").write_bytes(b"")
    source = folder_source(tmp_path, resolution=4)
    assert source[0]["image"].shape == (4, 4, 3)
    for index, name in ((1, "b.png"), (2, "c.jpg"), (3, "d.png")):
        with pytest.raises(UserError, match=rf"{name} cannot be decoded \(.+\); repair or remove it"):
            source[index]
    with pytest.raises(UserError, match=r"Sample 1 of 4 cannot be read: .*b.png cannot be decoded"):
        list(evaluation_batches(source, batch_size=4))


def photograph(height, width):
    """Smooth shades with a few edges, as photographs have: uint8 [height width 3]."""
    y, x = np.mgrid[:height, :width]
    shades = [np.sin(x / 37 + y / 53), np.cos(x / 61 - y / 29), np.sin((x + y) / 83)]
    picture = 128 + 70 * np.stack(shades, axis=-1) + 40 * ((x // 90 + y // 70) % 2)[:, :, None]
    return np.clip(picture, 0, 255).astype(np.uint8)


def test_images_at_their_own_size(tmp_path):
    shapes = [(4, 9), (30, 20), (1, 1)]
    for i, shape in enumerate(shapes):
        save(tmp_path / "a" / f"{i}.png", noise(*shape, i))
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "a" / "3.png", noise(6, 9), exif=exif)
    source = folder_source(tmp_path, resolution=None)
    for i, shape in enumerate(shapes):
        np.testing.assert_array_equal(source[i]["image"], noise(*shape, i))
    np.testing.assert_array_equal(source[3]["image"], np.rot90(noise(6, 9), -1))
    assert source[0]["label"] == 0


@pytest.mark.parametrize(("shorter_side", "reduction"), [(None, 1), (401, 1), (200, 2), (199, 2), (100, 4), (20, 8)])
def test_large_jpegs_are_reduced_while_they_are_decoded(tmp_path, shorter_side, reduction):
    save(tmp_path / "x.jpg", photograph(400, 640), quality=95)
    save(tmp_path / "y.png", photograph(400, 640))
    source = folder_source(tmp_path, resolution=None, shorter_side=shorter_side)
    image = source[0]["image"]
    assert image.shape == (400 // reduction, 640 // reduction, 3)
    assert source[1]["image"].shape == (400, 640, 3)
    with Image.open(tmp_path / "x.jpg") as full:
        expected = full.resize((80, 50), Image.Resampling.BILINEAR)
    resized = Image.fromarray(image).resize((80, 50), Image.Resampling.BILINEAR)
    difference = np.abs(np.asarray(resized).astype(int) - np.asarray(expected))
    assert difference.mean() < 1


def test_sizes_that_are_invalid(tmp_path):
    save(tmp_path / "x.png")
    for options in ({"resolution": 8, "shorter_side": 8}, {"resolution": None, "shorter_side": 0}):
        with pytest.raises(UserError, match="shorter_side is a number of pixels for images at their original size"):
            folder_source(tmp_path, **options)


def test_modes_from_files(tmp_path):
    """CMYK as Adobe writes it into JPEGs, 16-bit grey, palettes with and without transparency, and bilevel ones."""
    colour = photograph(16, 16)
    Image.fromarray(colour).convert("CMYK").save(tmp_path / "0.jpg", quality=100, subsampling=0)
    save(tmp_path / "1.png", np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16))
    Image.fromarray(colour).quantize(256).save(tmp_path / "2.png")
    Image.fromarray(np.dstack([colour, np.full((16, 16), 255, np.uint8)])).save(tmp_path / "3.png")
    Image.fromarray(colour[:, :, 0] > 128).save(tmp_path / "4.png")
    save(tmp_path / "5.tiff", np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16))
    expected = [
        (colour, 12),
        (np.repeat(np.arange(256).reshape(16, 16, 1), 3, axis=2), 0),
        (colour, 24),
        (colour, 0),
        (np.repeat(255 * (colour[:, :, :1] > 128), 3, axis=2), 0),
        (np.repeat(np.arange(256).reshape(16, 16, 1), 3, axis=2), 0),
    ]
    for resolution in (16, None):
        source = folder_source(tmp_path, resolution=resolution)
        for i, (picture, tolerance) in enumerate(expected):
            image = source[i]["image"]
            assert image.dtype == np.uint8
            assert image.shape == (16, 16, 3)
            assert np.abs(image.astype(int) - picture).max() <= tolerance, i


def damaged_folder(path):
    """Seven images in two classes, of which four cannot be decoded."""
    for i in range(3):
        save(path / "cat" / f"{i}.jpg", photograph(64, 64))
    for name, data in (("3.jpg", lambda whole: whole[: len(whole) // 2]), ("4.png", lambda whole: b"")):
        whole = save(path / "cat" / name, photograph(64, 64)).read_bytes()
        (path / "cat" / name).write_bytes(data(whole))
    (path / "dog").mkdir()
    (path / "dog" / "0.jpg").write_text("not an image")
    (path / "dog" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    return path


def test_damaged_images_are_left_out_and_counted(tmp_path):
    source = folder_source(damaged_folder(tmp_path), resolution=16)
    good, report = check_images(source)
    assert [file.name for file in good.files] == ["0.jpg", "1.jpg", "2.jpg"]
    assert good.class_names == ("cat", "dog")
    assert [int(good[i]["label"]) for i in range(len(good))] == [0, 0, 0]
    assert good.resolution == 16
    assert report.checked == 7
    assert [file.name for file, _ in report.damaged] == ["3.jpg", "4.png", "0.jpg", "1.png"]
    assert all(reason for _, reason in report.damaged)
    assert report.emptied == ("dog",)
    text = str(report)
    assert text.startswith("4 of 7 images cannot be decoded and are left out: ")
    for part in ("3.jpg (", "4.png (", "0.jpg (", ", ....", "Classes without images now: dog."):
        assert part in text
    assert "1.png" not in text
    stream = list(evaluation_batches(good, batch_size=3))
    assert [batch["image"].shape for batch in stream] == [(3, 16, 16, 3)]


def test_a_sound_folder_is_kept_and_a_hopeless_one_refused(tmp_path):
    for i in range(3):
        save(tmp_path / "good" / f"{i}.png", noise(4, 4, i))
    source = folder_source(tmp_path / "good", resolution=4)
    good, report = check_images(source)
    assert good.files == source.files
    assert good.labels is None
    assert report.damaged == ()
    assert report.emptied == ()
    assert str(report) == "All 3 images can be decoded."
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.jpg").write_text("not an image")
    with pytest.raises(UserError, match=r"None of the 1 images can be decoded, such as .*x\.jpg"):
        check_images(folder_source(tmp_path / "bad", resolution=4))
