"""Images of confusion matrices: which classes are shown, that nothing is clipped, and the colours of cells."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.report.confusion import confusion_plot, most_confused

# Corners of the scales, in RGB
_RIGHT, _WRONG = (0, 114, 178), (213, 94, 0)


def _matrix(classes, images=50, seed=0):
    generator = np.random.default_rng(seed)
    matrix = np.stack(
        [generator.multinomial(images, generator.dirichlet(np.full(classes, 0.2))) for _ in range(classes)]
    )
    return matrix + images * np.eye(classes, dtype=int)


def _count(picture, colour, within=3):
    return int((np.abs(picture.astype(int) - colour).max(-1) <= within).sum())


@pytest.mark.parametrize("classes", [2, 3, 10, 21, 100, 300])
def test_images_have_margins_and_a_size_that_can_be_shown(classes):
    names = [f"a $class$ number_{i} of very many letters" for i in range(classes)]
    for class_names in (names, ()):
        picture = confusion_plot(_matrix(classes), class_names)
        assert picture.dtype == np.uint8
        height, width, channels = picture.shape
        assert channels == 3
        assert 250 < height < 1800
        assert 250 < width < 1800
        # Everything ends before the border
        border = np.concatenate(
            [picture[:4].ravel(), picture[-4:].ravel(), picture[:, :4].ravel(), picture[:, -4:].ravel()]
        )
        assert border.min() > 250


def test_cells_have_the_colour_of_their_share():
    """A perfect classifier has a blue diagonal and nothing else; one that always confuses two has orange alone."""
    right = confusion_plot(np.diag([5, 7, 9, 11]))
    wrong = confusion_plot(np.array([[0, 5], [7, 0]]))
    assert _count(right, _RIGHT) > 4 * 40 * 40
    assert _count(wrong, _WRONG) > 2 * 40 * 40
    # What is left are the ends of the scales beside the matrix
    assert _count(right, _WRONG) < 400
    assert _count(wrong, _RIGHT) < 400


def test_rows_are_shares_and_classes_without_images_are_grey():
    grey = (220, 220, 220)
    full = confusion_plot(np.array([[8, 2], [20, 80]]))
    assert _count(full, grey, within=0) < 400
    assert _count(confusion_plot(np.array([[8, 2], [0, 0]])), grey, within=0) > 100 * 200
    # Ten times the images of a class change a number in it and no colour of a whole cell
    more = confusion_plot(np.array([[8, 2], [200, 800]]))
    assert full.shape == more.shape
    assert (np.abs(full.astype(int) - more).max(-1) > 40).mean() < 0.02


@settings(max_examples=40)
@given(classes=st.integers(2, 12), most=st.integers(2, 12), seed=st.integers(0, 999))
def test_the_most_confused_classes_hold_the_largest_confusions(classes, most, seed):
    generator = np.random.default_rng(seed)
    matrix = generator.integers(0, 30, (classes, classes)) * (generator.random((classes, classes)) < 0.4)
    shown = most_confused(matrix, most)
    assert list(shown) == sorted(set(shown))
    assert len(shown) <= most
    pairs = {(i, j): matrix[i, j] + matrix[j, i] for i in range(classes) for j in range(i + 1, classes)}
    inside = {pair for pair in pairs if pair[0] in shown and pair[1] in shown}
    assert all(any(pairs[pair] > 0 for pair in inside if i in pair) for i in shown)
    # A confusion larger than the smallest that made a class enter is inside too, unless there was no more room
    if len(shown) <= most - 2:
        assert all(count == 0 for pair, count in pairs.items() if pair not in inside)
    if any(pairs.values()):
        assert max(pairs, key=pairs.__getitem__) in inside


def test_of_very_many_classes_some_are_shown():
    classes = 300
    matrix = np.diag(np.full(classes, 10))
    nothing_wrong = confusion_plot(matrix)
    matrix[7, 210], matrix[8, 9] = 30, 20
    np.testing.assert_array_equal(most_confused(matrix, 40), [7, 8, 9, 210])
    np.testing.assert_array_equal(most_confused(matrix, 3), [7, 210])
    # 4 classes are shown for the first matrix, 40 for the second
    assert confusion_plot(matrix).shape[0] < nothing_wrong.shape[0]


def test_threads_draw_what_one_draws():
    matrices = [_matrix(6, seed=seed) for seed in range(6)]
    with ThreadPoolExecutor(4) as pool:
        for picture, matrix in zip(pool.map(confusion_plot, matrices), matrices, strict=True):
            np.testing.assert_array_equal(picture, confusion_plot(matrix))


def test_what_cannot_be_plotted_is_refused():
    with pytest.raises(ValueError, match="at least one image"):
        confusion_plot(np.zeros((2, 2), int))
    with pytest.raises(ValueError, match="non-negative"):
        confusion_plot(np.array([[3, -1], [0, 2]]))
    with pytest.raises(ValueError, match="3 class names for 2 classes"):
        confusion_plot(np.eye(2, dtype=int), ("a", "b", "c"))


def test_another_title_changes_nothing_else():
    matrix = np.array([[8, 2], [3, 7]])
    usual, other = confusion_plot(matrix), confusion_plot(matrix, title="another\ntitle")
    assert other.shape[0] > usual.shape[0]
    assert _count(usual, _RIGHT) == _count(other, _RIGHT)
    np.testing.assert_array_equal(usual, confusion_plot(matrix, title="75.00 % of 20 images right"))
