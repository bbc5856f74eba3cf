"""What an experiment is to everything that runs it: plain functions and a few numbers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from vision.parallel.mesh import MeshConfig
from vision.parallel.sharding import Rules
from vision.train.compile import Compiler
from vision.train.state import TrainState
from vision.train.step import Step


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    scalars: Mapping[str, float | Float[np.ndarray, " members"]] = field(default_factory=dict)
    """Numbers by name; of several members, one array [members] each."""
    pictures: Mapping[str, UInt8[np.ndarray, "h w 3"]] = field(default_factory=dict)
    """Pictures by name; each is kept as a PNG."""
    protocol: Mapping[str, str] = field(default_factory=dict)
    """For each number, in words: on what, how many, how computed."""
    films: Mapping[str, UInt8[np.ndarray, "t rows columns 3"]] = field(default_factory=dict)
    """Frames by name; each is kept as a GIF."""
    members: tuple["Evaluation", ...] = ()
    """What was found of each member, where several runs were trained as one program."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """What a suppression of boxes chooses from, for file formats that bring a suppression of their own."""

    function: Callable[[Array], Mapping[str, Array]]
    """Images uint8 [b h w c] -> "boxes" float32 [b n 4] in pixels, "scores" float32 [b k n] in [0, 1]."""
    confidence: float
    """Scores that are not larger are left out."""
    iou: float
    """Boxes that overlap a surer one of their class by more are left out."""
    most: int
    """Detections of one class in an image, at most."""
    agnostic: bool
    """Boxes of different classes leave each other out too."""


@dataclass(frozen=True, kw_only=True)
class Inference:
    """What a trained model does with images: what ``--export`` writes to a file."""

    function: Callable[[Array], Mapping[str, Array]]
    """Images uint8 [b h w c] -> what is seen, by name, the images along the first axis."""
    image: tuple[int, int, int]
    """Height, width and channels."""
    candidates: Candidates | None = None
    """For detectors: the same up to the suppression."""


@dataclass(frozen=True)
class Member:
    """One of several runs that are trained as one program."""

    name: str
    """Its folder below ``members/`` and its name in tables: "seed-3", or "optimizer.lr=0.0003,seed-3"."""
    seed: int
    group: str = ""
    """What it shares with the members that differ from it in the seed alone: "optimizer.lr=0.0003"."""


@runtime_checkable
class Batches(Protocol):
    """Where batches come from: a function of the step and of the process's share."""

    def __call__(
        self, *, seed: int, start_step: int, process_index: int, process_count: int
    ) -> Iterator[Mapping[str, np.ndarray]]:
        """The process's share of the batches of steps start_step, start_step + 1, ..., without end.

        ``seed`` numbers the order: runs that differ in it see the same samples in another one.
        """
        ...


@runtime_checkable
class Init(Protocol):
    """How a run begins."""

    def __call__(self, key: Key[Array, ""], given: Mapping[str, Array] = ..., /) -> TrainState:
        """The state at step 0; a pure function, so that it can be compiled and born in shards.

        ``given`` has values for some of the variables, by path (see ``state.with_given``), in place of random ones.
        """
        ...


Predict = Callable[[TrainState, Sequence[Path], Path], list[str]]
"""(state, files, folder for what is written) -> lines for people."""

Evaluate = Callable[[TrainState], Evaluation]
Draw = Callable[[TrainState, int], tuple[UInt8[np.ndarray, "n h w c"], list[str]]]


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """When things happen, counted in images so that runs of different batch sizes compare like with like."""

    log: int = 50_000
    """Images between two lines of metrics."""
    evaluate: int = 1_000_000
    """Images between two evaluations."""
    save: int = 500_000
    """Images between two checkpoints; one is also saved at the end and on interruption."""
    keep: int = 2
    """How many of the latest checkpoints are kept."""
    keep_every: int = 0
    """Also keep one checkpoint every so many images for good; 0 for none."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """An experiment, as ``build(config)`` composes it. Building touches neither data nor devices."""

    init: Init
    step: Step
    batches: Batches
    batch: Mapping[str, jax.ShapeDtypeStruct]
    """Shapes and dtypes of one global batch."""
    images: int
    """Budget: the run ends with the first dispatch that reaches it."""
    seed: int
    evaluation: Callable[[Compiler], Evaluate]
    """Compiles what evaluating needs; called once a run, before the first evaluation."""
    drawing: Callable[[Compiler], Draw] | None = None
    """Compiles (state, n) -> (n images, n captions), for experiments that generate."""
    prediction: Callable[[Compiler, Sequence[str]], Predict] | None = None
    """Compiles what ``--predict`` does with files, for experiments that say something of images; is given the names of
    the classes that the run was trained on."""
    inference: Callable[[TrainState], Inference] | None = None
    """State -> the function of images that ``--export`` writes to a file."""
    class_names: Callable[[], Sequence[str]] | None = None
    """Reads the names of the data's classes, where there are classes to tell apart; kept in the work directory."""
    given: Callable[[], Mapping[str, np.ndarray]] | None = None
    """Where a fresh run starts from in place of random variables, by path: weights from a file, statistics of the data.
    Called once, on the host of every process, and not when a run is resumed or described."""
    rules: Rules = ()
    """Sharding rules, usually the model's."""
    mesh: MeshConfig = MeshConfig()
    intervals: Intervals = Intervals()
    microbatches: int = 1
    """Into how many microbatches ``step`` cuts a batch."""
    dispatch: int = 1
    """Steps in one dispatch."""
    looking: tuple[str, ...] = ()
    """Prefixes of configuration fields that change what is drawn from or measured of a state, not the state: they may
    differ from the run's own when one samples from it or evaluates it."""
    members: tuple[Member, ...] = ()
    """The runs that this experiment trains as one program, see ``launch/members.py``; empty for a single run. States
    and batches have a leading axis of members then; ``batch``, ``batch_size`` and ``images`` are of each."""
    batch_shapes: int = 1
    """How many different batch shapes may occur (multi-scale training)."""

    @property
    def batch_size(self) -> int:
        """Samples in a global batch."""
        return next(iter(self.batch.values())).shape[0]

    @property
    def total_steps(self) -> int:
        """Steps until the budget of images is reached; a multiple of ``dispatch``."""
        dispatches = -(-self.images // (self.batch_size * self.dispatch))
        return dispatches * self.dispatch
