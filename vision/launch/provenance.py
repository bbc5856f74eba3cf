"""What a generated image's file says of its origin, and its watermark."""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from vision.data.provenance import KEYWORD, message_of, pixel_hash, record_text
from vision.errors import UserError
from vision.launch.inputs import paths_of
from vision.launch.load_run import LoadedRun
from vision.launch.options import flatten
from vision.ops.pixels import to_float, to_uint8
from vision.ops.watermark import WATERMARK, WATERMARK_OF_32, WATERMARK_OF_64, WatermarkConfig, marked
from vision.report.grid import save_png
from vision.train.content_hash import content_hash
from vision.train.loop import steps_taken

MARKS: Mapping[str, WatermarkConfig] = {"192": WATERMARK, "64": WATERMARK_OF_64, "32": WATERMARK_OF_32}
"""Watermarks by the least side of the images that they are for, in pixels."""


def mark_for(height: int, width: int) -> str | None:
    """The name of the watermark for images of this size; None for smaller ones than 32 pixels."""
    return next((name for name in MARKS if min(height, width) >= int(name)), None)


def run_record(run: LoadedRun) -> dict[str, Any]:
    """What is known of a generator: its experiment, options and parameters by their hashes, how far it was trained.

    No path of a machine is in it.
    """
    places = {*run.experiment.places, *paths_of(run.config)}
    options = {name: repr(value) for name, value in flatten(run.config).items() if name not in places}
    record: dict[str, Any] = {
        "by": f"vision {importlib.metadata.version('vision')}",
        "experiment": run.name,
        "options": hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest(),
        "images": run.images,
        "step": steps_taken(run.state),
    }
    if all(leaf.is_fully_addressable for leaf in jax.tree.leaves(run.state.params)):
        record["parameters"] = content_hash(jax.device_get(run.state.params))
    return record


def request_record(request: Any) -> dict[str, Any]:
    """What was asked for, of the fields that differ from their defaults; images by the hashes of their pixels."""
    assert is_dataclass(request)
    found: dict[str, Any] = {}
    for each in fields(request):
        value = getattr(request, each.name)
        if isinstance(value, np.ndarray):
            found[each.name] = pixel_hash(value)
        elif isinstance(value, tuple):
            if value:
                found[each.name] = [pixel_hash(one) if isinstance(one, np.ndarray) else one for one in value]
        elif value is not None and value is not False and value != "":
            found[each.name] = value
    return found


def save_generated(
    paths: Sequence[Path],
    images: UInt8[np.ndarray, "n h w c"],
    record: Mapping[str, Any],
    *,
    captions: Sequence[str] = (),
    watermark: bool = False,
) -> None:
    """Write images with their records, each with its number and its caption.

    Args:
      paths: of the files.
      images: c is 1 or 3; only colours are marked.
      record: of all of them.
      captions: one for each, or none.
      watermark: whether each gets a watermark, whose message is a hash of its record.

    Raises ``UserError`` where images are too small for a watermark, or grey.
    """
    name = mark_for(*images.shape[1:3]) if watermark else None
    if watermark and (name is None or images.shape[-1] != 3):
        size = f"{images.shape[2]}x{images.shape[1]} pixels and {images.shape[-1]} channels"
        raise UserError(f"a watermark needs colour images of at least 32x32 pixels, and these have {size}")
    for index, (path, image) in enumerate(zip(paths, images, strict=True)):
        own = {**record, "index": index, **({"caption": captions[index]} if captions else {})}
        if name is not None:
            own["watermark"] = name
            message = message_of(own, MARKS[name].bits)
            image = np.asarray(to_uint8(marked(to_float(jnp.asarray(image[None])), message[None], MARKS[name])[0]))
        save_png(path, image, text={KEYWORD: record_text(own, image)})
