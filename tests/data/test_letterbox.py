import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given
from PIL import Image

from vision.data.letterbox import PAD, Letterbox, letterboxed
from vision.errors import UserError

letterboxes = st.builds(Letterbox, st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 1500))


@pytest.mark.parametrize(
    ("sides", "size", "offset", "scale"),
    [
        ((416, 312, 640), (640, 480), (0, 80), (640 / 416, 480 / 312)),
        ((640, 480, 320), (320, 240), (0, 40), (0.5, 0.5)),
        ((333, 500, 640), (426, 640), (107, 0), (426 / 333, 1.28)),  # 426.24 is rounded
        ((3, 10, 10), (3, 10), (3, 0), (1, 1)),  # 7 of padding: 3 left, 4 right
        ((1000, 1, 10), (10, 1), (0, 4), (0.01, 1)),  # no side vanishes
    ],
)
def test_by_hand(sides, size, offset, scale):
    box = Letterbox(*sides)
    assert (box.size, box.offset, box.scale) == (size, offset, scale)


@given(letterboxes)
@example(Letterbox(1, 5000, 1))
def test_the_image_fits_and_is_centred(box):
    (width, height), (x, y) = box.size, box.offset
    assert max(width, height) == box.resolution
    for side, start in ((width, x), (height, y)):
        end = box.resolution - start - side
        assert side >= 1
        assert 0 <= start <= end <= start + 1
    # The aspect is kept up to the rounding to whole pixels.
    longer = max(box.width, box.height)
    for side, original in ((width, box.width), (height, box.height)):
        assert abs(side - original * box.resolution / longer) <= 0.5 or side == 1


@given(letterboxes, st.lists(st.floats(0, 1, width=32), min_size=8, max_size=8))
def test_there_and_back(box, fractions):
    boxes = np.array(fractions, np.float32).reshape(2, 4) * np.array([box.width, box.height] * 2, np.float32)
    there = box.to_square(boxes)
    assert there.dtype == np.float32
    assert there.min() >= 0
    assert there.max() <= box.resolution * (1 + 1e-6)
    back = box.from_square(there)
    # Rounding to float32 in the square, in pixels of the image
    limit = 1e-6 * box.resolution / np.array(box.scale * 2) + 1e-6 * max(box.width, box.height)
    assert (np.abs(back - boxes) <= limit).all()


@given(letterboxes)
def test_corners_of_the_image_lie_on_corners_of_its_part(box):
    (width, height), (x, y) = box.size, box.offset
    whole = np.array([[0, 0, box.width, box.height]], np.float32)
    part = np.array([[x, y, x + width, y + height]], np.float32)
    np.testing.assert_allclose(box.to_square(whole), part, rtol=1e-6)
    np.testing.assert_allclose(box.from_square(part), whole, rtol=1e-6, atol=1e-3)


def test_any_leading_axes():
    box = Letterbox(40, 20, 10)
    boxes = np.arange(24, dtype=np.float64).reshape(2, 3, 4)
    expected = boxes * 0.25 + [0, 2, 0, 2]
    np.testing.assert_allclose(box.to_square(boxes), expected)
    np.testing.assert_allclose(box.to_square(boxes[0, 0]), expected[0, 0])
    assert box.from_square(np.zeros((0, 4), np.float32)).shape == (0, 4)


def test_the_square_of_a_image():
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 20:] = 200
    square = letterboxed(Image.fromarray(pixels), 10)
    assert square.shape == (10, 10, 3)
    assert square.dtype == np.uint8
    assert (square[:2] == PAD).all()
    assert (square[7:] == PAD).all()
    picture = square[2:7]
    assert (picture[:, :4] == 0).all()
    assert (picture[:, 6:] == 200).all()
    # Antialiased: one pixel of the square depends on more than the four columns that it covers.
    assert ((picture[:, 4] > 0) & (picture[:, 5] < 200)).all()
    assert (letterboxed(Image.fromarray(pixels[:, :1]), 5) == [[[PAD]] * 2 + [[0]] + [[PAD]] * 2] * 5).all()


def test_at_its_own_size_a_image_is_not_changed():
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(letterboxed(Image.fromarray(pixels), 16)[2:14], pixels)


def test_boxes_move_with_the_pixels():
    """A bright rectangle of an image is where its box says, for larger and smaller squares, landscape and portrait."""
    for width, height, resolution in ((40, 24, 160), (24, 40, 160), (300, 200, 64), (64, 64, 64)):
        pixels = np.zeros((height, width, 3), np.uint8)
        box = np.array([width // 4, height // 3, width // 2, height * 3 // 4], np.float32)
        pixels[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = 255
        letterbox = Letterbox(width, height, resolution)
        square = letterboxed(Image.fromarray(pixels), resolution)
        rows, columns = np.nonzero(square[..., 0] > 128)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(found, letterbox.to_square(box), atol=1)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16", "1"])
def test_images_of_any_kind(mode):
    assert letterboxed(Image.new(mode, (6, 3)), 6).shape == (6, 6, 3)


def test_sides_that_are_invalid():
    for sides in ((0, 5, 5), (5, -1, 5), (5, 5, 0)):
        with pytest.raises(UserError, match="must have at least one pixel"):
            Letterbox(*sides)
