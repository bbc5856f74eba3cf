"""Progressive distillation (Salimans & Ho 2022, arXiv:2202.00512): half the steps of a sampler, again and again.

A student learns to do in one step of DDIM what its teacher does in two (algorithm 2), then becomes the teacher. With
1, 1/2, ... of ``first_steps`` steps, the last student samples in ``last_steps``. The first teacher is trained before,
in the same run or another; where it is guided, its students are guided with one evaluation a step (Meng et al. 2023).
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from annotated_types import Interval
from jaxtyping import Array, Float, Int, Key

from vision.diffusion.conditions import Conditioning
from vision.diffusion.guidance import denoiser, guided, input_scale, static_threshold
from vision.diffusion.parameterization import diffuse, loss_weight, target
from vision.diffusion.process import Process
from vision.diffusion.training_times import stratified
from vision.errors import UserError
from vision.ranges import NonNegativeFloat, NonNegativeInt, check_ranges
from vision.tasks.diffusion import DiffusionConfig, diffusion_loss, without_variance
from vision.tasks.sampling import predictor
from vision.types import LossFn, Params

TEACHER = "teacher"
"""The collection of the teacher's parameters."""
_Steps = Annotated[int, Interval(ge=1, le=4096)]


@dataclass(frozen=True)
class DistillationConfig:
    """The course of the distillation."""

    teacher_images: NonNegativeInt = 0
    """Images on which the network is trained as usual before it is the first teacher; 0 where ``init_from`` names
    it."""
    first_steps: _Steps = 16
    """Steps of the first student; its teacher has twice as many."""
    last_steps: _Steps = 1
    """Steps of the last student, ``first_steps`` over a power of two."""
    guidance: NonNegativeFloat = 1.0
    """Classifier-free guidance scale of the first teacher; its students learn the result. Unused without conditions."""
    clip: bool = True
    """Clip the teacher's estimates to [-1, 1]; not for latents."""

    @property
    def stages(self) -> int:
        """Number of students."""
        return int(math.log2(self.first_steps / self.last_steps)) + 1


@dataclass(frozen=True)
class Course:
    """The training steps of each part of a run."""

    teacher: int
    """Steps of usual training."""
    stage: int
    """Steps of each student; the last one has what remains."""


def check(config: DistillationConfig, diffusion: DiffusionConfig, *, conditioning: Conditioning, images: int) -> None:
    """Raise ``UserError`` where settings cannot go together or a value is out of range."""
    check_ranges(config)
    ratio = config.first_steps / config.last_steps
    if ratio < 1 or not math.log2(ratio).is_integer():
        raise UserError(
            f"distillation.last_steps {config.last_steps} is to be distillation.first_steps {config.first_steps} over "
            "a power of two: each student halves the steps"
        )
    if diffusion.schedule in ("edm", "ve"):
        raise UserError(
            f"distillation takes steps of equal time, which schedule {diffusion.schedule} does not suit: choose flow, "
            "vp or one of discrete times"
        )
    if diffusion.variance == "learned":
        raise UserError("students take deterministic steps, which have no variance: set diffusion.variance fixed")
    if diffusion.prediction in ("epsilon", "score"):
        raise UserError(
            f"diffusion.prediction {diffusion.prediction} is unstable in a few steps, since it says nothing of the "
            "image where there is no signal: distil a network of v, velocity or x0"
        )
    if config.teacher_images >= images:
        raise UserError(
            f"distillation.teacher_images {config.teacher_images:,} leaves nothing of the {images:,} images of the run "
            "for distillation: give the run more"
        )
    if conditioning and config.guidance != 1.0 and diffusion.condition_dropout == 0.0:
        raise UserError(
            "distillation.guidance needs a teacher that was trained without conditions too: set "
            "diffusion.condition_dropout above 0, or distillation.guidance 1"
        )


def course(config: DistillationConfig, *, steps: int, batch_size: int) -> Course:
    """How the steps of a run are divided: the teacher's, then equal numbers for each student.

    Raises ``UserError`` where there are fewer steps than students.
    """
    teacher = -(-config.teacher_images // batch_size)
    stage = (steps - teacher) // config.stages
    if stage < 1:
        raise UserError(f"{steps - teacher} steps are too few for {config.stages} students: give the run more images")
    return Course(teacher=teacher, stage=stage)


def distillation_loss(
    model: nn.Module,
    config: DistillationConfig,
    diffusion: DiffusionConfig,
    process: Process,
    plan: Course,
    *,
    conditioning: Conditioning,
) -> LossFn:
    """The loss of a run: that of diffusion in the teacher's steps, then the distance to two steps of the teacher.

    The model's state has the teacher's parameters in the collection "teacher"; they are replaced by the student's at
    the first step of each stage, and are no part of the gradient.
    """
    plain = diffusion_loss(model, diffusion, process, conditioning=conditioning)

    def loss(params, model_state, batch, *, key, step):
        since = step - plan.teacher
        stage = jnp.clip(since // plan.stage, 0, config.stages - 1)
        begins = (since >= 0) & (since == stage * plan.stage)
        pick = lambda new, old: jnp.where(begins, jax.lax.stop_gradient(new), old)
        teacher = jax.tree.map(pick, params, model_state[TEACHER])
        of_student = lambda: student_loss(
            model, config, diffusion, process, params, teacher, batch, stage, conditioning=conditioning, key=key
        )
        of_teacher = lambda: _value_and_error(plain(params, {}, batch, key=key, step=step))
        if plan.teacher == 0:
            value, error = of_student()
        else:
            value, error = jax.lax.cond(since < 0, of_teacher, of_student)
        steps = jnp.where(since < 0, 0.0, config.first_steps * 0.5 ** stage.astype(jnp.float32))
        return value, ({**model_state, TEACHER: teacher}, {"mse": error, "student_steps": steps})

    return loss


def _value_and_error(found: Any) -> tuple[Float[Array, ""], Float[Array, ""]]:
    value, (_, scalars) = found
    return value, scalars["mse"]


def student_loss(
    model: nn.Module,
    config: DistillationConfig,
    diffusion: DiffusionConfig,
    process: Process,
    params: Params,
    teacher: Params,
    batch: Any,
    stage: Int[Array, ""],
    *,
    conditioning: Conditioning,
    key: Key[Array, ""],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(loss, squared error of the prediction) of a student of ``first_steps`` / 2^stage steps (algorithm 2)."""
    time_key, noise_key, condition_key = jax.random.split(key, 3)
    image = batch["image"]
    count = image.shape[0]
    steps = config.first_steps * 0.5 ** stage.astype(jnp.float32)
    # the end of a step of the student's, counted from the clean image: i of N, with i uniform
    number = jnp.minimum(jnp.floor(stratified(count, key=time_key) * steps), steps - 1.0)
    span = process.noisiest - process.clean
    at = lambda share: process.clean + span * share / steps
    start, middle, end = at(number + 1.0), at(number + 0.5), at(number)
    eps = jax.random.normal(noise_key, image.shape)
    given = conditioning.of(batch)
    condition = given
    if conditioning:
        condition = conditioning.dropped(given, probability=diffusion.condition_dropout, key=condition_key)
    signal, noise = process.at(start)
    noisy = diffuse(image, eps, signal=signal, noise=noise)

    of: dict[str, Any] = {"data_deviation": diffusion.data_deviation}
    clip = static_threshold() if config.clip else lambda x0: x0
    conditional = denoiser(predictor(model, {"params": teacher}), process, diffusion.prediction, **of)
    scale = config.guidance if conditioning else 1.0
    null = conditioning.null(condition)

    def estimate(x: Array, time: Array) -> Array:
        alone = lambda: conditional(x, time, condition)
        if scale == 1.0:
            return clip(alone())
        both = lambda: guided(conditional, condition=condition, null=null, scale=scale)(x, time)
        return clip(jax.lax.cond(stage == 0, both, alone))

    def ddim(x: Array, now: Array, then: Array) -> Array:
        (a, s), (b, r) = process.at(now), process.at(then)
        x0 = estimate(x, now)
        return b * x0 + r * (x - a * x0) / s

    half = ddim(noisy, start, middle)
    whole = ddim(half, middle, end)
    # the x_0 for which one step of DDIM from start to end gives ``whole``
    b, r = process.at(end)
    ratio = r / noise
    x0 = jax.lax.stop_gradient((whole - ratio * noisy) / (b - ratio * signal))

    seen = input_scale(process, signal, noise, **of) * noisy
    output = model.apply({"params": params}, seen, process.network_time(start), condition, train=False)
    assert isinstance(output, jax.Array)
    truth = target(diffusion.prediction, x0, (noisy - signal * x0) / noise, signal=signal, noise=noise, **of)
    error = jnp.mean((without_variance(output, image.shape[-1]) - truth) ** 2, axis=(1, 2, 3))
    weight = loss_weight(diffusion.weighting, diffusion.prediction, process, start, gamma=diffusion.gamma, **of)
    return jnp.mean(weight * error), jnp.mean(error)
