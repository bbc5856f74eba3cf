"""Photographs and paintings to train networks of style on, and those that are held out."""

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from vision.data.dataset import Split
from vision.data.image_data import Data, HostBatch
from vision.data.image_file import opened, upright
from vision.data.photographs import (
    PhotographsConfig,
    decoded_photographs,
    photograph_data,
    random_crop,
    unread_photographs,
)
from vision.data.pipeline import batches
from vision.data.source import Source, read
from vision.data.textures import TextureSource, texture
from vision.home import expanded
from vision.ranges import PositiveInt
from vision.recipes.preprocessing import Preprocess

TEXTURE = 256
"""Sides in pixels of textures that stand for paintings."""


@dataclass(frozen=True)
class PaintingsConfig:
    """Which paintings to use."""

    name: Literal["textures", "folder"] = "folder"
    """"folder" (images at any depth below ``dir``) or "textures" (made by rules, no download)."""
    dir: Path = Path("paintings")
    """The folder of paintings; unused by textures."""
    test_dir: Path | None = None
    """The folder of paintings to evaluate with; if not set, about a tenth is held out, chosen by their names."""
    textures: PositiveInt = 64
    """Number of textures to train on, at least 1."""


def painting(path: Path | None) -> UInt8[np.ndarray, "h w 3"]:
    """A painting from a file, or, without one, a texture. Raises ``ImageError`` where it cannot be decoded."""
    if path is None:
        return texture("strokes", TEXTURE)
    with opened(expanded(path), adjustable=False) as image:
        return np.asarray(upright(image))


def paintings(config: PaintingsConfig, split: Split) -> Source:
    """The paintings of a split, in memory; raises ``UserError`` where there are none."""
    if config.name == "textures":
        size, first = (config.textures, 100) if split == "train" else (4, 0)
        return decoded_photographs(TextureSource(side=TEXTURE, size=size, first_seed=first))
    folder = PhotographsConfig(name="folder", dir=config.dir, test_dir=config.test_dir)
    return decoded_photographs(unread_photographs(folder, split))


def with_paintings(data: Data, config: PaintingsConfig, *, patch: int) -> Data:
    """``data`` with a crop of a painting "style" uint8 [patch patch 3] for each crop of a photograph."""
    source = functools.cache(functools.partial(paintings, config))

    def train_batches(batch_size: int, *, seed: int, start_step: int, **share: Any) -> Iterator[HostBatch]:
        photographs = data.train_batches(batch_size, seed=seed, start_step=start_step, **share)
        crop = functools.partial(random_crop, side=patch)
        how: dict[str, Any] = {"seed": seed + 1, "start_step": start_step, "transform": crop, **share}
        for photograph, of in zip(photographs, batches(source("train"), batch_size=batch_size, **how), strict=True):
            yield {"image": photograph["image"], "style": of["image"]}

    def content(split: Split) -> Any:
        # of both: another set of paintings is another run
        digest = hashlib.sha256(data.content(split).sha256.encode())
        found = source(split)
        for index in range(len(found)):
            digest.update(np.ascontiguousarray(read(found, index)["image"]).tobytes())
        return replace(data.content(split), sha256=digest.hexdigest())

    sample = {**data.sample, "style": jax.ShapeDtypeStruct((patch, patch, 3), jnp.uint8)}
    return replace(data, sample=sample, train_batches=train_batches, content=content)


def photographs(config: PhotographsConfig) -> Data:
    """Crops of photographs "image" uint8 [patch patch 3], and whole ones to test on."""
    return photograph_data(config, scale=1, margin=0)


def reduced(factor: int) -> Preprocess:
    """uint8 crops -> float32 in [0, 1], mirrored at random, and ``factor`` times smaller on each side."""

    def preprocess(batch: Any, *, key: Array) -> dict[str, Array]:
        made = {}
        for number, (name, images) in enumerate(sorted(batch.items())):
            unit = images.astype(jnp.float32) / 255.0
            flips = jax.random.bernoulli(jax.random.fold_in(key, number), 0.5, (len(unit), 1, 1, 1))
            made[name] = shrunk(jnp.where(flips, unit[:, :, ::-1], unit), factor)
        return made

    return preprocess


def shrunk(images: Float[Array, "b h w c"], factor: int) -> Float[Array, "b _ _ c"]:
    """Images with the means of squares of ``factor`` pixels; their sides are multiples of it."""
    batch, height, width, channels = images.shape
    return images.reshape(batch, height // factor, factor, width // factor, factor, channels).mean((2, 4))
