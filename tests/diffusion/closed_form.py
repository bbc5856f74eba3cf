"""Denoisers in closed form, and a plan followed in float64 by NumPy, independently of the package's scan."""

import jax
import jax.numpy as jnp
import numpy as np

MEAN, DEVIATION = 0.4, 0.3
CENTRES = np.array([-0.8, 0.1, 0.9])
WEIGHTS = np.array([0.2, 0.5, 0.3])
SPREAD = 0.15


def gaussian(process, mean=MEAN, deviation=DEVIATION):
    """E[x_0 | x_t] for data N(mean, deviation^2)."""

    def denoise(noisy, time):
        signal, noise = process.at(time)
        gain = signal * deviation**2 / ((signal * deviation) ** 2 + noise**2)
        return mean + gain * (noisy - signal * mean)

    return denoise


def mixture(process):
    """E[x_0 | x_t] for the mixture of three Gaussians, by responsibilities."""

    def denoise(noisy, time):
        signal, noise = (scale[..., None] for scale in process.at(time))
        variance = (signal * SPREAD) ** 2 + noise**2
        apart = noisy[..., None] - signal * jnp.asarray(CENTRES, jnp.float32)
        shares = jax.nn.softmax(jnp.log(jnp.asarray(WEIGHTS, jnp.float32)) - apart**2 / (2 * variance), axis=-1)
        means = jnp.asarray(CENTRES, jnp.float32) + signal * SPREAD**2 / variance * apart
        return (shares * means).sum(-1)

    return denoise


def mixture_in_float64(noisy, signal, noise):
    """The same estimate in NumPy."""
    variance = (signal * SPREAD) ** 2 + noise**2
    apart = noisy[..., None] - signal * CENTRES
    logits = np.log(WEIGHTS) - apart**2 / (2 * variance)
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    return (shares * (CENTRES + signal * SPREAD**2 / variance * apart)).sum(-1)


def golden_network(x, time):
    """The network of ``tests/golden/make_samplers_golden.py``."""
    return np.tanh(0.8 * x + 0.3 * np.cos(time / 150.0)) + 0.2 * np.sin(time / 400.0) * x


def walk(plan, estimate, start, noises=None):
    """The points after each evaluation; ``estimate(x, number)`` is the denoiser, by the number of the evaluation."""
    point, base, estimates, points = np.asarray(start, np.float64), np.asarray(start, np.float64), [], []
    for number, row in enumerate(plan.rows):
        estimates = [estimate(point, number), *estimates]
        combined = lambda weights, found=estimates: sum(w * m for w, m in zip(weights, found, strict=False))
        base = row.keep * base + row.take * point + combined(row.correct)
        point = row.from_base * base + row.from_point * point + combined(row.move)
        if row.deviation:
            point = point + row.deviation * noises[number]
        points.append(point)
    return np.stack(points)


def walked_mixture(process, plan, start):
    """The last point of a plan for the mixture, in float64."""
    signal, noise = process.scales(np.asarray(plan.times, np.float64))
    return walk(plan, lambda x, number: mixture_in_float64(x, signal[number], noise[number]), start)[-1]
