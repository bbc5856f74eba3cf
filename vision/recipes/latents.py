"""Training on latents: data whose images a first stage encodes, once and kept on disk, or again in every step.

    space = latent_space(images, config.first_stage, option="first_stage", flip=config.flip)
    loss = space.loss(diffusion_loss(...))                # sees latents of unit variance under "image"
    assemble(
        config,
        variables=lambda key: {"params": ..., **space.variables()},
        data=space.data,
        statistics=space.statistics,
        frozen={NAME: space.stage.frozen},
        caches=space.caches,
        ...
    )
    images = space.decode(state.model_state, latents)     # with frozen networks attached, as evaluation has it

Mean and deviation of latents are statistics of the training images that a run keeps in its state, in the collection
"latents" (Rombach et al. 2022, appendix G, divides by one deviation; here each channel has its own).
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from vision.data.augment.image import flipped
from vision.data.dataset import Split
from vision.data.image_data import Data, HostBatch, process_share
from vision.data.latents import (
    LATENT,
    Encode,
    LatentIdentity,
    LatentSource,
    latent_sums,
    mean_and_deviation,
)
from vision.data.pipeline import batches, evaluation_batches
from vision.data.source import ArraySource, Source, in_memory
from vision.data.subset import Subset
from vision.errors import UserError
from vision.home import expanded
from vision.ops.pixels import to_float
from vision.ranges import PositiveInt
from vision.recipes.first_stage import NAME, FirstStage, first_stage
from vision.recipes.stored_latents import on_this_host, stored_latents
from vision.types import Batch, LossFn

STATE = "latents"
"""The collection with "mean" and "deviation" [d] of latents."""
_IN_MEMORY = 2**31
"""Bytes of latents that are held in memory; more are read from disk."""


@dataclass(frozen=True)
class FirstStageConfig:
    """Which latents."""

    path: Path | None = None
    """The first stage: the folder of a run of ``experiments.autoencoder_cifar``, or of a published AutoencoderKL."""
    latents: Path | None = None
    """A folder for latents of whole data sets, encoded once for all runs; unset, each step encodes its batch."""
    stored: Literal["float16", "float32"] = "float16"
    """Type of latents on disk."""
    scale: Literal["measured", "published"] = "measured"
    """Latents are divided by their deviation in the training images, or by what was published with the first stage."""
    measured: PositiveInt = 10_000
    """Training images, at least 1, whose latents are measured where they are not on disk."""
    batch: PositiveInt = 64
    """Images at a time, at least 1, when a data set is encoded; rounded up to a multiple of a host's devices."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LatentSpace:
    """The latents of some data: what a recipe takes in place of its images."""

    stage: FirstStage
    shape: tuple[int, int, int]
    """Of a latent: height, width, channels."""
    data: Data
    """What the training step takes: "latent" moments of the first stage from disk, or "image" uint8; the other fields
    are those of the images."""
    statistics: Callable[[], Mapping[str, np.ndarray]]
    """Reads or measures mean and deviation, by path; every process calls it."""
    flip: bool
    """Whether images are flipped at random before they are encoded in the step."""
    caches: tuple[str, ...]
    """The fields of the configuration that name folders of latents."""

    def variables(self) -> dict[str, Any]:
        """The collection "latents" before its statistics are known."""
        channels = self.shape[-1]
        return {STATE: {"mean": jnp.zeros(channels), "deviation": jnp.ones(channels)}}

    def encoded(self, model_state: Any, batch: Batch, *, key: Key[Array, ""]) -> Batch:
        """A batch of ``data`` with latents as "image": float32 [b H W d], sampled, of mean 0 and deviation 1.

        Args:
          model_state: with "latents" and, where the batch has images, the frozen first stage.
          batch: with "latent", or "image" uint8 or float32 in [-1, 1].
          key: for sampling.
        """
        rest = {name: value for name, value in batch.items() if name not in (LATENT, "image")}
        if LATENT in batch:
            moments = batch[LATENT].astype(jnp.float32)
        else:
            image = batch["image"]
            image = to_float(image) if image.dtype == jnp.uint8 else image
            moments = self.stage.encode(model_state["frozen"][NAME], image)
        scale = model_state[STATE]
        return {**rest, "image": (self.stage.sample(moments, key=key) - scale["mean"]) / scale["deviation"]}

    def loss(self, loss: LossFn) -> LossFn:
        """``loss``, which finds latents as "image", of batches of ``data``."""

        def of_latents(params, model_state, batch, *, key, step):
            flip_key, latent_key, loss_key = jax.random.split(key, 3)
            if LATENT not in batch:
                batch = {**batch, "image": to_float(batch["image"])}
                batch = flipped(batch, key=flip_key) if self.flip else batch
            batch = self.encoded(model_state, batch, key=latent_key)
            return loss(params, model_state, batch, key=loss_key, step=step)

        return of_latents

    def decode(self, model_state: Any, latent: Float[Array, "b H W d"]) -> Float[Array, "b h w c"]:
        """The images, about [-1, 1], of latents of mean 0 and deviation 1."""
        scale = model_state[STATE]
        return self.stage.decode(model_state["frozen"][NAME], latent * scale["deviation"] + scale["mean"])


def latent_space(images: Data, config: FirstStageConfig, *, option: str, flip: bool) -> LatentSpace:
    """The latents of some images.

    Args:
      images: the images.
      config: the first stage, whose ``path`` is set.
      option: the field of the configuration that holds ``config``: "first_stage".
      flip: whether training images are flipped at random. On disk are both versions of each, as two samples.

    Raises:
      UserError: there is no such first stage, it cannot encode these images, or nothing was published with it to scale
        its latents by.
    """
    assert config.path is not None
    stage = first_stage(config.path, option=f"{option}.path")
    image = images.sample["image"].shape
    shape = stage.latent_shape(image)
    if config.scale == "published" and stage.scale is None:
        raise UserError(
            f"{option}.scale published needs a published first stage, and the one in {config.path} is a run: leave it "
            "at measured"
        )
    stored = functools.cache(functools.partial(_stored, images, stage, config, flip=flip))

    def statistics() -> Mapping[str, np.ndarray]:
        if config.scale == "published" and stage.scale is not None:
            mean, deviation = stage.scale
        elif config.latents is not None:
            source = stored("train")
            mean, deviation = source.mean, source.deviation
        else:
            mean, deviation = _measured(images, stage, config)
        if not (deviation > 0.0).all():
            raise UserError(
                f"a channel of the latents of {images.description('train')} is the same everywhere: choose another "
                "first stage"
            )
        return {f"{STATE}/mean": mean.astype(np.float32), f"{STATE}/deviation": deviation.astype(np.float32)}

    return LatentSpace(
        stage=stage,
        shape=shape,
        data=images if config.latents is None else _latent_data(images, stage, config, stored),
        statistics=statistics,
        flip=flip,
        caches=(f"{option}.latents",),
    )


def _latent_data(
    images: Data, stage: FirstStage, config: FirstStageConfig, stored: Callable[[Split], LatentSource]
) -> Data:
    """``images`` with "latent" in place of "image"."""
    moments = stage.moments_shape(images.sample["image"].shape)
    others = {name: leaf for name, leaf in images.sample.items() if name != "image"}
    sample = {LATENT: jax.ShapeDtypeStruct(moments, jnp.dtype(config.stored)), **others}

    @functools.cache
    def source(split: Split) -> Source:
        found = stored(split).only(tuple(sample))
        return in_memory(found) if found.nbytes <= _IN_MEMORY else found

    def train_batches(
        batch_size: int, *, seed: int, start_step: int, process_index: int, process_count: int
    ) -> Iterator[HostBatch]:
        share: dict[str, Any] = {"process_index": process_index, "process_count": process_count}
        return batches(source("train"), batch_size=batch_size, seed=seed, start_step=start_step, **share)

    return Data(
        sample=sample,
        source=source,
        train_batches=train_batches,
        test_batches=lambda size: evaluation_batches(source("test"), batch_size=size, **process_share()),
        description=lambda split: f"{images.description(split)}, {stage.description}",
        class_names=images.class_names,
        content=images.content,
    )


def _stored(images: Data, stage: FirstStage, config: FirstStageConfig, split: Split, *, flip: bool) -> LatentSource:
    """The latents of a split, encoded first where they are not on disk; every process calls it."""
    assert config.latents is not None
    root, image = expanded(config.latents), images.sample["image"].shape
    identity = LatentIdentity(
        variables=stage.content(),
        network=stage.network,
        gaussian=stage.gaussian,
        content=images.content(split),
        image=(image[0], image[1], image[2]),
        latent=stage.moments_shape(image),
        flips=flip and split == "train",
        dtype=config.stored,
    )
    return stored_latents(
        root,
        identity,
        functools.partial(images.source, split),
        description=images.description(split),
        encoder=lambda: host_encoder(stage),
        batch=config.batch,
    )


def host_encoder(stage: FirstStage) -> Encode:
    """Images uint8 on this host -> moments, by all of its devices; reads the variables of the first stage."""
    return on_this_host(stage.frozen.load, lambda variables, image: stage.encode(variables, to_float(image)))


def _measured(images: Data, stage: FirstStage, config: FirstStageConfig) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the latents of the first training images."""
    source = images.source("train")
    rows = np.arange(min(config.measured, len(source)))
    part = ArraySource(source.rows(rows)) if isinstance(source, ArraySource) else Subset(source, rows, ())
    encode, sums, places = host_encoder(stage), [], 0
    for batch in evaluation_batches(part, batch_size=config.batch):
        moments = encode(batch["image"])[: int(batch["mask"].sum())]
        sums.append(latent_sums(moments, gaussian=stage.gaussian))
        places += moments[..., 0].size
    return mean_and_deviation(np.sum(sums, axis=0), places)
