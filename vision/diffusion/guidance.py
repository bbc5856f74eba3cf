"""Guidance of denoisers, by conditions and by worse networks, and what keeps guided estimates in range."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from vision.diffusion.parameterization import DATA_DEVIATION, Prediction, to_x0
from vision.diffusion.process import Process
from vision.diffusion.samplers.plan import Denoiser, Threshold
from vision.types import Condition

Images = Float[Array, "b h w c"]

Estimates = Float[Array, "b h w out"]
"""Estimates of x_0, and places of a learned variance after them along the channels."""

Predictor = Callable[[Images, Num[Array, " b"], Condition], Images]
"""(x_t scaled by c_in, c_noise [b], condition) -> the network's output."""

ConditionalDenoiser = Callable[[Images, Num[Array, " b"], Condition], Estimates]
"""(x_t, t [b], condition) -> estimate of x_0; see ``Denoiser``."""

Interval = tuple[float, float]
"""Lower and upper sigma."""


def denoiser(
    predict: Predictor,
    process: Process,
    prediction: Prediction,
    *,
    data_deviation: float = DATA_DEVIATION,
    variance: bool = False,
) -> ConditionalDenoiser:
    """The estimate of x_0 that samplers need, from a network's output: D of Karras et al. 2022, equation 7.

    Args:
      predict: the network.
      process: whose x_t and times the denoiser is given.
      prediction: what the network predicts.
      data_deviation: of the images, where the network was trained with it.
      variance: whether ``predict`` has twice the channels and the second half is used: -1 to 1 is the place of the log
        variance between its bounds, as published (Nichol & Dhariwal 2021). It follows the estimate, from 0 to 1.
    """

    def denoise(noisy: Images, time: Num[Array, " b"], condition: Condition) -> Estimates:
        signal, noise = process.at(time)
        output = predict(
            input_scale(process, signal, noise, data_deviation=data_deviation) * noisy,
            process.network_time(time),
            condition,
        )
        output, place = output[..., : noisy.shape[-1]], output[..., noisy.shape[-1] :]
        estimate = to_x0(prediction, output, noisy, signal=signal, noise=noise, data_deviation=data_deviation)
        return jnp.concatenate([estimate, 0.5 * (place + 1.0)], axis=-1) if variance else estimate

    return denoise


def input_scale(
    process: Process, signal: Array, noise: Array, *, data_deviation: float = DATA_DEVIATION
) -> Array | float:
    """c_in of Karras et al. 2022, table 1: what makes x_t one in variance; 1 where the process preserves variance."""
    if process.preserves_variance:
        return 1.0
    return 1.0 / jnp.sqrt(noise**2 + (signal * data_deviation) ** 2)


def guided(
    denoise: ConditionalDenoiser,
    *,
    condition: Condition,
    null: Condition,
    scale: float,
    process: Process | None = None,
    interval: Interval = (0.0, np.inf),
    rescale: float = 0.0,
) -> Denoiser:
    """Classifier-free guidance: extrapolate from the unconditional towards the conditional estimate.

    Ho & Salimans 2022, eq. 6, with ``scale`` = 1 + w: 1 is the conditional network by itself, which then runs once
    instead of twice a step; 0 the unconditional one. The rule is linear and x_t is shared, so it is the same rule for
    estimates of x_0 as for the network's outputs, whatever they predict. A learned variance is the conditional one.

    Args:
      denoise: the network, for batches of b samples and of 2 b.
      condition: arrays [b ...] by name.
      null: the same names, shapes and dtypes, with the values that mean "none".
      scale: the guidance scale.
      process: needed for an interval.
      interval: sigmas, lower and upper, between which guidance is applied (Kynkäänniemi et al. 2024): outside of them
        the conditional network runs by itself, once.
      rescale: phi of Lin et al. 2024, section 3.4: the share by which the estimate's deviation over an image is brought
        back to that of the conditional one; 0 for none.
    """
    of: dict[str, Any] = {"process": process, "interval": interval, "rescale": rescale}
    return guided_in_turn(denoise, conditions=(null, condition), scales=(scale,), **of)


def guided_in_turn(
    denoise: ConditionalDenoiser,
    *,
    conditions: Sequence[Condition],
    scales: Sequence[float],
    process: Process | None = None,
    interval: Interval = (0.0, np.inf),
    rescale: float = 0.0,
) -> Denoiser:
    """Guidance by several conditions with scales of their own, one added after the other.

    D(c_0) + sum over i of s_i (D(c_i) - D(c_{i-1})), which is equation 3 of Brooks et al. 2023 ("InstructPix2Pix") for
    three conditions: nothing, an image, the image and a text.

    Args:
      denoise: the network, for batches of b samples and of as many times b as there are conditions.
      conditions: from the least to the most, with equal names, shapes and dtypes; the last are those of the samples.
      scales: one for each but the first. Where the first ones are 1, the estimates before them are not needed.
      process: needed for an interval.
      interval: sigmas between which guidance is applied, see :func:`guided`.
      rescale: see :func:`guided`.
    """
    first = next((index for index, scale in enumerate(scales) if scale != 1.0), len(scales))
    conditions, scales, condition = conditions[first:], scales[first:], conditions[-1]
    if not scales:
        return lambda noisy, time: denoise(noisy, time, condition)
    count = len(conditions)

    def both(noisy: Images, time: Num[Array, " b"]) -> Estimates:
        most_first = conditions[::-1]
        stacked = {name: jnp.concatenate([each[name] for each in most_first]) for name in condition}
        estimate = denoise(jnp.concatenate([noisy] * count), jnp.concatenate([time] * count), stacked)
        estimate, place = estimate[..., : noisy.shape[-1]], estimate[: len(noisy), ..., noisy.shape[-1] :]
        conditional, *less = jnp.split(estimate, count)
        estimates = [*less[::-1], conditional]
        found = estimates[0]
        for before, after, scale in zip(estimates, estimates[1:], scales, strict=False):
            found = found + scale * (after - before)
        if rescale == 0.0:
            return jnp.concatenate([found, place], axis=-1)
        deviation = lambda images: jnp.std(images, axis=(1, 2, 3), keepdims=True)
        # Lin et al. 2024, equations 15 and 16
        found = found * (rescale * deviation(conditional) / deviation(found) + (1.0 - rescale))
        return jnp.concatenate([found, place], axis=-1)

    if interval == (0.0, np.inf):
        return both
    if process is None:
        raise ValueError("an interval of sigmas needs the process that gives them")

    def within(noisy: Images, time: Num[Array, " b"]) -> Estimates:
        signal, noise = process.scales(time[:1].astype(jnp.float32))
        inside = (noise > interval[0] * signal) & (noise <= interval[1] * signal)  # of a batch, which has one time
        return jax.lax.cond(inside[0], both, lambda noisy, time: denoise(noisy, time, condition), noisy, time)

    return within


def guided_by_text_and_image(
    denoise: ConditionalDenoiser, *, condition: Condition, null: Condition, scale: float, image_scale: float
) -> Denoiser:
    """Guidance of a network that edits the condition "image" by an instruction, with a scale for each.

    Brooks et al. 2023, equation 3: the network runs without both, with the image alone, and with both, as one batch of
    three times the size. A learned variance is that with both.

    Args:
      denoise: the network.
      condition: arrays [b ...] by name, among them "image".
      null: the same names, shapes and dtypes, with the values that mean "none".
      scale: of what the other conditions change; 1 with ``image_scale`` 1 is the conditional network.
      image_scale: of what the image changes.
    """
    with_image = {**null, "image": condition["image"]}
    return guided_in_turn(denoise, conditions=(null, with_image, condition), scales=(image_scale, scale))


def autoguided(denoise: Denoiser, guide: Denoiser, *, scale: float) -> Denoiser:
    """Extrapolate away from a worse network, one that is smaller or less trained (Karras et al. 2024b, equation 3).

    ``scale`` 1 is ``denoise`` by itself, which then runs alone. A learned variance is that of ``denoise``.
    """
    if scale == 1.0:
        return denoise

    def away(noisy: Images, time: Num[Array, " b"]) -> Estimates:
        worse, found = guide(noisy, time)[..., : noisy.shape[-1]], denoise(noisy, time)
        better, place = found[..., : noisy.shape[-1]], found[..., noisy.shape[-1] :]
        return jnp.concatenate([worse + scale * (better - worse), place], axis=-1)

    return away


def static_threshold(limit: float = 1.0) -> Threshold:
    """Clip estimates to [-limit, limit]: 1 for images."""
    return lambda x0: jnp.clip(x0, -limit, limit)


def dynamic_threshold(percentile: float) -> Threshold:
    """Dynamic thresholding (Saharia et al. 2022, section 2.3).

    Each estimate is clipped to [-s, s] and divided by s, where s is this percentile, in (0, 100], of its absolute
    values, and at least 1: estimates beyond the range of images are pulled inwards rather than saturated.
    """

    def threshold(x0: Images) -> Images:
        s = jnp.maximum(jnp.percentile(jnp.abs(x0), percentile, axis=(1, 2, 3), keepdims=True), 1.0)
        return jnp.clip(x0, -s, s) / s

    return threshold
