"""Bits per dimension of diffusion models, by the probability-flow equation and by the variational bound."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Interval

from vision.data.image_data import Data
from vision.diffusion.conditions import Conditioning
from vision.diffusion.grids import Spacing, time_grid
from vision.diffusion.guidance import ConditionalDenoiser
from vision.diffusion.likelihood import bits_per_dimension, dequantized, flow_log_density, variational_bound
from vision.diffusion.process import Process
from vision.diffusion.schedules import NoiseSchedule
from vision.diffusion.variational import discrete_bound
from vision.ops.pixels import to_float
from vision.ranges import NonNegativeInt, PositiveInt
from vision.train.compile import Compiler
from vision.train.experiment import Evaluate, Evaluation, EvaluatorFactory
from vision.types import TrainState


@dataclass(frozen=True)
class LikelihoodConfig:
    """How the likelihood of test images is computed."""

    images: NonNegativeInt = 0
    """Test images; 0 for no likelihood, which costs hundreds of evaluations an image."""
    steps: Annotated[int, Interval(ge=2, le=100_000)] = 100
    """Steps of Heun's method for the probability-flow equation, of two evaluations and their derivatives each."""
    grid: Spacing = "karras"
    """Times of the steps."""
    samples: PositiveInt = 16
    """Times and noises for each image in the variational bound."""
    batch: PositiveInt = 100
    """Images at a time, rounded up to a multiple of the devices."""


def likelihood_evaluator(
    denoiser: Callable[[Any], ConditionalDenoiser],
    process: Process,
    data: Data,
    config: LikelihoodConfig,
    *,
    conditioning: Conditioning,
    variables: Callable[[TrainState], Any],
    description: str,
    learned: Callable[[Any], ConditionalDenoiser] | None = None,
) -> EvaluatorFactory:
    """Bits per dimension of the first test images, each with the half width of its 95 % interval over images.

    Args:
      denoiser: variables -> estimate of x_0.
      process: of the denoiser.
      data: whose test images, of 8 bits.
      config: how many, and the constants of both numbers.
      conditioning: of the network; images are conditioned on their own labels.
      variables: of a state.
      description: which these are, in words.
      learned: where a variance is learned, variables -> estimate of x_0 and the place of the log variance; the bound is
        then that of the chain of all discrete steps with it.
    """
    schedule = process if isinstance(process, NoiseSchedule) and learned is not None else None

    def both(values: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        image, condition = to_float(batch["image"]), conditioning.of(batch)
        dims = math.prod(image.shape[1:])
        denoise = lambda noisy, time: denoiser(values)(noisy, time, condition)
        noise_key, probe_key, bound_key = jax.random.split(key, 3)
        times = np.asarray(time_grid(process, config.grid, config.steps + 1), np.float64)
        density = flow_log_density(denoise, process, dequantized(image, key=noise_key), times=times, key=probe_key)
        of: dict[str, Any] = {"samples": config.samples, "key": bound_key}
        if schedule is None or learned is None:
            bound = variational_bound(denoise, process, image, **of)["bound"]
        else:
            with_place = learned(values)
            place_too = lambda noisy, time: with_place(noisy, time, condition)
            bound = discrete_bound(place_too, schedule, image, **of)["bound"]
        return bits_per_dimension(density, dims), bound / (dims * math.log(2.0))

    def factory(compiler: Compiler) -> Evaluate:
        if config.images == 0:
            return lambda state: Evaluation()
        call, moments = compiler.function(both), compiler.function(_moments)
        size = compiler.rounded_up(min(config.batch, config.images))

        def evaluate(state: TrainState) -> Evaluation:
            values, sums, count = variables(state), np.zeros((2, 2)), 0
            for number, batch in enumerate(itertools.islice(data.test_batches(size), -(-config.images // size))):
                share = len(batch["mask"])
                first = number * size + jax.process_index() * share
                mask = batch["mask"] & (np.arange(first, first + share) < config.images)
                key = compiler.replicate(jax.random.fold_in(jax.random.key(0), number))
                placed = compiler.shard({**batch, "mask": mask})
                of = call(values, {name: value for name, value in placed.items() if name != "mask"}, key)
                found, masked = jax.device_get(moments(*of, placed["mask"]))
                sums, count = sums + found, count + int(masked)
            mean = sums[0] / count
            deviation = np.sqrt(np.maximum(sums[1] / count - mean**2, 0.0))
            half = 1.96 * deviation / math.sqrt(count)
            names = ("bits_per_dimension", "bits_per_dimension_bound")
            conditioned = ", given their classes" if conditioning else ""
            chain = "in continuous time"
            chain = chain if schedule is None else f"of {schedule.steps:,} discrete steps with the learned variance"
            how = (
                f"probability-flow equation, {config.steps} steps of Heun's method on the grid {config.grid}, one "
                "probe of Rademacher's for the trace, uniform dequantisation",
                f"variational bound {chain}, {config.samples} times an image",
            )
            scalars, protocol = {}, {}
            for place, name in enumerate(names):
                scalars |= {name: float(mean[place]), f"{name}_half_width": float(half[place])}
                text = f"{how[place]}; {count} images of {data.description('test')}{conditioned}; {description}"
                protocol |= {name: text, f"{name}_half_width": f"95 % interval over images; {text}"}
            return Evaluation(scalars, {}, protocol)

        return evaluate

    return factory


def _moments(flow: jax.Array, bound: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums of both numbers and of their squares [2 2], where mask, and how many there are."""
    both = jnp.where(mask, jnp.stack([flow, bound]), 0.0)
    return jnp.stack([both.sum(1), (both**2).sum(1)]), mask.sum()
