"""Evaluation of variational autoencoders: bounds on the likelihood of images, and what latents look like."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from vision.data.image_data import Data
from vision.data.source import in_memory
from vision.metrics.generation.bits_per_dimension import bits_per_dimension
from vision.ranges import NonNegativeInt, PositiveInt
from vision.report.grid import sample_grid
from vision.report.latent_space import latent_space_plot
from vision.tasks.vae import VaeFunctions
from vision.train.compile import Compiler
from vision.train.experiment import Evaluate, Evaluation, EvaluatorFactory
from vision.types import TrainState

SHOWN = 32
"""Test images that are shown beside their reconstructions."""
SHOWN_LATENTS = 2_000
"""Test images whose latents are plotted in the plane."""
STEPS = 9
"""Images of a path through latents."""
FURTHEST = 3.0
"""How far a path along one dimension goes, in deviations of the prior."""
MAX_DIMENSIONS = 12
"""Dimensions that are traversed, those with the largest rate."""


@dataclass(frozen=True)
class BoundConfig:
    """How the likelihood of the test set is bounded."""

    importance: NonNegativeInt = 100
    """Latents an image of the importance-weighted bound, not negative; 0 to leave it out."""
    importance_images: PositiveInt = 1_000
    """Number of test images, the first ones, at least 1, that it is computed on."""


@dataclass(frozen=True)
class ReconstructionSet:
    """What an autoencoder is evaluated on."""

    batches: Callable[[], Iterable[Mapping[str, np.ndarray]]]
    """This process's share of the batches, the same number on each: "image" uint8, "mask" bool."""
    first: Mapping[str, np.ndarray]
    """The first images of the set, the same on every process: "image" uint8, and "label" int32 where there are."""
    class_names: Sequence[str]
    """One for each class, or none."""
    description: str
    """In words, for the protocol."""


def evaluator(
    compiler: Compiler, model: VaeFunctions, config: BoundConfig, *, bits: bool, preprocessed: str = ""
) -> Callable[[Any, ReconstructionSet], Evaluation]:
    """(variables, test set) -> bounds in nats and bits, rate and distortion, and images.

    The evidence lower bound is computed with one code an image, the divergence in closed form, over the whole set. All
    draws are functions of the place in the set: the same for every state.

    Args:
      compiler: of the mesh.
      model: of one with vectors as latents, paths through them are shown too.
      config: the importance-weighted bound.
      bits: whether the likelihood is of 8-bit pixels, so that nats are bits of the file.
      preprocessed: what is done to images first, for the protocol: "dynamically binarised, one draw an image".
    """

    def sums(variables: Any, batch: Mapping[str, Array], key: Array) -> tuple[Array, Array, Array]:
        distortion, rate = model.terms(variables, batch["image"], key=key)
        keep = batch["mask"].astype(jnp.float32)
        return jnp.sum(keep * distortion), keep @ rate, jnp.sum(keep)

    def tighter(variables: Any, batch: Mapping[str, Array], key: Array) -> tuple[Array, Array]:
        keep = batch["mask"].astype(jnp.float32)
        bound = model.bound(variables, batch["image"], samples=config.importance, key=key)
        return jnp.sum(keep * bound), jnp.sum(keep)

    compiled, compiled_tighter = compiler.function(sums), compiler.function(tighter)
    compiled_reconstruct = compiler.function(lambda variables, image, key: model.reconstruct(variables, image, key=key))
    walks = _walks(compiler, model) if model.encode is not None and model.decode is not None else None
    key_of = lambda number: compiler.replicate(jax.random.fold_in(jax.random.key(0), number))

    def evaluate(variables: Any, test: ReconstructionSet) -> Evaluation:
        distortion, rates, count = 0.0, 0.0, 0.0
        bound, bounded = 0.0, 0.0
        for number, batch in enumerate(test.batches()):
            fields = compiler.shard({name: batch[name] for name in ("image", "mask")})
            of_batch = jax.device_get(compiled(variables, fields, key_of(number)))
            distortion, rates, count = (
                a + np.asarray(b, np.float64) for a, b in zip((distortion, rates, count), of_batch, strict=True)
            )
            if config.importance and bounded < config.importance_images:
                more = jax.device_get(compiled_tighter(variables, fields, key_of(number)))
                bound, bounded = bound + float(more[0]), bounded + float(more[1])
        rate = np.asarray(rates) / count
        shape = test.first["image"].shape[1:]
        how = f"{int(count):,} images of {test.description}{f', {preprocessed}' if preprocessed else ''}"
        nats = float(distortion / count + rate.sum())
        scalars = {"nats": nats, "distortion": float(distortion / count), "rate": float(rate.sum())}
        scalars["active"] = float(np.sum(rate > 0.01))
        protocol = {
            "nats": f"negative evidence lower bound in nats an image, one code each, {how}",
            "distortion": f"-log p(x|z) in nats an image, {how}",
            "rate": f"KL(q(z|x) || p(z)) in nats an image, {how}",
            "active": "dimensions, or groups, of the code whose mean rate is above 0.01 nats",
        }
        if config.importance:
            name = f"nats_{config.importance}"
            scalars[name] = -bound / bounded
            protocol[name] = (
                f"negative importance-weighted bound in nats an image, {config.importance} codes each, the first "
                f"{int(bounded):,} images of {test.description}{f', {preprocessed}' if preprocessed else ''}"
            )
        if bits:
            scalars["bits_per_dimension"] = bits_per_dimension(nats, shape)
            protocol["bits_per_dimension"] = f"nats / (ln 2 x {math.prod(shape)}), 8-bit pixels, {how}"
        pairs = jax.device_get(
            compiled_reconstruct(variables, compiler.shard_padded(test.first["image"][:SHOWN]), key_of(0))
        )
        images = {"reconstructions": interleaved(*(each[:SHOWN] for each in pairs))}
        animations = {}
        if walks is not None:
            more, animations = walks(variables, test, rate)
            images.update(more)
        return Evaluation(scalars, images, protocol, animations)

    return evaluate


def likelihood_bounds(
    model: VaeFunctions,
    data: Data,
    variables: Callable[[TrainState], Any],
    config: BoundConfig,
    *,
    batch_size: int,
    bits: bool,
    description: str,
    preprocessed: str = "",
) -> EvaluatorFactory:
    """Bounds, reconstructions and latents of the test split, see :func:`evaluator`.

    Args:
      model: what is evaluated.
      data: whose test split.
      variables: state -> variables of the model.
      config: the importance-weighted bound.
      batch_size: images at a time, rounded up to a multiple of the devices.
      bits: whether the likelihood is of 8-bit pixels, so that nats are bits of the file.
      description: of the averages, for protocols: "EMA 0.999".
      preprocessed: see :func:`evaluator`.
    """

    def factory(compiler: Compiler) -> Evaluate:
        evaluate = evaluator(compiler, model, config, bits=bits, preprocessed=preprocessed)
        first = in_memory(data.source("test")).first(SHOWN_LATENTS)
        size, words = compiler.rounded_up(batch_size), f"{data.description('test')}, {description}"
        test = ReconstructionSet(lambda: data.test_batches(size), first, data.class_names(), words)
        return lambda state: evaluate(variables(state), test)

    return factory


def interleaved(
    images: UInt8[np.ndarray, "n h w c"], reconstructed: UInt8[np.ndarray, "n h w c"]
) -> UInt8[np.ndarray, "H W 3"]:
    """Rows of images, each with a row of their reconstructions below."""
    columns = min(8, len(images))
    rows = [
        part
        for start in range(0, len(images) - columns + 1, columns)
        for part in (images[start : start + columns], reconstructed[start : start + columns])
    ]
    return sample_grid(np.concatenate(rows), columns=columns, row_titles=["image", "reconstruction"] * (len(rows) // 2))


def _walks(
    compiler: Compiler, model: VaeFunctions
) -> Callable[[Any, ReconstructionSet, Float[np.ndarray, " z"]], tuple[dict[str, Any], dict[str, Any]]]:
    """(variables, test set, rate of each dimension) -> images and animations of walks through codes.

    "interpolations" go straight from the code of a test image to that of the next; "traversals" change one dimension of
    the first image's code, also as an animation; "latents" are those of all that is shown, in the plane.
    """
    assert model.encode is not None
    assert model.decode is not None
    compiled_decode, compiled_encode = compiler.function(model.decode), compiler.function(model.encode)

    def images_of(variables: Any, codes: Float[np.ndarray, "n z"]) -> UInt8[np.ndarray, "n h w c"]:
        padded = compiler.shard_padded(codes.astype(np.float32))
        return jax.device_get(compiled_decode(variables, padded))[: len(codes)]

    def walk(
        variables: Any, test: ReconstructionSet, rate: Float[np.ndarray, " z"]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        images = test.first["image"]
        codes = jax.device_get(compiled_encode(variables, compiler.shard_padded(images)))[: len(images)]
        pairs = min(8, len(codes) // 2)
        share = np.linspace(0.0, 1.0, STEPS)[:, None]
        lines = [(1.0 - share) * codes[2 * i] + share * codes[2 * i + 1] for i in range(pairs)]
        between = images_of(variables, np.concatenate(lines))
        chosen = np.argsort(-rate, kind="stable")[:MAX_DIMENSIONS]
        along = np.repeat(codes[:1], len(chosen) * STEPS, axis=0).reshape(len(chosen), STEPS, -1)
        for row, dimension in enumerate(chosen):
            along[row, :, dimension] = np.linspace(-FURTHEST, FURTHEST, STEPS)
        traversed = images_of(variables, along.reshape(len(chosen) * STEPS, -1))
        titles = [f"{dimension}: {rate[dimension]:.2f} nats" for dimension in chosen]
        plots = {
            "interpolations": sample_grid(between, columns=STEPS),
            "traversals": sample_grid(traversed, columns=STEPS, row_titles=titles),
        }
        if "label" in test.first and test.class_names:
            title = f"mean latents of {len(codes):,} images of {test.description}"
            plots["latents"] = latent_space_plot(codes, test.first["label"], test.class_names, title=title)
        rows = traversed.reshape(len(chosen), STEPS, *traversed.shape[1:])
        there = [sample_grid(rows[:, step], columns=math.ceil(len(chosen) / 2)) for step in range(STEPS)]
        return plots, {"traversals": np.stack([*there, *there[-2:0:-1]])}

    return walk
