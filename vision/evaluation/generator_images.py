"""Pictures of what a generator has learnt: walks between latent codes, drawn images beside the nearest known ones."""

import numpy as np
from jaxtyping import Float, Int, UInt8

from vision.report.grid import sample_grid


def walks(ends: Float[np.ndarray, "n 2 z"], steps: int) -> Float[np.ndarray, "m z"]:
    """Codes on the way between the two ends of each of n walks: [n * steps, z], one walk after another.

    The codes are moved along the great circle between them, which keeps their length likely (White 2016, section 2.1);
    nearly parallel ones along the straight line.
    """
    share = np.linspace(0.0, 1.0, steps)[None, :, None]
    first, last = ends[:, :1].astype(np.float64), ends[:, 1:].astype(np.float64)
    lengths = np.linalg.norm(first, axis=-1, keepdims=True) * np.linalg.norm(last, axis=-1, keepdims=True)
    angle = np.arccos(np.clip(np.sum(first * last, axis=-1, keepdims=True) / lengths, -1.0, 1.0))
    near = np.sin(angle) < 1e-6
    sine = np.where(near, 1.0, np.sin(angle))
    before = np.where(near, 1.0 - share, np.sin((1.0 - share) * angle) / sine)
    after = np.where(near, share, np.sin(share * angle) / sine)
    return (before * first + after * last).reshape(-1, ends.shape[-1]).astype(np.float32)


def nearest(
    queries: UInt8[np.ndarray, "q h w c"], images: UInt8[np.ndarray, "n h w c"], *, count: int = 1, block: int = 4096
) -> tuple[Int[np.ndarray, "q {count}"], Float[np.ndarray, "q {count}"]]:
    """The ``count`` images nearest to each query, the nearest first: (their places, distances).

    The distance is the root of the mean squared difference of pixels, in [0, 255]. Images are compared ``block`` at a
    time, so that memory does not grow with their number.
    """
    flat = lambda array: array.reshape(len(array), -1).astype(np.float32)
    asked = flat(queries)
    own = np.square(asked).sum(1, keepdims=True)
    places, squares = np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32)
    for start in range(0, len(images), block):
        part = flat(images[start : start + block])
        # |a - b|^2 = |a|^2 - 2 a b + |b|^2; sums of integers below 2^24 are exact up to 16 x 16 pixels and near beyond
        found = np.maximum(own - 2.0 * asked @ part.T + np.square(part).sum(1), 0.0)
        squares = np.concatenate([squares, found], axis=1)
        places = np.concatenate([places, np.broadcast_to(np.arange(start, start + len(part)), found.shape)], axis=1)
        order = np.argsort(squares, axis=1, kind="stable")[:, :count]
        squares, places = np.take_along_axis(squares, order, 1), np.take_along_axis(places, order, 1)
    return places, np.sqrt(squares / asked.shape[1])


def beside_nearest(
    drawn: UInt8[np.ndarray, "n h w c"], images: UInt8[np.ndarray, "m h w c"], *, count: int = 5
) -> UInt8[np.ndarray, "H W 3"]:
    """Each drawn image with the ``count`` nearest of ``images`` to its right, a row for each."""
    places, distances = nearest(drawn, images, count=count)
    rows = np.concatenate([drawn[:, None], images[places]], axis=1)
    texts = [["drawn", *(f"{distance:.0f}" for distance in row)] for row in distances]
    return sample_grid(
        rows.reshape(-1, *drawn.shape[1:]), columns=count + 1, captions=[text for row in texts for text in row]
    )
