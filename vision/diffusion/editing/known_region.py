"""Sampling inside a mask while the region around it is known: the step that RePaint and blended diffusion share.

After each step towards the image, what lies outside of the mask is replaced by the original with the noise of that time
(Song et al. 2021, appendix I.2). A step back adds the noise again, so that both regions can be brought into harmony.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Num

from vision.diffusion.noise import normal_rows
from vision.diffusion.process import Process
from vision.diffusion.samplers.ddim import posterior_deviation
from vision.diffusion.samplers.plan import Denoiser, Threshold, grid_scales

Images = Float[Array, "b h w c"]
Region = Float[Array, "#b h w 1"]
"""1 where the image is generated, 0 where it is known."""


def walked(
    denoise: Denoiser,
    process: Process,
    times: Num[np.ndarray, " n"],
    moves: Sequence[tuple[int, int]],
    start: Images,
    image: Images,
    unknown: Region,
    *,
    eta: float = 1.0,
    key: Key[Array, ""],
    index: Int[Array, " b"] | None = None,
    threshold: Threshold | None = None,
) -> Images:
    """Follow moves between the times of a sampler.

    Args:
      denoise: estimates of x_0.
      process: of the denoiser.
      times: decreasing times; place n, after the last, is the clean image.
      moves: (from, to) as places in ``times``: to the next place is a step of the sampler, to an earlier one adds
        noise.
      start: x at the first place.
      image: what is known.
      unknown: where it is not.
      eta: noise of a step of the sampler: 1 for ancestral steps with the posterior's variance, 0 for DDIM.
      key: randomness.
      index: numbers of the images, on which and on the key alone the noise of each depends.
      threshold: applied to every estimate of x_0.

    Returns:
      x at the last place, with ``image`` outside of the mask where that is the clean image.
    """
    signal, noise = grid_scales(process, times)
    index = jnp.arange(start.shape[0]) if index is None else index
    table = _table(times, signal, noise, moves, eta)

    def step(point: Images, at: dict[str, Array]) -> tuple[Images, None]:
        own_key, known_key = jax.random.split(jax.random.fold_in(key, at["number"]))
        own = normal_rows(own_key, index, point.shape[1:])
        known = normal_rows(known_key, index, point.shape[1:])

        def towards_image(point: Images) -> Images:
            estimate = denoise(point, jnp.broadcast_to(at["time"], (point.shape[0],)))[..., : point.shape[-1]]
            estimate = estimate if threshold is None else threshold(estimate)
            # Song et al. 2021 ("DDIM"), equation 12
            eps = (point - at["signal"] * estimate) / at["noise"]
            made = at["to_signal"] * estimate + at["direction"] * eps + at["spread"] * own
            # Lugmayr et al. 2022, equations 8a and 8c
            given = at["to_signal"] * image + at["to_noise"] * known
            return unknown * made + (1.0 - unknown) * given

        def towards_noise(point: Images) -> Images:
            # q(x_t | x_s) for s before t: Lugmayr et al. 2022, algorithm 1, line 10
            return at["ratio"] * point + at["added"] * own

        return jax.lax.cond(at["down"], towards_image, towards_noise, point), None

    return jax.lax.scan(step, start, table)[0]


def _table(
    times: Num[np.ndarray, " n"],
    signal: Float[np.ndarray, " n_plus_1"],
    noise: Float[np.ndarray, " n_plus_1"],
    moves: Sequence[tuple[int, int]],
    eta: float,
) -> dict[str, Array]:
    """The numbers of each move, computed in float64."""
    source, goal = (np.array(places) for places in zip(*moves, strict=True))
    down = goal == source + 1
    if not (down | (goal < source)).all():
        raise ValueError("a move goes to the next place, or back to an earlier one")
    a, s, to_a, to_s = signal[source], noise[source], signal[goal], noise[goal]
    spread = np.zeros(len(moves))
    spread[down] = eta * posterior_deviation(a[down], s[down], to_a[down], to_s[down])
    ratio = to_a / np.where(a > 0.0, a, 1.0)
    added = np.sqrt(np.maximum(to_s**2 - (ratio * s) ** 2, 0.0))
    columns = {
        "signal": a,
        "noise": np.where(down, s, 1.0),
        "to_signal": to_a,
        "to_noise": to_s,
        "direction": np.sqrt(np.maximum(to_s**2 - spread**2, 0.0)),
        "spread": spread,
        "ratio": ratio,
        "added": added,
    }
    kind = jnp.int32 if np.issubdtype(times.dtype, np.integer) else jnp.float32
    visited = np.asarray(times)[np.minimum(source, len(times) - 1)]
    table = {name: jnp.asarray(values, jnp.float32) for name, values in columns.items()}
    return {**table, "time": jnp.asarray(visited, kind), "down": jnp.asarray(down), "number": jnp.arange(len(moves))}
