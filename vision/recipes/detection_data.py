"""Images with boxes, or with masks too, for recipes of detectors and of instance segmenters."""

import functools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vision.data.annotations.anchors import anchor_report
from vision.data.content import content_of
from vision.data.dataset import Split, check_classes
from vision.data.detection import DetectionConfig, box_sizes, description, detection_source, ground_truth, stuff_names
from vision.data.image_data import Data, HostBatch, process_share
from vision.data.instance_maps import map_dtype
from vision.data.pipeline import batches, evaluation_batches
from vision.data.source import Source
from vision.errors import UserError
from vision.parallel.agreement import is_first

_SCENES_FOR_ANCHORS = 250
"""Rendered scenes whose boxes are compared with the anchors; of files all are."""


def detection_data(
    config: DetectionConfig,
    *,
    classes: int,
    option: str,
    seed: int,
    sizes: Sequence[int] = (),
    anchors: Float[np.ndarray, "a 2"] | None = None,
    masks: bool = False,
    stuff: int | None = None,
) -> Data:
    """Images with padded boxes.

    Args:
      config: which.
      classes: of the network, for which a data set with others is refused.
      option: that sets them, for the message.
      seed: of the run.
      sizes: of images in pixels, one chosen at random every ten steps; "canvas" has the size of the step. None for that
        of the data.
      anchors: width and height of the network's anchors, in pixels; the training boxes are compared with them.
      masks: whether samples have "instances", and the truth masks (see `vision.data.detection.detection_source`).
      stuff: for panoptic segmentation the network's classes of stuff, for which data with others is refused; then
        samples have "semantic" too, and the classes of stuff follow those of the boxes. None for no stuff.
    """
    fields = (
        "image",
        "boxes",
        "labels",
        "valid",
        *(("instances",) if masks else ()),
        *(("semantic",) if stuff else ()),
    )
    which: dict[str, bool] = {"masks": masks, "stuff": stuff is not None}

    @functools.cache
    def source(split: Split) -> Source:
        if split == "train" and config.name != "shapes":
            ground_truth(config, "test", **which)  # without boxes it is refused before training
        opened = detection_source(config, split, **which)
        check_classes(opened, classes, option=option)
        if stuff is not None and len(stuff_names(config)) != stuff:
            found = len(stuff_names(config))
            raise UserError(f"the data has {found} classes of stuff and the model {stuff}: set --model.stuff {found}")
        if is_first() and config.name != "shapes":  # which are as they were asked for, and take time to render
            print(f"{split}: {ground_truth(config, split, **which).counts}", file=sys.stderr)
        if is_first() and split == "train" and anchors is not None:
            few = replace(config, shapes_count=min(config.shapes_count, _SCENES_FOR_ANCHORS))
            report = anchor_report(box_sizes(few), anchors)
            if report.refit:
                print(f"{report}\nSee python -m experiments.fit_anchors.", file=sys.stderr)
        return opened

    def train_batches(
        batch_size: int, *, seed: int, start_step: int, process_index: int, process_count: int
    ) -> Iterator[HostBatch]:
        share: dict[str, Any] = {"process_index": process_index, "process_count": process_count}
        share |= {"seed": seed, "start_step": start_step, "workers": config.workers}
        for step, batch in enumerate(batches(source("train"), batch_size=batch_size, **share), start=start_step):
            kept = {name: batch[name] for name in fields}
            if sizes:
                size = size_of_step(sizes, step, seed_of_sizes)
                kept["canvas"] = np.zeros((len(batch["image"]), size, size, 0), np.uint8)
            yield kept

    def test_batches(batch_size: int) -> Iterator[HostBatch]:
        how = {"workers": config.workers, **process_share()}
        return evaluation_batches(source("test"), batch_size=batch_size, **how)

    seed_of_sizes = seed
    size, boxes, shape = config.resolution, config.max_boxes, jax.ShapeDtypeStruct
    sample = {
        "image": shape((size, size, 3), jnp.uint8),
        "boxes": shape((boxes, 4), jnp.float32),
        "labels": shape((boxes,), jnp.int32),
        "valid": shape((boxes,), jnp.bool_),
    }
    if masks:
        sample["instances"] = shape((size, size), map_dtype(boxes))
    if stuff:
        sample["semantic"] = shape((size, size), jnp.uint8)
    if sizes:
        sample["canvas"] = shape((sizes[0], sizes[0], 0), jnp.uint8)
    return Data(
        sample=sample,
        source=source,
        train_batches=train_batches,
        test_batches=test_batches,
        description=functools.partial(description, config),
        class_names=lambda: (*source("test").class_names, *(stuff_names(config) if stuff else ())),
        content=lambda split: content_of(detection_source(replace(config, stream=True), split, **which)),
    )


def size_of_step(sizes: Sequence[int], step: int, seed: int) -> int:
    """The image size of ``step``: another one, at random, every ten steps (Redmon & Farhadi 2017, section 2)."""
    bits = np.random.Philox(np.random.SeedSequence(seed, spawn_key=(step // 10,)))
    return sizes[int(bits.random_raw() % len(sizes))]
