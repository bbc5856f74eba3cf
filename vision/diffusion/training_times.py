"""The distribution of times in training.

Sample i of b takes its uniform number from the i-th of b equal parts of [0, 1), in random order. Each time still has
the distribution asked for, so the loss is unbiased, and its variance is much smaller: in the spirit of the
low-discrepancy sampler of Kingma et al. 2021, which shares one offset.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri
from jaxtyping import Array, Float, Int, Key, Num

from vision.diffusion.process import Process
from vision.diffusion.schedules import NoiseSchedule

TimeDistribution = Literal["uniform", "log_normal"]


def stratified(count: int, *, key: Key[Array, ""]) -> Float[Array, " count"]:
    """``count`` numbers, each uniform on [0, 1), one from each of ``count`` equal parts, shuffled."""
    offset_key, order_key = jax.random.split(key)
    offsets = jax.random.uniform(offset_key, (count,))
    return (jax.random.permutation(order_key, count) + offsets) / count


def stratified_times(count: int, steps: int, *, key: Key[Array, ""]) -> Int[Array, " count"]:
    """``count`` integer times, each uniform on [0, steps), stratified."""
    return jnp.minimum((stratified(count, key=key) * steps).astype(jnp.int32), steps - 1)


def training_times(
    process: Process,
    distribution: TimeDistribution,
    count: int,
    *,
    mean: float = 0.0,
    deviation: float = 1.0,
    shift: float = 1.0,
    key: Key[Array, ""],
) -> Num[Array, " count"]:
    """``count`` times of ``process``.

    Args:
      process: in whose unit times are.
      distribution: "uniform" in time, on the integers of a discrete process; or "log_normal", ln sigma ~ N(mean,
        deviation^2): the distribution of Karras et al. 2022, table 1, and, as logit t = ln sigma in a flow, the
        logit-normal one of Esser et al. 2024, equation 19.
      count: times.
      mean: of ln sigma.
      deviation: of ln sigma.
      shift: factor on every sigma (Esser et al. 2024, equation 23).
      key: randomness.
    """
    if distribution == "uniform" and isinstance(process, NoiseSchedule) and shift == 1.0:
        return stratified_times(count, process.steps, key=key)
    uniform = stratified(count, key=key)
    if distribution == "uniform":
        earliest = min(process.earliest, process.noisiest)
        time = earliest + (process.noisiest - earliest) * uniform
        if shift == 1.0:
            return time
        signal, noise = process.scales(time)
        sigma = shift * noise / signal
    else:
        # within the numbers that float32 tells from 0 and 1
        sigma = shift * jnp.exp(mean + deviation * ndtri(jnp.clip(uniform, 1e-6, 1.0 - 1e-6)))
    return jnp.clip(process.time_at(sigma), process.earliest, process.noisiest)
