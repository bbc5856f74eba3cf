"""Averages of parameters by power functions, of any length after the fact (Karras et al. 2024, section 3, appendix C).

An average weights the parameters at step tau of t by a power of tau, p(tau) = (g + 1) tau^g / t^(g + 1): unlike an
exponential average it forgets the random start of a run, however long the run is. Its *length* is the standard
deviation of p relative to t, sigma_rel: 0.05 or 0.10 are usual, and at most 0.29, where all steps count alike.

During training two averages are tracked and snapshots of them kept. Each snapshot has a known profile, so that the
average of another length, at another time, is approximated by the combination of snapshots whose profile is next to
the wanted one in the sense of least squares; all inner products of profiles have a closed form. An average that is
tracked step by step is the integral of its profile over a trajectory that is constant within a step, to the last digit,
so that what is derived for continuous time holds for steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vision.types import Schedule


@dataclass(frozen=True)
class Profile:
    """The weights of an average: of what length, at the end of which step."""

    length: float
    """sigma_rel, between 0 and 0.2887."""
    step: int
    """Steps that it is an average of, at least 1."""

    @property
    def exponent(self) -> float:
        """G of tau^g."""
        return exponent_of(self.length)


def exponent_of(length: float) -> float:
    """The exponent g of the average of relative length sigma_rel, to the digits of float64.

    Karras et al. 2024, appendix C: the positive root of
    g^3 + 7 g^2 + (16 - sigma_rel^-2) g + (12 - sigma_rel^-2).

    Raises ``ValueError`` for a length that is not between 0 and 12 ** -0.5 = 0.2887.
    """
    if not 0.0 < length <= 12**-0.5:
        raise ValueError(f"an average by a power function has a length between 0 and {12**-0.5:.4f}, not {length}")
    inverse = float(length) ** -2
    roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    return max(float(roots.real.max()), 0.0)


def length_of(exponent: float) -> float:
    """The inverse of :func:`exponent_of`: sigma_rel of the profile with the exponent g, at least 0."""
    # sigma_rel = (g + 1)^(1/2) (g + 2)^-1 (g + 3)^(-1/2)
    return float(np.sqrt((exponent + 1.0) / (exponent + 3.0)) / (exponent + 2.0))


def power_decay(length: float) -> Schedule:
    """Beta of the step counted from 0, a decay of ``vision.train.step.averaged``, for the average of a length.

    Karras et al. 2024, appendix C: beta(t) = (1 - 1/t)^(g + 1), with t counted from 1. The first is 0: nothing of the
    random start is left.
    """
    power = exponent_of(length) + 1.0

    def decay(step: Int[Array, ""]) -> Float[Array, ""]:
        # by logarithms: 1 - 1/t has few digits where t is large
        return jnp.exp(power * jnp.log1p(-1.0 / (step.astype(jnp.float32) + 1.0)))

    return decay


def inner_products(some: Sequence[Profile], others: Sequence[Profile]) -> Float[np.ndarray, "n m"]:
    """Integrals of products of profiles, in steps^-1, float64.

    Karras et al. 2024, algorithm 3: (g_a + 1) (g_b + 1) / (g_a + g_b + 1) (t_a / t_b)^g_b / t_b for t_a <= t_b.
    """
    exponent_a, step_a = (column[:, None] for column in _columns(some))
    exponent_b, step_b = _columns(others)
    first = step_a <= step_b
    last = np.maximum(step_a, step_b)
    ratio = np.minimum(step_a, step_b) / last
    power = np.where(first, exponent_b, exponent_a)
    return (exponent_a + 1) * (exponent_b + 1) / (exponent_a + exponent_b + 1) * ratio**power / last


def combination(stored: Sequence[Profile], wanted: Profile) -> tuple[Float[np.ndarray, " n"], float]:
    """How averages are combined so that their profile is next to the wanted one.

    Karras et al. 2024, algorithm 3, and one condition more: the coefficients have the sum 1, so that parameters which
    stand still stay what they are. Without it few snapshots make all parameters a few percent smaller, which only a
    network with normalised weights does not notice.

    Args:
      stored: profiles of the averages that there are.
      wanted: profile of the average to approximate.

    Returns:
      (coefficients, error): float64, one for each of ``stored``, of either sign and with the sum 1; and the distance of
      the two profiles relative to the wanted one: 0 where it is among those stored.

    Raises ``ValueError`` where nothing is stored.
    """
    if not stored:
        raise ValueError("there is no stored average to combine")
    if wanted in stored:
        return np.eye(len(stored))[list(stored).index(wanted)], 0.0
    # profiles of length 1 in the sense of the inner product: those of different times differ by orders of magnitude
    size = np.sqrt(np.diag(inner_products(stored, stored)))
    norm = np.sqrt(inner_products([wanted], [wanted])[0, 0])
    gram = inner_products(stored, stored) / np.outer(size, size)
    target = inner_products(stored, [wanted])[:, 0] / (size * norm)
    sums = norm / size
    solved, *_ = np.linalg.lstsq(gram, np.stack([target, sums], axis=1))
    found, towards = solved.T
    found = found + (1.0 - sums @ found) / (sums @ towards) * towards  # by a Lagrange multiplier
    error = np.sqrt(max(1.0 - 2.0 * found @ target + found @ gram @ found, 0.0))
    return found * sums, float(error)


def _columns(profiles: Sequence[Profile]) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Exponents and steps."""
    exponents = {length: exponent_of(length) for length in {profile.length for profile in profiles}}
    return (
        np.array([exponents[profile.length] for profile in profiles], np.float64),
        np.array([profile.step for profile in profiles], np.float64),
    )
