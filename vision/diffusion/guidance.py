"""Classifier-free guidance (Ho & Salimans 2022) and the step from a network to a denoiser."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from vision.diffusion.parameterization import Prediction, to_x0_and_eps
from vision.diffusion.process import Process
from vision.diffusion.samplers import Denoiser
from vision.types import Condition

Images = Float[Array, "b h w c"]

Output = Callable[[Images, Num[Array, " b"]], Images]
"""(x_t, t [b]) -> the network's output."""

Predictor = Callable[[Images, Num[Array, " b"], Condition], Images]
"""(x_t, t [b], condition) -> the network's output."""


def guided(predict: Predictor, *, condition: Condition, null: Condition, scale: float) -> Output:
    """Extrapolate from the unconditional towards the conditional output.

    Ho & Salimans 2022, eq. 6, with ``scale`` = 1 + w: 1 is the conditional network by itself, which then runs once
    instead of twice a step; 0 the unconditional one. The rule is linear in the output and x_t is shared, so it is
    the same rule for epsilon, x_0 and v.

    Args:
      predict: the network, for batches of b samples and of 2 b.
      condition: arrays [b ...] by name.
      null: the same names, shapes and dtypes, with the values that mean "none".
      scale: the guidance scale.
    """
    if scale == 1.0:
        return lambda noisy, time: predict(noisy, time, condition)

    def both(noisy: Images, time: Num[Array, " b"]) -> Images:
        twice = {name: jnp.concatenate([value, null[name]]) for name, value in condition.items()}
        output = predict(jnp.concatenate([noisy, noisy]), jnp.concatenate([time, time]), twice)
        conditional, unconditional = jnp.split(output, 2)
        return unconditional + scale * (conditional - unconditional)

    return both


def denoiser(output: Output, process: Process, prediction: Prediction) -> Denoiser:
    """The estimates of (x_0, eps) that samplers need, from a network's output at (x_t, t)."""

    def denoise(noisy: Images, time: Num[Array, " b"]) -> tuple[Images, Images]:
        signal, noise = process.at(time)
        return to_x0_and_eps(prediction, output(noisy, time), noisy, signal=signal, noise=noise)

    return denoise
