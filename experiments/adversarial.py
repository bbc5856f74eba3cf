"""The recipe that the adversarial networks share: two networks, a loss, penalties, augmentation, data, evaluation.

An experiment gives a configuration: ``experiments.gan_mnist`` is the shortest. This module is no experiment.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.judging import JudgingConfig, judged, united
from vision.data.augment.differentiable import COLOUR, cutout, differentiable_augment, translation
from vision.data.augment.image import flipped
from vision.data.dataset import (
    DataConfig,
    Split,
    check_channels,
    check_classes,
    load_dataset,
    named_split,
    open_dataset,
)
from vision.data.pipeline import batches, permutation
from vision.data.source import ArraySource
from vision.errors import UserError, at_least_one
from vision.evaluation.generation import drawn
from vision.evaluation.generator_images import beside_nearest, nearest, walks
from vision.models.gan.networks import SHARDING_RULES, GanConfig, discriminator, generator
from vision.ops.pixels import to_float
from vision.parallel.mesh import MeshConfig
from vision.pretrained.initial import read_initial_values
from vision.pretrained.shape_classifier import compute, load_shape_classifier
from vision.report.grid import sample_grid
from vision.tasks import adversarial
from vision.tasks.adaptive_augmentation import AdaptiveConfig, adapted, augmentation_state
from vision.tasks.adversarial import Augmentation, Players, discriminator_loss, generator_loss, generator_variables
from vision.tasks.gradient_penalty import Penalty, lazily, on_a_share, r1, r2, total, wasserstein_penalty, weighted
from vision.train.compile import Compiler
from vision.train.experiment import Evaluation, Experiment, Intervals
from vision.train.state import create_state, with_values
from vision.train.step import alternate, averaged, gradient, preprocessed, repeated, warmed_up
from vision.types import SampleRequest, Samples, TrainState

LossName = Literal["minimax", "non_saturating", "hinge", "least_squares", "wasserstein", "relativistic"]
LOSSES = {
    "minimax": adversarial.MINIMAX,
    "non_saturating": adversarial.NON_SATURATING,
    "hinge": adversarial.HINGE,
    "least_squares": adversarial.LEAST_SQUARES,
    "wasserstein": adversarial.WASSERSTEIN,
    "relativistic": adversarial.RELATIVISTIC,
}
PARTS = {"colour": COLOUR, "translation": (translation,), "cutout": (cutout,)}
WALK = 9
"""Pictures of a walk between two codes."""
WALKS = 6
"""Walks, and drawn images that are shown beside their nearest training images."""
COMPARED = 256
"""Drawn images, and test images, whose nearest training image is measured."""


@dataclass(frozen=True)
class AdamConfig:
    """Adam of one player."""

    lr: float = 2e-4
    """Learning rate."""
    b1: float = 0.5
    """Decay of the first moment."""
    b2: float = 0.999
    """Decay of the second moment."""


@dataclass(frozen=True)
class PenaltyConfig:
    """What the discriminator's slope costs: factors of each penalty, 0 for none."""

    r1: float = 0.0
    """Factor gamma of R1, of real images (Mescheder et al. 2018)."""
    r2: float = 0.0
    """The same of R2, of generated images."""
    wasserstein: float = 0.0
    """Factor of the penalty of Gulrajani et al. 2017; 10 is theirs."""
    every: int = 1
    """Pay one time in so many, that many times as much."""
    lazy: Literal["images", "steps"] = "images"
    """What is left out: all images but each ``every``-th of a batch, or all rounds but each ``every``-th. Either costs
    about the same."""


@dataclass(frozen=True)
class AugmentationConfig:
    """How images are changed before the discriminator sees them."""

    parts: tuple[Literal["colour", "translation", "cutout"], ...] = ()
    """Changes (Zhao et al. 2020), none by default."""
    probability: float | None = None
    """Of each change of each image; where it is adapted, what it begins with. None for 1, and 0 where adapted."""
    adaptive: bool = False
    """Let the probability follow the discriminator (Karras et al. 2020)."""
    following: AdaptiveConfig = AdaptiveConfig()


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig:
    """The recipe. The networks are Miyato et al. 2018 for CIFAR-10, the optimizers Radford et al. 2016."""

    model: GanConfig = GanConfig()
    data: DataConfig = DataConfig()
    loss: LossName = "hinge"
    """What the players minimise."""
    penalty: PenaltyConfig = PenaltyConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    generator_optimizer: AdamConfig = AdamConfig()
    discriminator_optimizer: AdamConfig = AdamConfig()
    decay: bool = False
    """Let both learning rates fall to 0 along a line until the end of the budget."""
    judging: JudgingConfig = JudgingConfig()
    mesh: MeshConfig = MeshConfig()
    intervals: Intervals = Intervals()
    init_from: Path | None = None
    """Start from the networks of another run (its work directory) or of a file of our variables."""
    images: int = 32_000_000
    """Budget of training images."""
    batch_size: int = 64
    """Images a step of either player, over all devices. With one step of each in a round, both see the same images;
    with more of the discriminator, each step has its own, and a round takes as many times more."""
    discriminator_steps: int = 1
    """Steps of the discriminator for one of the generator."""
    dispatch: int = 1
    """Rounds in one dispatch to the device."""
    ema: float = 0.999
    """Decay of the averaged generator that images are drawn from."""
    flip: bool = False
    """Mirror half of the training images."""
    truncation: float | None = None
    """Largest number in a latent code when images are drawn (Brock et al. 2019); None for no bound."""
    samples: int = 100
    """Images in the grid of each evaluation, always of the same codes."""
    seed: int = 0
    """Seed of initialisation, order and latent codes; the codes of evaluations are the same for all."""


def compose(config: AdversarialConfig) -> Experiment:
    """The experiment of a recipe."""
    _check(config)
    side, channels, classes = config.data.resolution, config.model.channels, config.model.classes
    players = Players(generator(config.model), discriminator(config.model), config.model.latent, classes)
    loss, augmentation = LOSSES[config.loss], _augmentation(config.augmentation)
    probability = config.augmentation.probability

    def prepare(batch: Mapping[str, jax.Array], *, key: jax.Array) -> Mapping[str, jax.Array]:
        batch = {**batch, "image": to_float(batch["image"])}
        return flipped(batch, key=key) if config.flip else batch

    several = config.discriminator_steps > 1
    round_size = config.batch_size * (config.discriminator_steps + 1 if several else 1)
    rounds = -(-config.images // (round_size * config.dispatch)) * config.dispatch
    optimizers = {
        "discriminator": _adam(config.discriminator_optimizer, config.decay, rounds * config.discriminator_steps),
        "generator": _adam(config.generator_optimizer, config.decay, rounds),
    }
    judging = discriminator_loss(players, loss, penalty=_penalty(config.penalty), augmentation=augmentation)
    making = generator_loss(players, loss, augmentation=augmentation)
    judge_step = gradient(preprocessed(judging, prepare), optimizers["discriminator"], part="discriminator")
    make_step = gradient(preprocessed(making, prepare), optimizers["generator"], part="generator")
    step = alternate(*[judge_step] * config.discriminator_steps, make_step, split=several)
    averages = {"long": warmed_up(config.ema)}
    step = averaged(step, averages, of=generator_variables)
    step = repeated(step, config.dispatch) if config.dispatch > 1 else step

    def random_variables(key: jax.Array) -> dict[str, Any]:
        """{"params": {player: ...}, player: its other collections}: the names that a checkpoint has."""
        generator_key, discriminator_key = jax.random.split(key)
        label = jnp.zeros((1,), jnp.int32) if classes else None
        code, image = jnp.zeros((1, config.model.latent)), jnp.zeros((1, side, side, channels))
        made = {
            "generator": players.generator.init(generator_key, code, label, train=False),
            "discriminator": players.discriminator.init(discriminator_key, image, label, train=False),
        }
        rest = {part: {name: tree for name, tree in each.items() if name != "params"} for part, each in made.items()}
        return {"params": {part: each["params"] for part, each in made.items()}} | {p: r for p, r in rest.items() if r}

    def init(key: jax.Array, given: Mapping[str, jax.Array] | None = None) -> TrainState:
        params_key, run_key = jax.random.split(key)
        made = with_values(random_variables(params_key), given or {})
        state = {part: tree for part, tree in made.items() if part != "params"}
        if augmentation is not None:
            begins = 0.0 if config.augmentation.adaptive else 1.0
            state["augmentation"] = augmentation_state(begins if probability is None else probability)
        return create_state(
            params=made["params"],
            optimizer=optimizers,
            key=run_key,
            model_state=state,
            ema=averages,
            averaging=generator_variables,
        )

    @functools.cache
    def data(split: Split) -> ArraySource:
        labelled = bool(open_dataset(config.data, split).class_names)
        loaded = load_dataset(config.data, split, fields=("image", "label") if labelled else ("image",))
        if classes:
            check_classes(loaded, classes, otherwise=", or 0 to train without labels")
        check_channels(loaded, channels)
        return loaded

    def seen(split: Split) -> ArraySource:
        """What the networks are given: without classes, images alone."""
        fields = ("image", "label") if classes else ("image",)
        return ArraySource({name: data(split).arrays[name] for name in fields}, data(split).class_names)

    def train_batches(*, seed: int, start_step: int, process_index: int, process_count: int):
        data("test")  # a test split that is not there is better known now than at the first evaluation
        return batches(
            seen("train"),
            batch_size=round_size,
            seed=seed,
            start_step=start_step,
            process_index=process_index,
            process_count=process_count,
        )

    draw = adversarial.sampler(players, truncation=config.truncation)
    asked_for = lambda count: np.arange(count, dtype=np.int32) % max(classes, 1)

    def sampling(compiler: Compiler):
        compiled = compiler.function(draw)

        def sample(state: TrainState, request: SampleRequest) -> Samples:
            request.check(conditions=("labels",) if classes else ())
            labels = np.resize(request.labels or asked_for(request.count), request.count).astype(np.int32)
            images = drawn(compiler, compiled, state.ema["long"], labels, seed=request.seed)
            names = open_dataset(config.data, "train").class_names if classes else ()
            return Samples(images=images, captions=tuple(names[label] for label in labels) if names else ())

        return sample

    def evaluation(compiler: Compiler):
        compiled = compiler.function(draw)
        from_codes = compiler.function(functools.partial(adversarial.drawn_from, players))
        known, test = data("train").arrays["image"], data("test").arrays["image"]
        judge = load_shape_classifier() if config.data.name == "shapes" and classes else None
        mark = compiler.function(
            lambda images, labels: judge.accuracy(to_float(images), labels, config.data.shapes) if judge else {}
        )
        numbers = judged(compiler, config.judging, draw, data=config.data, train=seen("train"), test=seen("test"))
        some = test[permutation(len(test), seed=0, epoch=0)[:COMPARED]]  # a folder's come sorted by class
        floor = float(nearest(some, known)[1].mean())
        labels = asked_for(max(config.samples, COMPARED))
        columns = classes if 2 <= classes <= 12 else math.ceil(math.sqrt(config.samples))  # where it fits, one a class
        ends = jax.device_get(adversarial.latents(2 * WALKS, config.model.latent, key=jax.random.key(1)))
        codes = walks(ends.reshape(WALKS, 2, -1), WALK)
        places = np.repeat(asked_for(WALKS), WALK)
        names = {"nearest": "drawn images (EMA)", "nearest_test": f"images of {named_split(config.data, 'test')}"}

        def evaluate(state: TrainState) -> Evaluation:
            variables = state.ema["long"]
            key = compiler.replicate(jax.random.key(0))
            images = jax.device_get(compiled(variables, compiler.shard_padded(labels), key))[: len(labels)]
            between = jax.device_get(from_codes(variables, compiler.shard_padded(codes), compiler.shard_padded(places)))
            scalars = {"nearest": float(nearest(images[:COMPARED], known)[1].mean()), "nearest_test": floor}
            protocol = {
                name: f"mean distance of {len(some)} {what} to their nearest training image, root mean square of pixels"
                for name, what in names.items()
            }
            if judge is not None:
                marks = compute(jax.device_get(mark(*compiler.replicate((images, labels)))))
                scalars.update(marks)
                how = f"{judge.protocol(config.data.shapes)}; {len(images)} samples, EMA {config.ema}"
                protocol.update(dict.fromkeys(marks, how))
            pictures = {
                "samples": sample_grid(images[: config.samples], columns=columns),
                "interpolations": sample_grid(between[: len(codes)], columns=WALK),
                "nearest": beside_nearest(images[:WALKS], known),
            }
            return united(numbers(variables), Evaluation(scalars, pictures, protocol))

        return evaluate

    def given() -> Mapping[str, np.ndarray]:
        assert config.init_from is not None
        shapes = jax.eval_shape(random_variables, jax.random.key(0))
        # The discriminator has no average, and knows the generator as it is, so both start from what was trained.
        return read_initial_values(config.init_from, shapes, average=None, ignored=("augmentation/.*",))

    image = jax.ShapeDtypeStruct((round_size, side, side, channels), jnp.uint8)
    label = jax.ShapeDtypeStruct((round_size,), jnp.int32)
    return Experiment(
        init=init,
        step=step,
        batches=train_batches,
        batch={"image": image, "label": label} if classes else {"image": image},
        images=config.images,
        seed=config.seed,
        evaluation=evaluation,
        sampling=sampling,
        class_names=(lambda: open_dataset(config.data, "train").class_names) if classes else None,
        initial_values=given if config.init_from is not None else None,
        rules=SHARDING_RULES,
        evaluation_only=("samples", "truncation", "judging."),
        mesh=config.mesh,
        intervals=config.intervals,
        dispatch=config.dispatch,
    )


def _adam(config: AdamConfig, decay: bool, steps: int) -> optax.GradientTransformation:
    rate = optax.linear_schedule(config.lr, 0.0, steps) if decay else config.lr
    return optax.adam(rate, b1=config.b1, b2=config.b2)


def _penalty(config: PenaltyConfig) -> Penalty | None:
    each = ((r1, config.r1), (r2, config.r2), (wasserstein_penalty, config.wasserstein))
    chosen = [weighted(penalty, factor) for penalty, factor in each if factor]
    less_often = {"images": on_a_share, "steps": lazily}[config.lazy]
    return less_often(total(*chosen), config.every) if chosen else None


def _augmentation(config: AugmentationConfig) -> Augmentation | None:
    parts = [part for name in config.parts for part in PARTS[name]]
    if not parts:
        return None
    change = lambda images, *, key, probability: differentiable_augment(images, parts, key=key, probability=probability)
    follow = functools.partial(adapted, config=config.following)
    return Augmentation(change, follow if config.adaptive else None)


def _check(config: AdversarialConfig) -> None:
    at_least_one(config, "images", "batch_size", "discriminator_steps", "dispatch", "samples")
    adversarial.check_truncation(config.truncation)
    if config.data.resolution != config.model.resolution:
        side = config.data.resolution
        raise UserError(
            f"the networks are for images of {config.model.resolution} pixels: set --model.resolution {side}"
        )
    penalised = config.penalty.r1 or config.penalty.r2 or config.penalty.wasserstein
    if min(config.penalty.r1, config.penalty.r2, config.penalty.wasserstein) < 0 or config.penalty.every < 1:
        raise UserError("factors of penalties are not negative, and penalty.every is at least 1")
    if penalised and config.model.discriminator_norm == "batch":
        raise UserError(
            "penalties are of the slope at one image, and batch normalisation mixes images: set "
            "--model.discriminator-norm spectral or none"
        )
    if (
        config.loss == "wasserstein"
        and config.model.discriminator_norm != "spectral"
        and not config.penalty.wasserstein
    ):
        raise UserError(
            "the Wasserstein loss wants a discriminator of bounded slope: set --penalty.wasserstein 10, or "
            "--model.discriminator-norm spectral"
        )
    probability = config.augmentation.probability
    changed = replace(config.augmentation, parts=(), probability=None if probability == 1.0 else probability)
    if changed != AugmentationConfig() and not config.augmentation.parts:
        raise UserError("augmentation has options set and nothing to apply them to: name augmentation.parts")
    if config.augmentation.following != AdaptiveConfig() and not config.augmentation.adaptive:
        raise UserError("augmentation.following is of --augmentation.adaptive, which is not set")
    if config.augmentation.adaptive and not LOSSES[config.loss].calibrated:
        raise UserError(
            f"augmentation.adaptive follows the sign of logits, which means nothing with the loss {config.loss}: leave "
            "it out, and set augmentation.probability"
        )
    if probability is not None and not 0.0 <= probability <= 1.0:
        raise UserError(f"augmentation.probability is between 0 and 1, not {probability}")
