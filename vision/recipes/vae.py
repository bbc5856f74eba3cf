"""The recipe of variational autoencoders: model, likelihood, objective, optimizer, data, evaluation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from vision.data.dataset import DataConfig, Split
from vision.data.image_data import image_data
from vision.errors import UserError
from vision.evaluation.combine import combine
from vision.evaluation.generation import GenerationConfig, generation_metrics
from vision.evaluation.generator import Generator
from vision.evaluation.samples import sample_grid_evaluator
from vision.evaluation.vae import BoundConfig, likelihood_bounds
from vision.parallel.sharding import ShardingRules
from vision.ranges import NonNegativeFloat, PositiveInt
from vision.recipes.assemble import assemble
from vision.recipes.preprocessing import scaled
from vision.recipes.run_config import RunConfig
from vision.tasks.likelihood import LikelihoodConfig, binarised, make_likelihood
from vision.tasks.vae import ObjectiveConfig, check, vae_functions, vae_loss
from vision.train.experiment import Experiment
from vision.train.optimizer import OptimizerConfig, make_optimizer
from vision.train.step import accumulate, gradient, preprocessed
from vision.types import TrainState

Binarisation = Literal["none", "static", "dynamic"]


@dataclass(frozen=True, kw_only=True)
class VaeRunConfig(RunConfig):
    """A recipe; an experiment adds ``model``, which has ``resolution`` and ``channels``."""

    data: DataConfig = DataConfig()
    likelihood: LikelihoodConfig = LikelihoodConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig(name="adamw", lr=1e-3, b2=0.999, weight_decay=0.0, clip=200.0)
    bound: BoundConfig = BoundConfig()
    metrics: GenerationConfig = GenerationConfig()
    binarise: Binarisation = "none"
    """Make pixels black or white, with the grey value as probability of white: never; once; or at every step."""
    ema: float = 0.999
    flip: bool = False
    """Flip half of the training images left to right."""
    temperature: NonNegativeFloat = 1.0
    """Factor on the deviations of the prior when images are sampled, not negative."""
    samples: PositiveInt = 64
    """Images in the grid of each evaluation, at least 1."""
    evaluation_batch: int = 500


def vae(config: Any, model: Callable[[int], nn.Module], *, rules: ShardingRules, coarsest: int) -> Experiment:
    """The experiment.

    Args:
      config: a ``VaeRunConfig`` with ``model``.
      model: outputs a pixel that the likelihood needs -> the network.
      rules: its sharding rules.
      coarsest: what the sizes of images must be a multiple of.

    Raises:
      UserError: settings that contradict each other.
    """
    check_settings(config, coarsest)
    change = static_binarisation if config.binarise == "static" else None
    data = image_data(config.data, classes=0, channels=config.model.channels, change=change)
    likelihood = make_likelihood(config.likelihood)
    network = model(likelihood.outputs(config.model.channels))
    observe = binarised if config.binarise == "dynamic" else None

    loss = vae_loss(network, likelihood, config.objective, batch_size=config.batch_size, observe=observe)
    loss = accumulate(preprocessed(loss, scaled(flip=config.flip)), config.microbatches)
    optimizer = make_optimizer(config.optimizer, steps=config.steps, batch_size=config.batch_size)

    functions = vae_functions(network, likelihood, observe=observe, temperature=config.temperature)
    averages = f"EMA {config.ema}"
    generator = Generator(sample=functions.sample, variables=averaged_params, description=averages)
    evaluation = combine(
        sample_grid_evaluator(generator, config.data, count=config.samples),
        likelihood_bounds(
            functions,
            data,
            averaged_params,
            config.bound,
            batch_size=config.evaluation_batch,
            bits=config.likelihood.kind == "logistic_mixture",
            description=averages,
            preprocessed=BINARISED[config.binarise],
        ),
        generation_metrics(
            generator,
            config.metrics,
            data=data,
            images=config.data,
            generated="means of p(x|z) for latents from the prior",
            preprocessed="binarised once" if config.binarise == "static" else "",
        ),
    )
    image = jnp.zeros((1, *data.sample["image"].shape))
    return assemble(
        config,
        variables=lambda key: {"params": network.init(key, image, key=key)["params"]},
        step=gradient(loss, optimizer),
        optimizer=optimizer,
        data=data,
        evaluation=evaluation,
        generator=generator,
        rules=rules,
        evaluation_only=("bound.", "metrics.", "samples", "temperature"),
    )


BINARISED = {
    "none": "",
    "static": "binarised once",
    "dynamic": "binarised at random, one sample an image",
}


def averaged_params(state: TrainState) -> dict[str, Any]:
    """The averaged parameters of a state, as ``model.apply`` takes them."""
    return {"params": state.ema["ema"]}


def static_binarisation(images: UInt8[np.ndarray, "n h w c"], split: Split) -> UInt8[np.ndarray, "n h w c"]:
    """0 or 255 for each pixel, sampled once with its grey value as probability, a seed for each split."""
    uniform = np.random.default_rng({"train": 0, "test": 1}[split]).random(images.shape, np.float32)
    return np.where(255.0 * uniform < images, np.uint8(255), np.uint8(0))


def check_settings(config: Any, coarsest: int) -> None:
    """Raise ``UserError`` for settings that contradict each other."""
    check(config.objective)
    size = config.data.resolution
    if size != config.model.resolution:
        raise UserError(f"the model is for images of {config.model.resolution} pixels: set --model.resolution {size}")
    if size % coarsest:
        raise UserError(
            f"images of {size} pixels cannot be halved so often: their sizes must be multiples of {coarsest}"
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
            "objective.free_bits and objective.capacity depend on the rate of a full batch: leave microbatches at 1"
        )
