"""The weight of a loss at each noise level, learned with the network (Karras et al. 2024, section 2.2).

Kendall et al. 2018, "Multi-Task Learning Using Uncertainty to Weigh Losses": noise levels are tasks, and each loss is
divided by its learned variance, so that all noise levels contribute gradients of about one magnitude throughout
training. The log-variance is a continuous function of the noise level: one layer on Fourier features of c_noise.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from vision.nn.magnitude_preserving import mp_fourier


class NoiseUncertainty(nn.Module):
    """u(sigma), the logarithm of the expected loss at a noise level; 0 at initialisation."""

    features: int = 128

    @nn.compact
    def __call__(self, time: Num[Array, " b"]) -> Float[Array, " b"]:
        """From c_noise, as the network is given it, in float32."""
        # zeros and not a normalised weight: all levels begin with one weight, and u is not bounded
        kernel = self.param("kernel", nn.initializers.zeros, (self.features,))
        return mp_fourier(time, self.features) @ kernel / math.sqrt(self.features)


def uncertainty_weighted(error: Float[Array, " b"], log_variance: Float[Array, " b"]) -> Float[Array, " b"]:
    """Of each sample's weighted squared error, error / exp(u) + u: least where u is the log of the expected error.

    Karras et al. 2024, section 2.2. There the gradient of ``error`` is divided by the expected error, and its
    magnitude is that of a loss of 1.
    """
    return error * jnp.exp(-log_variance) + log_variance
