"""Blended diffusion (Avrahami et al. 2022): sampling under a condition inside a mask.

At every time the sample is blended with the image, noised to that time, outside of the mask. As published it is guided
by the gradient of a CLIP; here by whatever the denoiser is conditioned on. In latents it is that of Avrahami et al.
2023 ("Blended Latent Diffusion").
"""

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key, Num

from vision.diffusion.editing.composite import Weight, region
from vision.diffusion.editing.known_region import walked
from vision.diffusion.editing.strength import diffused, last_times
from vision.diffusion.process import Process
from vision.diffusion.samplers.plan import Denoiser, Threshold

Images = Float[Array, "b h w c"]


def blended(
    denoise: Denoiser,
    process: Process,
    times: Num[np.ndarray, " n"],
    image: Images,
    weight: Weight,
    *,
    strength: float = 1.0,
    eta: float = 1.0,
    key: Key[Array, ""],
    index: Int[Array, " b"] | None = None,
    threshold: Threshold | None = None,
) -> Images:
    """Algorithm 2 of Avrahami et al. 2022.

    Args:
      denoise: estimates of x_0 under the condition that the inside of the mask should have.
      process: of the denoiser.
      times: decreasing times of sampling from pure noise.
      image: pixels in [-1, 1], or latents.
      weight: above 0 where the image may change.
      strength: share of ``times`` that are taken: below 1 something of the image is left inside the mask; 0 returns it.
      eta: noise of the steps: 1 for ancestral ones as published, 0 for DDIM.
      key: randomness.
      index: numbers of the images, on which and on the key alone the noise of each depends.
      threshold: applied to every estimate of x_0.

    Raises ``UserError`` for a strength outside of [0, 1].
    """
    left = last_times(times, strength)
    if not len(left):
        return image
    start_key, walk_key = jax.random.split(key)
    start = diffused(image, process, left[0], key=start_key, index=index)
    moves = [(place, place + 1) for place in range(len(left))]
    of = {"eta": eta, "key": walk_key, "index": index, "threshold": threshold}
    return walked(denoise, process, left, moves, start, image, region(weight), **of)
