"""Classifier-free guidance (Ho & Salimans 2022) and the step from a network to a denoiser."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vision.diffusion.parameterization import Prediction, to_x0_and_eps
from vision.diffusion.samplers import Denoiser
from vision.diffusion.schedules import NoiseSchedule

Images = Float[Array, "b h w c"]

# (x_t, t [b], labels [b] or None) -> the network's output
Predictor = Callable[[Images, Int[Array, " b"], Int[Array, " b"] | None], Images]


def guided(
    predict: Predictor, *, labels: Int[Array, " b"], null_label: int, scale: float
) -> Callable[[Images, Int[Array, " b"]], Images]:
    """Extrapolate from the unconditional towards the conditional output.

    Ho & Salimans 2022, eq. 6, with ``scale`` = 1 + w: 1 is the conditional network alone, which then runs once
    instead of twice a step; 0 the unconditional one. The rule is linear in the output and x_t is shared, so it is
    the same rule for epsilon, x_0 and v.
    """
    if scale == 1.0:
        return lambda noisy, time: predict(noisy, time, labels)

    def both(noisy: Images, time: Int[Array, " b"]) -> Images:
        nulls = jnp.full_like(labels, null_label)
        output = predict(
            jnp.concatenate([noisy, noisy]), jnp.concatenate([time, time]), jnp.concatenate([labels, nulls])
        )
        conditional, unconditional = jnp.split(output, 2)
        return unconditional + scale * (conditional - unconditional)

    return both


def denoiser(
    output: Callable[[Images, Int[Array, " b"]], Images], schedule: NoiseSchedule, prediction: Prediction
) -> Denoiser:
    """The estimates of (x_0, eps) that samplers ask for, from a network's output at (x_t, t)."""

    def denoise(noisy: Images, time: Int[Array, " b"]) -> tuple[Images, Images]:
        signal, noise = schedule.at(time)
        return to_x0_and_eps(prediction, output(noisy, time), noisy, signal=signal, noise=noise)

    return denoise
