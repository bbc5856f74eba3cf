"""What a generator has learnt: interpolations between latents, samples next to the nearest training images."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from vision.data.image_data import Data
from vision.data.pipeline import permutation
from vision.data.source import in_memory
from vision.evaluation.generator import Generator, generate
from vision.ops.spherical import slerp
from vision.report.grid import sample_grid
from vision.train.compile import Compiler
from vision.train.experiment import Evaluate, Evaluation, EvaluatorFactory
from vision.types import Condition, TrainState

ROWS = 6
"""Interpolations, and samples that are shown next to their nearest training images."""
STEPS = 9
"""Images of an interpolation."""
COMPARED = 256
"""Samples, and test images, whose distance to the nearest training image is measured."""


def interpolation_grid(
    generator: Generator,
    from_latents: Callable[[Any, Condition, Array], Array],
    sample_latents: Callable[..., Float[Array, "n z"]],
) -> EvaluatorFactory:
    """The grid "interpolations": images along great circles between pairs of random latents, a row each.

    Args:
      generator: whose variables are used, and whose classes are shown in turn, one a row.
      from_latents: (variables, condition, latents [n z]) -> images uint8.
      sample_latents: (index int32 [n], key=...) -> latents from the prior.
    """

    def factory(compiler: Compiler) -> Evaluate:
        call = compiler.function(from_latents)
        ends = jax.device_get(sample_latents(jnp.arange(2 * ROWS), key=jax.random.key(1)))
        latents = great_circles(ends.reshape(ROWS, 2, -1), STEPS)
        condition = {name: np.repeat(value, STEPS) for name, value in generator.condition(ROWS).items()}

        def evaluate(state: TrainState) -> Evaluation:
            spread = {name: compiler.shard_padded(value) for name, value in condition.items()}
            images = jax.device_get(call(generator.variables(state), spread, compiler.shard_padded(latents)))
            return Evaluation(images={"interpolations": sample_grid(images[: len(latents)], columns=STEPS)})

        return evaluate

    return factory


def nearest_training_images(generator: Generator, data: Data) -> EvaluatorFactory:
    """Samples next to their nearest training images, and the mean distance, with that of test images for comparison."""

    def factory(compiler: Compiler) -> Evaluate:
        real, test = (in_memory(data.source(split)).only(("image",)) for split in ("train", "test"))
        order = permutation(len(test), seed=0, epoch=0)[:COMPARED]  # a folder's come sorted by class
        floor = functools.cache(lambda: float(nearest(test.rows(order)["image"], real.arrays["image"])[1].mean()))
        condition = generator.condition(COMPARED)
        how = "to their nearest training image, root mean square of pixels"
        protocol = {
            "nearest": f"mean distance of {COMPARED} samples {how}; {generator.description}",
            "nearest_test": f"mean distance of {len(order)} images of {data.description('test')} {how}",
        }

        def evaluate(state: TrainState) -> Evaluation:
            variables = generator.variables(state)
            images = generate(compiler, generator, variables, condition, count=COMPARED, seed=0, batch=COMPARED)
            known = real.arrays["image"]
            scalars = {"nearest": float(nearest(images, known)[1].mean()), "nearest_test": floor()}
            return Evaluation(scalars, {"nearest": next_to_nearest(images[:ROWS], known)}, protocol)

        return evaluate

    return factory


def great_circles(ends: Float[np.ndarray, "n 2 z"], steps: int) -> Float[np.ndarray, "m z"]:
    """Latents between the two ends of each of n interpolations: [n * steps, z], one after another.

    They lie on the great circle through the ends, which keeps their norm likely (White 2016, section 2.1); between
    nearly parallel ends, on the straight line.
    """
    share = np.linspace(0.0, 1.0, steps)[None, :]
    return np.asarray(slerp(ends[:, :1], ends[:, 1:], share)).reshape(-1, ends.shape[-1])


def nearest(
    queries: UInt8[np.ndarray, "q h w c"], images: UInt8[np.ndarray, "n h w c"], *, count: int = 1, block: int = 4096
) -> tuple[Int[np.ndarray, "q {count}"], Float[np.ndarray, "q {count}"]]:
    """The ``count`` images nearest to each query, the nearest first: (their places, distances).

    The distance is the root of the mean squared difference of pixels, in [0, 255]. Images are compared ``block`` at a
    time, so that memory does not grow with their number.
    """
    flat = lambda array: array.reshape(len(array), -1).astype(np.float32)
    flattened = flat(queries)
    own = np.square(flattened).sum(1, keepdims=True)
    places, squares = np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32)
    for start in range(0, len(images), block):
        part = flat(images[start : start + block])
        # |a - b|^2 = |a|^2 - 2 a b + |b|^2; sums of integers below 2^24 are exact up to 16 x 16 pixels and near beyond
        found = np.maximum(own - 2.0 * flattened @ part.T + np.square(part).sum(1), 0.0)
        squares = np.concatenate([squares, found], axis=1)
        places = np.concatenate([places, np.broadcast_to(np.arange(start, start + len(part)), found.shape)], axis=1)
        order = np.argsort(squares, axis=1, kind="stable")[:, :count]
        squares, places = np.take_along_axis(squares, order, 1), np.take_along_axis(places, order, 1)
    return places, np.sqrt(squares / flattened.shape[1])


def next_to_nearest(
    samples: UInt8[np.ndarray, "n h w c"], images: UInt8[np.ndarray, "m h w c"], *, count: int = 5
) -> UInt8[np.ndarray, "H W 3"]:
    """Each sample with the ``count`` nearest of ``images`` to its right, a row for each."""
    places, distances = nearest(samples, images, count=count)
    rows = np.concatenate([samples[:, None], images[places]], axis=1)
    texts = [["sample", *(f"{distance:.0f}" for distance in row)] for row in distances]
    return sample_grid(
        rows.reshape(-1, *samples.shape[1:]), columns=count + 1, captions=[text for row in texts for text in row]
    )
