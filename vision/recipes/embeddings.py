"""Embeddings of a data set by a frozen CLIP, computed once, kept on disk, and read by every later run.

They are stored as latents are (``vision.data.latents``), in a folder named by the hash of the network, of its tokenizer
and of the data. Texts stay texts: of several captions of an image another may be sampled in each epoch.
"""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from vision.data.captions.data import CaptionedData, with_images
from vision.data.dataset import Split
from vision.data.image_data import HostBatch
from vision.data.latents import LATENT, LatentIdentity, LatentSource
from vision.data.source import Source, in_memory
from vision.home import expanded
from vision.ops.pixels import to_float
from vision.recipes.clip_encoder import ClipEncoder
from vision.recipes.stored_latents import on_this_host, stored_latents

EMBEDDING = "embedding"
"""The field of batches, and the condition of that name."""
_IN_MEMORY = 2**31
"""Bytes of embeddings that are held in memory; more are read from disk."""


def image_embeddings(data: CaptionedData, split: Split, clip: ClipEncoder, *, root: Path, batch: int) -> LatentSource:
    """The embeddings of all images of a split, in their order, float32 of any length; every process calls it.

    Args:
      data: the images.
      split: which of them.
      clip: what embeds them.
      root: a folder for embeddings of whole data sets.
      batch: images at a time, rounded up to a multiple of a host's devices.

    Raises:
      UserError: as ``vision.data.latents.write_latents``.
    """
    height, width, channels = data.sample["image"].shape
    identity = LatentIdentity(
        variables=clip.content(),
        network=clip.network,
        gaussian=False,
        content=data.content(split),
        image=(height, width, channels),
        latent=(clip.embedding,),
        flips=False,
        dtype="float32",
    )
    return stored_latents(
        expanded(root),
        identity,
        functools.partial(data.source, split),
        description=data.description(split),
        encoder=lambda: on_this_host(
            clip.frozen.load, lambda variables, image: clip.encode_image(variables, to_float(image))
        ),
        batch=batch,
    )


def embedded(data: CaptionedData, clip: ClipEncoder, *, root: Path, batch: int) -> CaptionedData:
    """``data`` with "embedding" float32 [e] of each image in place of "image"; captions as before.

    Arguments as of :func:`image_embeddings`. Embeddings are computed when the first batch is asked for.
    """

    @functools.cache
    def source(split: Split) -> Source:
        found = image_embeddings(data, split, clip, root=root, batch=batch).only((LATENT,))
        return in_memory(found) if found.nbytes <= _IN_MEMORY else found

    def renamed(batches: Iterator[HostBatch]) -> Iterator[HostBatch]:
        for each in batches:
            yield {EMBEDDING if name == LATENT else name: array for name, array in each.items()}

    made = with_images(data, source, description=f"embedded by {clip.name}")

    def train_batches(batch_size: int, **share: Any) -> Iterator[HostBatch]:
        return renamed(made.train_batches(batch_size, **share))

    sample = {name: leaf for name, leaf in data.sample.items() if name != "image"}
    return dataclasses.replace(
        made,
        sample={EMBEDDING: jax.ShapeDtypeStruct((clip.embedding,), jnp.float32), **sample},
        train_batches=train_batches,
        test_batches=lambda size: renamed(made.test_batches(size)),
    )
