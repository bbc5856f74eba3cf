"""Sampling as a task: which sampler, on which times, under which guidance; and the sampling function of a network."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
from annotated_types import Interval
from jaxtyping import Array, Float, Int, Key

from vision.diffusion.conditions import TEXTS, Conditioning, Probabilities
from vision.diffusion.grids import Spacing, time_grid
from vision.diffusion.guidance import (
    ConditionalDenoiser,
    Predictor,
    autoguided,
    denoiser,
    dynamic_threshold,
    guided_in_turn,
    static_threshold,
)
from vision.diffusion.process import Process, sigmas
from vision.diffusion.samplers.ddim import ancestral, ddim
from vision.diffusion.samplers.heun import heun
from vision.diffusion.samplers.multistep import dpm_solver, unipc
from vision.diffusion.samplers.plan import Denoiser, Plan, Threshold, integrate
from vision.errors import UserError
from vision.ranges import Fraction, NonNegativeFloat, PositiveFloat, check_ranges
from vision.tasks.diffusion import DiffusionConfig, Variables, check_diffusion, make_process, without_variance
from vision.types import Condition, Sampler

Method = Literal["ddim", "ancestral", "heun", "dpm_solver", "dpm_solver_sde", "unipc"]
ALL_SIGMAS = (0.0, 1e6)


@dataclass(frozen=True)
class SamplingConfig:
    """How images are sampled."""

    method: Method = "ddim"
    """Sampler. ddim without noise (eta 0) is Euler's method; dpm_solver is DPM-Solver++ 2M, dpm_solver_sde its
    stochastic form."""
    steps: Annotated[int, Interval(ge=1, le=1_000_000)] = 50
    """Steps of the sampler: network evaluations an image (two with guidance), but for heun, which has 2n - 1 in n
    steps."""
    grid: Spacing = "default"
    """Times of the steps: the process's own (evenly spaced in time, for edm in sigma^(1/7)), or a spacing by name:
    leading and trailing as Lin et al. 2024 define them, karras (Karras et al. 2022), log_snr."""
    rho: PositiveFloat = 7.0
    """Exponent of the grid karras."""
    shift: PositiveFloat = 1.0
    """Factor on every sigma of the grid (Esser et al. 2024, equation 23)."""
    eta: Fraction = 0.0
    """Noise of ddim: 0 is deterministic, 1 ancestral."""
    variance: Literal["posterior", "beta", "learned"] = "posterior"
    """Variance of the steps of ancestral; learned is between the two others, by a network of ``diffusion.variance
    learned``. Unused by others."""
    order: Annotated[int, Interval(ge=1, le=3)] = 2
    """Order of unipc's predictor. Unused by others."""
    churn: NonNegativeFloat = 0.0
    """S_churn of heun (Karras et al. 2022, algorithm 2): noise added again on the way, 0 for none."""
    churn_range: tuple[NonNegativeFloat, NonNegativeFloat] = ALL_SIGMAS
    """S_min and S_max: the sigmas at which churn adds noise."""
    churn_noise: PositiveFloat = 1.0
    """S_noise: standard deviation of that noise."""
    guidance: NonNegativeFloat = 1.0
    """Classifier-free guidance scale: 1 is none. Unused without conditions."""
    text_guidance: NonNegativeFloat | None = None
    """Scale of the text by itself, for networks with another condition besides: ``guidance`` is then that of the other
    conditions, and each step takes three evaluations (Brooks et al. 2023, equation 3). None for one scale of all."""
    guidance_range: tuple[NonNegativeFloat, NonNegativeFloat] = ALL_SIGMAS
    """Sigmas (noise / signal), lower and upper, between which guidance is applied (Kynkäänniemi et al. 2024)."""
    guidance_rescale: Fraction = 0.0
    """Share by which a guided estimate's deviation is brought back to that of the conditional one (Lin et al. 2024)."""
    guide: Path | None = None
    """Autoguidance (Karras et al. 2024b): the folder of a run of a smaller or less trained network of the same task,
    away from whose estimates samples move; a guided evaluation counts as two."""
    guide_scale: NonNegativeFloat = 2.0
    """Scale of autoguidance: 1 is none. Unused without ``guide``."""
    threshold: Literal["none", "static", "dynamic"] = "static"
    """What keeps estimates of the clean image in range: static clips to [-1, 1], dynamic to a percentile that is then
    scaled to 1 (Saharia et al. 2022)."""
    limit: PositiveFloat = 1.0
    """Largest absolute value of an estimate under the static threshold: 1 for images."""
    percentile: Annotated[float, Interval(gt=0.0, le=100.0)] = 99.5
    """Percentile of the dynamic threshold."""


def make_plan(process: Process, sampling: SamplingConfig) -> Plan:
    """The sampler's plan on its times.

    Raises ``UserError`` for times that the process has not.
    """
    times = time_grid(process, sampling.grid, sampling.steps, rho=sampling.rho, shift=sampling.shift)
    match sampling.method:
        case "ddim":
            return ddim(process, times, eta=sampling.eta)
        case "ancestral":
            return ancestral(process, times, variance=sampling.variance)
        case "heun":
            return heun(
                process,
                times,
                churn=sampling.churn,
                churn_range=sampling.churn_range,
                churn_noise=sampling.churn_noise,
            )
        case "dpm_solver" | "dpm_solver_sde":
            return dpm_solver(process, times, stochastic=sampling.method == "dpm_solver_sde")
        case "unipc":
            return unipc(process, times, order=sampling.order)


def make_threshold(sampling: SamplingConfig) -> Threshold | None:
    """What is done to every estimate of the clean image; None for nothing."""
    match sampling.threshold:
        case "none":
            return None
        case "static":
            return static_threshold(sampling.limit)
        case "dynamic":
            return dynamic_threshold(sampling.percentile)


def check(
    config: DiffusionConfig,
    sampling: SamplingConfig,
    *,
    conditioning: Conditioning,
    batch_size: int | None = None,
    dropout: Probabilities | None = None,
) -> None:
    """Raise ``UserError`` where these cannot go together or a value is out of range.

    ``batch_size`` is that of training, of a microbatch, where it is known; ``dropout`` that of groups of conditions.
    """
    check_diffusion(config, batch_size=batch_size)
    check_ranges(sampling)
    if sampling.eta and sampling.method != "ddim":
        raise UserError(f"sampling.eta is for ddim, and sampling.method is {sampling.method}: leave sampling.eta 0")
    if sampling.method == "ancestral" and sampling.variance == "learned" and config.variance != "learned":
        raise UserError(
            "sampling.variance learned needs a network that was trained with diffusion.variance learned: choose "
            "posterior or beta"
        )
    if sampling.churn and sampling.method != "heun":
        raise UserError(f"sampling.churn is for heun, and sampling.method is {sampling.method}: leave sampling.churn 0")
    if sampling.limit != 1.0 and sampling.threshold != "static":
        raise UserError(
            f"sampling.limit is of the static threshold, and sampling.threshold is {sampling.threshold}: leave it 1"
        )
    for name in ("churn_range", "guidance_range"):
        low, high = getattr(sampling, name)
        if low >= high:
            raise UserError(f"sampling.{name} is a lower and an upper sigma, not {low:g} {high:g}")
    if sampling.guide is not None and conditioning and sampling.guidance != 1.0:
        raise UserError(
            "sampling.guide and sampling.guidance are two kinds of guidance: set sampling.guidance 1, or leave "
            "sampling.guide out"
        )
    make_plan(make_process(config), sampling)
    dropped = all((dropout or {"all": config.condition_dropout}).values())
    if conditioning and not dropped and (sampling.guidance != 1.0 or sampling.text_guidance not in (None, 1.0)):
        options = "diffusion.condition_dropout" if dropout is None or len(dropout) == 1 else "every dropout"
        raise UserError(
            f"sampling.guidance needs a network that was trained without conditions too: set {options} above 0, or "
            "sampling.guidance 1"
        )
    if sampling.text_guidance is not None and len(set(conditioning.nulls) - set(TEXTS) - conditioning.always) in (
        0,
        len(set(conditioning.nulls) - conditioning.always),
    ):
        raise UserError(
            "sampling.text_guidance is for networks with a text and another condition: leave it out, and set "
            "sampling.guidance"
        )


def network_evaluations(process: Process, sampling: SamplingConfig, *, conditional: bool = True) -> int:
    """Evaluations of the network for an image: of the sampler, twice where it is guided, by itself or by another.

    With a scale for texts alone, three times.
    """
    plan = make_plan(process, sampling)
    if sampling.guide is not None and sampling.guide_scale != 1.0:
        return 2 * plan.evaluations
    more = int(sampling.guidance != 1.0)
    if sampling.text_guidance is not None:
        more = 2 if more else int(sampling.text_guidance != 1.0)
    if not more or not conditional:
        return plan.evaluations
    low, high = sampling.guidance_range
    guided_at = lambda sigma: low < sigma <= high or sampling.guidance_range == ALL_SIGMAS
    return plan.evaluations + more * sum(bool(guided_at(sigma)) for sigma in sigmas(process, plan.times))


def with_evaluations(
    sampling: SamplingConfig, method: Method, most: int, config: DiffusionConfig, *, conditional: bool = True
) -> SamplingConfig | None:
    """``sampling`` by another method, with as many steps as take at most ``most`` evaluations of the network.

    Returns None where a single step takes more. Options that are of the former method alone get their defaults.
    """
    process = make_process(config)
    eta = sampling.eta if method == "ddim" else 0.0
    churn = sampling.churn if method == "heun" else 0.0
    changed = replace(sampling, method=method, eta=eta, churn=churn)
    found = None
    for steps in range(1, most + 1):
        candidate = replace(changed, steps=steps)
        if network_evaluations(process, candidate, conditional=conditional) > most:
            break
        found = candidate
    return found


def describe(sampling: SamplingConfig) -> str:
    """The sampler in a few words, for protocols."""
    grid = "" if sampling.grid == "default" else f" ({sampling.grid})"
    shift = "" if sampling.shift == 1.0 else f", shift {sampling.shift:g}"
    within = (
        "" if sampling.guidance_range == ALL_SIGMAS else " for sigma in {:g} to {:g}".format(*sampling.guidance_range)
    )
    text = "" if sampling.text_guidance is None else f", of the text {sampling.text_guidance:g}"
    guidance = f"guidance {sampling.guidance:g}{text}{within}"
    if sampling.guide is not None:
        guidance = f"autoguidance {sampling.guide_scale:g} by {sampling.guide}"
    return f"{sampling.method}, {sampling.steps} steps{grid}{shift}, {guidance}"


def sampler(
    model: nn.Module,
    config: DiffusionConfig,
    process: Process,
    sampling: SamplingConfig,
    *,
    conditioning: Conditioning,
    image_shape: tuple[int, int, int],
    guide: Callable[[Variables], ConditionalDenoiser] | None = None,
) -> Sampler:
    """The function that generates images of ``image_shape`` (h, w, c), in [-1, 1] under a threshold.

    A ``guide`` for autoguidance finds its variables in ``variables["guide"]``.
    Sample i depends on (key, index[i], condition i) alone, not on how many are sampled with it, up to rounding.
    """
    plan = make_plan(process, sampling)
    denoiser_of = guided_denoiser(model, config, process, sampling, conditioning=conditioning, guide=guide)

    def sample(variables, condition, index, key):
        start_key, walk_key = jax.random.split(key)
        start = start_noise(plan, image_shape, index=index, key=start_key)
        denoise = denoiser_of(variables, condition)
        return integrate(plan, denoise, start, key=walk_key, index=index, threshold=make_threshold(sampling))

    return sample


def guided_denoiser(
    model: nn.Module,
    config: DiffusionConfig,
    process: Process,
    sampling: SamplingConfig,
    *,
    conditioning: Conditioning,
    guide: Callable[[Variables], ConditionalDenoiser] | None = None,
) -> Callable[[Variables, Condition], Denoiser]:
    """(variables, condition) -> the guided estimate of x_0, with the place of a learned variance where it is used.

    Arguments as of :func:`sampler`.
    """
    learned = sampling.method == "ancestral" and sampling.variance == "learned"
    of: dict[str, Any] = {"data_deviation": config.data_deviation, "variance": learned}

    def denoiser_of(variables: Variables, condition: Condition) -> Denoiser:
        conditions, scales = _in_turn(condition, conditioning, sampling)
        denoise = guided_in_turn(
            denoiser(predictor(model, variables, variance=learned), process, config.prediction, **of),
            conditions=conditions,
            scales=scales,
            process=process,
            interval=sampling.guidance_range if sampling.guidance_range != ALL_SIGMAS else (0.0, float("inf")),
            rescale=sampling.guidance_rescale,
        )
        if guide is not None:
            worse = guide(variables["guide"])
            denoise = autoguided(denoise, lambda x, time: worse(x, time, condition), scale=sampling.guide_scale)
        return denoise

    return denoiser_of


def _in_turn(
    condition: Condition, conditioning: Conditioning, sampling: SamplingConfig
) -> tuple[list[Condition], list[float]]:
    """Conditions from none to all, and the scale of each step between them."""
    null = conditioning.null(condition)
    if not conditioning:
        return [condition], []
    if sampling.text_guidance is None:
        return [null, condition], [sampling.guidance]
    texts = [name for name in TEXTS if name in condition]
    return [null, conditioning.null(condition, texts), condition], [sampling.guidance, sampling.text_guidance]


def start_noise(
    plan: Plan, image_shape: tuple[int, int, int], *, index: Int[Array, " n"], key: Key[Array, ""]
) -> Float[Array, "n h w c"]:
    """Where a plan starts: noise that is a function of (key, index[i]) for each sample."""
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
    start = jax.vmap(lambda k: jax.random.normal(k, image_shape))(keys)
    return plan.start * start if plan.start != 1.0 else start


def predictor(model: nn.Module, variables: Variables, *, variance: bool = False) -> Predictor:
    """The network as (noisy, time, condition) -> output, without dropout; with a predicted variance where asked for."""

    def predict(noisy, time, condition):
        output = model.apply(variables, noisy, time, condition, train=False)
        assert isinstance(output, jax.Array)  # apply returns a pair only where state is mutable
        return output if variance else without_variance(output, noisy.shape[-1])

    return predict
