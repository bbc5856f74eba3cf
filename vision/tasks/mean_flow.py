"""MeanFlow (Geng et al. 2025, arXiv:2505.13447): a network of average velocities, which samples in one step or a few.

On the straight line z_t = (1 - t) x + t e with velocity v = e - x, the average velocity from r to t is u(z_t, r, t) =
1 / (t - r) times the integral of the marginal velocity over [r, t] (equation 3), and satisfies u = v - (t - r) du/dt
(equation 6), where d/dt is the derivative along the path: v d/dz + d/dt. The right side is the target of training.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Interval
from jaxtyping import Array, Bool, Float

from vision.diffusion.conditions import Conditioning
from vision.diffusion.continuous import Flow
from vision.diffusion.guidance import static_threshold
from vision.diffusion.samplers.heun import euler
from vision.diffusion.samplers.plan import integrate
from vision.diffusion.training_times import training_times
from vision.errors import UserError
from vision.ranges import Decay, FiniteFloat, Fraction, PositiveFloat, PositiveInt, check_ranges
from vision.tasks.diffusion import HeldOutError, Variables
from vision.types import Condition, LossFn, Sampler

PROCESS = Flow()
GROUP = 4
"""Neighbours in the batch of which some have r < t."""


@dataclass(frozen=True)
class MeanFlowConfig:
    """The loss. The defaults are the paper's for CIFAR-10 but for guidance, which it uses on ImageNet."""

    apart: Annotated[int, Interval(ge=1, le=4)] = 1
    """Of every four samples, this many are trained with r < t, the others with r = t, where u is the velocity: 1 as in
    the paper's ablations, 3 in its recipe for CIFAR-10."""
    time_mean: FiniteFloat = -0.4
    """Mean of logit t and logit r (table 1d)."""
    time_deviation: PositiveFloat = 1.0
    """Their standard deviation."""
    power: Fraction = 1.0
    """Exponent p of the adaptive weight 1 / (error + c)^p of each sample (equation 22); 0 for the plain squared
    error."""
    offset: PositiveFloat = 1e-3
    """The c of the adaptive weight."""
    guidance: PositiveFloat = 1.0
    """Scale of classifier-free guidance that the network learns, omega of equation 19: it then samples as if guided,
    with one evaluation a step; 1 for none. Unused without conditions."""
    guidance_mixing: Decay = 0.0
    """Share of the guided velocity that is what the network holds for the conditional one in place of e - x of the
    sample, kappa of equation 21: the same scale with less variance, for one more evaluation."""
    guidance_range: tuple[Fraction, Fraction] = (0.0, 1.0)
    """Times, lower and upper, between which the velocity is guided; the paper's large models have 0 and 0.75. Near
    time 1, guidance drives colours out of range."""
    tangent: Literal["data", "network"] = "data"
    """Velocity along which u is differentiated: e - x of the sample, or what the network holds for the marginal
    velocity at that point, u(z_t, t, t) (Geng et al. 2025b, arXiv:2512.02012, "Improved Mean Flows")."""
    prediction: Literal["velocity", "x0"] = "velocity"
    """What the network's output is: u itself, or an image x from which u = (z_t - x) / t; the latter lets networks with
    large patches leave out the noise that they would otherwise copy (Li & He 2025, arXiv:2511.13720)."""
    condition_dropout: Fraction = 0.1
    """Share of samples trained without their conditions. Unused without conditions."""


@dataclass(frozen=True)
class MeanFlowSamplingConfig:
    """How images are sampled."""

    steps: PositiveInt = 1
    """Network evaluations an image."""
    threshold: Literal["none", "static"] = "static"
    """What keeps images in range: static clips estimates of the clean image to [-1, 1]."""


def check(config: MeanFlowConfig, *, conditioning: Conditioning, batch_size: int) -> None:
    """Raise ``UserError`` where settings cannot go together or a value is out of range.

    Args:
      config: of the loss.
      conditioning: of the network.
      batch_size: of training, that of a microbatch.
    """
    check_ranges(config)
    if batch_size % GROUP:
        raise UserError(f"MeanFlow divides batches by {GROUP}, and a batch has {batch_size} images: choose a multiple")
    if config.guidance_range[0] >= config.guidance_range[1]:
        raise UserError("the first time of mean_flow.guidance_range must be below the second")
    if conditioning and config.guidance != 1.0 and config.condition_dropout == 0.0:
        raise UserError(
            "mean_flow.guidance needs a network that is trained without conditions too: set "
            "mean_flow.condition_dropout above 0, or mean_flow.guidance 1"
        )


def average_velocity(
    model: nn.Module, config: MeanFlowConfig, variables: Variables, condition: Condition, **options: Any
) -> Any:
    """The network as u (z [b h w c], t [b], t - r [b]) of images, times and durations in [0, 1].

    The network is called with both times 1000, and finds the second one in its condition "duration".
    """

    def u(z: Array, time: Array, duration: Array) -> Array:
        seen = {**condition, "duration": PROCESS.network_time(duration)}
        output = model.apply(variables, z, PROCESS.network_time(time), seen, **options)
        assert isinstance(output, jax.Array)  # apply returns a pair only where state is mutable
        if config.prediction == "x0":
            # at least a twentieth, as there: u of the cleanest images would be of any size
            return (z - output) / jnp.maximum(time, 0.05)[:, None, None, None]
        return output

    return u


def mean_flow_loss(model: nn.Module, config: MeanFlowConfig, *, conditioning: Conditioning) -> LossFn:
    """The loss of a network with the call ``model(z, time, condition, train=...)`` (algorithm 1).

    Of every four neighbours in the batch the first ``config.apart`` have r < t; their target is differentiated in
    forward mode. Batches hold "image" float32 [b h w c] in [-1, 1] and the conditions.
    """

    def loss(params, model_state, batch, *, key, step):
        del step
        keys = jax.random.split(key, 6)
        image, count = batch["image"], batch["image"].shape[0]
        first, second = (
            training_times(
                PROCESS, "log_normal", count, mean=config.time_mean, deviation=config.time_deviation, key=keys[number]
            )
            for number in (0, 1)
        )
        eps = jax.random.normal(keys[2], image.shape)
        given = conditioning.of(batch)
        without = jax.random.bernoulli(keys[3], config.condition_dropout, (count,))
        condition = conditioning.replaced(given, without)
        options = {"train": True, "rngs": {"dropout": keys[4]}}
        apart = jnp.arange(count) % GROUP < config.apart
        time = jnp.where(apart, jnp.maximum(first, second), first)
        duration = jnp.where(apart, time - jnp.minimum(first, second), 0.0)
        z = (1.0 - time)[:, None, None, None] * image + time[:, None, None, None] * eps
        velocity = eps - image
        if conditioning and config.guidance != 1.0:
            velocity = jnp.where(
                _where_guided(config, time, without)[:, None, None, None],
                jax.lax.stop_gradient(_guided(model, config, params, conditioning, given, z, time, velocity, options)),
                velocity,
            )

        def of(places: slice):
            pick = lambda value: _neighbours(value, places)
            conditions = {name: pick(value) for name, value in condition.items()}
            u = average_velocity(model, config, {"params": params}, conditions, **options)
            return u, pick(z), pick(time), pick(duration), pick(velocity)

        u, z_apart, t, length, v = of(slice(config.apart))
        tangent = v
        if config.tangent == "network":
            tangent = jax.lax.stop_gradient(u(z_apart, t, jnp.zeros_like(t)))
        # with r fixed, t - r changes as t does
        average, along = jax.jvp(u, (z_apart, t, length), (tangent, jnp.ones_like(t), jnp.ones_like(t)))
        target = v - length[:, None, None, None] * along
        error = _squared(average, target)
        if config.apart < GROUP:
            u, z_same, t, none, v = of(slice(config.apart, GROUP))
            error = jnp.concatenate([error, _squared(u(z_same, t, none), v)])
        weight = jax.lax.stop_gradient((error + config.offset) ** -config.power)
        return jnp.mean(weight * error), (model_state, {"mse": jnp.mean(error) / image[0].size})

    return loss


def _guided(model, config, params, conditioning, given, z, time, velocity, options) -> Array:
    """The guided velocity omega v + kappa u(z, t, t | c) + (1 - omega - kappa) u(z, t, t) (equation 21).

    ``config.guidance`` is the scale that this has in effect, omega / (1 - kappa).
    """
    kappa = config.guidance_mixing
    omega = config.guidance * (1.0 - kappa)

    def now(condition: Condition) -> Array:
        return average_velocity(model, config, {"params": params}, condition, **options)(z, time, jnp.zeros_like(time))

    guided = omega * velocity + (1.0 - omega - kappa) * now(conditioning.null(given))
    return guided + kappa * now(given) if kappa else guided


def _where_guided(config: MeanFlowConfig, time: Float[Array, " b"], without: Bool[Array, " b"]) -> Bool[Array, " b"]:
    """Samples with conditions, as one without is its own unconditional one, at times in the range."""
    low, high = config.guidance_range
    return ~without & (time >= low) & (time <= high)


def _squared(found: Array, target: Array) -> Float[Array, " b"]:
    """Squared errors of samples, summed over an image; nothing flows into the target."""
    return jnp.sum((found - jax.lax.stop_gradient(target)) ** 2, axis=(1, 2, 3))


def _neighbours(values: Array, places: slice) -> Array:
    """The rows at these places of every group of neighbours."""
    groups = values.reshape(values.shape[0] // GROUP, GROUP, *values.shape[1:])
    return groups[:, places].reshape(-1, *values.shape[1:])


def held_out_error(model: nn.Module, config: MeanFlowConfig, *, conditioning: Conditioning) -> HeldOutError:
    """The error of the velocity, u at r = t, on images not trained on, under their true conditions.

    Under guidance the network learns another velocity than that of the data, and this error has a floor of its own.
    """

    def evaluate(variables, batch, *, key):
        image, mask = batch["image"], batch["mask"]
        time_key, noise_key = jax.random.split(key)
        time = training_times(
            PROCESS,
            "log_normal",
            image.shape[0],
            mean=config.time_mean,
            deviation=config.time_deviation,
            key=time_key,
        )
        eps = jax.random.normal(noise_key, image.shape)
        z = (1.0 - time)[:, None, None, None] * image + time[:, None, None, None] * eps
        u = average_velocity(model, config, variables, conditioning.of(batch), train=False)
        error = jnp.mean((u(z, time, jnp.zeros_like(time)) - (eps - image)) ** 2, axis=(1, 2, 3))
        return jnp.sum(jnp.where(mask, error, 0.0)), jnp.sum(mask)

    return evaluate


def mean_flow_sampler(
    model: nn.Module, config: MeanFlowConfig, sampling: MeanFlowSamplingConfig, *, image_shape: tuple[int, int, int]
) -> Sampler:
    """The function that generates images of ``image_shape`` (h, w, c) (algorithm 2): z_r = z_t - (t - r) u(z_t, r, t).

    With n steps the times are 1, 1 - 1/n, ..., 0. Sample i depends on (key, index[i], condition i) alone.
    """
    times = PROCESS.times(sampling.steps)
    plan = euler(PROCESS, times)
    durations = -np.diff(np.append(times, 0.0))

    def sample(variables, condition, index, key):
        u = average_velocity(model, config, variables, condition, train=False)

        def denoise(noisy: Array, time: Array) -> Array:
            # Euler's step from t to r by the estimate z - t u is the one by u
            place = jnp.argmin(jnp.abs(jnp.asarray(times, jnp.float32) - time[0]))
            length = jnp.broadcast_to(jnp.asarray(durations, jnp.float32)[place], time.shape)
            return noisy - time[:, None, None, None] * u(noisy, time, length)

        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
        start = jax.vmap(lambda k: jax.random.normal(k, image_shape))(keys)
        threshold = static_threshold() if sampling.threshold == "static" else None
        return integrate(plan, denoise, start, index=index, threshold=threshold)

    return sample
