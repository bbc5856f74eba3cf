"""The recipe of generative adversarial networks: two networks, a loss, penalties, augmentation, data, evaluation."""

import functools
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax
from annotated_types import Interval

from vision.data.augment.differentiable import COLOUR, cutout, differentiable_augment, translation
from vision.data.dataset import DataConfig
from vision.data.image_data import image_data
from vision.errors import UserError
from vision.evaluation.combine import combine
from vision.evaluation.generation import GenerationConfig, generation_metrics
from vision.evaluation.generator import Generator
from vision.evaluation.generator_images import interpolation_grid, nearest_training_images
from vision.evaluation.samples import sample_grid_evaluator
from vision.models.gan.networks import SHARDING_RULES, GanConfig, discriminator, generator
from vision.ranges import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt
from vision.recipes.assemble import WeightsSource, assemble
from vision.recipes.preprocessing import scaled
from vision.recipes.run_config import RunConfig
from vision.tasks import adversarial as task
from vision.tasks.adaptive_augmentation import AdaptiveConfig, adapted, augmentation_state
from vision.tasks.adversarial import Augmentation, Players, discriminator_loss, generator_loss, generator_variables
from vision.tasks.gradient_penalty import Penalty, lazily, on_a_share, r1, r2, total, wasserstein_penalty, weighted
from vision.train.experiment import Experiment
from vision.train.optimizer import AdamConfig, clipped, learning_rate
from vision.train.state import averages
from vision.train.step import accumulate, alternate, gradient, preprocessed
from vision.types import LossFn

LossName = Literal["minimax", "non_saturating", "hinge", "least_squares", "wasserstein", "relativistic"]
LOSSES: dict[LossName, task.AdversarialLoss] = {
    "minimax": task.MINIMAX,
    "non_saturating": task.NON_SATURATING,
    "hinge": task.HINGE,
    "least_squares": task.LEAST_SQUARES,
    "wasserstein": task.WASSERSTEIN,
    "relativistic": task.RELATIVISTIC,
}
AugmentationName = Literal["colour", "translation", "cutout"]
AUGMENTATIONS = {"colour": COLOUR, "translation": (translation,), "cutout": (cutout,)}


@dataclass(frozen=True)
class PenaltyConfig:
    """Penalties on the discriminator's gradient with respect to images: the factor of each, 0 for none."""

    r1: NonNegativeFloat = 0.0
    """Factor gamma, not negative, of R1, at real images (Mescheder et al. 2018)."""
    r2: NonNegativeFloat = 0.0
    """Factor gamma, not negative, of R2, at generated images."""
    wasserstein: NonNegativeFloat = 0.0
    """Factor, not negative, of the penalty of Gulrajani et al. 2017; 10 is theirs."""
    every: PositiveInt = 1
    """Compute the penalty one time in this many, at least 1, multiplied by as much."""
    lazy: Literal["images", "steps"] = "images"
    """What is left out: all images but each ``every``-th of a batch, or all rounds but each ``every``-th. Either costs
    about the same."""


@dataclass(frozen=True)
class AugmentationConfig:
    """How images are augmented before the discriminator sees them."""

    parts: tuple[AugmentationName, ...] = ()
    """Augmentations (Zhao et al. 2020), none by default."""
    probability: Fraction | None = None
    """Of each augmentation of each image, within [0, 1]; where it is adapted, the initial one. None for 1, and 0 where
    adapted."""
    adaptive: bool = False
    """Adapt the probability to how much the discriminator overfits (Karras et al. 2020)."""
    following: AdaptiveConfig = AdaptiveConfig()


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig(RunConfig):
    """The recipe. The networks are Miyato et al. 2018 for CIFAR-10, the optimizers Radford et al. 2016."""

    model: GanConfig = GanConfig()
    data: DataConfig = DataConfig()
    loss: LossName = "hinge"
    """What the two players minimise."""
    penalty: PenaltyConfig = PenaltyConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    generator_optimizer: AdamConfig = AdamConfig(b1=0.5)
    discriminator_optimizer: AdamConfig = AdamConfig(b1=0.5)
    images: int = 32_000_000
    batch_size: PositiveInt = 64
    """Images a step of either player, over all devices, at least 1. With one discriminator step in a round, both
    players see the same images; with more, each step has its own, and a round takes as many times more."""
    discriminator_steps: Annotated[int, Interval(ge=1, le=1_000)] = 1
    """Steps of the discriminator for one of the generator, 1 to 1,000: each is a part of the compiled program."""
    ema: float = 0.999
    flip: bool = False
    """Flip half of the training images left to right."""
    metrics: GenerationConfig = GenerationConfig()
    truncation: PositiveFloat | None = None
    """Largest absolute value in a latent when images are sampled (Brock et al. 2019), positive; None for no bound."""
    samples: PositiveInt = 100
    """Images in the grid of each evaluation, at least 1, always of the same latents."""

    @property
    def step_images(self) -> int:
        """Images of a round."""
        return self.batch_size * (self.discriminator_steps + 1 if self.discriminator_steps > 1 else 1)


def adversarial(config: AdversarialConfig) -> Experiment:
    """The experiment. Raises ``UserError`` for settings that contradict each other."""
    check(config)
    data = image_data(config.data, classes=config.model.classes, channels=config.model.channels)
    players = Players(generator(config.model), discriminator(config.model), config.model.latent, config.model.classes)
    augmentation = augmentation_of(config.augmentation)

    parts = {"penalty": penalty_of(config.penalty), "augmentation": augmentation}
    losses: dict[str, LossFn] = {
        "discriminator": discriminator_loss(players, LOSSES[config.loss], **parts),
        "generator": generator_loss(players, LOSSES[config.loss], augmentation=augmentation),
    }
    optimizers = {
        "discriminator": adam(config.discriminator_optimizer, config, steps=config.steps * config.discriminator_steps),
        "generator": adam(config.generator_optimizer, config, steps=config.steps),
    }
    prepare = lambda loss: accumulate(preprocessed(loss, scaled(flip=config.flip)), config.microbatches)
    steps = {part: gradient(prepare(loss), optimizers[part], part=part) for part, loss in losses.items()}
    several = config.discriminator_steps > 1
    step = alternate(*[steps["discriminator"]] * config.discriminator_steps, steps["generator"], split=several)

    sampled = Generator(
        sample=task.sampler(players, truncation=config.truncation),
        variables=averages,
        classes=config.model.classes,
        description=f"EMA {config.ema}",
    )
    evaluation = combine(
        sample_grid_evaluator(sampled, config.data, count=config.samples, classified=256),
        interpolation_grid(
            sampled,
            functools.partial(task.images_of_latents, players),
            functools.partial(task.sample_latents, size=config.model.latent),
        ),
        nearest_training_images(sampled, data),
        generation_metrics(sampled, config.metrics, data=data, images=config.data),
    )
    return assemble(
        config,
        variables=functools.partial(variables, config, players, data.sample["image"].shape),
        step=step,
        optimizer=optimizers,
        averaging=generator_variables,
        data=data,
        evaluation=evaluation,
        generator=sampled,
        # the discriminator has no average and was trained against the generator as it is: both start from the trained
        weights=WeightsSource(average=None, excluded=("augmentation",)),
        rules=SHARDING_RULES,
        evaluation_only=("samples", "truncation", "metrics."),
    )


def variables(config: AdversarialConfig, players: Players, image: tuple[int, ...], key: jax.Array) -> dict[str, Any]:
    """{"params": {player: ...}, player: its other collections, "augmentation": ...}, as a checkpoint names them."""
    generator_key, discriminator_key = jax.random.split(key)
    label = jnp.zeros((1,), jnp.int32) if players.classes else None
    made = {
        "generator": players.generator.init(generator_key, jnp.zeros((1, players.latent)), label, train=False),
        "discriminator": players.discriminator.init(discriminator_key, jnp.zeros((1, *image)), label, train=False),
    }
    rest = {part: {name: tree for name, tree in each.items() if name != "params"} for part, each in made.items()}
    found: dict[str, Any] = {"params": {part: each["params"] for part, each in made.items()}}
    found.update({part: trees for part, trees in rest.items() if trees})
    if config.augmentation.parts:
        initial = 0.0 if config.augmentation.adaptive else 1.0
        chosen = config.augmentation.probability
        found["augmentation"] = augmentation_state(initial if chosen is None else chosen)
    return found


def adam(config: AdamConfig, run: AdversarialConfig, *, steps: int) -> optax.GradientTransformation:
    """The optimizer of one player, which takes ``steps`` steps."""
    rate = learning_rate(config, steps=steps, batch_size=run.batch_size)
    return optax.chain(clipped(config.clip), optax.adam(rate, b1=config.b1, b2=config.b2))


def penalty_of(config: PenaltyConfig) -> Penalty | None:
    """The sum of the penalties whose factors are not 0."""
    each = ((r1, config.r1), (r2, config.r2), (wasserstein_penalty, config.wasserstein))
    chosen = [weighted(penalty, factor) for penalty, factor in each if factor]
    less_often = {"images": on_a_share, "steps": lazily}[config.lazy]
    return less_often(total(*chosen), config.every) if chosen else None


def augmentation_of(config: AugmentationConfig) -> Augmentation | None:
    """The augmentations in turn, with a probability that is adapted or fixed."""
    parts = [part for name in config.parts for part in AUGMENTATIONS[name]]
    if not parts:
        return None
    change = lambda images, *, key, probability: differentiable_augment(images, parts, key=key, probability=probability)
    follow = functools.partial(adapted, config=config.following)
    return Augmentation(change, follow if config.adaptive else None)


def check(config: AdversarialConfig) -> None:
    """Raise ``UserError`` for settings that contradict each other."""
    task.check_truncation(config.truncation)
    if config.data.resolution != config.model.resolution:
        size = config.data.resolution
        raise UserError(
            f"the networks are for images of {config.model.resolution} pixels: set --model.resolution {size}"
        )
    factors = (config.penalty.r1, config.penalty.r2, config.penalty.wasserstein)
    if any(factors) and config.model.discriminator_norm == "batch":
        raise UserError(
            "penalties are of the gradient at one image, and batch normalisation mixes images: set "
            "--model.discriminator-norm spectral or none"
        )
    bounded = config.model.discriminator_norm == "spectral" or config.penalty.wasserstein
    if config.loss == "wasserstein" and not bounded:
        raise UserError(
            "the Wasserstein loss needs a discriminator with a bounded gradient: set --penalty.wasserstein 10, or "
            "--model.discriminator-norm spectral"
        )
    probability = config.augmentation.probability
    changed = replace(config.augmentation, parts=(), probability=None if probability == 1.0 else probability)
    if changed != AugmentationConfig() and not config.augmentation.parts:
        raise UserError("augmentation has options set and nothing to apply them to: name augmentation.parts")
    if config.augmentation.following != AdaptiveConfig() and not config.augmentation.adaptive:
        raise UserError("augmentation.following belongs to --augmentation.adaptive, which is not set")
    if config.augmentation.adaptive and not LOSSES[config.loss].calibrated:
        raise UserError(
            f"augmentation.adaptive follows the sign of logits, which means nothing with the loss {config.loss}: leave "
            "it out, and set augmentation.probability"
        )
    if probability is not None and not 0.0 <= probability <= 1.0:
        raise UserError(f"augmentation.probability is between 0 and 1, not {probability}")
