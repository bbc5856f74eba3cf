"""SDEdit (Meng et al. 2022): noise is added to an image up to a time, and a sampler starts from there.

The more noise, the freer the result and the less of the image is left (their section 3).
"""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key, Num

from vision.diffusion.editing.strength import diffused, last_times
from vision.diffusion.process import Process
from vision.diffusion.samplers.plan import Denoiser, Plan, Threshold, integrate

Images = Float[Array, "b h w c"]


def sdedit(
    denoise: Denoiser,
    process: Process,
    times: Num[np.ndarray, " n"],
    image: Images,
    *,
    strength: float,
    plan: Callable[[Process, Num[np.ndarray, " k"]], Plan],
    key: Key[Array, ""],
    index: Int[Array, " b"] | None = None,
    threshold: Threshold | None = None,
) -> Images:
    """Algorithm 1 of Meng et al. 2022, for any sampler.

    Args:
      denoise: estimates of x_0 under the condition that the result should have.
      process: of the denoiser.
      times: decreasing times of sampling from pure noise.
      image: pixels in [-1, 1], or latents.
      strength: t_0 of the paper as a share of ``times``: 0 returns the image, 1 forgets it but for what the process
        leaves at its noisiest time.
      plan: the sampler: (process, times) -> plan, such as :func:`vision.diffusion.samplers.ddim.ddim`.
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
    return integrate(plan(process, left), denoise, start, key=walk_key, index=index, threshold=threshold)
