"""Sheets of mistakes and of predictions: which images, in what order, pixel for pixel, and captions that fit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.report.mistakes import mistakes_sheet, prediction_sheet, worst_mistakes

TILE, GAP = 160, 12


def _images(n, h, w, c=3):
    """Never white or grey: the background and texts can be told from them."""
    images = np.random.default_rng(0).integers(0, 250, (n, h, w, c), np.uint8)
    if c == 3:
        images[..., 1] = 20
    return images


def _find(sheet, tile):
    """Every (row, column) at which a tile lies in the sheet, exactly."""
    height, width = tile.shape[:2]
    corners = np.argwhere((sheet[: len(sheet) - height + 1, : sheet.shape[1] - width + 1] == tile[0, 0]).all(-1))
    return [(y, x) for y, x in corners.tolist() if (sheet[y : y + height, x : x + width] == tile).all()]


def _enlarged(image, factor):
    return np.broadcast_to(image, (*image.shape[:2], 3)).repeat(factor, 0).repeat(factor, 1)


def _worst(images, truths, predictions, confidences, names=(), *, most=32, columns=8):
    """The sheet of the worst mistakes among images that are right and wrong."""
    shown = worst_mistakes(truths, predictions, confidences, most)
    counts = {"mistakes": int((truths != predictions).sum()), "total": len(truths)}
    judged = truths[shown], predictions[shown], confidences[shown]
    return mistakes_sheet([images[i] for i in shown], *judged, names, columns=columns, **counts)


@given(n=st.integers(0, 20), most=st.integers(1, 8), seed=st.integers(0, 999))
def test_the_worst_are_the_most_confident(n, most, seed):
    generator = np.random.default_rng(seed)
    truths, predictions = generator.integers(0, 3, (2, n))
    confidences = generator.integers(0, 4, n) / 4
    wrong = [i for i in range(n) if truths[i] != predictions[i]]
    expected = sorted(wrong, key=lambda i: -confidences[i])[:most]
    np.testing.assert_array_equal(worst_mistakes(truths, predictions, confidences, most), expected)


def test_mistakes_lie_in_order_and_are_enlarged_by_whole_pixels():
    images = _images(6, 32, 32)
    truths, predictions = np.array([0, 1, 2, 0, 1, 2]), np.array([1, 1, 0, 2, 0, 2])
    confidences = np.array([0.5, 0.99, 0.7, 0.9, 0.6, 0.98])
    sheet = _worst(images, truths, predictions, confidences, ("cat", "dog", "bird"), columns=2)
    places = [_find(sheet, _enlarged(image, 5)) for image in images]
    assert [len(of) for of in places] == [1, 0, 1, 1, 1, 0]
    # 3 (0.9), 2 (0.7) in the first row, 4 (0.6), 0 (0.5) in the second
    (y3, x3), (y2, x2), (y4, x4), (y0, x0) = (places[i][0] for i in (3, 2, 4, 0))
    assert y3 == y2 < y4 == y0
    assert x3 == x4 == GAP
    assert x2 == x0 == GAP + TILE + GAP
    assert sheet.shape[1] == GAP + 2 * (TILE + GAP)
    # The captions: something blue and something orange below each image, nothing between the columns
    for y, x in ((y3, x3), (y0, x0)):
        caption = sheet[y + TILE : y + TILE + 20, x : x + TILE].astype(int)
        assert (caption[..., 2] - caption[..., 0] > 100).any()
        assert (caption[..., 0] - caption[..., 2] > 100).any()
    assert (sheet[y3:, GAP + TILE : GAP + TILE + GAP] == 255).all()
    few = _worst(images, truths, predictions, confidences, most=1, columns=2)
    assert [len(_find(few, _enlarged(image, 5))) for image in images] == [0, 0, 0, 1, 0, 0]


def test_long_names_stay_in_their_own_column():
    images = _images(4, 16, 16, 1)
    names = ["a name of very many words that nobody will ever read to the end " * 2, "x" * 90]
    sheet = _worst(images, np.array([0, 1, 0, 1]), np.array([1, 0, 1, 0]), np.ones(4), names, columns=4)
    assert all(_find(sheet, _enlarged(image, 10)) for image in images)
    top = _find(sheet, _enlarged(images[0], 10))[0][0]
    for column in range(5):
        start = column * (TILE + GAP)
        assert (sheet[top:, start : start + GAP] == 255).all()
    assert (sheet[-4:] == 255).all()
    # Three lines of captions: two for the words, one for the name that cannot be broken
    assert top + TILE + 3 * 17 < len(sheet) < top + TILE + 4 * 17


def test_no_mistakes_are_stated():
    sheet = _worst(_images(3, 8, 8), np.arange(3), np.arange(3), np.ones(3))
    assert sheet.min() < 100
    assert len(sheet) < 60


@pytest.mark.parametrize("shape", [(300, 200, 3), (200, 300, 1), (4000, 1, 3), (1, 1, 1), (160, 160, 3), (90, 30, 3)])
def test_predictions_of_images_of_any_size(shape):
    image = np.full(shape, 77, np.uint8)
    sheet = prediction_sheet([image, image], [[("cat", 0.9), ("dog", 0.1)]] * 2, ["a.png", "b.png"])
    assert sheet.shape[1] == GAP + 2 * (TILE + GAP)
    height, width = shape[:2]
    scale = TILE / max(height, width)
    scale = int(scale) if scale >= 1 else scale
    area = max(1, round(height * scale)) * max(1, round(width * scale))
    # Texts have a few pixels of the same grey
    assert 0 <= (sheet == 77).all(-1).sum() - 2 * area < 200


def test_bars_are_as_long_as_the_probabilities():
    image = np.zeros((16, 16, 3), np.uint8)
    sheet = prediction_sheet([image], [[("cat", 1.0), ("dog", 0.25), ("bird", 0.0)]], columns=3)
    filled = (sheet == (86, 150, 200)).all(-1).sum(1)
    lengths = [int(length) for length in filled if length]
    assert lengths == [160] * 4 + [40] * 4
    rest = (sheet == (232, 232, 232)).all(-1).sum(1)
    assert [int(length) for length in rest if length > 50] == [120] * 4 + [160] * 4


def test_a_title_keeps_its_end_since_files_differ_there():
    image = np.zeros((16, 16, 3), np.uint8)
    sheets = [
        prediction_sheet([image], [[("cat", 1.0)]], [f"{'folder/' * 20}IMG_{number}.png"])
        for number in ("0001", "0002")
    ]
    assert sheets[0].shape == sheets[1].shape
    assert (sheets[0] != sheets[1]).any()
    assert (sheets[0][:, -GAP:] == 255).all()


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_plotted_is_refused():
    images, two, counts = list(_images(2, 8, 8)), np.array([0, 1]), {"mistakes": 2, "total": 9}
    with pytest.raises(ValueError, match="2 images, 3 truths"):
        mistakes_sheet(images, np.zeros(3, int), two, np.ones(2), **counts)
    with pytest.raises(ValueError, match="only 1 names"):
        mistakes_sheet(images, two, two[::-1], np.ones(2), ("cat",), **counts)
    with pytest.raises(ValueError, match="0 columns is empty"):
        mistakes_sheet(images, two, two[::-1], np.ones(2), columns=0, **counts)
    with pytest.raises(ValueError, match="predicted right"):
        mistakes_sheet(images, two, np.array([1, 1]), np.ones(2), **counts)
    with pytest.raises(ValueError, match="sheet of 0 images"):
        prediction_sheet([], [])
    with pytest.raises(ValueError, match="2 images, 1 lists of predictions and 0 titles"):
        prediction_sheet(images, [[("cat", 1.0)]])
    with pytest.raises(ValueError, match="uint8 images"):
        prediction_sheet([np.zeros((4, 4, 4), np.uint8)], [[("cat", 1.0)]])
