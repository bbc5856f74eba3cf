"""What the network predicts, how one prediction follows from another, and how their errors compare.

With x_t = a x_0 + s eps, a = signal, s = noise, every prediction is F = p x_0 + q eps for two numbers of the time:

  epsilon   (0, 1)                    the noise (Ho et al. 2020, eq. 11)
  x0        (1, 0)                    the clean image
  v         (-s, a)                   the velocity of Salimans & Ho 2022, appendix D, for a^2 + s^2 = 1
  velocity  (-1, 1)                   eps - x_0, the velocity of a flow (Liu et al. 2023, eq. 1, with time reversed)
  score     (0, -1/s)                 the gradient of log p(x_t | x_0) = -eps / s (Song et al. 2021)
  edm       (s/d, -a d) / r           F of Karras et al. 2022, eq. 7, with d = data deviation and r^2 = s^2 + a^2 d^2

So x_t and F are two equations for x_0 and eps, with determinant a q - s p.
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from vision.diffusion.process import Process, snr

Prediction = Literal["epsilon", "x0", "v", "velocity", "score", "edm"]
Weighting = Literal["simple", "min_snr", "truncated_snr", "epsilon", "x0", "v", "velocity", "edm"]
Images = Float[Array, "b h w c"]
Scale = Float[Array, "b 1 1 1"]

DATA_DEVIATION = 0.5
"""Standard deviation of images in [-1, 1], as Karras et al. 2022 assume it."""


def diffuse(x0: Images, eps: Images, *, signal: Scale, noise: Scale) -> Images:
    """Ho et al. 2020, eq. 4: a sample of q(x_t | x_0) from standard normal ``eps``."""
    return signal * x0 + noise * eps


def coefficients(
    prediction: Prediction, *, signal: Scale, noise: Scale, data_deviation: float = DATA_DEVIATION
) -> tuple[Scale, Scale]:
    """(p, q) of the table above."""
    one = jnp.ones_like(signal)
    match prediction:
        case "epsilon":
            return 0.0 * one, one
        case "x0":
            return one, 0.0 * one
        case "v":
            # Salimans & Ho 2022, appendix D: v = alpha eps - sigma x
            return -noise, signal
        case "velocity":
            return -one, one
        case "score":
            return 0.0 * one, -1.0 / noise
        case "edm":
            # F = (x_0 - c_skip x_t) / c_out with c_skip = a d^2 / r^2 and c_out = s d / r, which are those of Karras et
            # al. 2022, table 1, for a = 1: p = (1 - c_skip a) / c_out = s / (d r), q = -c_skip s / c_out = -a d / r
            r = jnp.sqrt(noise**2 + (signal * data_deviation) ** 2)
            return noise / (data_deviation * r), -signal * data_deviation / r


def target(
    prediction: Prediction,
    x0: Images,
    eps: Images,
    *,
    signal: Scale,
    noise: Scale,
    data_deviation: float = DATA_DEVIATION,
) -> Images:
    """What the network is trained to output."""
    match prediction:
        case "epsilon":
            return eps
        case "x0":
            return x0
        case "velocity":
            return eps - x0
    p, q = coefficients(prediction, signal=signal, noise=noise, data_deviation=data_deviation)
    return p * x0 + q * eps


def to_x0(
    prediction: Prediction,
    output: Images,
    noisy: Images,
    *,
    signal: Scale,
    noise: Scale,
    data_deviation: float = DATA_DEVIATION,
) -> Images:
    """The estimate of x_0 that an output at ``noisy`` = x_t implies: (q x_t - s F) / (a q - s p).

    Where there is no signal, an epsilon or a score implies none: the result is not finite.
    """
    match prediction:
        case "epsilon":
            return (noisy - noise * output) / signal
        case "x0":
            return output
        case "score":
            return (noisy + noise**2 * output) / signal
    p, q = coefficients(prediction, signal=signal, noise=noise, data_deviation=data_deviation)
    return (q * noisy - noise * output) / (signal * q - noise * p)


def to_eps(
    prediction: Prediction,
    output: Images,
    noisy: Images,
    *,
    signal: Scale,
    noise: Scale,
    data_deviation: float = DATA_DEVIATION,
) -> Images:
    """The estimate of eps that an output at ``noisy`` = x_t implies: (a F - p x_t) / (a q - s p)."""
    match prediction:
        case "epsilon":
            return output
        case "score":
            return -noise * output
    p, q = coefficients(prediction, signal=signal, noise=noise, data_deviation=data_deviation)
    return (signal * output - p * noisy) / (signal * q - noise * p)


def convert(
    output: Images,
    noisy: Images,
    *,
    from_: Prediction,
    to: Prediction,
    signal: Scale,
    noise: Scale,
    data_deviation: float = DATA_DEVIATION,
) -> Images:
    """One prediction at ``noisy`` = x_t as another, at any time where both are defined."""
    if from_ == to:
        return output
    x0 = to_x0(from_, output, noisy, signal=signal, noise=noise, data_deviation=data_deviation)
    eps = to_eps(from_, output, noisy, signal=signal, noise=noise, data_deviation=data_deviation)
    return target(to, x0, eps, signal=signal, noise=noise, data_deviation=data_deviation)


def loss_weight(
    weighting: Weighting,
    prediction: Prediction,
    process: Process,
    time: Num[Array, " b"],
    *,
    gamma: float = 5.0,
    data_deviation: float = DATA_DEVIATION,
) -> Float[Array, " b"]:
    """Weight of each sample's mean squared error of the network's own target.

    ``simple`` is 1 for every target: for epsilon the loss L_simple of Ho et al. 2020, eq. 14; for edm the weights of
    Karras et al. 2022. The name of a prediction is the weight that makes the loss the error of that prediction: for a
    given x_t, F is off by (a q - s p) / s times what x_0 is off by. The others are weights of the error of the clean
    image: ``min_snr`` is min(SNR, gamma) (Hang et al. 2023, section 3.4), ``truncated_snr`` is max(SNR, 1) (Salimans &
    Ho 2022, section 4) with the same cap, so that neither the noisiest nor the cleanest times rule.
    """
    if weighting in ("simple", prediction):
        return jnp.ones(time.shape, jnp.float32)
    ratio = snr(process, time)
    if weighting not in ("min_snr", "truncated_snr"):
        of = lambda name: error_ratio(name, process, time, data_deviation=data_deviation)
        return (of(weighting) / of(prediction)) ** 2
    clipped = jnp.minimum(ratio, gamma)
    if weighting == "truncated_snr":
        clipped = jnp.maximum(clipped, 1.0)
    match prediction:
        case "epsilon":
            return clipped / ratio
        case "x0":
            return clipped
        case "v":
            return clipped / (ratio + 1.0)
    return clipped / error_ratio(prediction, process, time, data_deviation=data_deviation) ** 2


def error_ratio(
    prediction: Prediction, process: Process, time: Num[Array, " b"], *, data_deviation: float = DATA_DEVIATION
) -> Float[Array, " b"]:
    """|F - F'| / |x_0 - x_0'| for two pairs (x_0, eps) that explain the same x_t: |a q - s p| / s."""
    signal, noise = process.at(time)
    p, q = coefficients(prediction, signal=signal, noise=noise, data_deviation=data_deviation)
    return jnp.abs(signal * q / noise - p)[:, 0, 0, 0]
