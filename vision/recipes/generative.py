"""What recipes of diffusion and flows share: data or latents, optimizer, averages, evaluation, sampling."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vision.data.dataset import DataConfig
from vision.data.image_data import Data, image_data
from vision.evaluation.combine import combine
from vision.evaluation.generation import GenerationConfig, metrics_of_generators
from vision.evaluation.generator import Generator
from vision.evaluation.held_out import held_out_loss
from vision.evaluation.samples import sample_grid_evaluator
from vision.models.unet import UNetConfig
from vision.nn.conditioning import check_data_conditions, condition_shapes
from vision.ops.pixels import to_float, to_uint8
from vision.ranges import Decay, PositiveInt
from vision.recipes.assemble import WeightsSource, assemble
from vision.recipes.diffusion_networks import DiffusionNetwork, NetworkConfig, network_by_name
from vision.recipes.first_stage import NAME, SHAPES
from vision.recipes.latents import STATE, FirstStageConfig, LatentSpace, latent_space
from vision.recipes.preprocessing import scaled
from vision.recipes.quick_data import GENERATION
from vision.recipes.run_config import RunConfig
from vision.tasks.diffusion import HeldOutError
from vision.train.compile import Compiler
from vision.train.experiment import Edit, EvaluatorFactory, Experiment, FrozenPart, Intervals, Sample
from vision.train.optimizer import AdamConfig, clipped, learning_rate
from vision.train.snapshots import SnapshotConfig
from vision.train.step import accumulate, gradient, preprocessed, projected, warmed_up
from vision.types import LossFn, Sampler, TrainState


@dataclass(frozen=True, kw_only=True)
class GenerativeRunConfig(RunConfig):
    """A recipe of diffusion or flows; recipes add their objective."""

    model: NetworkConfig = network_by_name(UNetConfig())
    data: DataConfig = DataConfig()
    first_stage: FirstStageConfig = FirstStageConfig()
    """An autoencoder whose latents are generated in place of pixels, where ``first_stage.path`` is set."""
    optimizer: AdamConfig = AdamConfig(lr=2e-4, warmup=640_000, clip=1.0)
    images: int = 102_400_000
    extra_emas: tuple[Decay, ...] = (0.999,)
    """Decays, within [0, 1), of further averages, whose held-out errors are reported for comparison."""
    snapshots: SnapshotConfig = SnapshotConfig()
    flip: bool = True
    """Flip half of the training images left to right."""
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

    def notices(self) -> tuple[str, ...]:
        """Also a first stage that was trained on other images."""
        found = super().notices()
        if self.first_stage.path == SHAPES and self.data.name != "shapes":
            found += (
                f"the first stage is that of the shapes world, and the images are of {self.data.name}: name one that "
                "was trained on such images with --first-stage.path",
            )
        return found


QUICK_GENERATION: dict[str, Any] = {
    "data": GENERATION,
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
"""What ``--quick`` of all generative experiments shares: data, optimizer, budget, evaluation."""

EVALUATION_ONLY = ("sampling.", "samples", "classified", "metrics.", "held_out")


@dataclass(frozen=True, kw_only=True, eq=False)
class Objective:
    """What is trained, on samples float32 [b h w c] under "image": images in [-1, 1], or latents."""

    loss: LossFn
    held_out: HeldOutError
    error: str
    """What the held-out error is, in words."""
    sample: Sampler
    sampling: str
    """How samples are generated, in words."""
    frozen: Mapping[str, FrozenPart] = field(default_factory=dict)
    """Networks with fixed weights by name, which the sampler finds among its variables, and the loss and the held-out
    error in "frozen"."""
    given: Callable[[int], Mapping[str, Any]] | None = None
    """Number of samples -> conditions that evaluation asks for, where they are no classes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """The data of a generative recipe, as pixels or as latents."""

    images: Data
    space: LatentSpace | None
    """None for pixels."""
    shape: tuple[int, int, int]
    """Of what is generated: height, width, channels."""


def samples_of(config: GenerativeRunConfig) -> Samples:
    """The images of a recipe, or their latents.

    Raises ``UserError`` where the data has not what the network is conditioned on, or the first stage does not fit it.
    """
    check_data_conditions(config.model, available={"label"})
    latent = config.first_stage.path is not None
    channels = 3 if latent else config.model.channels
    images = image_data(config.data, classes=config.model.classes, channels=channels)
    if not latent:
        return Samples(images=images, space=None, shape=images.sample["image"].shape)
    space = latent_space(images, config.first_stage, option="first_stage", flip=config.flip)
    return Samples(images=images, space=space, shape=space.shape)


def generative(
    config: GenerativeRunConfig,
    network: DiffusionNetwork,
    samples: Samples,
    objective: Objective,
    *,
    evaluators: tuple[EvaluatorFactory, ...] = (),
    evaluation_only: tuple[str, ...] = EVALUATION_ONLY,
    copies: tuple[str, ...] = (),
    of_samples: Callable[[Generator], EvaluatorFactory] | None = None,
    sampling: Callable[[Generator], Callable[[Compiler], Sample]] | None = None,
    editing: Callable[[Generator], Callable[[Compiler], Edit]] | None = None,
) -> Experiment:
    """The experiment: optimizer, averages, evaluation and sampling of an objective.

    Args:
      config: of the run.
      network: what is trained.
      samples: what is generated.
      objective: the loss, the held-out error and the sampler.
      evaluators: further ones.
      evaluation_only: fields of the configuration that change evaluation and sampling only.
      copies: names of collections that begin as copies of the parameters, such as a teacher's.
      of_samples: evaluation of the generator, in place of :func:`samples_evaluation`.
      sampling: generates samples on request, where conditions are not classes.
      editing: edits images on request.
    """
    images, space = samples.images, samples.space
    loss = space.loss(objective.loss) if space else preprocessed(objective.loss, scaled(flip=config.flip))
    rate = learning_rate(config.optimizer, steps=config.steps, batch_size=config.batch_size)
    optimizer = optax.chain(
        clipped(config.optimizer.clip), optax.adam(rate, b1=config.optimizer.b1, b2=config.optimizer.b2)
    )
    step = gradient(accumulate(loss, config.microbatches), optimizer)
    step = projected(step, network.onto) if network.onto is not None else step
    decays = {"ema": config.ema, **{f"ema_{decay:g}": decay for decay in config.extra_emas}}

    def variables(key: jax.Array) -> Any:
        image = jnp.zeros((1, *samples.shape))
        condition = {
            name: jnp.zeros(shape, jnp.int32 if name in ("label", "tokens") else jnp.float32)
            for name, shape in condition_shapes(config.model, image.shape).items()
        }
        params = network.module.init(key, image, jnp.ones((1,)), condition, train=False)["params"]
        params = network.onto(params) if network.onto is not None else params
        copied = {name: jax.tree.map(jnp.copy, params) for name in copies}
        return {"params": params, **copied, **(space.variables() if space else {})}

    with_state = space is not None or bool(objective.frozen)

    def held_out(values: Any, batch: Any, *, key: jax.Array) -> Any:
        batch = space.encoded(values, batch, key=key) if space else {**batch, "image": to_float(batch["image"])}
        return objective.held_out(values, batch, key=key)

    generator = generator_of(config, samples, objective)
    evaluation = combine(
        held_out_loss(
            held_out,
            space.data if space else images,
            {
                "mse" if name == "ema" else f"mse_{name}": (
                    functools.partial(averaged_variables, name=name, with_state=with_state),
                    f"EMA {decay}",
                )
                for name, decay in decays.items()
            },
            batch_size=config.evaluation_batch,
            limit=config.held_out,
            description=objective.error,
        ),
        (of_samples or samples_evaluation(config, samples))(generator),
        *evaluators,
    )
    return assemble(
        config,
        variables=variables,
        step=step,
        optimizer=optimizer,
        averages={name: warmed_up(decay) for name, decay in decays.items()},
        data=space.data if space else images,
        evaluation=evaluation,
        generator=generator,
        requests=None if sampling is None else sampling(generator),
        editing=None if editing is None else editing(generator),
        weights=WeightsSource(folder=network.folder, excluded=(*copies, *((STATE,) if space else ()))),
        statistics=space.statistics if space else None,
        frozen={**({NAME: space.stage.frozen} if space else {}), **objective.frozen},
        caches=space.caches if space else (),
        snapshots=config.snapshots,
        rules=network.rules,
        evaluation_only=evaluation_only,
    )


def generator_of(config: GenerativeRunConfig, samples: Samples, objective: Objective) -> Generator:
    """The sampler of an objective as a generator of images."""
    space = samples.space

    def sample(values: Any, condition: Any, index: jax.Array, key: jax.Array, /) -> jax.Array:
        frozen = {name: values["frozen"][name] for name in objective.frozen}
        made = objective.sample({"params": values["params"], **frozen}, condition, index, key)
        return to_uint8(space.decode(values, made) if space else made)

    return Generator(
        sample=sample,
        variables=functools.partial(averaged_variables, with_state=space is not None or bool(objective.frozen)),
        classes=config.model.classes,
        description=f"{objective.sampling}, EMA {config.ema}",
        given=objective.given,
    )


def samples_evaluation(config: GenerativeRunConfig, samples: Samples) -> Callable[[Generator], EvaluatorFactory]:
    """(generator) -> a grid of its images, their class accuracy, and distances to real images.

    The features of real images are computed once for all generators.
    """
    metrics = metrics_of_generators(
        config.metrics, data=samples.images, images=config.data, labelled=config.model.classes > 0
    )
    grid = functools.partial(
        sample_grid_evaluator, data=config.data, count=config.samples, classified=config.classified
    )
    return lambda generator: combine(grid(generator), metrics(generator))


def averaged_variables(state: TrainState, name: str = "ema", *, with_state: bool = False) -> Mapping[str, Any]:
    """The averaged parameters of a state; with what latents are scaled and decoded by, and frozen networks."""
    return {"params": state.ema[name], **(state.model_state if with_state else {})}
