"""What an experiment is to everything that runs it: plain functions and a few numbers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from vision.inference import Inference
from vision.parallel.mesh import MeshConfig
from vision.parallel.sharding import ShardingRules
from vision.ranges import NonNegativeInt, PositiveInt
from vision.train.compile import Compiler
from vision.train.kept import KeptText
from vision.train.snapshots import SnapshotConfig
from vision.types import Content, Edited, EditRequest, SampleRequest, Samples, Step, TrainState


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    scalars: Mapping[str, float | Float[np.ndarray, " replicas"]] = field(default_factory=dict)
    """Numbers by name; of several replicas, one array [replicas] each."""
    images: Mapping[str, UInt8[np.ndarray, "h w 3"]] = field(default_factory=dict)
    """Images by name; each is kept as a PNG."""
    protocol: Mapping[str, str] = field(default_factory=dict)
    """For each number, in words: on what, how many, how computed."""
    animations: Mapping[str, UInt8[np.ndarray, "t rows columns 3"]] = field(default_factory=dict)
    """Frames by name; each is kept as a GIF."""
    replicas: tuple["Evaluation", ...] = ()
    """What was found of each replica, where several runs were trained as one program."""


@dataclass(frozen=True)
class Replica:
    """One of several runs that are trained as one program."""

    name: str
    """Its folder below ``replicas/`` and its name in tables: "seed-3", or "optimizer.lr=0.0003,seed-3"."""
    seed: int
    group: str = ""
    """What it shares with the replicas that differ from it in the seed alone: "optimizer.lr=0.0003"."""


@dataclass(frozen=True, kw_only=True)
class FrozenPart:
    """A network with fixed weights that a run uses: a first stage, a perceptual network, a generator.

    Its variables are an argument of the compiled step, outside the train state and its checkpoints; losses, evaluation
    and sampling find them in ``model_state["frozen"][name]``. The hash of its content is its identity and is kept with
    the run; the path is a hint, which the option overrides.
    """

    option: str
    """The configuration field that holds the path: "perceptual.weights"."""
    path: Path
    """Where the variables are read from."""
    shapes: Any
    """The tree of variables, of ShapeDtypeStructs."""
    load: Callable[[], Any]
    """Reads the variables, a tree of arrays as in ``shapes``. Raises ``UserError`` where that is impossible."""
    optional: bool = False
    """Whether only sampling uses it, so that a run may be sampled from and evaluated with another one, or without."""
    in_step: bool = True
    """Whether the step uses it; one that only makes data is checked and not kept on the devices."""


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

    def __call__(self, key: Key[Array, ""], initial: Mapping[str, Array] = ..., /) -> TrainState:
        """The state at step 0; a pure function, so that it can be compiled and born in shards.

        ``initial`` has values for some of the variables, by path (see ``state.with_values``), in place of random ones.
        """
        ...


PredictFiles = Callable[[TrainState, Sequence[Path], Path], list[str]]
"""(state, files, folder for what is written) -> lines to print."""

Evaluate = Callable[[TrainState], Evaluation]
Sample = Callable[[TrainState, SampleRequest], Samples]
Edit = Callable[[TrainState, EditRequest], Edited]
EvaluatorFactory = Callable[[Compiler], Evaluate]
"""Checks settings, data and weights of an evaluation, and raises ``UserError`` for what is impossible; called once a
run, before the first step. What takes long is computed with the first evaluation."""


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """When things happen, counted in images so that runs of different batch sizes compare like with like."""

    log: PositiveInt = 50_000
    """Images between two lines of metrics."""
    evaluate: PositiveInt = 1_000_000
    """Images between two evaluations."""
    save: PositiveInt = 500_000
    """Images between two checkpoints; one is also saved at the end and on interruption."""
    keep: PositiveInt = 2
    """How many of the latest checkpoints are kept."""
    keep_every: NonNegativeInt = 0
    """Also keep, for good, one checkpoint each time this number of images was trained on; 0 for none."""


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
    evaluation: EvaluatorFactory
    """Makes the evaluation, for any state of the run."""
    sampling: Callable[[Compiler], Sample] | None = None
    """Compiles (state, request) -> samples, for experiments that generate."""
    requests: tuple[str, ...] = ()
    """Fields of a `SampleRequest` that ``sampling`` can follow: "prompts", "images", ...; () where it does not say."""
    editing: Callable[[Compiler], Edit] | None = None
    """Compiles (state, request) -> edited images, for experiments that generate images."""
    prediction: Callable[[Compiler, Sequence[str]], PredictFiles] | None = None
    """(compiler, names of the classes that the run was trained on) -> predictions for files, for experiments that
    recognise."""
    inference: Callable[[TrainState], Inference] | None = None
    """State -> the function of images that ``python -m vision export`` writes to a file."""
    published: Callable[[TrainState], Mapping[str, np.ndarray]] | None = None
    """State -> its weights under the names of published ones, which ``python -m vision export`` writes to a file."""
    published_folder: (
        Callable[[TrainState], tuple[Mapping[str, Mapping[str, Any]], Mapping[str, np.ndarray]]] | None
    ) = None
    """State -> JSON files by name and weights in the layout of diffusers, for ``python -m vision export RUN
    FOLDER``."""
    write_pipeline: Callable[[TrainState, Path], None] | None = None
    """(state, new folder) -> nothing: writes a published pipeline with this network, in place of
    ``published_folder``."""
    class_names: Callable[[], Sequence[str]] | None = None
    """Reads the names of the data's classes, where there are classes to tell apart; kept in the work directory."""
    tokenizer: KeptText | None = None
    """The tokenizer of experiments with texts, which is kept in the work directory."""
    contents: Callable[[], Mapping[str, Content]] = dict
    """Reads what the splits of the data consist of, which is kept with the run; {} where there is no data."""
    initial_values: Callable[[], Mapping[str, np.ndarray]] | None = None
    """What a fresh run starts from in place of random variables, by path: weights from a file, statistics of the data.
    Called once, on the host of every process, and not when a run is resumed or described."""
    starts_from: Path | None = None
    """Where the weights among the initial values are read from; None for random ones."""
    frozen: Mapping[str, FrozenPart] = field(default_factory=dict)
    """Networks with fixed weights that the step, the evaluation or the data use, by name."""
    caches: tuple[str, ...] = ()
    """Configuration fields that name folders of what can be computed again, such as latents: they change nothing of
    what a run is."""
    rules: ShardingRules = ()
    """Sharding rules, usually the model's."""
    mesh: MeshConfig = MeshConfig()
    intervals: Intervals = Intervals()
    snapshots: SnapshotConfig = SnapshotConfig()
    """Which averages of ``step`` are kept at intervals, to make averages of other lengths of them after the fact."""
    microbatches: int = 1
    """Into how many microbatches ``step`` cuts a batch."""
    dispatch: int = 1
    """Steps in one dispatch."""
    evaluation_only: tuple[str, ...] = ()
    """Prefixes of configuration fields that change how a state is sampled from or evaluated, not the state itself: they
    may differ from the run's own when one samples from it or evaluates it."""
    notices: tuple[str, ...] = ()
    """Settings that are possible and probably not meant, one sentence each; reported when the run starts."""
    replicas: tuple[Replica, ...] = ()
    """The runs that this experiment trains as one program, see ``launch/replicas.py``; empty for a single run. States
    and batches have a leading axis of replicas then; ``batch``, ``batch_size`` and ``images`` are of each."""
    batch_shapes: int = 1
    """How many different batch shapes may occur (multi-scale training)."""

    @property
    def places(self) -> tuple[str, ...]:
        """Configuration fields that hold a path and are known by what is there: of frozen networks, and of caches."""
        return (*(part.option for part in self.frozen.values()), *self.caches)

    @property
    def batch_size(self) -> int:
        """Samples in a global batch."""
        return next(iter(self.batch.values())).shape[0]

    @property
    def total_steps(self) -> int:
        """Steps until the budget of images is reached; a multiple of ``dispatch``."""
        dispatches = -(-self.images // (self.batch_size * self.dispatch))
        return dispatches * self.dispatch
