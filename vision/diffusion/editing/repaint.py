"""RePaint (Lugmayr et al. 2022): inpainting by a model that has never seen a mask.

In each step the known region gets the noise of the time and the unknown one is sampled. Both are then out of harmony,
since the known region is sampled without regard for the unknown one. Going back towards noise and forward again lets
the model see both together (their section 4.2).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Num

from vision.diffusion.editing.composite import Weight, region
from vision.diffusion.editing.known_region import walked
from vision.diffusion.noise import normal_rows
from vision.diffusion.process import Process
from vision.diffusion.samplers.plan import Denoiser, Threshold, start_deviation
from vision.errors import UserError

Images = Float[Array, "b h w c"]


def repaint_moves(steps: int, *, resamplings: int, jump: int) -> list[tuple[int, int]]:
    """The walk of algorithm 1 with the jumps of appendix B: (from, to) as places among ``steps`` times.

    Place ``steps`` is the clean image. From every ``jump``-th place that is neither clean nor within ``jump`` of the
    noisiest, the walk goes back ``jump`` places and forward again, ``resamplings`` - 1 times. With a jump of 1 every
    step is made ``resamplings`` times, but for the last (algorithm 1).

    Raises ``UserError`` unless both are at least 1.
    """
    if resamplings < 1 or jump < 1:
        raise UserError(f"resamplings and jump are at least 1, not {resamplings} and {jump}")
    left = dict.fromkeys(range(steps - 1, jump - 1, -jump), resamplings - 1)
    moves, place = [], 0
    while place < steps:
        moves.append((place, place + 1))
        place += 1
        if left.get(place, 0):
            left[place] -= 1
            moves.append((place, place - jump))
            place -= jump
    return moves


def repaint(
    denoise: Denoiser,
    process: Process,
    times: Num[np.ndarray, " n"],
    image: Images,
    weight: Weight,
    *,
    resamplings: int = 10,
    jump: int = 10,
    eta: float = 1.0,
    key: Key[Array, ""],
    index: Int[Array, " b"] | None = None,
    threshold: Threshold | None = None,
) -> Images:
    """Algorithm 1 of Lugmayr et al. 2022.

    Args:
      denoise: estimates of x_0.
      process: of the denoiser.
      times: decreasing times, the noisiest first; 250 in the paper.
      image: pixels in [-1, 1], or latents; what lies inside the mask is not looked at.
      weight: above 0 where the image is generated.
      resamplings: U of the paper (10 there): how often each step is made.
      jump: steps that are taken back at once (10 there).
      eta: noise of the steps: 1 for the ancestral ones of the paper.
      key: randomness.
      index: numbers of the images, on which and on the key alone the noise of each depends.
      threshold: applied to every estimate of x_0.

    Raises ``UserError`` where ``resamplings`` or ``jump`` is below 1.
    """
    moves = repaint_moves(len(times), resamplings=resamplings, jump=jump)
    start_key, walk_key = jax.random.split(key)
    index = jnp.arange(image.shape[0]) if index is None else index
    start = start_deviation(process, times) * normal_rows(start_key, index, image.shape[1:])
    of = {"eta": eta, "key": walk_key, "index": index, "threshold": threshold}
    return walked(denoise, process, times, moves, start, image, region(weight), **of)
