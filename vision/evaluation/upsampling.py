"""Upsampled images next to the small ones and the true ones, and how far they are from both."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from vision.data.image_data import Data
from vision.data.source import read
from vision.evaluation.generator import Generator, generate
from vision.metrics.reconstruction.signal_to_noise import peak_signal_to_noise
from vision.ops.pixels import to_float, to_uint8
from vision.report.grid import sample_grid
from vision.tasks.upsampling import enlarged, reduced
from vision.train.compile import Compiler
from vision.train.experiment import Evaluate, Evaluation, EvaluatorFactory
from vision.types import TrainState

_SHOWN = 8


def small_images(
    data: Data, count: int, *, factor: int
) -> tuple[UInt8[np.ndarray, "n h w c"], UInt8[np.ndarray, "n H W c"]]:
    """At most ``count`` test images from the first one on, and the same with sides of 1 / ``factor``."""
    source = data.source("test")
    large = np.stack([read(source, index)["image"] for index in range(min(count, len(source)))])
    small = jax.device_get(to_uint8(reduced(to_float(jnp.asarray(large)), factor=factor)))
    return large, small


def enlarged_images(generator: Generator, data: Data, *, count: int, factor: int) -> EvaluatorFactory:
    """The grid "samples": small images, enlarged ones and true ones; and three numbers of the enlarged ones.

    "psnr" is the peak signal-to-noise ratio against the true images, "psnr_bicubic" that of bicubic interpolation (a
    sharp sample may have less than a blurred image); "consistency" that of samples made small again against the small
    images (Saharia et al. 2021, section 4.3), all in decibels of the mean squared error over all images.

    Args:
      generator: whose ``given`` conditions are the small versions of the first test images.
      data: with the test images.
      count: of images, at most.
      factor: how many times larger.
    """

    def numbers(small: Array, made: Array, large: Array) -> dict[str, Array]:
        again = to_float(to_uint8(reduced(to_float(made), factor=factor)))
        bicubic = to_float(to_uint8(enlarged(to_float(small), factor=factor)))
        pairs = {"psnr": (made, large), "psnr_bicubic": (bicubic, large), "consistency": (again, small)}
        floats = lambda image: to_float(image) if image.dtype == jnp.uint8 else image
        whole = lambda image: floats(image).reshape(1, -1, 1, 1)  # one error over all images
        return {name: peak_signal_to_noise(whole(one), whole(other))[0] for name, (one, other) in pairs.items()}

    def factory(compiler: Compiler) -> Evaluate:
        call = compiler.function(numbers)
        large, small = small_images(data, count, factor=factor)
        size = len(large)
        of = f"{size:,} images of {data.description('test')}, reduced {factor} times (bicubic, antialiased, 8 bits)"
        words = {
            "psnr": f"PSNR of samples against the true images in dB, mean squared error over all; {of}",
            "psnr_bicubic": f"the same for bicubic interpolation; {of}",
            "consistency": f"PSNR of samples, reduced again, against the small images in dB; {of}",
        }

        def evaluate(state: TrainState) -> Evaluation:
            variables: Any = generator.variables(state)
            made = generate(compiler, generator, variables, generator.condition(size), count=size, seed=0)
            found = jax.device_get(call(*compiler.replicate((small, made, large))))
            scalars = {name: float(value) for name, value in found.items()}
            protocol = {
                name: text if name == "psnr_bicubic" else f"{text}; {generator.description}"
                for name, text in words.items()
            }
            repeated = small[:_SHOWN].repeat(factor, axis=1).repeat(factor, axis=2)
            rows = np.concatenate([repeated, made[:_SHOWN], large[:_SHOWN]])
            titles = ["small", "enlarged", "true"]
            grid = sample_grid(rows, columns=len(repeated), row_titles=titles)
            return Evaluation(scalars, {"samples": grid}, protocol)

        return evaluate

    return factory
