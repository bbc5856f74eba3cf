"""From an experiment module to a run: parse, describe or train, sample, evaluate; errors in one line."""

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vision.errors import UserError
from vision.launch import workdir as work
from vision.launch.describe import describe
from vision.launch.options import Parsed, changes, command_line, nested, parse
from vision.parallel.mesh import make_mesh
from vision.report.grid import sample_grid, save_png
from vision.train.checkpoint import Checkpoints
from vision.train.compile import Compiler
from vision.train.experiment import Evaluation, Experiment
from vision.train.interruption import EXIT_CODE, Interrupted, Interruption
from vision.train.loop import Outputs, train
from vision.train.progress import Progress
from vision.train.records import Records, read_metrics
from vision.train.state import TrainState


def main(
    name: str,
    *,
    config: Any,
    quick: Any,
    build: Callable[[Any], Experiment],
    description: str,
    arguments: Sequence[str] | None = None,
) -> int:
    """Run an experiment module from its command line; returns the exit code.

    0: done. 2: wrong options or input. 3: a value was not finite. 4: disk or checkpoint trouble. 75: interrupted and
    saved; the same command continues. 130: Ctrl-C pressed twice.

    Args:
      name: the module's name, which names its work directories.
      config: the default configuration, a frozen dataclass.
      quick: the configuration of ``--quick``.
      build: configuration -> experiment.
      description: the module's docstring.
      arguments: what to parse instead of the process's own arguments.
    """
    try:
        parsed = parse(
            f"python -m experiments.{name}",
            default=config,
            quick=quick,
            description=description,
            arguments=sys.argv[1:] if arguments is None else arguments,
        )
        run(name, parsed, build, description)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.code
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(
            f"error: the disk (or your quota) is full{f' at {error.filename}' if error.filename else ''}: free some "
            "space and run the same command again, which continues from the last checkpoint",
            file=sys.stderr,
        )
        return 4
    except Interrupted as stop:
        print(
            f"{stop}; everything is saved. To continue, run the same command:\n  {command_line()}",
            file=sys.stderr,
        )
        return EXIT_CODE
    except KeyboardInterrupt:
        print("stopped at once; the same command continues from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def run(name: str, parsed: Parsed[Any], build: Callable[[Any], Experiment], description: str) -> None:
    """Do what the parsed command line asks for."""
    config, options = parsed.config, parsed.run
    use_compilation_cache()
    experiment = build(config)
    compiler = Compiler(make_mesh(experiment.mesh), experiment.rules)
    compiler.check_batch_size(experiment.batch_size, microbatches=experiment.microbatches)
    if options.dry_run:
        print(describe(experiment, compiler, config=config, default=parsed.default))
        return
    folder = options.workdir or work.default_workdir(name, quick=options.quick, config=config, default=parsed.default)
    if options.sample is not None or options.evaluate:
        look(name, experiment, compiler, folder, config, sample=options.sample, evaluate=options.evaluate)
        return
    lock = work.claim(folder, name, config)
    try:
        fit(name, experiment, compiler, folder, parsed, description)
    finally:
        os.close(lock)


def use_compilation_cache() -> None:
    """Keep compiled programs between runs, unless JAX is configured to already: a resumed run starts at once."""
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vision-jax"
        jax.config.update("jax_compilation_cache_dir", str(cache))


def abstract_state(experiment: Experiment, compiler: Compiler) -> TrainState:
    """The state's shapes, dtypes and shardings, as restoring wants them."""
    shape, placed = compiler.state_shardings(experiment.init)
    return jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shape, placed)


def fit(
    name: str, experiment: Experiment, compiler: Compiler, folder: Path, parsed: Parsed[Any], description: str
) -> None:
    """Train in ``folder``, from where it stands."""
    print(f"{name} in {folder}", file=sys.stderr)
    environment = work.write_environment(folder)
    steps_of = lambda images: max(1, images // experiment.batch_size) if images else 0
    intervals = experiment.intervals
    with contextlib.ExitStack() as stack:
        interruption = stack.enter_context(Interruption())
        checkpoints = stack.enter_context(
            Checkpoints(folder / "checkpoints", keep=intervals.keep, keep_every_steps=steps_of(intervals.keep_every))
        )
        say = lambda text: print(text, file=sys.stderr)
        state = checkpoints.restore(abstract_state(experiment, compiler), report=say)
        if state is None:
            state = compiler.init(experiment.init, key=jax.random.key(experiment.seed))
        first = int(jax.device_get(state.step))
        if first:
            say(f"resuming after step {first} ({first * experiment.batch_size:,} images)")
        records = stack.enter_context(Records(folder, first, write=jax.process_index() == 0))
        progress = Progress(experiment.total_steps * experiment.batch_size, first * experiment.batch_size)
        stack.callback(progress.close)
        page = Page(name, folder, parsed, description, environment, experiment)
        step = compiler.step(
            experiment.step, experiment.init, dispatch=experiment.dispatch, shapes=experiment.batch_shapes
        )
        train(
            state,
            experiment,
            step=step,
            compiler=compiler,
            evaluate=lazily(lambda: experiment.evaluation(compiler)),
            evaluated=evaluated_steps(folder),
            outputs=Outputs(checkpoints, records, progress, interruption, page.write),
        )
    final = page.summary()
    print(f"finished: {', '.join(f'{k} {v}' for k, v in final.items())}\nreport: {folder / 'report.html'}")


def lazily(make: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
    """The function that ``make`` returns, made at its first call: evaluation compiles when it is first needed."""
    made: list[Callable[..., Any]] = []

    def call(*args: Any) -> Any:
        if not made:
            made.append(make())
        return made[0](*args)

    return call


def images_of(picture: Path) -> str:
    """The number of images seen in a picture's name, of fixed width."""
    return picture.stem.rsplit("-", 1)[1]


def evaluated_steps(folder: Path) -> frozenset[int]:
    """Steps at which metrics.jsonl has an evaluation."""
    path = folder / "metrics.jsonl"
    lines = read_metrics(path) if path.exists() else []
    return frozenset(line["step"] for line in lines if any(name.startswith("eval/") for name in line))


class Page:
    """Renews samples/, curves.png and report.html after each evaluation."""

    def __init__(
        self,
        name: str,
        folder: Path,
        parsed: Parsed[Any],
        description: str,
        environment: Mapping[str, Any],
        experiment: Experiment,
    ):
        self._name, self._folder, self._parsed = name, folder, parsed
        self._description, self._environment, self._experiment = description, environment, experiment
        self._latest: Mapping[str, float] = {}

    def write(self, step: int, images: int, evaluation: Evaluation) -> None:
        """Keep the pictures of an evaluation and write the page anew."""
        if jax.process_index() != 0:
            return
        from vision.report.curves import save_curves  # matplotlib takes a second to import
        from vision.report.page import write_page

        self._latest = evaluation.scalars
        samples = self._folder / "samples"
        samples.mkdir(exist_ok=True)
        for picture, pixels in evaluation.pictures.items():
            save_png(samples / f"{picture}-{images:010d}.png", pixels)
        metrics = read_metrics(self._folder / "metrics.jsonl")
        save_curves(self._folder / "curves.png", metrics)
        total = self._experiment.total_steps * self._experiment.batch_size
        write_page(
            self._folder / "report.html",
            title=f"{self._name}: {self._folder.name}",
            command=command_line(),
            config=nested(self._parsed.config),
            environment=self._environment,
            metrics=metrics,
            protocol={f"eval/{k}": v for k, v in evaluation.protocol.items()},
            sample_paths=sorted(samples.glob("*-*.png"), key=images_of, reverse=True),
            curves_path=self._folder / "curves.png",
            summary=self.summary(),
            description=self._description,
            status=f"{'Finished' if images >= total else 'Running'}: step {step:,}, {images:,} of {total:,} images",
            changed=set(changes(self._parsed.config, self._parsed.default)),
        )

    def summary(self) -> dict[str, str]:
        """The latest numbers of evaluation, for people; of an earlier process where this one had none to make."""
        path = self._folder / "metrics.jsonl"
        if not self._latest and path.exists():
            evaluations = [line for line in read_metrics(path) if any(name.startswith("eval/") for name in line)]
            for name, value in evaluations[-1].items() if evaluations else ():
                if name.startswith("eval/"):
                    self._latest = {**self._latest, name.removeprefix("eval/"): value}
        return {name: f"{value:.4g}" for name, value in self._latest.items()}


def look(
    name: str,
    experiment: Experiment,
    compiler: Compiler,
    folder: Path,
    config: Any,
    *,
    sample: int | None,
    evaluate: bool,
) -> None:
    """Sample from, or evaluate, the newest checkpoint of a finished or running work directory; train nothing."""
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} is no work directory: train first, or name one with --workdir")
    work.check_same(folder, name, config, free=(*work.BOOKKEEPING, *experiment.looking))
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        state = checkpoints.restore(
            abstract_state(experiment, compiler), report=lambda text: print(text, file=sys.stderr)
        )
    if state is None:
        raise UserError(f"{folder} has no checkpoint yet: wait for the run to save one")
    images = int(jax.device_get(state.step)) * experiment.batch_size
    if evaluate:
        evaluation = experiment.evaluation(compiler)(state)
        for key, value in evaluation.scalars.items():
            print(f"{key} {value:.6g}  ({evaluation.protocol.get(key, 'no protocol stated')})")
    if sample is not None:
        if experiment.drawing is None:
            raise UserError(f"{name} does not generate images: --sample has nothing to draw")
        if sample < 1:
            raise UserError(f"--sample takes a positive number of images, not {sample}")
        pictures, captions = experiment.drawing(compiler)(state, sample)
        out = folder / "samples" / f"drawn-{images:010d}"
        out.mkdir(parents=True, exist_ok=True)
        for index, picture in enumerate(pictures):
            save_png(out / f"{index:05d}.png", picture)
        grid = sample_grid(pictures, columns=int(np.ceil(np.sqrt(sample))), captions=captions or None)
        save_png(out / "grid.png", grid)
        print(f"{sample} samples after {images:,} images: {out / 'grid.png'}")
