"""Latents of a split on disk (``vision.data.latents``): read where they are, else encoded first by all processes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from vision.data.image_data import process_share
from vision.data.latents import (
    Encode,
    LatentIdentity,
    LatentSource,
    finish_latents,
    latent_folder,
    open_latents,
    write_latents,
)
from vision.data.source import Source
from vision.errors import UserError
from vision.parallel.agreement import all_of, first_alone, is_first
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.train.compile import Compiler
from vision.train.progress import Progress


def stored_latents(
    root: Path,
    identity: LatentIdentity,
    source: Callable[[], Source],
    *,
    description: str,
    encoder: Callable[[], Encode],
    batch: int,
) -> LatentSource:
    """The latents of a split; every process calls it.

    Args:
      root: what all sets of latents are in.
      identity: of the set.
      source: opens the images.
      description: of the images, for what is said meanwhile.
      encoder: makes the function that encodes them, if it is needed.
      batch: images at a time.

    Raises:
      UserError: as ``write_latents``, or processes do not share the folder.
    """
    found = open_latents(root, identity)
    if all_of(found is not None) and found is not None:
        return found
    images, share = source(), process_share()
    total = len(images)
    with _Encoding(f"{description} to {latent_folder(root, identity)}", total) as encoding:
        write_latents(
            root,
            identity,
            images,
            encoder(),
            batch_size=batch,
            share=(share["process_index"], share["process_count"]),
            report=lambda done: encoding.report(done * share["process_count"]),
        )
    all_of(True)  # all have written theirs
    first_alone(lambda: finish_latents(root, identity, tuple(images.class_names)))
    found = open_latents(root, identity)
    if found is None:
        raise UserError(f"{latent_folder(root, identity)} is not seen by all processes: name a folder that they share")
    return found


def on_this_host(load: Callable[[], Any], encode: Callable[[Any, Array], Array]) -> Encode:
    """Images uint8 on this host -> what ``encode`` makes of them with the variables, by all of its devices.

    Args:
      load: reads the variables.
      encode: (variables, images uint8 [b h w c]) -> [b ...].
    """
    compiler = Compiler(make_mesh(MeshConfig(), jax.local_devices()))
    variables = compiler.place(load())
    call = compiler.function(encode)

    def encoded(images: UInt8[np.ndarray, "b h w c"]) -> Float[np.ndarray, "b *places m"]:
        made = call(variables, compiler.shard_padded(np.ascontiguousarray(images)))
        return np.asarray(jax.device_get(made))[: len(images)]

    return encoded


class _Encoding:
    """Says how far the encoding of a split is, on the first process; about ten lines where there is no terminal."""

    def __init__(self, what: str, total: int):
        self._what, self._total, self._lines = what, total, 0
        self._progress: Progress | None = None

    def __enter__(self) -> "_Encoding":
        if is_first():
            self._progress = Progress(self._total, 0)
            self._progress.message(f"encoding {self._what}")
        return self

    def report(self, images: int) -> None:
        """After ``images`` of all."""
        if self._progress is None:
            return
        images = min(images, self._total)
        if 10 * images // self._total > self._lines:
            self._lines = 10 * images // self._total
            self._progress.log(images, {})
        self._progress.update(images, {})

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.close()
