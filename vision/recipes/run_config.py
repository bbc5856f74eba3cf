"""The fields that every experiment's configuration has."""

from dataclasses import dataclass
from pathlib import Path

from vision.errors import UserError, at_least_one
from vision.parallel.mesh import MeshConfig
from vision.train.experiment import Intervals


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A run: how long, on what, from where. Experiments add their model, data, loss and optimizer."""

    images: int = 10_000_000
    """Budget of training images, at least 1. A finished run is not lengthened: another budget is another run."""
    batch_size: int = 128
    """Images a step, over all devices, at least 1."""
    microbatches: int = 1
    """Number of parts, at least 1, into which each batch is cut to save memory; they are computed one after another."""
    dispatch: int = 1
    """Training steps in one dispatch to the devices, at least 1."""
    ema: float = 0.9999
    """Decay, within [0, 1), of the averaged weights that are evaluated and sampled from."""
    evaluation_batch: int = 250
    """Images at a time in evaluation, at least 1; rounded up to a multiple of the devices."""
    init_from: Path | None = None
    """Start from these weights in place of random ones: a file, or the folder of another run (its averages)."""
    mesh: MeshConfig = MeshConfig()
    intervals: Intervals = Intervals()
    seed: int = 0
    """Of initial weights, the order of images, augmentation and noise. Evaluation uses the same noise for all seeds."""

    def __post_init__(self):
        check_run(self)

    @property
    def step_images(self) -> int:
        """Images that one training step takes from the data."""
        return self.batch_size

    @property
    def steps(self) -> int:
        """Training steps until the budget is reached, a multiple of ``dispatch``."""
        return -(-self.images // (self.step_images * self.dispatch)) * self.dispatch


def check_run(config: RunConfig) -> None:
    """Raise ``UserError`` for the first of these fields that is out of range."""
    at_least_one(config, "images", "batch_size", "microbatches", "dispatch", "evaluation_batch")
    if isinstance(config.ema, float) and not 0.0 <= config.ema < 1.0:  # a swept one is traced, and was checked before
        raise UserError(f"ema is a decay within [0, 1), not {config.ema}")
