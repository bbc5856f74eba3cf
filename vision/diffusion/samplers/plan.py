"""Every sampler is a table: one row for each evaluation of the network, and one ``lax.scan`` over the rows.

All samplers of this package move by sums of the current image, the image at which the step began, and the last
estimates of x_0, plus noise; they differ in the numbers. These depend on times alone, and are computed on the host in
float64 before the first evaluation. With D the denoiser, a row does

    m      = D(x, time)                                                   an estimate of x_0, clipped where asked
    base   = keep base + take x + sum_j correct[j] m_j                    the start of the next step
    x      = from_base base + from_point x + sum_j move[j] m_j + deviation z

where m_0 is the estimate just made, m_1 the one before, and z is standard normal. A sampler of one evaluation a step
has base = x; a predictor and corrector keeps the start of the step while it evaluates the predicted point. Where the
variance is learned, D gives twice the channels, of which the second half is the place v of its logarithm between two
bounds (``vision.diffusion.variational``); the deviation is then a value's own, deviation narrowest^(1 - v).
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Num

from vision.diffusion.noise import normal_rows
from vision.diffusion.process import Process
from vision.errors import UserError

Images = Float[Array, "b h w c"]

Denoiser = Callable[[Images, Num[Array, " b"]], Images]
"""(x_t, t [b]) -> estimate of x_0, float32: D(x; sigma) of Karras et al. 2022, with t in the unit of the process; of a
network whose learned variance is used, the place of its logarithm follows along the channels."""

Threshold = Callable[[Images], Images]
"""Estimate of x_0 -> the estimate that the sampler goes by, such as one clipped to the range of images."""


@dataclass(frozen=True)
class Row:
    """The numbers of one evaluation; the defaults leave ``base`` at the point itself and the point where it is."""

    keep: float = 0.0
    take: float = 1.0
    correct: tuple[float, ...] = ()
    from_base: float = 1.0
    from_point: float = 0.0
    move: tuple[float, ...] = ()
    deviation: float = 0.0
    narrowest: float = 1.0
    """The least deviation of a learned variance over ``deviation``, which is the largest; 1 where none is learned."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A sampler: when the network is evaluated, and what is done with each estimate."""

    times: Num[np.ndarray, " n"]
    """Times of the evaluations, in the unit of the process."""
    rows: tuple[Row, ...]
    """One for each of ``times``."""
    start: float
    """Standard deviation of the noise that sampling starts from."""

    @property
    def evaluations(self) -> int:
        """Evaluations of the denoiser, each of which is two of the network under guidance."""
        return len(self.rows)

    @property
    def stochastic(self) -> bool:
        """Whether noise is added on the way."""
        return any(row.deviation for row in self.rows)


def integrate(
    plan: Plan,
    denoise: Denoiser,
    start: Images,
    *,
    key: Key[Array, ""] | None = None,
    index: Int[Array, " b"] | None = None,
    threshold: Threshold | None = None,
) -> Images:
    """Follow a plan from ``start``.

    Args:
      plan: the sampler.
      denoise: estimates of x_0.
      start: x at the first time: standard normal noise times ``plan.start``, or an image to invert or to edit.
      key: randomness of the steps; needed where ``plan.stochastic``.
      index: numbers of the samples, on which and on the key alone the noise of each depends; 0 to b-1 by default.
      threshold: applied to every estimate of x_0.

    Returns:
      The last point, float32, of the shape of ``start``.
    """
    return _scan(plan, denoise, start, key=key, index=index, threshold=threshold, path=False)[0]


def path(
    plan: Plan,
    denoise: Denoiser,
    start: Images,
    *,
    key: Key[Array, ""] | None = None,
    index: Int[Array, " b"] | None = None,
    threshold: Threshold | None = None,
) -> Float[Array, "n b h w c"]:
    """The points after each of the n evaluations of :func:`integrate`, the last of which is its result."""
    return _scan(plan, denoise, start, key=key, index=index, threshold=threshold, path=True)[1]


def _scan(
    plan: Plan,
    denoise: Denoiser,
    start: Images,
    *,
    key: Key[Array, ""] | None,
    index: Int[Array, " b"] | None,
    threshold: Threshold | None,
    path: bool,
) -> tuple[Images, Any]:
    """``lax.scan`` over the rows."""
    if plan.stochastic and key is None:
        raise ValueError("this sampler adds noise: it needs a key")
    index = jnp.arange(start.shape[0]) if index is None else index
    memory = max(1, *(max(len(row.correct), len(row.move)) for row in plan.rows))
    learned = any(row.narrowest != 1.0 for row in plan.rows)
    stepwise = all(row.keep == 0.0 and row.take == 1.0 and not any(row.correct) for row in plan.rows)
    table = _table(plan, memory)

    def move(carry: tuple[Images, Images, tuple[Images, ...]], at: dict[str, Array]):
        point, base, before = carry
        found = denoise(point, jnp.broadcast_to(at["time"], (point.shape[0],)))
        estimate, place = found[..., : point.shape[-1]], found[..., point.shape[-1] :]
        estimates = (estimate if threshold is None else threshold(estimate), *before)
        if stepwise:
            moved = (at["from_base"] + at["from_point"]) * point
        else:
            base = at["keep"] * base + at["take"] * point + _combined(at["correct"], estimates)
            moved = at["from_base"] * base + at["from_point"] * point
        moved = moved + _combined(at["move"], estimates)
        if plan.stochastic:
            assert key is not None
            noise = normal_rows(jax.random.fold_in(key, at["number"]), index, point.shape[1:])
            spread = at["narrowest"] ** (1.0 - place) if learned else 1.0
            moved = moved + at["deviation"] * spread * noise
        return (moved, moved if stepwise else base, estimates[: memory - 1]), (moved if path else None)

    nothing = (jnp.zeros_like(start),) * (memory - 1)
    (point, _, _), points = jax.lax.scan(move, (start, start, nothing), table)
    return point, points


def _combined(weights: Array, estimates: Sequence[Images]) -> Images:
    """Sum of weights [k] times estimates."""
    total = weights[0] * estimates[0]
    for number, estimate in enumerate(estimates[1:], start=1):
        total = total + weights[number] * estimate
    return total


def _table(plan: Plan, memory: int) -> dict[str, Array]:
    """The rows as arrays, float32, with the coefficients of estimates filled to ``memory`` columns."""
    padded = lambda values: (*values, *(0.0,) * (memory - len(values)))
    rows = [dataclasses.replace(row, correct=padded(row.correct), move=padded(row.move)) for row in plan.rows]
    table = {
        field.name: jnp.asarray([getattr(row, field.name) for row in rows], jnp.float32)
        for field in dataclasses.fields(Row)
    }
    integers = np.issubdtype(plan.times.dtype, np.integer)
    times = jnp.asarray(plan.times, jnp.int32 if integers else jnp.float32)
    return {**table, "time": times, "number": jnp.arange(len(rows))}


def grid_scales(
    process: Process, times: Num[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n_plus_1"], Float[np.ndarray, " n_plus_1"]]:
    """(signal, noise) at decreasing times, and (1, 0), those of the clean image where samplers end.

    Raises ``UserError`` where ``times`` are empty, do not decrease, or reach the clean image.
    """
    if not len(times) or (np.diff(times) >= 0).any() or times[-1] <= process.clean:
        raise UserError(
            f"the times of a sampler decrease, and end before that of the clean image, {process.clean:g}: not {times}"
        )
    signal, noise = process.scales(np.asarray(times))
    return np.append(signal, 1.0), np.append(noise, 0.0)


def start_deviation(process: Process, times: Num[np.ndarray, " n"]) -> float:
    """Standard deviation of the noise to start from at ``times[0]``: 1 where variance is preserved, else ``noise``."""
    return 1.0 if process.preserves_variance else float(process.scales(np.asarray(times[:1], np.float64))[1][0])
