"""What the network predicts: the noise, the clean image, or the velocity; and how one follows from another.

With x_t = a x_0 + s eps, a = signal, s = noise, a^2 + s^2 = 1:
  epsilon  the noise eps                          (Ho et al. 2020, eq. 11)
  x0       the clean image x_0
  v        the velocity a eps - s x_0             (Salimans & Ho 2022, appendix D)
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from vision.diffusion.process import Process

Prediction = Literal["epsilon", "x0", "v"]
Weighting = Literal["simple", "min_snr", "truncated_snr"]
Images = Float[Array, "b h w c"]
Scale = Float[Array, "b 1 1 1"]


def diffuse(x0: Images, eps: Images, *, signal: Scale, noise: Scale) -> Images:
    """Ho et al. 2020, eq. 4: a sample of q(x_t | x_0) from standard normal ``eps``."""
    return signal * x0 + noise * eps


def target(prediction: Prediction, x0: Images, eps: Images, *, signal: Scale, noise: Scale) -> Images:
    """What the network is trained to output."""
    match prediction:
        case "epsilon":
            return eps
        case "x0":
            return x0
        case "v":
            # Salimans & Ho 2022, appendix D: v = alpha eps - sigma x
            return signal * eps - noise * x0


def to_x0_and_eps(
    prediction: Prediction, output: Images, noisy: Images, *, signal: Scale, noise: Scale
) -> tuple[Images, Images]:
    """The estimates (x_0, eps) that an output at ``noisy`` = x_t implies.

    Division is by ``signal`` for epsilon and by ``noise`` for x0 only, so that v is stable at both ends; samplers
    clip x_0 afterwards, since at t = T an epsilon network's x_0 may be any size.
    """
    match prediction:
        case "epsilon":
            return (noisy - noise * output) / signal, output
        case "x0":
            return output, (noisy - signal * output) / noise
        case "v":
            return signal * noisy - noise * output, noise * noisy + signal * output


def loss_weight(
    weighting: Weighting,
    prediction: Prediction,
    process: Process,
    time: Num[Array, " b"],
    *,
    gamma: float = 5.0,
) -> Float[Array, " b"]:
    """Weight of each sample's mean squared error of the network's own target.

    ``simple`` is 1 for every target: for epsilon the loss L_simple of Ho et al. 2020, eq. 14. The others are weights
    of the error of the clean image: ``min_snr`` is min(SNR, gamma) (Hang et al. 2023, section 3.4), ``truncated_snr``
    is max(SNR, 1) (Salimans & Ho 2022, section 4) with the same cap, so that neither the noisiest nor the cleanest
    times rule. They are divided by SNR for epsilon and by SNR + 1 for v, because ||eps - eps'||^2 = SNR ||x - x'||^2
    and ||v - v'||^2 = (SNR + 1) ||x - x'||^2.
    """
    if weighting == "simple":
        return jnp.ones(time.shape, jnp.float32)
    snr = process.snr(time)
    clipped = jnp.minimum(snr, gamma)
    if weighting == "truncated_snr":
        clipped = jnp.maximum(clipped, 1.0)
    match prediction:
        case "epsilon":
            return clipped / snr
        case "x0":
            return clipped
        case "v":
            return clipped / (snr + 1.0)
