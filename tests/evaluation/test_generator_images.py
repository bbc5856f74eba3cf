import numpy as np
import pytest

from vision.evaluation.generator_images import great_circles, nearest, next_to_nearest


def test_walks_lead_from_end_to_end_on_the_circle():
    ends = np.array([[[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]], [[1.0, 0.0, 0.0], [3.0, 0.0, 0.0]]])
    codes = great_circles(ends, 5).reshape(2, 5, 3)
    np.testing.assert_allclose(codes[:, [0, -1]], ends, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(codes[0], axis=-1), 2.0, rtol=1e-6)
    np.testing.assert_allclose(codes[0, 2], [np.sqrt(2), np.sqrt(2), 0.0], rtol=1e-6)
    # of parallel codes there is no circle
    np.testing.assert_allclose(codes[1, :, 0], [1.0, 1.5, 2.0, 2.5, 3.0], rtol=1e-6)


@pytest.mark.parametrize("block", [3, 100])
def test_nearest_are_those_of_brute_force(block):
    rng = np.random.default_rng(0)
    images, queries = (rng.integers(0, 256, (count, 4, 4, 3), np.uint8) for count in (20, 6))
    queries[0] = images[7]
    places, distances = nearest(queries, images, count=4, block=block)
    squared = np.square(queries[:, None].astype(float) - images[None]).mean((2, 3, 4))
    np.testing.assert_array_equal(places, np.argsort(squared, axis=1)[:, :4])
    np.testing.assert_allclose(distances, np.sqrt(np.sort(squared, axis=1)[:, :4]), rtol=1e-5, atol=1e-3)
    assert (places[0, 0], distances[0, 0]) == (7, 0.0)


def test_a_row_for_each_image():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (9, 16, 16, 1), np.uint8)
    picture = next_to_nearest(images[:2], images, count=3)
    assert picture.dtype == np.uint8
    # an image of the set is its own nearest: the first two images of a row are equal
    width = (picture.shape[1] - 2) // 4
    np.testing.assert_array_equal(picture[2:100, 2:width], picture[2:100, 2 + width : 2 * width])
