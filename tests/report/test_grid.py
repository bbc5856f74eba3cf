import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vision.report.grid import sample_grid, save_png


def _images(n, h, w, c=3):
    # Never white, so that background can be told from image.
    return np.random.default_rng(0).integers(0, 250, (n, h, w, c), np.uint8)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 7),
    columns=st.integers(1, 4),
    h=st.integers(1, 5),
    w=st.integers(1, 5),
    c=st.sampled_from([1, 3]),
    scale=st.integers(1, 3),
    padding=st.integers(0, 3),
)
def test_every_pixel_is_where_the_formula_says(n, columns, h, w, c, scale, padding):
    images = _images(n, h, w, c)
    grid = sample_grid(images, columns=columns, scale=scale, padding=padding, background=(255, 254, 253))
    rows = -(-n // columns)
    assert grid.dtype == np.uint8
    assert grid.shape == (
        padding + rows * (scale * h + padding),
        padding + columns * (scale * w + padding),
        3,
    )
    for y in range(grid.shape[0]):
        for x in range(grid.shape[1]):
            row, dy = divmod(y - padding, scale * h + padding)
            column, dx = divmod(x - padding, scale * w + padding)
            i = row * columns + column
            inside = y >= padding and x >= padding and dy < scale * h and dx < scale * w and i < n
            expected = images[i, dy // scale, dx // scale] if inside else (255, 254, 253)
            assert (grid[y, x] == expected).all()


@pytest.mark.parametrize(
    ("side", "columns", "tile"),
    [(8, 4, 128), (28, 8, 112), (32, 8, 128), (48, 8, 96), (64, 8, 128), (65, 8, 65), (256, 10, 256)],
)
def test_small_images_are_enlarged_to_about_96_to_128_pixels(side, columns, tile):
    grid = sample_grid(_images(1, side, side), columns=columns)
    assert grid.shape[:2] == (tile + 4, 2 + columns * (tile + 2))


def test_a_wide_grid_is_enlarged_less():
    assert sample_grid(_images(1, 32, 32), columns=16).shape[1] == 2 + 16 * (96 + 2)
    assert sample_grid(_images(1, 32, 32), columns=60).shape[1] == 2 + 60 * (32 + 2)


def test_captions_lie_below_their_images_and_do_not_change_them():
    images = _images(3, 32, 32)
    grid = sample_grid(images, columns=2, scale=4, captions=["cat", "", "a very long prompt " * 9])
    bare = sample_grid(images, columns=2, scale=4)
    text = (grid.shape[0] - bare.shape[0]) // 2
    assert text == 45  # three lines, since the long caption is cut there
    for i, (y, x) in enumerate([(2, 2), (2, 132), (2 + 128 + text + 2, 2)]):
        tile = grid[y : y + 128, x : x + 128]
        np.testing.assert_array_equal(tile, images[i].repeat(4, 0).repeat(4, 1))
        caption = grid[y + 128 : y + 128 + text, x : x + 128]
        assert (caption.min() < 150) == (i != 1)
    # Nothing runs out of the long caption's own tile.
    assert (grid[134 + text :, 130:] == 255).all()


def test_row_titles_are_plotted_to_the_left():
    images = _images(4, 32, 32)
    grid = sample_grid(images, columns=2, scale=2, row_titles=["guidance 1", "guidance 7.5"])
    left = grid.shape[1] - (2 + 2 * 66)
    assert 0 < left <= 168
    np.testing.assert_array_equal(grid[:, left:], sample_grid(images, columns=2, scale=2))
    for row in range(2):
        assert grid[2 + row * 66 : 66 + row * 66, :left].min() < 150


def test_text_can_be_read_on_a_dark_background():
    grid = sample_grid(_images(1, 32, 32), columns=1, captions=["cat"], background=(0, 0, 0))
    assert grid[2 + 128 :].max() > 150


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("images", "arguments", "message"),
    [
        (np.zeros((1, 4, 4, 3), np.float32), {}, "uint8"),
        (np.zeros((4, 4, 3), np.uint8), {}, "shape"),
        (np.zeros((1, 4, 4, 4), np.uint8), {}, "shape"),
        (np.zeros((0, 4, 4, 3), np.uint8), {}, "empty"),
        (np.zeros((1, 4, 4, 3), np.uint8), {"scale": 0}, "at least 1"),
        (np.zeros((2, 4, 4, 3), np.uint8), {"captions": ["one"]}, "1 captions for 2 images"),
        (np.zeros((2, 4, 4, 3), np.uint8), {"row_titles": ["one", "two"]}, "2 row titles for 1 rows"),
    ],
)
def test_what_cannot_be_plotted_is_refused(images, arguments, message):
    with pytest.raises(ValueError, match=message):
        sample_grid(images, columns=2, **arguments)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_png_holds_the_pixels_and_is_small(tmp_path, channels, mode):
    image = _images(1, 32, 32, channels)[0].repeat(4, 0).repeat(4, 1)
    save_png(tmp_path / "grid.png", image)
    assert [p.name for p in tmp_path.iterdir()] == ["grid.png"]
    content = (tmp_path / "grid.png").read_bytes()
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == "PNG"
        assert picture.mode == mode
        np.testing.assert_array_equal(np.array(picture).reshape(image.shape), image)
    assert len(content) < image.size / 8


@pytest.mark.usefixtures("unchecked")
def test_png_of_floats_is_refused(tmp_path):
    with pytest.raises(ValueError, match="uint8"):
        save_png(tmp_path / "x.png", np.zeros((4, 4, 3), np.float32))
    assert not list(tmp_path.iterdir())
