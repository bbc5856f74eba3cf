"""Diffusion as a task: the process and what is predicted, the training loss, the error on held-out images."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
from annotated_types import Interval
from jaxtyping import Array, Float, Int, Key, Num

from vision.diffusion.conditions import Conditioning, Probabilities
from vision.diffusion.continuous import EDM, Flow, VarianceExploding, VariancePreserving
from vision.diffusion.guidance import input_scale
from vision.diffusion.likelihood import LEVELS
from vision.diffusion.parameterization import (
    DATA_DEVIATION,
    Prediction,
    Weighting,
    diffuse,
    loss_weight,
    target,
    to_x0,
)
from vision.diffusion.process import Process
from vision.diffusion.schedules import NoiseSchedule, ScheduleName, make_schedule, zero_terminal_snr
from vision.diffusion.training_times import TimeDistribution, training_times
from vision.diffusion.transport import coupled_noise
from vision.diffusion.variational import reverse_steps, variational_term
from vision.errors import UserError
from vision.nn.noise_uncertainty import uncertainty_weighted
from vision.ranges import FiniteFloat, Fraction, PositiveFloat, check_ranges
from vision.types import Batch, Condition, LossFn, Params

Variables = Mapping[str, Params]
"""The variables of a network: {"params": ...}."""

BOUND_SHARE = 1e-3
"""Weight of the variational bound where a variance is learned: lambda of Nichol & Dhariwal 2021, section 3.1."""

ContinuousName = Literal["flow", "edm", "vp", "ve"]


@runtime_checkable
class HeldOutError(Protocol):
    """The error on images that were not trained on, in a form that adds up over batches."""

    def __call__(
        self, variables: Variables, batch: Batch, *, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], Int[Array, ""]]:
        """(variables, batch with "mask" bool [b]) -> (sum of squared errors, their number), both where mask."""
        ...


@dataclass(frozen=True)
class DiffusionConfig:
    """The diffusion process and its loss. The defaults are Ho et al. 2020, but for stratified times."""

    schedule: ScheduleName | ContinuousName = "linear"
    """Noise schedule: in discrete times linear, scaled_linear (of released latent diffusion models), cosine or sigmoid;
    in continuous time flow (a straight line; flow matching), edm (Karras et al. 2022), vp or ve (Song et al. 2021)."""
    steps: Annotated[int, Interval(ge=1, le=1_000_000)] = 1000
    """Number of diffusion times T of discrete schedules. Unused in continuous time."""
    zero_terminal_snr: bool = False
    """Rescale a discrete schedule so that its last time has no signal (Lin et al. 2024)."""
    prediction: Prediction = "epsilon"
    """What the network predicts."""
    weighting: Weighting = "simple"
    """Weight of each diffusion time in the loss."""
    gamma: PositiveFloat = 5.0
    """Cap on the signal-to-noise ratio of the weightings by it."""
    times: TimeDistribution = "uniform"
    """Distribution of times in training: uniform, or with ln sigma (sigma = noise / signal) normal, which for a flow is
    the logit-normal distribution."""
    time_mean: FiniteFloat = -1.2
    """Mean of ln sigma: -1.2 for edm (Karras et al. 2022), 0 for flows (Esser et al. 2024)."""
    time_deviation: PositiveFloat = 1.2
    """Standard deviation of ln sigma: 1.2 and 1 there."""
    shift: PositiveFloat = 1.0
    """Factor on every sigma in training (Esser et al. 2024, equation 23); ``sampling.shift`` is that in sampling."""
    data_deviation: PositiveFloat = DATA_DEVIATION
    """Standard deviation of images in [-1, 1], for edm as a prediction and where x_t is scaled for the network."""
    transport: Annotated[int, Interval(ge=0, le=1024)] = 0
    """Minibatch optimal transport: noise is assigned to images within groups of this size (Tong et al. 2024); 0 for
    independent noise."""
    variance: Literal["fixed", "learned"] = "fixed"
    """Whether the network predicts the variance of ancestral steps too, trained by the variational bound (Nichol &
    Dhariwal 2021); for discrete schedules. ``sampling.variance learned`` samples with it."""
    condition_dropout: Fraction = 0.1
    """Share of samples trained without their conditions, for classifier-free guidance. Unused without conditions."""


def make_process(config: DiffusionConfig) -> Process:
    """The process that a configuration names, with its published constants.

    Raises ``UserError`` for a discrete schedule that is too short, or a rescaled one in continuous time.
    """
    match config.schedule:
        case "flow" | "edm" | "vp" | "ve":
            if config.zero_terminal_snr:
                raise UserError(f"diffusion.zero_terminal_snr is for discrete schedules, not {config.schedule}")
            kinds = {"flow": Flow, "edm": EDM, "vp": VariancePreserving, "ve": VarianceExploding}
            return kinds[config.schedule]()
        case _:
            schedule = make_schedule(config.schedule, config.steps)
            return zero_terminal_snr(schedule) if config.zero_terminal_snr else schedule


def check_diffusion(config: DiffusionConfig, *, batch_size: int | None = None) -> None:
    """Raise ``UserError`` where settings cannot go together or a value is out of range.

    Args:
      config: of the process and the loss.
      batch_size: of training, that of a microbatch, where it is known.
    """
    check_ranges(config)
    process = make_process(config)
    if config.schedule == "edm" and config.times == "uniform":
        raise UserError(
            "diffusion.times uniform would train schedule edm on large sigmas almost alone: set diffusion.times "
            "log_normal"
        )
    if not process.preserves_variance and config.prediction in ("v", "velocity"):
        raise UserError(
            f"diffusion.prediction {config.prediction} grows with the noise of schedule {config.schedule}: predict "
            "edm, which is v with a scale for this, x0 or epsilon"
        )
    no_signal = config.schedule == "flow" or config.zero_terminal_snr
    if no_signal and config.prediction in ("epsilon", "score"):
        raise UserError(
            f"diffusion.prediction {config.prediction} says nothing of the image where there is no signal, as at the "
            "last time of this process: predict v, velocity, x0 or edm"
        )
    if config.weighting == "truncated_snr" and config.prediction in ("epsilon", "score"):
        raise UserError(
            "diffusion.weighting truncated_snr divides by the signal-to-noise ratio for epsilon, which is almost 0 at "
            "the last times: predict x0 or v, or weight by simple or min_snr"
        )
    if config.variance == "learned" and (
        not isinstance(process, NoiseSchedule) or config.times != "uniform" or config.shift != 1.0
    ):
        raise UserError(
            "diffusion.variance learned is trained by a bound over all discrete times: it needs a discrete "
            "diffusion.schedule, diffusion.times uniform and diffusion.shift 1"
        )
    if config.transport == 1:
        raise UserError("diffusion.transport 1 assigns each noise to its own image: use groups of 2 or more, or 0")
    if config.transport and batch_size is not None and batch_size % config.transport:
        raise UserError(f"diffusion.transport {config.transport} must divide the batch of {batch_size} images")


def diffusion_loss(
    model: nn.Module,
    config: DiffusionConfig,
    process: Process,
    *,
    conditioning: Conditioning,
    log_variance: Callable[[Params, Num[Array, " b"]], Float[Array, " b"]] | None = None,
    levels: int | None = LEVELS,
    dropout: Probabilities | None = None,
) -> LossFn:
    """The loss of a network with the call ``model(noisy, time, condition, train=...)``.

    Batches hold "image" float32 [b h w c] in [-1, 1] and the conditions; a share ``config.condition_dropout`` of
    samples is trained without them (Ho & Salimans 2022, algorithm 1), or, with ``dropout``, a share of its own without
    each group of conditions. Times are stratified over the batch
    (``vision.diffusion.training_times``).

    Ho et al. 2020, algorithm 1 and eq. 14, with targets and weights of ``parameterization``; Karras et al. 2022, eq. 8,
    for edm; Lipman et al. 2023, eq. 14, for velocity under a flow. Where the network has a ``log_variance`` of the loss
    at each c_noise, the loss is divided by it (Karras et al. 2024, section 2.2).

    For a learned variance a thousandth of the variational bound, in bits per dimension, is added, whose gradient does
    not reach the mean: L_hybrid of Nichol & Dhariwal 2021, section 3.1. Its term at the cleanest time takes images of
    ``levels`` values, or real ones for None, such as latents.
    """
    learned = reverse_steps(process) if config.variance == "learned" and isinstance(process, NoiseSchedule) else None

    def loss(params, model_state, batch, *, key, step):
        del step
        time_key, noise_key, condition_key, dropout_key = jax.random.split(key, 4)
        image = batch["image"]
        time = times_of(config, process, image.shape[0], key=time_key)
        eps = jax.random.normal(noise_key, image.shape)
        if config.transport:
            eps = coupled_noise(image, eps, group=config.transport)
        condition = conditioning.of(batch)
        if dropout is None:
            condition = conditioning.dropped(condition, probability=config.condition_dropout, key=condition_key)
        else:
            condition = conditioning.dropped_apart(condition, probabilities=dropout, key=condition_key)
        error, estimate, place = evaluated(
            model, {"params": params}, config, process, image, eps, time, condition, rngs={"dropout": dropout_key}
        )
        weight = loss_weight(
            config.weighting,
            config.prediction,
            process,
            time,
            gamma=config.gamma,
            data_deviation=config.data_deviation,
        )
        weighted = weight * error
        if log_variance is not None:
            weighted = uncertainty_weighted(weighted, log_variance(params, process.network_time(time)))
        scalars = {"mse": jnp.mean(error)}
        if learned is None:
            return jnp.mean(weighted), (model_state, scalars)
        fixed = jax.lax.stop_gradient(estimate)
        terms = variational_term(learned, image, time, fixed, place, levels=levels)
        # one term of T, in the unit of bits per dimension
        bound = len(learned.log_most) * jnp.mean(terms) / (image[0].size * math.log(2.0))
        return jnp.mean(weighted) + BOUND_SHARE * bound, (model_state, {**scalars, "bound": bound})

    return loss


def times_of(config: DiffusionConfig, process: Process, count: int, *, key: Key[Array, ""]) -> Num[Array, " count"]:
    """``count`` training times of the configured distribution."""
    return training_times(
        process,
        config.times,
        count,
        mean=config.time_mean,
        deviation=config.time_deviation,
        shift=config.shift,
        key=key,
    )


def evaluated(
    model: nn.Module,
    variables: Variables,
    config: DiffusionConfig,
    process: Process,
    image: Float[Array, "b h w c"],
    eps: Float[Array, "b h w c"],
    time: Num[Array, " b"],
    condition: Condition,
    *,
    rngs: dict[str, Key[Array, ""]] | None = None,
) -> tuple[Float[Array, " b"], Float[Array, "b h w c"], Float[Array, "b h w out"]]:
    """(mean squared error of the prediction of each sample, estimate of x_0, place of a learned log variance).

    Dropout is active when ``rngs`` are given. Of a network that predicts a variance too, with twice the channels, the
    prediction is the first half (Nichol & Dhariwal 2021); without one, the places have no channels. Raises
    ``ValueError`` where the output has another shape than the images.
    """
    signal, noise = process.at(time)
    noisy = diffuse(image, eps, signal=signal, noise=noise)
    seen = input_scale(process, signal, noise, data_deviation=config.data_deviation) * noisy
    output = model.apply(variables, seen, process.network_time(time), condition, train=rngs is not None, rngs=rngs)
    assert isinstance(output, jax.Array)  # apply returns a pair only where state is mutable
    whole, output = output, without_variance(output, image.shape[-1])
    if output.shape != image.shape:
        raise ValueError(f"the network returned an array of shape {whole.shape} for images of shape {image.shape}")
    of: dict[str, Any] = {"signal": signal, "noise": noise, "data_deviation": config.data_deviation}
    error = jnp.mean(jnp.square(output - target(config.prediction, image, eps, **of)), axis=(1, 2, 3))
    place = 0.5 * (whole[..., image.shape[-1] :] + 1.0)
    return error, to_x0(config.prediction, output, noisy, **of), place


def held_out_error(
    model: nn.Module, config: DiffusionConfig, process: Process, *, conditioning: Conditioning
) -> HeldOutError:
    """The error of a network's target on images not trained on, under their true conditions.

    The mask "mask" bool [b] leaves padding out. Noise and time are sampled from ``key``, so that equal keys make
    evaluations of different states comparable.
    """

    def evaluate(variables, batch, *, key):
        image, mask = batch["image"], batch["mask"]
        time_key, noise_key = jax.random.split(key)
        time = times_of(config, process, image.shape[0], key=time_key)
        eps = jax.random.normal(noise_key, image.shape)
        error, _, _ = evaluated(model, variables, config, process, image, eps, time, conditioning.of(batch))
        return jnp.sum(jnp.where(mask, error, 0.0)), jnp.sum(mask)

    return evaluate


def without_variance(output: Float[Array, "b h w out"], channels: int) -> Float[Array, "b h w c"]:
    """The prediction in an output of twice the channels, whose second half is of the variance; others as they are."""
    return output[..., :channels] if output.shape[-1] == 2 * channels else output
