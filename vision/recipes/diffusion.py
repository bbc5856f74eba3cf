"""The recipe of diffusion models: a network, a noise schedule, a loss, an optimizer, data, evaluation."""

import functools
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from vision.data.dataset import DataConfig
from vision.data.image_data import image_data
from vision.diffusion.conditions import label_conditioning
from vision.evaluation.combine import combine
from vision.evaluation.generation import GenerationConfig, generation_metrics
from vision.evaluation.generator import Generator
from vision.evaluation.held_out import held_out_loss
from vision.evaluation.samples import sample_grid_evaluator
from vision.nn.conditioning import check_data_conditions
from vision.ops.pixels import to_uint8
from vision.parallel.sharding import ShardingRules
from vision.ranges import Decay, PositiveInt
from vision.recipes.assemble import assemble
from vision.recipes.preprocessing import scaled
from vision.recipes.quick_data import GENERATION
from vision.recipes.run_config import RunConfig
from vision.tasks.diffusion import DiffusionConfig, check_diffusion, diffusion_loss, held_out_error, make_process
from vision.tasks.sampling import SamplingConfig, check, describe, sampler
from vision.train.experiment import Experiment, Intervals
from vision.train.optimizer import AdamConfig, clipped, learning_rate
from vision.train.snapshots import SnapshotConfig
from vision.train.step import accumulate, gradient, preprocessed, warmed_up
from vision.types import TrainState


@dataclass(frozen=True, kw_only=True)
class DiffusionRunConfig(RunConfig):
    """A diffusion recipe; experiments add ``model``, which has ``classes`` and ``channels``."""

    data: DataConfig = DataConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    sampling: SamplingConfig = SamplingConfig()
    optimizer: AdamConfig = AdamConfig(lr=2e-4, warmup=640_000, clip=1.0)
    images: int = 102_400_000
    extra_emas: tuple[Decay, ...] = (0.999,)
    """Decays, within [0, 1), of further averages, whose held-out errors are reported for comparison."""
    flip: bool = True
    """Flip half of the training images left to right."""
    snapshots: SnapshotConfig = SnapshotConfig()
    samples: PositiveInt = 64
    """Images in the grid of each evaluation, at least 1."""
    classified: PositiveInt = 256
    """Shapes world: samples of each evaluation, at least 1, whose class the shape classifier recognises."""
    metrics: GenerationConfig = GenerationConfig(features="none")
    """Distances to real images. They cost ``metrics.samples`` samples at each evaluation: best left to the end, with
    ``python -m vision evaluate RUN --metrics.features auto``."""
    held_out: PositiveInt = 2_000
    """Largest number of test images, at least 1, that the held-out error is computed on."""
    evaluation_batch: int = 128


QUICK_DIFFUSION: dict[str, Any] = {
    "data": GENERATION,
    # predicting the image lets a network this narrow ignore the noise that 4x4 patches would make it copy
    "diffusion": DiffusionConfig(schedule="cosine", prediction="x0", weighting="truncated_snr"),
    "sampling": SamplingConfig(steps=20, guidance=2.0),
    "optimizer": AdamConfig(lr=2e-3, warmup=6_400, schedule="cosine", b2=0.99, clip=1.0),
    "intervals": Intervals(log=3_200, evaluate=20_000, save=10_000),
    "images": 40_000,
    "batch_size": 32,
    "evaluation_batch": 32,
    "ema": 0.995,
    "extra_emas": (0.95,),
    "flip": False,
    "samples": 72,
    "classified": 288,
    "held_out": 512,
}
"""What ``--quick`` of the diffusion experiments share: data, process, sampling, budget."""


def averaged_params(state: TrainState, name: str = "ema") -> dict[str, Any]:
    """The averaged parameters of a state, as ``model.apply`` takes them."""
    return {"params": state.ema[name]}


def diffusion(config: Any, model: nn.Module, *, rules: ShardingRules) -> Experiment:
    """The experiment.

    Args:
      config: a ``DiffusionRunConfig`` with ``model``.
      model: (noisy image, time, condition, train=...) -> the target of diffusion.
      rules: the model's sharding rules.

    Raises:
      UserError: settings that contradict each other.
    """
    check_data_conditions(config.model, available={"label"})
    conditioning = label_conditioning(config.model.classes)
    check(config.diffusion, config.sampling, conditioning=conditioning)
    check_diffusion(config.diffusion, batch_size=config.batch_size // config.microbatches)
    data = image_data(config.data, classes=config.model.classes, channels=config.model.channels)
    image_shape = data.sample["image"].shape

    process = make_process(config.diffusion)
    loss = diffusion_loss(model, config.diffusion, process, conditioning=conditioning)
    loss = accumulate(preprocessed(loss, scaled(flip=config.flip)), config.microbatches)
    rate = learning_rate(config.optimizer, steps=config.steps, batch_size=config.batch_size)
    optimizer = optax.chain(
        clipped(config.optimizer.clip), optax.adam(rate, b1=config.optimizer.b1, b2=config.optimizer.b2)
    )
    decays = {"ema": config.ema, **{f"ema_{decay:g}": decay for decay in config.extra_emas}}

    def variables(key: jax.Array) -> Any:
        image, time = jnp.zeros((1, *image_shape)), jnp.zeros((1,), jnp.int32)
        condition = {"label": time} if config.model.classes else {}
        return {"params": model.init(key, image, time, condition, train=False)["params"]}

    draw = sampler(
        model, config.diffusion, process, config.sampling, conditioning=conditioning, image_shape=image_shape
    )
    generator = Generator(
        sample=lambda *request: to_uint8(draw(*request)),
        variables=averaged_params,
        classes=config.model.classes,
        description=f"{describe(config.sampling)}, EMA {config.ema}",
    )
    evaluation = combine(
        held_out_loss(
            held_out_error(model, config.diffusion, process, conditioning=conditioning),
            data,
            {
                "mse" if name == "ema" else f"mse_{name}": (
                    functools.partial(averaged_params, name=name),
                    f"EMA {decay}",
                )
                for name, decay in decays.items()
            },
            batch_size=config.evaluation_batch,
            limit=config.held_out,
            description=f"mean squared error of the {config.diffusion.prediction} target",
        ),
        sample_grid_evaluator(generator, config.data, count=config.samples, classified=config.classified),
        generation_metrics(generator, config.metrics, data=data, images=config.data),
    )
    return assemble(
        config,
        variables=variables,
        step=gradient(loss, optimizer),
        optimizer=optimizer,
        averages={name: warmed_up(decay) for name, decay in decays.items()},
        data=data,
        evaluation=evaluation,
        generator=generator,
        snapshots=config.snapshots,
        rules=rules,
        evaluation_only=("sampling.", "samples", "classified", "metrics.", "held_out"),
    )
