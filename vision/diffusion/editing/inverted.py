"""Edits from the noise of an image: DDIM's inversion under one condition, sampling under another.

The noise that DDIM turns into an image (Song et al. 2021, section 4.3) keeps its layout. Sampled under another
condition it becomes another image of that layout, as far as the inversion is exact; how far it is, the reconstruction
under the first condition says.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from vision.diffusion.editing.strength import last_times, times_with_signal
from vision.diffusion.process import Process
from vision.diffusion.samplers.ddim import ddim, inversion
from vision.diffusion.samplers.plan import Denoiser, Threshold, integrate

Images = Float[Array, "b h w c"]


class Inverted(NamedTuple):
    """What an edit by inversion gives."""

    edited: Images
    """Sampled under the condition that the result should have."""
    reconstruction: Images
    """Sampled under the condition of the inversion: the image, but for the error of the inversion."""


def inverted(
    source: Denoiser,
    target: Denoiser,
    process: Process,
    times: Num[np.ndarray, " n"],
    image: Images,
    *,
    strength: float = 1.0,
    iterations: int = 1,
    threshold: Threshold | None = None,
) -> Inverted:
    """Invert ``image`` with ``source`` and sample from there with ``target``.

    Args:
      source: estimates of x_0 under the condition that describes the image, unguided.
      target: estimates of x_0 under the condition that the result should have, perhaps guided.
      process: of both.
      times: decreasing times of sampling; those without any signal are left out.
      image: pixels in [-1, 1], or latents.
      strength: share of ``times``, from the clean image on, up to which the image is inverted; 0 returns it.
      iterations: evaluations of each step of the inversion, see ``vision.diffusion.samplers.ddim.inversion``.
      threshold: applied to the estimates of x_0 of both samplers, but not in the inversion, whose steps it would make
        impossible to take back.

    Raises ``UserError`` for a strength outside of [0, 1], or less than one iteration.
    """
    left = times_with_signal(process, last_times(times, strength))
    if not len(left):
        return Inverted(image, image)
    noise = integrate(inversion(process, left, iterations=iterations), source, image)
    plan = ddim(process, left)
    sampled = lambda denoise: integrate(plan, denoise, noise, threshold=threshold)
    return Inverted(edited=sampled(target), reconstruction=sampled(source))


def reconstruction_error(image: Images, reconstruction: Images) -> Float[Array, " b"]:
    """Root mean square difference of each image, in levels of 0..255 for images in [-1, 1]."""
    return 127.5 * jnp.sqrt(jnp.mean(jnp.square(image - reconstruction), axis=(1, 2, 3)))
