"""A tiny experiment with everything that a real one has: a line through points, by one linear layer."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vision.parallel.mesh import MeshConfig
from vision.train.experiment import Evaluation, Experiment, Intervals
from vision.train.snapshots import SnapshotConfig
from vision.train.state import create_state
from vision.train.step import averaged, gradient, repeated
from vision.types import Samples

SIZE = 8


@dataclass(frozen=True)
class OptimizerConfig:
    """Gradient descent."""

    lr: float = 0.05
    """Learning rate."""


@dataclass(frozen=True)
class Config:
    """A line through points."""

    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    snapshots: SnapshotConfig = SnapshotConfig()
    intervals: Intervals = Intervals(log=SIZE, evaluate=4 * SIZE, save=2 * SIZE, keep=10)
    images: int = 8 * SIZE
    """Budget."""
    dispatch: int = 1
    """Steps in one dispatch."""
    seed: int = 0
    """Seed."""


class Hooks:
    """What a test does at a step, from inside the run."""

    def __init__(self):
        self.at_batch = lambda step: None
        self.at_evaluation = lambda step: None


def make_build(hooks):
    def loss(params, model_state, batch, *, key, step):
        out = batch["x"] @ params["w"] + 0.01 * jax.random.normal(key, (SIZE,))
        return jnp.square(out - batch["y"]).mean(), (model_state, {"size": jnp.abs(out).mean()})

    def build(config):
        optimizer = optax.adam(config.optimizer.lr)
        averages = {"ema": 0.9, **config.snapshots.decays()}
        step = averaged(gradient(loss, optimizer), averages)

        def init(key):
            return create_state(params={"w": jnp.zeros(3)}, optimizer=optimizer, key=key, ema=averages)

        def batches(*, seed, start_step, process_index, process_count):
            step = start_step
            while True:
                hooks.at_batch(step)
                x = np.random.default_rng((seed, step)).normal(size=(SIZE, 3)).astype(np.float32)
                yield {"x": x, "y": x @ np.array([1.0, -2.0, 0.5], np.float32)}
                step += 1

        def evaluation(compiler):
            def evaluate(state):
                hooks.at_evaluation(int(jax.device_get(state.step)))
                w = jax.device_get(state.ema["ema"]["w"])
                picture = np.full((4, 4, 3), 7, np.uint8)
                return Evaluation(
                    {"distance": float(np.abs(w - [1, -2, 0.5]).max())}, {"line": picture}, {"distance": "largest"}
                )

            return evaluate

        def sampling(compiler):
            return lambda state, request: Samples(
                images=np.zeros((request.count, 4, 4, 3), np.uint8), captions=("a line",) * request.count
            )

        return Experiment(
            init=init,
            step=step if config.dispatch == 1 else repeated(step, config.dispatch),
            batches=batches,
            batch={
                "x": jax.ShapeDtypeStruct((SIZE, 3), jnp.float32),
                "y": jax.ShapeDtypeStruct((SIZE,), jnp.float32),
            },
            images=config.images,
            seed=config.seed,
            evaluation=evaluation,
            sampling=sampling,
            mesh=config.mesh,
            intervals=config.intervals,
            snapshots=config.snapshots,
            dispatch=config.dispatch,
        )

    return build
