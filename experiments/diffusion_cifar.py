"""Denoising diffusion on CIFAR-10, after Ho et al. 2020, "Denoising Diffusion Probabilistic Models".

The defaults are the published recipe: UNet of 35,746,307 parameters, linear schedule of 1000 steps, epsilon target,
Adam 2e-4 with 5000 steps of warm-up, batch 128, dropout 0.1, EMA 0.9999, random flips, 800k steps. The paper reports an
Inception score of 9.46 and a Frechet distance of 3.17 to the training set after 102.4 M images, on a TPU v3-8 in 10.6
hours; this code has not been run to that length. Three things differ: times are stratified over the batch, the EMA
forgets the random start (``warmed_up``), and strided convolutions are padded evenly.

    python -m experiments.diffusion_cifar --quick                         a laptop: shapes world, under 5 minutes
    python -m experiments.diffusion_cifar --data.dir ~/tensorflow_datasets   the recipe
    python -m experiments.diffusion_cifar --mesh.fsdp 8 --model.dtype bfloat16
    python -m experiments.diffusion_cifar --quick --sample 100            from the newest checkpoint of that run

CIFAR-10 itself: ``python -m vision.data.cifar10 --data-dir ~/tensorflow_datasets`` (170 MB, needs no TensorFlow).
"""

import functools
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.judging import JudgingConfig, united
from experiments.judging import judged as judge_images
from vision.data.augment.image import flipped
from vision.data.dataset import DataConfig, Split, check_channels, check_classes, load_dataset, open_dataset
from vision.data.pipeline import batches, evaluation_batches
from vision.data.shapes.world import ShapesConfig
from vision.data.source import ArraySource
from vision.diffusion.schedules import make_schedule
from vision.errors import UserError, at_least_one
from vision.evaluation.generation import drawn
from vision.launch.run import main
from vision.models.unet import SHARDING_RULES, UNet, UNetConfig
from vision.ops.pixels import to_float, to_uint8
from vision.parallel.mesh import MeshConfig
from vision.parallel.sharding import ShardingRules
from vision.pretrained.initial import read_initial_values
from vision.pretrained.shape_classifier import compute, load_shape_classifier, merge
from vision.report.grid import sample_grid
from vision.tasks.diffusion import (
    DiffusionConfig,
    SamplingConfig,
    check,
    diffusion_loss,
    held_out_error,
    sampler,
)
from vision.train.compile import Compiler
from vision.train.experiment import Evaluation, Experiment, Intervals
from vision.train.state import create_state, with_values
from vision.train.step import accumulate, averaged, gradient, preprocessed, repeated, warmed_up
from vision.types import SampleRequest, Samples, TrainState


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam."""

    lr: float = 2e-4
    """Peak learning rate."""
    warmup: int = 640_000
    """Images over which the learning rate rises from 0."""
    decay: bool = False
    """Let the learning rate fall to 0 along a cosine until the end of the budget."""
    b2: float = 0.999
    """Decay of the second moment."""
    clip: float = 1.0
    """Largest norm of the gradient."""


@dataclass(frozen=True)
class Config:
    """The recipe."""

    model: UNetConfig = UNetConfig()
    data: DataConfig = DataConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    sampling: SamplingConfig = SamplingConfig(method="ancestral", steps=1000, variance="beta")
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    intervals: Intervals = Intervals()
    init_from: Path | None = None
    """Start from the averages of another run, or from a file of our variables, instead of random weights."""
    images: int = 102_400_000
    """Budget of training images. A finished run is not prolonged: another budget is another run."""
    batch_size: int = 128
    """Images a step, over all devices."""
    microbatches: int = 1
    """Cut each batch into so many parts, one after another, to save memory."""
    dispatch: int = 1
    """Training steps in one dispatch to the device."""
    ema: float = 0.9999
    """Decay of the averaged parameters that are sampled from."""
    ema_short: float = 0.999
    """Decay of a second, shorter average, kept for comparison."""
    flip: bool = True
    """Mirror half of the training images."""
    samples: int = 64
    """Images in the grid of each evaluation."""
    judged: int = 256
    """Images drawn and judged at each evaluation where a judge knows the classes (the shapes world)."""
    judging: JudgingConfig = JudgingConfig(judge="none")
    """Distances to real images, which cost as many samples more at each evaluation: set judging.judge to "auto", best
    with --evaluate, when it is over."""
    held_out: int = 2_000
    """Images not trained on that each evaluation computes the loss of, at most."""
    seed: int = 0
    """Seed of initialisation, order and training noise; data sets and evaluation noise are the same for all."""


QUICK = Config(
    model=UNetConfig(
        width=64,
        multipliers=(1, 2),
        blocks=1,
        attention=(),
        dropout=0.0,
        classes=36,
        conditioning="scale_shift",
        patch=4,
    ),
    data=DataConfig(
        name="shapes",
        shapes_count=30_000,
        shapes=ShapesConfig(
            shapes=("circle", "square", "triangle", "star", "heart", "cross"),
            colours=("red", "yellow", "green", "blue", "purple", "pink"),
            backgrounds=("solid", "gradient"),
            dark_share=0.0,
            min_size=0.65,
            max_size=0.85,
            max_rotation=10.0,
        ),
    ),
    # Predicting the image lets a network this narrow ignore the noise that 4x4 patches would make it copy.
    diffusion=DiffusionConfig(schedule="cosine", prediction="x0", weighting="truncated_snr"),
    sampling=SamplingConfig(steps=20, guidance=2.0),
    optimizer=OptimizerConfig(lr=2e-3, warmup=6_400, decay=True, b2=0.99),
    intervals=Intervals(log=3_200, evaluate=20_000, save=10_000),
    images=40_000,
    batch_size=32,
    ema=0.995,
    ema_short=0.95,
    flip=False,
    samples=72,
    judged=288,
    held_out=512,
)

ABLATIONS: dict[str, dict[str, Any]] = {
    "epsilon": {"diffusion.prediction": "epsilon", "diffusion.weighting": "simple"},
    "x0": {"diffusion.prediction": "x0"},
    "v": {"diffusion.prediction": "v"},
    "linear": {"diffusion.schedule": "linear"},
    "cosine": {"diffusion.schedule": "cosine"},
    "sigmoid": {"diffusion.schedule": "sigmoid"},
    "min_snr": {"diffusion.weighting": "min_snr"},
    "no_attention": {"model.attention": ()},
    "no_dropout": {"model.dropout": 0.0},
    "unguided": {"sampling.guidance": 1.0},
    "half_width": {"model.width": 64},
}


def build(config: Config) -> Experiment:
    """The recipe with the UNet."""
    if any(config.model.width * multiplier % config.model.heads for multiplier in config.model.multipliers):
        raise UserError(f"model.heads {config.model.heads} must divide the channels of every level")
    coarsest = config.model.patch * 2 ** (len(config.model.multipliers) - 1)
    if config.data.resolution % coarsest:
        raise UserError(
            f"images of {config.data.resolution} pixels cannot be divided by {coarsest} (model.patch, and one halving "
            f"a level): choose --data.resolution as a multiple of {coarsest}, or fewer levels"
        )
    return compose(config, UNet(config.model), rules=SHARDING_RULES)


def compose(config: Any, model: nn.Module, *, rules: ShardingRules) -> Experiment:
    """The recipe for any network: loss, optimizer, schedule, data, evaluation, in that order.

    Args:
      config: a ``Config``, or one like it whose ``model`` has ``classes`` and ``channels``.
      model: takes (image, time, label, train=...) and predicts the target of diffusion.
      rules: the model's sharding rules.
    """
    check(config.diffusion, config.sampling, classes=config.model.classes)
    at_least_one(config, "images", "batch_size", "microbatches", "dispatch", "samples", "judged", "held_out")
    side, channels = config.data.resolution, config.model.channels
    schedule = make_schedule(config.diffusion.schedule, config.diffusion.steps)

    def prepare(batch: Mapping[str, jax.Array], *, key: jax.Array) -> Mapping[str, jax.Array]:
        batch = {**batch, "image": to_float(batch["image"])}
        return flipped(batch, key=key) if config.flip else batch

    loss = preprocessed(diffusion_loss(model, config.diffusion, schedule), prepare)
    loss = accumulate(loss, config.microbatches)

    total = -(-config.images // (config.batch_size * config.dispatch)) * config.dispatch
    warmup = config.optimizer.warmup // config.batch_size
    # a linear schedule over no steps stays at its start, which would be 0 for good
    rate = optax.linear_schedule(0.0 if warmup else config.optimizer.lr, config.optimizer.lr, warmup)
    if config.optimizer.decay:
        fall = optax.cosine_decay_schedule(config.optimizer.lr, max(total - warmup, 1))
        rate = optax.join_schedules([rate, fall], [warmup])
    optimizer = optax.chain(optax.clip_by_global_norm(config.optimizer.clip), optax.adam(rate, b2=config.optimizer.b2))

    averages = {"long": warmed_up(config.ema), "short": warmed_up(config.ema_short)}
    step = averaged(gradient(loss, optimizer), averages)
    step = repeated(step, config.dispatch) if config.dispatch > 1 else step

    def random_variables(key: jax.Array) -> Any:
        image, time = jnp.zeros((1, side, side, channels)), jnp.zeros((1,), jnp.int32)
        return model.init(key, image, time, time if config.model.classes else None, train=False)

    def init(key: jax.Array, given: Mapping[str, jax.Array] | None = None) -> TrainState:
        params_key, run_key = jax.random.split(key)
        params = with_values(random_variables(params_key), given or {})["params"]
        return create_state(params=params, optimizer=optimizer, key=run_key, ema=averages)

    def given() -> Mapping[str, np.ndarray]:
        assert config.init_from is not None
        return read_initial_values(config.init_from, jax.eval_shape(random_variables, jax.random.key(0)))

    fields = ("image", "label") if config.model.classes else ("image",)

    @functools.cache
    def data(split: Split) -> ArraySource:
        loaded = load_dataset(config.data, split, fields=fields)
        if config.model.classes:
            check_classes(loaded, config.model.classes, otherwise=", or 0 to train without labels")
        check_channels(loaded, channels)
        return loaded

    def train_batches(*, seed: int, start_step: int, process_index: int, process_count: int):
        data("test")  # a test split that is not there is better known now than at the first evaluation
        return batches(
            data("train"),
            batch_size=config.batch_size,
            seed=seed,
            start_step=start_step,
            process_index=process_index,
            process_count=process_count,
        )

    image = jax.ShapeDtypeStruct((config.batch_size, side, side, channels), jnp.uint8)
    label = jax.ShapeDtypeStruct((config.batch_size,), jnp.int32)
    judges = config.data.name == "shapes" and config.model.classes > 0
    draw = sampler(model, config.diffusion, schedule, config.sampling, image_shape=(side, side, channels))
    generate = lambda params, labels, key: to_uint8(draw(params, labels, key=key))

    def asked_for(count: int) -> np.ndarray:
        """Every class in turn, so that equal numbers are asked for."""
        return np.arange(count, dtype=np.int32) % max(config.model.classes, 1)

    def sampling(compiler: Compiler):
        compiled = compiler.function(generate)

        def sample(state: TrainState, request: SampleRequest) -> Samples:
            labels = np.resize(request.labels or asked_for(request.count), request.count).astype(np.int32)
            images = drawn(compiler, compiled, state.ema["long"], labels, seed=request.seed)
            names = open_dataset(config.data, "train").class_names if config.model.classes else ()
            return Samples(images=images, captions=tuple(names[label] for label in labels) if names else ())

        return sample

    def evaluation(compiler: Compiler):
        compiled = compiler.function(generate)
        error_of = held_out_error(model, config.diffusion, schedule)
        held_out = compiler.function(
            lambda params, batch, key: error_of(params, {**batch, "image": to_float(batch["image"])}, key=key)
        )
        test = data("test")
        count = min(len(test), config.held_out)
        distances_of = judge_images(
            compiler, config.judging, generate, data=config.data, train=data("train"), test=test
        )
        test = ArraySource({name: array[:count] for name, array in test.arrays.items()}, test.class_names)
        method = f"{config.sampling.method}, {config.sampling.steps} steps, guidance {config.sampling.guidance:g}"
        judge = load_shape_classifier() if judges else None
        mark = compiler.function(
            lambda images, labels: judge.accuracy(to_float(images), labels, config.data.shapes) if judge else {}
        )
        rounds = math.ceil(config.judged / config.samples) if judge else 1
        columns = math.ceil(math.sqrt(config.samples))
        if judge and config.samples % config.model.classes == 0:
            columns = config.samples // len(config.data.shapes.shapes)  # one row a shape

        shares = functools.partial(
            evaluation_batches,
            batch_size=config.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

        def evaluate(state: TrainState) -> Evaluation:
            scalars, protocol = {}, {}
            for name in state.ema:
                sums = np.zeros(2)
                for index, batch in enumerate(shares(test)):
                    key = compiler.replicate(jax.random.fold_in(jax.random.key(0), index))
                    sums += jax.device_get(held_out(state.ema[name], compiler.shard(batch), key))
                scalars[f"{name}_mse"] = float(sums[0] / sums[1])
                protocol[f"{name}_mse"] = (
                    f"mean squared error of the {config.diffusion.prediction} target on {count} held-out images, "
                    f"one fixed time and noise each, EMA {config.ema if name == 'long' else config.ema_short}"
                )
            sums, shown = None, []
            for index in range(rounds):
                asked = asked_for(config.samples * (index + 1))[index * config.samples :]
                labels = np.sort(asked)
                key = compiler.replicate(jax.random.key(index))
                images = jax.device_get(compiled(state.ema["long"], compiler.shard_padded(labels), key))[: len(labels)]
                marks = mark(*compiler.replicate((images, labels)))
                sums = marks if sums is None else merge(sums, marks)
                shown.append(images)
            if judge is not None:
                scalars.update(compute(jax.device_get(sums)))
                how = f"{judge.protocol(config.data.shapes)}; {rounds * config.samples} samples, {method}"
                protocol.update({name: how for name in scalars if name.endswith("accuracy")})
            pictures = {"samples": sample_grid(shown[0], columns=columns)}
            distances = distances_of(state.ema["long"])
            told = {name: f"{text}; {method}, EMA {config.ema}" for name, text in distances.protocol.items()}
            return united(Evaluation(scalars, pictures, protocol), replace(distances, protocol=told))

        return evaluate

    return Experiment(
        init=init,
        step=step,
        batches=train_batches,
        batch={"image": image, "label": label} if config.model.classes else {"image": image},
        images=config.images,
        seed=config.seed,
        evaluation=evaluation,
        sampling=sampling,
        initial_values=given if config.init_from is not None else None,
        rules=rules,
        evaluation_only=("sampling.", "samples", "judged", "judging.", "held_out"),
        mesh=config.mesh,
        intervals=config.intervals,
        microbatches=config.microbatches,
        dispatch=config.dispatch,
    )


if __name__ == "__main__":
    sys.exit(main("diffusion_cifar", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
