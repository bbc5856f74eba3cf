"""Evaluation of networks that map images to images or numbers: means over the test split, and examples."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from vision.data.folder import square
from vision.data.image_data import Data
from vision.data.image_file import MAX_PIXELS
from vision.data.source import in_memory
from vision.evaluation.image_files import nothing_to_predict, opened_or_reason, skipped
from vision.ops.pixels import to_float
from vision.report.grid import sample_grid, save_png
from vision.train.compile import Compiler
from vision.train.experiment import Evaluate, Evaluation, EvaluatorFactory
from vision.types import Batch, TrainState

Apply = Callable[[Any, Batch], Array]
"""(variables, batch with "image" float32 in [-1, 1]) -> the network's output [b ...], at inference."""
Images = Callable[[Array, Batch], Mapping[str, UInt8[Array, "b h w c"]]]
"""(output, batch) -> images by name, shown side by side in this order."""

SHOWN = 16
"""Test images in the grid of examples."""


@dataclass(frozen=True)
class Metric:
    """A number of each test image; its mean over the test split is reported."""

    function: Callable[[Array, Batch], Float[Array, " b"]]
    """(output, batch) -> a number of each image."""
    protocol: str
    """What it is, in words, with its unit: "peak signal-to-noise ratio in dB"."""


def supervised_metrics(
    apply: Apply,
    data: Data,
    variables: Callable[[TrainState], Any],
    metrics: Mapping[str, Metric],
    images: Images | None,
    *,
    batch_size: int,
    description: str,
) -> EvaluatorFactory:
    """The mean of each metric over the test split, and a grid "examples" of the first test images.

    Args:
      apply: the network.
      data: whose test split.
      variables: state -> variables of the network.
      metrics: by name.
      images: what is shown of an output; None for nothing.
      batch_size: images at a time, rounded up to a multiple of the devices.
      description: of the averages, for protocols: "EMA 0.999".
    """

    def sums(values: Any, batch: Batch) -> dict[str, Array]:
        batch = {**batch, "image": to_float(batch["image"])}
        output = apply(values, batch)
        each = {name: metric.function(output, batch) for name, metric in metrics.items()}
        found = {name: jnp.sum(jnp.where(batch["mask"], value, 0.0)) for name, value in each.items()}
        return {**found, "count": jnp.sum(batch["mask"])}

    def shown(values: Any, batch: Batch) -> Mapping[str, Array]:
        batch = {**batch, "image": to_float(batch["image"])}
        return images(apply(values, batch), batch) if images is not None else {}

    def factory(compiler: Compiler) -> Evaluate:
        compiled, compiled_shown = compiler.function(sums), compiler.function(shown)
        first = in_memory(data.source("test")).only(tuple(data.sample)).first(SHOWN)

        def evaluate(state: TrainState) -> Evaluation:
            values, total = variables(state), dict.fromkeys([*metrics, "count"], 0.0)
            for batch in data.test_batches(compiler.rounded_up(batch_size)):
                for name, value in jax.device_get(compiled(values, compiler.shard(batch))).items():
                    total[name] += float(value)
            count = int(total["count"])
            how = f"mean over {count:,} images of {data.description('test')}, {description}"
            protocol = {name: f"{metric.protocol}, {how}" for name, metric in metrics.items()}
            scalars = {name: total[name] / count for name in metrics}
            grids = {}
            if images is not None:
                spread = {name: compiler.shard_padded(value) for name, value in first.items()}
                columns = {
                    n: x[: len(first["image"])] for n, x in jax.device_get(compiled_shown(values, spread)).items()
                }
                grids["examples"] = side_by_side(columns)
            return Evaluation(scalars, grids, protocol)

        return evaluate

    return factory


def side_by_side(images: Mapping[str, UInt8[np.ndarray, "n h w c"]]) -> UInt8[np.ndarray, "H W 3"]:
    """A grid of n examples, each with its images next to one another under their names."""
    coloured = [np.repeat(x, 3, axis=-1) if x.shape[-1] == 1 else x for x in images.values()]
    count = len(coloured[0])
    across = max(1, round(math.sqrt(count / len(images))))
    rows = np.stack(coloured, axis=1).reshape(-1, *coloured[0].shape[1:])
    return sample_grid(rows, columns=across * len(images), captions=[*images] * count)


def restore_files(
    compiler: Compiler,
    apply: Apply,
    images: Images,
    *,
    resolution: int,
    channels: int,
    max_pixels: int = MAX_PIXELS,
) -> Callable[[Any, Sequence[Path], Path], list[str]]:
    """(variables, files, folder) -> a line a file; writes what the network makes of each, for images to images.

    Files are cropped to a square of ``resolution`` pixels. Those that cannot be decoded, or have more than
    ``max_pixels``, are left out and named.
    Raises ``UserError`` where none can be decoded.
    """
    compiled = compiler.function(
        lambda values, image: images(apply(values, {"image": to_float(image)}), {"image": to_float(image)})
    )

    def restore(values: Any, files: Sequence[Path], folder: Path) -> list[str]:
        lines, written = [], 0
        for file in files:
            image = opened_or_reason(file, max_pixels)
            if isinstance(image, str):
                lines.append(skipped(file, image))
                continue
            pixels = square(image, resolution)
            if channels == 1:
                pixels = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
            found = jax.device_get(compiled(values, compiler.shard_padded(pixels[None])))
            written += 1
            place = folder / f"{written:04d}-{file.stem}.png"
            if jax.process_index() == 0:
                folder.mkdir(parents=True, exist_ok=True)
                save_png(place, side_by_side({name: image[:1] for name, image in found.items()}))
            lines.append(f"{file}: {place}")
        if not written:
            raise nothing_to_predict(files)
        return lines

    return restore
