"""The recipe that the variational autoencoders share: model, likelihood, objective, optimizer, data, evaluation.

An experiment gives a configuration and a model: ``experiments.vae_cifar`` is the shortest. This module is none.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.judging import JudgingConfig, united
from experiments.judging import judged as judged_images
from vision.data.augment.image import flipped
from vision.data.dataset import DataConfig, Split, check_channels, load_dataset, named_split, open_dataset
from vision.data.pipeline import batches, evaluation_batches
from vision.data.source import ArraySource
from vision.errors import UserError, at_least_one
from vision.evaluation.generation import drawn
from vision.evaluation.vae import Autoencoding, BoundConfig, ReconstructionSet, evaluator
from vision.models.vae import Vae
from vision.ops.pixels import to_float, to_uint8
from vision.parallel.mesh import MeshConfig
from vision.parallel.sharding import ShardingRules
from vision.pretrained.initial import read_initial_values
from vision.report.grid import sample_grid
from vision.tasks.likelihood import LikelihoodConfig, binarised, make_likelihood
from vision.tasks.vae import ObjectiveConfig, autoencoding_loss, check, judged
from vision.train.compile import Compiler
from vision.train.experiment import Evaluation, Experiment, Intervals
from vision.train.optimizer import OptimizerConfig, make_optimizer
from vision.train.state import create_state, with_values
from vision.train.step import accumulate, averaged, gradient, preprocessed, repeated, warmed_up
from vision.types import SampleRequest, Samples, TrainState

SHOWN_CODES = 2_000
"""Test images whose codes are drawn in the plane."""


@dataclass(frozen=True, kw_only=True)
class AutoencodingConfig:
    """What all of them share; an experiment adds its ``model``."""

    data: DataConfig = DataConfig()
    likelihood: LikelihoodConfig = LikelihoodConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig(name="adamw", lr=1e-3, b2=0.999, weight_decay=0.0, clip=200.0)
    bound: BoundConfig = BoundConfig()
    judging: JudgingConfig = JudgingConfig()
    mesh: MeshConfig = MeshConfig()
    intervals: Intervals = Intervals()
    init_from: Path | None = None
    """Start from the averages of another run, or from a file of our variables, instead of random weights."""
    binarise: Literal["none", "static", "dynamic"] = "none"
    """Make pixels black or white, each with its grey value as probability: never; once for all; or anew each time."""
    images: int = 10_000_000
    """Budget of training images."""
    batch_size: int = 128
    """Images a step, over all devices."""
    microbatches: int = 1
    """Cut each batch into so many parts, one after another, to save memory."""
    dispatch: int = 1
    """Training steps in one dispatch to the device."""
    ema: float = 0.999
    """Decay of the averaged parameters that are evaluated."""
    flip: bool = False
    """Mirror half of the training images."""
    temperature: float = 1.0
    """Factor on the deviations of the prior when images are drawn."""
    samples: int = 64
    """Images in the grid of each evaluation."""
    evaluation_batch: int = 500
    """Test images at a time."""
    seed: int = 0
    """Seed of initialisation, order and noise; the draws of evaluations are the same for all."""


def static_binarisation(images: np.ndarray, *, seed: int) -> np.ndarray:
    """0 or 255 for each pixel, drawn once with its grey value as probability; uint8 in and out."""
    drawn = np.random.default_rng(seed).random(images.shape, np.float32)
    return np.where(255.0 * drawn < images, np.uint8(255), np.uint8(0))


def unlabelled(source: ArraySource) -> ArraySource:
    """The images alone."""
    return ArraySource({"image": source.arrays["image"]}, ())


def compose(config: Any, model: Callable[[int], nn.Module], *, rules: ShardingRules, coarsest: int) -> Experiment:
    """The experiment of a recipe.

    Args:
      config: an `AutoencodingConfig` with a ``model``, which has ``channels``.
      model: numbers a pixel that the likelihood wants -> the network.
      rules: its sharding rules.
      coarsest: what the sides of images must be a multiple of.
    """
    check(config.objective)
    at_least_one(config, "images", "batch_size", "microbatches", "dispatch", "samples", "evaluation_batch")
    side, channels = config.data.resolution, config.model.channels
    if side != config.model.resolution:
        raise UserError(f"the model is for images of {config.model.resolution} pixels: set --model.resolution {side}")
    if side % coarsest:
        raise UserError(
            f"images of {side} pixels cannot be halved so often: their sides must be multiples of {coarsest}"
        )
    if config.binarise != "none" and config.likelihood.kind != "bernoulli":
        raise UserError("binarised images have a likelihood of black and white: set --likelihood.kind bernoulli")
    if config.binarise == "none" and config.likelihood.kind == "bernoulli":
        raise UserError(
            "likelihood.kind bernoulli is of black and white pixels: set --binarise dynamic or static, since grey "
            "values have no bound under it"
        )
    if config.microbatches > 1 and (config.objective.free_bits or config.objective.capacity):
        raise UserError(
            "objective.free_bits and objective.capacity look at the rate of a whole batch: leave microbatches at 1"
        )
    likelihood = make_likelihood(config.likelihood)
    network = model(likelihood.outputs(channels))
    observe = binarised if config.binarise == "dynamic" else None

    def prepare(batch: Mapping[str, jax.Array], *, key: jax.Array) -> Mapping[str, jax.Array]:
        batch = {**batch, "image": to_float(batch["image"])}
        return flipped(batch, key=key) if config.flip else batch

    loss = autoencoding_loss(network, likelihood, config.objective, batch_size=config.batch_size, observe=observe)
    loss = accumulate(preprocessed(loss, prepare), config.microbatches)

    total = -(-config.images // (config.batch_size * config.dispatch)) * config.dispatch
    optimizer = make_optimizer(
        config.optimizer, steps=total, batch_size=config.batch_size, layer_of=lambda path: 0, layers=1
    )
    averages = {"long": warmed_up(config.ema)}
    step = averaged(gradient(loss, optimizer), averages)
    step = repeated(step, config.dispatch) if config.dispatch > 1 else step

    def random_variables(key: jax.Array) -> Any:
        return network.init(key, jnp.zeros((1, side, side, channels)), key=key)

    def init(key: jax.Array, given: Mapping[str, jax.Array] | None = None) -> TrainState:
        params_key, run_key = jax.random.split(key)
        params = with_values(random_variables(params_key), given or {})["params"]
        return create_state(params=params, optimizer=optimizer, key=run_key, ema=averages)

    def given() -> Mapping[str, np.ndarray]:
        assert config.init_from is not None
        return read_initial_values(config.init_from, jax.eval_shape(random_variables, jax.random.key(0)))

    @functools.cache
    def data(split: Split) -> ArraySource:
        """Images, and labels where there are any, which the plot of codes alone looks at."""
        labelled = bool(open_dataset(config.data, split).class_names)
        loaded = load_dataset(config.data, split, fields=("image", "label") if labelled else ("image",))
        check_channels(loaded, channels)
        images = loaded.arrays["image"]
        if config.binarise == "static":
            images = static_binarisation(images, seed=0 if split == "train" else 1)
        return ArraySource({**loaded.arrays, "image": images}, loaded.class_names)

    def train_batches(
        *, seed: int, start_step: int, process_index: int, process_count: int
    ) -> Iterator[Mapping[str, np.ndarray]]:
        data("test")  # a test split that is not there is better known now than at the first evaluation
        return batches(
            unlabelled(data("train")),
            batch_size=config.batch_size,
            seed=seed,
            start_step=start_step,
            process_index=process_index,
            process_count=process_count,
        )

    measured = judged(network, likelihood, observe=observe, temperature=config.temperature)
    flat = isinstance(network, Vae)

    def encode(values: Any, image: jax.Array) -> jax.Array:
        seen = to_float(image) if observe is None else observe(to_float(image), key=jax.random.key(0))
        found: Any = network.apply(values, seen, method="encode")
        return found[0]

    def decode(values: Any, code: jax.Array) -> jax.Array:
        outputs: Any = network.apply(values, code, method="decode")
        return to_uint8(likelihood.mean(outputs))

    functions = Autoencoding(
        terms=measured.terms,
        bound=measured.bound,
        rebuilt=measured.rebuilt,
        encode=encode if flat else None,
        decode=decode if flat else None,
        bits=config.likelihood.kind == "logistic_mixture",
    )

    def sampling(compiler: Compiler):
        compiled = compiler.function(measured.draw)

        def sample(state: TrainState, request: SampleRequest) -> Samples:
            values = {"params": state.ema["long"]}
            images = drawn(compiler, compiled, values, np.zeros(request.count, np.int32), seed=request.seed)
            return Samples(images=images)

        return sample

    def evaluation(compiler: Compiler):
        test = data("test")
        size = compiler.rounded_up(config.evaluation_batch)
        images = unlabelled(test)
        everything = lambda: evaluation_batches(
            images, batch_size=size, process_index=jax.process_index(), process_count=jax.process_count()
        )
        shown = {name: array[:SHOWN_CODES] for name, array in test.arrays.items()}
        described = f"{named_split(config.data, 'test')}, {side}x{side}, EMA {config.ema}"
        set_of_images = ReconstructionSet(everything, shown, test.class_names, described)
        how = {"none": "", "static": "binarised once", "dynamic": "binarised at random, one draw an image"}
        judge = evaluator(compiler, functions, config.bound, observed=how[config.binarise])
        generator = judged_images(
            compiler,
            config.judging,
            measured.draw,
            data=config.data,
            train=unlabelled(data("train")),
            test=images,
            drawn="means of p(x|z) for codes from the prior",
            observed="binarised once" if config.binarise == "static" else "",
        )
        compiled = compiler.function(measured.draw)
        columns = max(1, round(config.samples**0.5))

        def evaluate(state: TrainState) -> Evaluation:
            values = {"params": state.ema["long"]}
            found = judge(values, set_of_images)
            samples = drawn(compiler, compiled, values, np.zeros(config.samples, np.int32), seed=0)
            grid = Evaluation(images={"samples": sample_grid(samples, columns=columns)})
            return united(united(grid, found), generator(values))

        return evaluate

    return Experiment(
        init=init,
        step=step,
        batches=train_batches,
        batch={"image": jax.ShapeDtypeStruct((config.batch_size, side, side, channels), jnp.uint8)},
        images=config.images,
        seed=config.seed,
        evaluation=evaluation,
        sampling=sampling,
        initial_values=given if config.init_from is not None else None,
        rules=rules,
        evaluation_only=("bound.", "judging.", "samples", "temperature", "evaluation_batch"),
        mesh=config.mesh,
        intervals=config.intervals,
        microbatches=config.microbatches,
        dispatch=config.dispatch,
    )
