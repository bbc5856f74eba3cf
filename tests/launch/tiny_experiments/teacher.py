"""A line learnt from a teacher with fixed weights, which is read from a file."""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vision.errors import UserError
from vision.inference import Inference
from vision.parallel.mesh import MeshConfig
from vision.train.experiment import Evaluation, Experiment, FrozenPart, Intervals
from vision.train.state import create_state, with_values
from vision.train.step import averaged, gradient
from vision.types import Samples

SIZE = 8
CLASSES = ("red", "blue")


@dataclass(frozen=True)
class TeacherConfig:
    """The teacher."""

    weights: Path | None = None
    """A file of its weights; None for a loss without it."""
    in_step: bool = True
    """Whether the step uses it."""


@dataclass(frozen=True)
class Config:
    """The recipe."""

    teacher: TeacherConfig = TeacherConfig()
    mesh: MeshConfig = MeshConfig()
    intervals: Intervals = Intervals(log=SIZE, evaluate=4 * SIZE, save=2 * SIZE, keep=10)
    init_from: Path | None = None
    """A file of starting weights."""
    rate: float = 0.1
    """Learning rate."""
    images: int = 8 * SIZE
    """Budget."""
    shown: float = 1.0
    """By what the evaluation multiplies."""
    seed: int = 0
    """Seed."""


QUICK = Config(images=2 * SIZE)


def read(path):
    """The array of a file."""
    try:
        with np.load(path) as arrays:
            return {"w": arrays["w"].astype(np.float32)}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"it has no weights ({error})") from error


def build(config):
    """The experiment; its loss compares with the teacher's output, which only ``model_state`` has."""
    optimizer = optax.adam(config.rate)
    used = config.teacher.weights is not None and config.teacher.in_step

    def target(model_state, x):
        return x @ model_state["frozen"]["teacher"]["w"] if used else x.sum(-1)

    def loss(params, model_state, batch, *, key, step):
        noise = 0.01 * jax.random.normal(key, (SIZE,))
        out = batch["x"] @ params["w"] + noise
        return jnp.square(out - target(model_state, batch["x"])).mean(), (model_state, {})

    def init(key, initial=None):
        made = with_values({"params": {"w": jax.random.normal(key, (3,))}}, initial or {})
        return create_state(params=made["params"], optimizer=optimizer, key=key, ema={"ema": None})

    def batches(*, seed, start_step, process_index, process_count):
        step = start_step
        while True:
            x = np.random.default_rng((seed, step)).normal(size=(SIZE, 3)).astype(np.float32)
            yield {"x": x, "label": np.zeros(SIZE, np.int32)}
            step += 1

    def evaluation(compiler):
        error = compiler.function(lambda state: jnp.abs(state.ema["ema"]["w"] @ jnp.ones(3) - goal(state)))
        goal = lambda state: target(state.model_state, jnp.ones(3))
        return lambda state: Evaluation({"error": config.shown * float(error(state))}, {}, {"error": "of the sum"})

    def sampling(compiler):
        def sample(state, request):
            if used:
                assert state.model_state["frozen"]["teacher"]["w"].shape == (3,)
            request.check(conditions=("labels",))
            labels = np.resize(request.labels or (0, 1), request.count)
            images = np.zeros((request.count, 4, 4, 3), np.uint8) + labels[:, None, None, None].astype(np.uint8)
            return Samples(images=images, captions=tuple(CLASSES[label] for label in labels))

        return sample

    def prediction(compiler, names):
        return lambda state, files, folder: [f"{file}: {names[0]}" for file in files]

    def inference(state):
        w = state.model_state["frozen"]["teacher"]["w"] if used else state.ema["ema"]["w"]
        return Inference(
            function=lambda images: {"sum": images.astype(jnp.float32).mean((1, 2)) @ jnp.asarray(w)}, image=(4, 4, 3)
        )

    frozen = {}
    if config.teacher.weights is not None:
        frozen["teacher"] = FrozenPart(
            option="teacher.weights",
            path=config.teacher.weights,
            shapes={"w": jax.ShapeDtypeStruct((3,), jnp.float32)},
            load=lambda: read(config.teacher.weights),
            in_step=config.teacher.in_step,
        )
    return Experiment(
        init=init,
        step=averaged(gradient(loss, optimizer), {"ema": 0.9}),
        batches=batches,
        batch={
            "x": jax.ShapeDtypeStruct((SIZE, 3), jnp.float32),
            "label": jax.ShapeDtypeStruct((SIZE,), jnp.int32),
        },
        images=config.images,
        seed=config.seed,
        evaluation=evaluation,
        sampling=sampling,
        prediction=prediction,
        inference=inference,
        class_names=lambda: CLASSES,
        initial_values=(lambda: {"params/w": read(config.init_from)["w"]}) if config.init_from is not None else None,
        starts_from=config.init_from,
        frozen=frozen,
        evaluation_only=("shown",),
        mesh=config.mesh,
        intervals=config.intervals,
    )
