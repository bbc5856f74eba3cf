"""Progressive distillation on Gaussians, where two steps of DDIM are known, and the course of its stages."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.diffusion.conditions import label_conditioning
from vision.errors import UserError
from vision.tasks.diffusion import DiffusionConfig, make_process
from vision.tasks.progressive_distillation import (
    TEACHER,
    Course,
    DistillationConfig,
    check,
    course,
    distillation_loss,
    student_loss,
)

NONE, LABELS = label_conditioning(0), label_conditioning(3)
MEAN, DEVIATION = 0.4, 0.3
FLOW = DiffusionConfig(schedule="flow", prediction="x0", condition_dropout=0.0)


class Line(nn.Module):
    """The estimate of x_0 for N(m, d^2) under a flow, times a parameter, plus a tenth of the label."""

    @nn.compact
    def __call__(self, noisy, time, condition, *, train):
        """Evaluate it; times are in thousandths."""
        factor = self.param("factor", nn.initializers.ones, ())
        t = time[:, None, None, None] / 1000
        gain = (1 - t) * DEVIATION**2 / (((1 - t) * DEVIATION) ** 2 + t**2)
        x0 = MEAN + gain * (noisy - (1 - t) * MEAN)
        label = condition["label"].astype(jnp.float32)[:, None, None, None] / 10 if condition else 0.0
        return factor * x0 + label


def best_estimate(z, t, factor=1.0):
    gain = (1 - t) * DEVIATION**2 / (((1 - t) * DEVIATION) ** 2 + t**2)
    return factor * (MEAN + gain * (z - (1 - t) * MEAN))


def step(z, t, r, factor=1.0):
    x0 = best_estimate(z, t, factor)
    return (1 - r) * x0 + r * (z - (1 - t) * x0) / t


@pytest.mark.parametrize("stage", [0, 2])
def test_the_target_is_two_steps_of_the_teacher(stage):
    """One step of the student by the target ends where the teacher's two do, in float64, for every sample."""
    config = DistillationConfig(first_steps=8, clip=False)
    image = MEAN + DEVIATION * jax.random.normal(jax.random.key(0), (64, 1, 1, 1))
    found = []

    class Asked(Line):
        @nn.compact
        def __call__(self, noisy, time, condition, *, train):
            """Zero for the student, remembering what it was asked."""
            found.append((np.asarray(noisy, np.float64).ravel(), np.asarray(time, np.float64) / 1000))
            return super().__call__(noisy, time, condition, train=train)

    process = make_process(FLOW)
    params = {"factor": jnp.ones(())}
    value, error = student_loss(
        Asked(),
        config,
        FLOW,
        process,
        {"factor": jnp.zeros(())},
        params,
        {"image": image},
        jnp.asarray(stage),
        conditioning=NONE,
        key=jax.random.key(1),
    )
    steps = 8 // 2**stage
    (z, t), (half, middle), (_, own) = found
    np.testing.assert_allclose(t * steps, np.round(t * steps), atol=1e-4)
    assert set(np.round(t * steps).astype(int)) == set(range(1, steps + 1))
    np.testing.assert_allclose(middle, t - 0.5 / steps, atol=1e-5)
    np.testing.assert_allclose(own, t, atol=1e-6)
    np.testing.assert_allclose(half, step(z, t, middle), atol=1e-5)
    end = t - 1.0 / steps
    whole = np.where(end > 1e-6, step(step(z, t, middle), middle, np.maximum(end, 0)), best_estimate(half, middle))
    ratio = end / t
    expected = (whole - ratio * z) / ((1 - end) - ratio * (1 - t))
    # the student predicts 0, so that its error is the target's square
    assert float(error) == pytest.approx((expected**2).mean(), rel=1e-3)
    assert float(value) == pytest.approx(float(error))


@pytest.mark.parametrize("stage", [0, 1])
def test_the_first_teacher_is_guided_and_its_students_are_not_again(stage):
    """With labels that add a tenth, guidance w adds w times that to the teacher's estimate; later stages do not."""
    config = DistillationConfig(first_steps=2, guidance=3.0, clip=False)
    batch = {"image": jnp.zeros((8, 1, 1, 1)), "label": jnp.full(8, 2)}
    process = make_process(FLOW)
    zero = {"factor": jnp.zeros(())}
    _, error = student_loss(
        Line(), config, FLOW, process, zero, zero, batch, jnp.asarray(stage), conditioning=LABELS, key=jax.random.key(1)
    )
    # teacher: null label 3 gives 0.3, label 2 gives 0.2: guided 0.3 + 3 (0.2 - 0.3) = 0; unguided 0.2, as the student's
    assert float(error) == pytest.approx(0.2**2 if stage == 0 else 0.0, abs=1e-6)


def test_the_student_becomes_the_teacher_at_the_first_step_of_each_stage():
    config = DistillationConfig(teacher_images=16, first_steps=4, last_steps=1, clip=False)
    plan = course(config, steps=14, batch_size=8)
    assert plan == Course(teacher=2, stage=4)
    assert config.stages == 3
    loss = distillation_loss(Line(), config, FLOW, make_process(FLOW), plan, conditioning=NONE)
    batch = {"image": jnp.zeros((8, 1, 1, 1))}
    state, seen = {TEACHER: {"factor": jnp.full((), -1.0)}}, []
    for number in range(14):
        params = {"factor": jnp.full((), float(number))}
        _, (state, scalars) = loss(params, state, batch, key=jax.random.key(number), step=jnp.asarray(number))
        seen.append((float(state[TEACHER]["factor"]), float(scalars["student_steps"])))
    assert [teacher for teacher, _ in seen] == [-1, -1, 2, 2, 2, 2, 6, 6, 6, 6, 10, 10, 10, 10]
    assert [steps for _, steps in seen] == [0, 0, 4, 4, 4, 4, 2, 2, 2, 2, 1, 1, 1, 1]


def test_nothing_flows_into_the_teacher():
    config = DistillationConfig(first_steps=2, clip=False)
    loss = distillation_loss(Line(), config, FLOW, make_process(FLOW), Course(0, 5), conditioning=NONE)
    batch = {"image": jnp.ones((8, 1, 1, 1))}

    def value(params, teacher):
        return loss(params, {TEACHER: teacher}, batch, key=jax.random.key(0), step=jnp.asarray(1))[0]

    of_student, of_teacher = jax.grad(value, argnums=(0, 1))({"factor": jnp.ones(())}, {"factor": jnp.full((), 0.9)})
    assert abs(float(of_student["factor"])) > 1e-4
    assert math.isclose(float(of_teacher["factor"]), 0.0)


@pytest.mark.parametrize(
    ("config", "diffusion", "message"),
    [
        ({"first_steps": 6}, {}, "over a power of two"),
        ({"first_steps": 2, "last_steps": 4}, {}, "over a power of two"),
        ({}, {"schedule": "edm", "prediction": "edm"}, "which schedule edm does not suit"),
        ({}, {"prediction": "epsilon", "schedule": "cosine"}, "unstable in a few steps"),
        ({"teacher_images": 1000}, {}, "leaves nothing of the 1,000 images"),
        ({"guidance": 2.0}, {"condition_dropout": 0.0}, "trained without conditions too"),
    ],
)
def test_refusals(config, diffusion, message):
    settings = DiffusionConfig(**{"schedule": "flow", "prediction": "x0", **diffusion})
    with pytest.raises(UserError, match=message):
        check(DistillationConfig(**config), settings, conditioning=LABELS, images=1000)
    with pytest.raises(UserError, match="3 steps are too few for 5 students"):
        course(DistillationConfig(first_steps=16), steps=3, batch_size=8)
