"""How far an image goes towards noise before it comes back: the part of a sampler's times that an edit takes."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Num

from vision.diffusion.noise import normal_rows
from vision.diffusion.parameterization import diffuse
from vision.diffusion.process import Process
from vision.errors import UserError

Images = Float[Array, "b h w c"]


def last_times(times: Num[np.ndarray, " n"], strength: float) -> Num[np.ndarray, " k"]:
    """The last round(strength n) of n decreasing times: all for strength 1, none for strength 0.

    Raises ``UserError`` for a strength outside of [0, 1].
    """
    if not 0.0 <= strength <= 1.0:
        raise UserError(f"strength is the share of the steps that an edit takes, from 0 to 1, not {strength:g}")
    return times[len(times) - round(strength * len(times)) :]


def times_with_signal(process: Process, times: Num[np.ndarray, " n"]) -> Num[np.ndarray, " k"]:
    """``times`` without those at which nothing of the image is left, from which no image can be found again."""
    return times[process.scales(np.asarray(times))[0] > 0.0]


def diffused(
    image: Images,
    process: Process,
    time: Num[np.ndarray, ""] | np.number,
    *,
    key: Key[Array, ""],
    index: Int[Array, " b"] | None = None,
) -> Images:
    """A sample of q(x_t | x_0 = image) at one time; its noise is a function of (key, index[i]) for each image."""
    scales = process.scales(np.asarray([time]))
    signal, noise = (jnp.full((image.shape[0], 1, 1, 1), scale[0], jnp.float32) for scale in scales)
    index = jnp.arange(image.shape[0]) if index is None else index
    return diffuse(image, normal_rows(key, index, image.shape[1:]), signal=signal, noise=noise)
