"""Embeddings of a data set by a frozen CLIP, computed once, kept on disk, and read by every later run.

They are stored as latents are (``vision.data.latents``), in a folder named by the hash of the network, of its tokenizer
and of the data; or, without a folder, in memory, where each is computed when it is first asked for. Texts stay texts:
of several captions of an image another may be sampled in each epoch.
"""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from vision.data.captions.data import CaptionedData, with_images
from vision.data.dataset import Split
from vision.data.image_data import HostBatch
from vision.data.latents import LATENT, Encode, LatentIdentity, LatentSource
from vision.data.on_demand import OnDemandSource
from vision.data.source import ArraySource, Source, in_memory, read
from vision.errors import UserError
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
        encoder=lambda: _host_encoder(clip),
        batch=batch,
    )


def _host_encoder(clip: ClipEncoder) -> Encode:
    return on_this_host(clip.frozen.load, lambda variables, image: clip.encode_image(variables, to_float(image)))


def embedded(data: CaptionedData, clip: ClipEncoder, *, root: Path | None, batch: int) -> CaptionedData:
    """``data`` with "embedding" float32 [e] of each image in place of "image"; captions as before.

    Arguments as of :func:`image_embeddings`; without a ``root`` nothing is stored. Embeddings are computed when the
    first batch is asked for.
    """
    encoder = functools.cache(lambda: _host_encoder(clip))

    def in_turn(split: Split, rows: Int[np.ndarray, " b"]) -> dict[str, np.ndarray]:
        images, made = data.source(split), []
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            if isinstance(images, ArraySource):
                pixels = images.rows(part)["image"]
            else:
                pixels = np.stack([read(images, index)["image"] for index in part.tolist()])
            # of one size, so that one program embeds all
            made.append(encoder()(np.resize(pixels, (batch, *pixels.shape[1:])))[: len(part)])
        return {LATENT: np.concatenate(made)}

    @functools.cache
    def source(split: Split) -> Source:
        if root is None:
            size = len(data.source(split))
            made = OnDemandSource(functools.partial(in_turn, split), size=size, fields=(LATENT,))
            # of training images all are needed, of test images those that are evaluated
            return ArraySource(dict(made.arrays)) if split == "train" else made
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


def scale_of(data: CaptionedData) -> tuple[Float[np.ndarray, " e"], Float[np.ndarray, " e"]]:
    """Mean and deviation of the embeddings of the training images, by channel, float32.

    Args:
      data: of :func:`embedded`.

    Raises:
      UserError: a channel is the same for all images.
    """
    source = data.source("train")
    if isinstance(source, ArraySource):
        vectors = source.arrays[LATENT].astype(np.float64)
        mean, deviation = vectors.mean(0), vectors.std(0)
    else:
        assert isinstance(source, LatentSource)
        mean, deviation = source.mean, source.deviation
    if not (deviation > 0.0).all():
        raise UserError(
            f"a channel of the embeddings of {data.description('train')} is the same everywhere: choose another CLIP"
        )
    return mean.astype(np.float32), deviation.astype(np.float32)
