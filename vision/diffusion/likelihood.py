"""Likelihood of images under a diffusion model: by its probability-flow equation, and by a variational bound.

The two are not the same number. The equation transports the density of the deterministic sampler, whose divergence is
estimated (Song et al. 2021, section 4.3; Grathwohl et al. 2019); the bound is on the density of the stochastic one
(Kingma et al. 2021). Both are for one noise of the estimators each; averaged over images they are unbiased.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from vision.diffusion.parameterization import diffuse
from vision.diffusion.process import Process, sigmas
from vision.diffusion.samplers.plan import Denoiser, start_deviation
from vision.diffusion.training_times import stratified
from vision.errors import UserError

Images = Float[Array, "b h w c"]

LEVELS = 256
"""Values of a channel in 8 bits; their distance in [-1, 1] is 2 / 255."""
BIN = 2.0 / (LEVELS - 1)


def flow_log_density(
    denoise: Denoiser,
    process: Process,
    image: Images,
    *,
    times: Float[np.ndarray, " n"],
    key: Key[Array, ""],
    probes: Literal["rademacher", "normal"] = "rademacher",
) -> Float[Array, " b"]:
    """Ln p(x) in nats of images under the probability-flow equation, at the earliest of ``times``.

    In y = x / c and u = s / c the equation is dy/du = (y - D) / u (``vision.diffusion.samplers.heun``), and ln p(y)
    changes by minus the trace of the right side's derivative (Chen et al. 2018, theorem 1), which Hutchinson's
    estimator takes from one probe an image: v' (df/dy) v with E[v v'] = 1 (Grathwohl et al. 2019, equation 7). Both
    are integrated by Heun's method on the grid.

    Args:
      denoise: estimates of x_0.
      process: of the denoiser.
      image: x_0 in [-1, 1], with noise that makes it continuous (:func:`dequantized`). It is taken for x at
        ``times[-1]``, where noise / signal should be well below the distance of two levels.
      times: decreasing times, from the noisiest on.
      key: of the probes.
      probes: their distribution; of Rademacher's, entries are 1 or -1.

    Raises:
      UserError: ``times`` do not decrease.
    """
    if len(times) < 2 or (np.diff(times) >= 0).any():
        raise UserError(f"the times of a likelihood decrease, and are at least two: not {times}")
    times = np.asarray(times, np.float64)[::-1]
    signal, noise = process.scales(times)
    scale = signal + noise if process.straight or signal[-1] == 0.0 else signal
    u = noise / scale
    shape, dims = image.shape, math.prod(image.shape[1:])
    of = jax.random.rademacher if probes == "rademacher" else jax.random.normal
    probe = of(key, shape, jnp.float32)

    def derivative(y: Images, time: Array, c: Array, at: Array) -> tuple[Images, Float[Array, " b"]]:
        slope = lambda y: (y - denoise(c * y, jnp.broadcast_to(time, shape[:1]))) / at
        value, along = jax.jvp(slope, (y,), (probe,))
        return value, jnp.sum(along * probe, axis=(1, 2, 3))

    def move(carry, step):
        y, trace = carry
        now, then, width = step["now"], step["then"], step["width"]
        first, first_trace = derivative(y, *now)
        second, second_trace = derivative(y + width * first, *then)
        return (y + 0.5 * width * (first + second), trace + 0.5 * width * (first_trace + second_trace)), None

    points = tuple(jnp.asarray(values, jnp.float32) for values in (times, scale, u))
    steps = {
        "now": tuple(values[:-1] for values in points),
        "then": tuple(values[1:] for values in points),
        "width": jnp.asarray(np.diff(u), jnp.float32),
    }
    # x_0 stands for x at the earliest time: the density of y there is asked for at x_0 / c
    (y, trace), _ = jax.lax.scan(move, (image / points[1][0], jnp.zeros(shape[0])), steps)
    deviation = start_deviation(process, times[::-1]) / scale[-1]
    squares = jnp.sum((y / deviation) ** 2, axis=(1, 2, 3))
    of_noise = -0.5 * squares - dims * (math.log(deviation) + 0.5 * math.log(2.0 * math.pi))
    return of_noise + trace - dims * math.log(scale[0])


def dequantized(image: Images, *, key: Key[Array, ""]) -> Images:
    """Images of 256 levels in [-1, 1] with uniform noise over the width of a level (Theis et al. 2016)."""
    return image + BIN * (jax.random.uniform(key, image.shape) - 0.5)


def bits_per_dimension(log_density: Float[Array, " b"], dims: int) -> Float[Array, " b"]:
    """Bits a channel of dequantised images in [-1, 1], from ln p(x) in nats: -log2 p(x), times the width of a level."""
    return -(log_density / dims + math.log(BIN)) / math.log(2.0)


def variational_bound(
    denoise: Denoiser,
    process: Process,
    image: Images,
    *,
    samples: int = 1,
    levels: int = LEVELS,
    key: Key[Array, ""],
) -> dict[str, Float[Array, " b"]]:
    """An upper bound on -ln P(x) in nats of images of ``levels`` values in [-1, 1] (Kingma et al. 2021, equation 11).

    Three terms, whose sum is "bound":
      "prior": KL(q(x_T | x_0) || the noise that sampling starts from), in closed form;
      "diffusion": -1/2 E[ d SNR / dt |x_0 - D|^2 ] over times (equation 17), with ln SNR uniform between its ends, so
      that it is (ln SNR_0 - ln SNR_T) / 2 E|eps - eps'|^2;
      "reconstruction": -ln P(x_0 | x at the earliest time), each channel's level with a probability in proportion to
      the density of x_t given it.

    Args:
      denoise: estimates of x_0.
      process: of the denoiser; integer-timed networks are evaluated at real times.
      image: x_0 of ``levels`` values in [-1, 1].
      samples: times and noises for each image, stratified.
      levels: number of values of a channel.
      key: of times and noise.
    """
    count, axes = image.shape[0], (1, 2, 3)
    time_key, noise_key, end_key = jax.random.split(key, 3)
    ends = np.asarray([process.noisiest, process.earliest], np.float64)
    (_, first_signal), (_, first_noise) = process.scales(ends)
    # without a signal SNR is 0 and its logarithm infinite: the little below a millionth is left out
    high, low = np.log(np.minimum(sigmas(process, ends), 1e3))
    uniform = stratified(count * samples, key=time_key).reshape(samples, count)

    def squared(number: Int[Array, ""]) -> Float[Array, " b"]:
        eps = jax.random.normal(jax.random.fold_in(noise_key, number), image.shape)
        sigma = jnp.exp(low + (high - low) * uniform[number])
        time = process.time_at(sigma)
        signal, noise = process.at(time)
        estimate = denoise(diffuse(image, eps, signal=signal, noise=noise), time)
        return jnp.sum(((signal / noise) * (image - estimate)) ** 2, axis=axes)

    errors = jax.lax.map(squared, jnp.arange(samples))
    diffusion = (high - low) * jnp.mean(errors, axis=0)

    prior = prior_divergence(process, image)
    values = jnp.linspace(-1.0, 1.0, levels)
    spread = float(first_noise / first_signal)
    seen = image + spread * jax.random.normal(end_key, image.shape)
    logits = -0.5 * ((seen[..., None] - values) / spread) ** 2
    level = jnp.round((image + 1.0) * (levels - 1) / 2.0).astype(jnp.int32)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), level[..., None], axis=-1)[..., 0]
    reconstruction = -jnp.sum(chosen, axis=axes)
    return {
        "bound": prior + diffusion + reconstruction,
        "prior": prior,
        "diffusion": diffusion,
        "reconstruction": reconstruction,
    }


def prior_divergence(process: Process, image: Images) -> Float[Array, " b"]:
    """KL(q(x_T | x_0) || the noise that sampling starts from) in nats, in closed form."""
    last = np.asarray([process.noisiest], np.float64)
    (signal,), (noise,) = process.scales(last)
    deviation = start_deviation(process, last)
    variance = (noise / deviation) ** 2
    mean_squares = jnp.sum((signal / deviation * image) ** 2, axis=(1, 2, 3))
    return 0.5 * (mean_squares + math.prod(image.shape[1:]) * (variance - 1.0 - math.log(variance)))
