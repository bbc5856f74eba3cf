"""Diffusion as a task: the training loss, the error on held-out images, and the sampling function of a network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
from annotated_types import Interval
from jaxtyping import Array, Float, Int, Key, Num

from vision.diffusion import samplers
from vision.diffusion.conditions import Conditioning
from vision.diffusion.guidance import denoiser, guided
from vision.diffusion.parameterization import Prediction, Weighting, diffuse, loss_weight, target
from vision.diffusion.process import Process
from vision.diffusion.schedules import NoiseSchedule, ScheduleName, make_schedule, sampling_times
from vision.errors import UserError
from vision.ranges import Fraction, NonNegativeFloat, PositiveFloat, check_ranges
from vision.types import Batch, Condition, LossFn, Params, Sampler

Variables = Mapping[str, Params]
"""The variables of a network: {"params": ...}."""


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

    schedule: ScheduleName = "linear"
    """Noise schedule."""
    steps: Annotated[int, Interval(ge=1, le=1_000_000)] = 1000
    """Number of diffusion times T."""
    prediction: Prediction = "epsilon"
    """What the network predicts."""
    weighting: Weighting = "simple"
    """Weight of each diffusion time in the loss."""
    gamma: PositiveFloat = 5.0
    """Cap on the signal-to-noise ratio of the weightings by it."""
    condition_dropout: Fraction = 0.1
    """Share of samples trained without their conditions, for classifier-free guidance. Unused without conditions."""


@dataclass(frozen=True)
class SamplingConfig:
    """How images are sampled."""

    method: Literal["ddim", "ancestral"] = "ddim"
    """Sampler."""
    steps: Annotated[int, Interval(ge=1, le=1_000_000)] = 50
    """Network evaluations an image (two with guidance)."""
    eta: Fraction = 0.0
    """Noise of DDIM: 0 is deterministic, 1 ancestral. Unused by the ancestral sampler."""
    guidance: NonNegativeFloat = 1.0
    """Classifier-free guidance scale: 1 is none. Unused without conditions."""
    variance: Literal["posterior", "beta"] = "posterior"
    """Variance of the ancestral sampler's steps. Unused by DDIM."""
    clip: bool = True
    """Clip estimates of the clean image to [-1, 1] on the way."""


def check(config: DiffusionConfig, sampling: SamplingConfig, *, conditioning: Conditioning) -> None:
    """Raise ``UserError`` where these cannot go together or a value is out of range."""
    check_ranges(config)
    check_ranges(sampling)
    make_schedule(config.schedule, config.steps)
    sampling_times(config.steps, sampling.steps)
    if conditioning and sampling.guidance != 1.0 and config.condition_dropout == 0.0:
        raise UserError(
            "sampling.guidance needs a network that was trained without conditions too: set "
            "diffusion.condition_dropout above 0, or sampling.guidance 1"
        )
    if config.weighting == "truncated_snr" and config.prediction == "epsilon":
        raise UserError(
            "diffusion.weighting truncated_snr divides by the signal-to-noise ratio for epsilon, which is almost 0 at "
            "the last times: predict x0 or v, or weight by simple or min_snr"
        )


def diffusion_loss(
    model: nn.Module, config: DiffusionConfig, schedule: NoiseSchedule, *, conditioning: Conditioning
) -> LossFn:
    """The loss of a network with the call ``model(noisy, time, condition, train=...)``.

    Batches hold "image" float32 [b h w c] in [-1, 1] and the conditions; a share ``config.condition_dropout`` of
    samples is trained without them (Ho & Salimans 2022, algorithm 1). The times are stratified over the batch: sample
    i of b samples t uniformly from the i-th of b equal parts of [0, T), in random order. Each t is still uniform, so
    the loss is unbiased, and its variance is much smaller: in the spirit of the low-discrepancy sampler of Kingma et
    al. 2021, which shares one offset.

    Ho et al. 2020, algorithm 1 and eq. 14, with targets and weights of ``parameterization``.
    """

    def loss(params, model_state, batch, *, key, step):
        del step
        time_key, noise_key, condition_key, dropout_key = jax.random.split(key, 4)
        image = batch["image"]
        time = stratified_times(image.shape[0], schedule.steps, key=time_key)
        eps = jax.random.normal(noise_key, image.shape)
        condition = conditioning.dropped(
            conditioning.of(batch), probability=config.condition_dropout, key=condition_key
        )
        error = squared_error(
            model, {"params": params}, config, schedule, image, eps, time, condition, rngs={"dropout": dropout_key}
        )
        weight = loss_weight(config.weighting, config.prediction, schedule, time, gamma=config.gamma)
        return jnp.mean(weight * error), (model_state, {"mse": jnp.mean(error)})

    return loss


def stratified_times(count: int, steps: int, *, key: Key[Array, ""]) -> Int[Array, " count"]:
    """``count`` integer times, each uniform on [0, steps), one from each of ``count`` equal parts, shuffled."""
    offset_key, order_key = jax.random.split(key)
    offsets = jax.random.uniform(offset_key, (count,))
    position = (jax.random.permutation(order_key, count) + offsets) / count
    return jnp.minimum((position * steps).astype(jnp.int32), steps - 1)


def squared_error(
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
) -> Float[Array, " b"]:
    """Mean squared error of the network's output for each sample; dropout is active when ``rngs`` are given.

    Raises ``ValueError`` where the output has another shape than the images.
    """
    signal, noise = process.at(time)
    noisy = diffuse(image, eps, signal=signal, noise=noise)
    output = model.apply(variables, noisy, time, condition, train=rngs is not None, rngs=rngs)
    assert isinstance(output, jax.Array)  # apply returns a pair only where state is mutable
    if output.shape != image.shape:
        raise ValueError(f"the network returned an array of shape {output.shape} for images of shape {image.shape}")
    truth = target(config.prediction, image, eps, signal=signal, noise=noise)
    return jnp.mean(jnp.square(output - truth), axis=(1, 2, 3))


def held_out_error(
    model: nn.Module, config: DiffusionConfig, schedule: NoiseSchedule, *, conditioning: Conditioning
) -> HeldOutError:
    """The error of a network's target on images not trained on, under their true conditions.

    The mask "mask" bool [b] leaves padding out. Noise and time are sampled from ``key``, so that equal keys make
    evaluations of different states comparable.
    """

    def evaluate(variables, batch, *, key):
        image, mask = batch["image"], batch["mask"]
        time_key, noise_key = jax.random.split(key)
        time = stratified_times(image.shape[0], schedule.steps, key=time_key)
        eps = jax.random.normal(noise_key, image.shape)
        error = squared_error(model, variables, config, schedule, image, eps, time, conditioning.of(batch))
        return jnp.sum(jnp.where(mask, error, 0.0)), jnp.sum(mask)

    return evaluate


def sampler(
    model: nn.Module,
    config: DiffusionConfig,
    schedule: NoiseSchedule,
    sampling: SamplingConfig,
    *,
    conditioning: Conditioning,
    image_shape: tuple[int, int, int],
) -> Sampler:
    """The function that generates images of ``image_shape`` (h, w, c), in [-1, 1] when ``sampling.clip``.

    Sample i depends on (key, index[i], condition i) alone, not on how many are sampled with it, up to rounding.
    """

    def sample(variables, condition, index, key):
        null = conditioning.null(condition)
        start_key, walk_key = jax.random.split(key)
        keys = jax.vmap(lambda i: jax.random.fold_in(start_key, i))(index)
        start = jax.vmap(lambda k: jax.random.normal(k, image_shape))(keys)

        def predict(noisy, time, condition):
            output = model.apply(variables, noisy, time, condition, train=False)
            assert isinstance(output, jax.Array)  # as in squared_error
            return output

        scale = sampling.guidance if conditioning else 1.0
        denoise = denoiser(guided(predict, condition=condition, null=null, scale=scale), schedule, config.prediction)
        if sampling.method == "ddim":
            return samplers.ddim(
                denoise,
                schedule,
                start,
                key=walk_key,
                steps=sampling.steps,
                index=index,
                eta=sampling.eta,
                clip=sampling.clip,
            )
        return samplers.ancestral(
            denoise,
            schedule,
            start,
            key=walk_key,
            steps=sampling.steps,
            index=index,
            variance=sampling.variance,
            clip=sampling.clip,
        )

    return sample
