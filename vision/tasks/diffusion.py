"""Diffusion as a task: the training loss and the sampling function of a noise-predicting network."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from vision.diffusion import samplers
from vision.diffusion.guidance import denoiser, guided
from vision.diffusion.parameterization import Prediction, Weighting, diffuse, loss_weight, target
from vision.diffusion.schedules import NoiseSchedule, ScheduleName, make_schedule
from vision.errors import UserError


@dataclass(frozen=True)
class DiffusionConfig:
    """The diffusion process and its loss. The defaults are Ho et al. 2020, but for stratified times."""

    schedule: ScheduleName = "linear"
    """Noise schedule."""
    steps: int = 1000
    """Number of diffusion times T."""
    prediction: Prediction = "epsilon"
    """What the network predicts."""
    weighting: Weighting = "simple"
    """Weight of each diffusion time in the loss."""
    gamma: float = 5.0
    """Cap on the signal-to-noise ratio of the weightings by it."""
    label_dropout: float = 0.1
    """Share of labels replaced by "no label" in training, for classifier-free guidance. Unused without classes."""


@dataclass(frozen=True)
class SamplingConfig:
    """How images are drawn."""

    method: Literal["ddim", "ancestral"] = "ddim"
    """Sampler."""
    steps: int = 50
    """Network evaluations an image (two with guidance)."""
    eta: float = 0.0
    """Noise of DDIM: 0 is deterministic, 1 ancestral. Unused by the ancestral sampler."""
    guidance: float = 1.0
    """Classifier-free guidance scale: 1 is none. Unused without classes."""
    variance: Literal["posterior", "beta"] = "posterior"
    """Variance of the ancestral sampler's steps. Unused by DDIM."""
    clip: bool = True
    """Clip estimates of the clean image to [-1, 1] on the way."""


def check(config: DiffusionConfig, sampling: SamplingConfig, *, classes: int) -> None:
    """Raise ``UserError`` where the two cannot go together or a value is out of range."""
    make_schedule(config.schedule, config.steps)
    samplers.sampling_times(config.steps, sampling.steps)
    if not 0.0 <= config.label_dropout <= 1.0:
        raise UserError(f"diffusion.label_dropout is a probability, not {config.label_dropout}")
    if not 0.0 <= sampling.eta <= 1.0:
        raise UserError(f"sampling.eta is between 0 and 1, not {sampling.eta}")
    if classes and sampling.guidance != 1.0 and config.label_dropout == 0.0:
        raise UserError(
            "sampling.guidance needs a network that was trained without labels too: set diffusion.label_dropout above "
            "0, or sampling.guidance 1"
        )
    if config.weighting == "truncated_snr" and config.prediction == "epsilon":
        raise UserError(
            "diffusion.weighting truncated_snr divides by the signal-to-noise ratio for epsilon, which is almost 0 at "
            "the last times: predict x0 or v, or weight by simple or min_snr"
        )
    if config.gamma <= 0:
        raise UserError(f"diffusion.gamma is positive, not {config.gamma}")


def null_label(model: nn.Module) -> int:
    """The label that means "no label": one past the last class."""
    return model.config.classes  # pyright: ignore[reportAttributeAccessIssue]


def diffusion_loss(model: nn.Module, config: DiffusionConfig, schedule: NoiseSchedule) -> Callable[..., Any]:
    """The LossFn of a network with the call ``model(noisy, time, label, train=...)`` and a ``config.classes``.

    Batches hold "image" float32 [b h w c] in [-1, 1] and, for a conditional network, "label" int32 [b]. The times are
    stratified over the batch: sample i of b draws t uniformly from the i-th of b equal parts of [0, T), in random
    order. Each t is still uniform, so the loss is unbiased, and its variance is much smaller: in the spirit of the
    low-discrepancy sampler of Kingma et al. 2021, which shares one offset.

    Ho et al. 2020, algorithm 1 and eq. 14, with targets and weights of ``parameterization``.
    """

    def loss(params, model_state, batch, *, key, step):
        del step
        time_key, noise_key, label_key, dropout_key = jax.random.split(key, 4)
        image = batch["image"]
        time = stratified_times(image.shape[0], schedule.steps, key=time_key)
        eps = jax.random.normal(noise_key, image.shape)
        labels = None
        if null_label(model):
            dropped = jax.random.bernoulli(label_key, config.label_dropout, batch["label"].shape)
            labels = jnp.where(dropped, null_label(model), batch["label"])
        error = squared_error(model, params, config, schedule, image, eps, time, labels, rngs={"dropout": dropout_key})
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
    params: Any,
    config: DiffusionConfig,
    schedule: NoiseSchedule,
    image: Float[Array, "b h w c"],
    eps: Float[Array, "b h w c"],
    time: Int[Array, " b"],
    labels: Int[Array, " b"] | None,
    *,
    rngs: dict[str, Key[Array, ""]] | None = None,
) -> Float[Array, " b"]:
    """Mean squared error of the network's output for each sample; dropout is active when ``rngs`` are given."""
    signal, noise = schedule.at(time)
    noisy = diffuse(image, eps, signal=signal, noise=noise)
    output = model.apply({"params": params}, noisy, time, labels, train=rngs is not None, rngs=rngs)
    assert isinstance(output, jax.Array)  # apply returns a pair only where state is mutable
    wanted = target(config.prediction, image, eps, signal=signal, noise=noise)
    return jnp.mean(jnp.square(output - wanted), axis=(1, 2, 3))


def held_out_error(model: nn.Module, config: DiffusionConfig, schedule: NoiseSchedule) -> Callable[..., Any]:
    """A function (params, batch, key=...) -> (sum of squared errors, count) on images not trained on.

    The mask "mask" bool [b] leaves padding out. Noise and time are drawn from ``key``, so that equal keys make
    evaluations of different states comparable; labels, when the network knows them, are the true ones.
    """

    def evaluate(params, batch, *, key):
        image, mask = batch["image"], batch["mask"]
        time_key, noise_key = jax.random.split(key)
        time = stratified_times(image.shape[0], schedule.steps, key=time_key)
        eps = jax.random.normal(noise_key, image.shape)
        labels = batch["label"] if null_label(model) else None
        error = squared_error(model, params, config, schedule, image, eps, time, labels)
        return jnp.sum(jnp.where(mask, error, 0.0)), jnp.sum(mask)

    return evaluate


def sampler(
    model: nn.Module,
    config: DiffusionConfig,
    schedule: NoiseSchedule,
    sampling: SamplingConfig,
    *,
    image_shape: tuple[int, int, int],
) -> Callable[..., Float[Array, "b h w c"]]:
    """A function (params, labels, key=...) -> images float32 [b h w c] in [-1, 1] when clipped.

    Image i depends on (key, i, label i) alone, not on how many are drawn, by DDIM with ``eta`` 0, up to rounding.
    ``labels`` int32 [b] also give the number of images; an unconditional network ignores their values.
    """

    def draw(params, labels, *, key):
        start_key, walk_key = jax.random.split(key)
        keys = jax.vmap(lambda i: jax.random.fold_in(start_key, i))(jnp.arange(labels.shape[0]))
        start = jax.vmap(lambda k: jax.random.normal(k, image_shape))(keys)
        conditional = null_label(model) > 0

        def predict(noisy, time, label):
            output = model.apply({"params": params}, noisy, time, label, train=False)
            assert isinstance(output, jax.Array)  # as in squared_error
            return output

        if conditional:
            output = guided(predict, labels=labels, null_label=null_label(model), scale=sampling.guidance)
        else:
            output = lambda noisy, time: predict(noisy, time, None)
        denoise = denoiser(output, schedule, config.prediction)
        if sampling.method == "ddim":
            return samplers.ddim(
                denoise,
                schedule,
                start,
                key=walk_key,
                steps=sampling.steps,
                eta=sampling.eta,
                clip=sampling.clip,
            )
        return samplers.ancestral(
            denoise,
            schedule,
            start,
            key=walk_key,
            steps=sampling.steps,
            variance=sampling.variance,
            clip=sampling.clip,
        )

    return draw
