"""The fields that every experiment's configuration has."""

from dataclasses import dataclass
from pathlib import Path

from vision.parallel.mesh import MeshConfig
from vision.ranges import Decay, PositiveInt, Seed, check_ranges, numbers
from vision.train.experiment import Intervals


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A run: how long, on what, from where. Experiments add their model, data, loss and optimizer."""

    images: PositiveInt = 10_000_000
    """Budget of training images, at least 1. Another budget is another run; --extend starts it from a finished one."""
    batch_size: PositiveInt = 128
    """Images a step, over all devices, at least 1."""
    microbatches: PositiveInt = 1
    """Number of parts, at least 1, into which each batch is cut to save memory; they are computed one after another."""
    dispatch: PositiveInt = 1
    """Training steps in one dispatch to the devices, at least 1."""
    ema: Decay = 0.9999
    """Decay, within [0, 1), of the averaged weights that are evaluated and sampled from."""
    evaluation_batch: PositiveInt = 250
    """Images at a time in evaluation, at least 1; rounded up to a multiple of the devices."""
    init_from: Path | None = None
    """Start from these weights in place of random ones: a file, the folder of another run (its averages), or, for
    diffusion, a folder of diffusers."""
    mesh: MeshConfig = MeshConfig()
    intervals: Intervals = Intervals()
    seed: Seed = 0
    """Of initial weights, the order of images, augmentation and noise. Evaluation uses the same noise for all seeds."""

    def __post_init__(self):
        check_ranges(self)

    @property
    def step_images(self) -> int:
        """Images that one training step takes from the data."""
        return self.batch_size

    @property
    def steps(self) -> int:
        """Training steps until the budget is reached, a multiple of ``dispatch``."""
        return -(-self.images // (self.step_images * self.dispatch)) * self.dispatch

    def notices(self) -> tuple[str, ...]:
        """What is possible and probably not meant, one sentence each: warm-ups that cannot have their effect."""
        found = []
        for number in numbers(self):
            if number.name.rpartition(".")[2] != "warmup" or not isinstance(number.value, int):
                continue
            if number.value > self.images:
                found.append(
                    f"{number.name} takes {number.value:,} images and the run has {self.images:,}: it ends before the "
                    "warm-up does"
                )
            elif 0 < number.value < self.batch_size:
                found.append(
                    f"{number.name} takes {number.value:,} images, less than a batch of {self.batch_size:,}: there is "
                    "no warm-up"
                )
        return tuple(found)
