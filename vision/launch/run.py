"""From an experiment module to a run: parse, describe or train, sample, evaluate; errors in one line."""

import contextlib
import errno
import glob
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vision.errors import UserError
from vision.launch import run_folder as work
from vision.launch.describe import describe, simulate_devices
from vision.launch.export import write_export
from vision.launch.export_onnx import write_onnx
from vision.launch.options import Parsed, changes, command_line, nested, parse
from vision.launch.replicas import ReplicaOptions, parse_sweep, vectorized
from vision.parallel.agreement import check_equal, first_alone, from_first, is_first
from vision.parallel.mesh import devices_needed, make_mesh
from vision.parallel.processes import start
from vision.report.animation import animate_files, save_animation
from vision.report.grid import sample_grid, save_png
from vision.train.checkpoint import Checkpoints
from vision.train.class_names import class_names, keep_class_names
from vision.train.compile import Compiler
from vision.train.experiment import Evaluation, Experiment
from vision.train.interruption import EXIT_CODE, Interrupted, Interruption
from vision.train.loop import Outputs, steps_taken, train
from vision.train.profile import Profile
from vision.train.progress import Progress
from vision.train.records import Records, read_metrics
from vision.train.replicas import FOLDER as REPLICAS
from vision.train.replicas import ReplicaRecords, combined
from vision.types import SampleRequest, TrainState


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
        return _stopped(f"error: {' '.join(str(error).split())}", error.code)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        place = f" at {error.filename}" if error.filename else ""
        return _stopped(
            f"error: the disk (or your quota) is full{place}: free some "
            "space and run the same command again, which continues from the last checkpoint",
            4,
        )
    except Interrupted as stop:
        if is_first():
            print(
                f"{stop}; everything is saved. To continue, run the same command:\n  {command_line()}",
                file=sys.stderr,
            )
        return EXIT_CODE
    except KeyboardInterrupt:
        return _stopped("stopped at once; the same command continues from the last checkpoint", 130)
    return 0


def _stopped(message: str, code: int) -> int:
    """Say why, and return the exit code; one of several processes leaves without waiting for the others.

    JAX would let it wait at the exit for minutes for processes which themselves wait for it in a computation.
    """
    several = jax.distributed.is_initialized() and jax.process_count() > 1
    print(f"process {jax.process_index()}: {message}" if several else message, file=sys.stderr, flush=True)
    if several:
        sys.stdout.flush()
        os._exit(code)
    return code


def run(name: str, parsed: Parsed[Any], build: Callable[[Any], Experiment], description: str) -> None:
    """Do what the parsed command line asks for."""
    config, options = parsed.config, parsed.run
    use_compilation_cache()
    replicas = ReplicaOptions(options.seeds, parse_sweep(options.sweep), options.replicas_by)
    experiment = vectorized(build, config, replicas) if replicas else build(config)
    if options.dry_run:
        simulate_devices(devices_needed(experiment.mesh))
    if not options.dry_run:
        start(options.processes, os.environ)
    compiler = Compiler(
        make_mesh(experiment.mesh, replicas=max(len(experiment.replicas), 1)),
        experiment.rules,
        replicas=len(experiment.replicas),
    )
    compiler.check_batch_size(experiment.batch_size, microbatches=experiment.microbatches)
    if options.dry_run:
        print(describe(experiment, compiler, config=config, default=parsed.default))
        return
    folder = options.workdir or work.default_workdir(
        name, quick=options.quick, config=config, default=parsed.default, replicas=replicas.stored()
    )
    if options.sample is not None or options.evaluate or options.predict or options.export:
        look(
            name,
            experiment,
            compiler,
            folder,
            config,
            replicas=replicas.stored(),
            sample=options.sample,
            evaluate=options.evaluate,
            predict=options.predict,
            export=options.export,
        )
        return
    check_equal("what they were started with", (folder, nested(config), replicas))
    locks: list[int] = []
    first_alone(lambda: locks.append(work.claim(folder, name, config, replicas=replicas.stored())))
    try:
        fit(name, experiment, compiler, folder, parsed, description)
    finally:
        for lock in locks:
            os.close(lock)


def use_compilation_cache() -> None:
    """Keep compiled programs between runs, unless JAX is configured to already: a resumed run starts at once."""
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vision-jax"
        jax.config.update("jax_compilation_cache_dir", str(cache))


def files_of(patterns: Sequence[str]) -> list[Path]:
    """Files that patterns name: each a file, a folder (the files in it), or a glob pattern with ``*``, ``?``, ``**``.

    Raises ``UserError`` for a pattern that names no file.
    """
    found: list[Path] = []
    for pattern in patterns:
        path = Path(pattern).expanduser()
        # a name may have brackets, which a pattern would read as a set of letters
        named = [path] if path.exists() else map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207 - absolute too
        files: list[Path] = []
        for each in named:
            inside = (inner for inner in each.iterdir() if not inner.name.startswith(".")) if each.is_dir() else [each]
            files += [file for file in inside if file.is_file()]
        if not files:
            raise UserError(f"--predict {pattern} names no file")
        found += sorted(files)
    return list(dict.fromkeys(found))


def abstract_state(experiment: Experiment, compiler: Compiler) -> TrainState:
    """The state's shapes, dtypes and shardings, as restoring wants them."""
    shape, placed = compiler.state_shardings(experiment.init)
    return jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shape, placed)


def fit(
    name: str, experiment: Experiment, compiler: Compiler, folder: Path, parsed: Parsed[Any], description: str
) -> None:
    """Train in ``folder``, from where it stands."""
    first_process = is_first()
    say = lambda text: print(text, file=sys.stderr) if first_process else None
    say(f"{name} in {folder}")
    environment = work.write_environment(folder) if first_process else {}
    if experiment.class_names is not None:
        names = experiment.class_names()
        first_alone(lambda: keep_class_names(folder, names))
    steps_of = lambda images: max(1, images // experiment.batch_size) if images else 0
    intervals, runs = experiment.intervals, max(len(experiment.replicas), 1)
    with contextlib.ExitStack() as stack:
        interruption = stack.enter_context(Interruption())
        checkpoints = stack.enter_context(
            Checkpoints(folder / "checkpoints", keep=intervals.keep, keep_every_steps=steps_of(intervals.keep_every))
        )
        state = checkpoints.restore(abstract_state(experiment, compiler), report=say)
        if state is None:
            initial = experiment.initial_values() if experiment.initial_values is not None else None
            state = compiler.init(experiment.init, key=jax.random.key(experiment.seed), initial=initial)
        first = steps_taken(state)
        if first:
            say(f"resuming after step {first} ({first * experiment.batch_size:,} images)")
        records = stack.enter_context(open_records(experiment, folder, first, write=first_process))
        evaluated = bool(from_first(np.asarray(first_process and first in evaluated_steps(folder), np.int32)))
        progress = Progress(
            experiment.total_steps * experiment.batch_size * runs,
            first * experiment.batch_size * runs,
            stream=None if first_process else stack.enter_context(open(os.devnull, "w")),  # noqa: PTH123
        )
        stack.callback(progress.close)
        page = Page(name, folder, parsed, description, environment, experiment)
        step = compiler.step(
            experiment.step, experiment.init, dispatch=experiment.dispatch, shapes=experiment.batch_shapes
        )
        state = train(
            state,
            experiment,
            step=step,
            compiler=compiler,
            evaluate=lazily(lambda: experiment.evaluation(compiler)),
            evaluated=evaluated,
            outputs=Outputs(
                checkpoints,
                records,
                progress,
                interruption,
                Profile(folder / "profile" if parsed.run.profile else None),
                page.write,
            ),
        )
    if first_process:
        page.finish(steps_taken(state), steps_taken(state) * experiment.batch_size)
        final = page.summary()
        print(f"finished: {', '.join(f'{k} {v}' for k, v in final.items())}\nreport: {folder / 'report.html'}")


def open_records(experiment: Experiment, folder: Path, first: int, *, write: bool) -> Records | ReplicaRecords:
    """The records of a run that starts after step ``first``, or of its replicas."""
    if experiment.replicas:
        return ReplicaRecords(folder, first, write, replicas=experiment.replicas)
    return Records(folder, first, write)


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
        self._last: Evaluation | None = None

    def write(self, step: int, images: int, evaluation: Evaluation) -> None:
        """Keep the pictures of an evaluation and write the page anew."""
        if not is_first():
            return
        self._last = evaluation
        self._latest = combined(evaluation.scalars, self._experiment.replicas)
        samples = self._folder / "samples"
        save_pictures(samples, images, evaluation)
        for replica, own in zip(self._experiment.replicas, evaluation.replicas, strict=True):
            save_pictures(self._folder / REPLICAS / replica.name / "samples", images, own)
        from vision.report.curves import save_curves  # matplotlib takes a second to import

        save_curves(self._folder / "curves.png", read_metrics(self._folder / "metrics.jsonl"))
        self._render(step, images, evaluation)

    def finish(self, step: int, images: int) -> None:
        """Write the page once more, with the animation; where this process had no evaluation, it stands."""
        if is_first() and self._last is not None:
            samples = self._folder / "samples"
            animate_files(samples / "samples.gif", sorted(samples.glob("samples-*.png"), key=images_of))
            self._render(step, images, self._last)

    def _render(self, step: int, images: int, evaluation: Evaluation) -> None:
        from vision.report.page import write_page

        samples = self._folder / "samples"
        metrics = read_metrics(self._folder / "metrics.jsonl")
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
            replicas={
                replica.name: {name: float(value) for name, value in own.scalars.items()}
                for replica, own in zip(self._experiment.replicas, evaluation.replicas, strict=True)
            },
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
        shown = {}
        for name, value in self._latest.items():
            base, bracket, group = name.partition("[")
            if not base.endswith("_ci95") and "/" not in base:  # parts of a measurement are in the table below
                width = self._latest.get(f"{base}_ci95{bracket}{group}")
                shown[name] = f"{value:.4g}" + ("" if width is None else f" ± {width:.2g}")
        return shown


def save_pictures(folder: Path, images: int, evaluation: Evaluation) -> None:
    """Keep an evaluation's pictures, named by the number of images seen."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture, pixels in evaluation.images.items():
        save_png(folder / f"{picture}-{images:010d}.png", pixels)
    for animation, frames in evaluation.animations.items():
        save_animation(folder / f"{animation}-{images:010d}.gif", frames)


def look(
    name: str,
    experiment: Experiment,
    compiler: Compiler,
    folder: Path,
    config: Any,
    *,
    replicas: Mapping[str, Any],
    sample: int | None,
    evaluate: bool,
    predict: tuple[str, ...],
    export: Path | None = None,
) -> None:
    """Sample from, evaluate, predict with or export the newest checkpoint of a work directory; train nothing."""
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} is no work directory: train first, or name one with --workdir")
    work.check_same(folder, name, config, replicas=replicas, free=(*work.BOOKKEEPING, *experiment.evaluation_only))
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        state = checkpoints.restore(
            abstract_state(experiment, compiler), report=lambda text: print(text, file=sys.stderr)
        )
    if state is None:
        raise UserError(f"{folder} has no checkpoint yet: wait for the run to save one")
    images = steps_taken(state) * experiment.batch_size
    if evaluate:
        evaluation = experiment.evaluation(compiler)(state)
        for key, value in combined(evaluation.scalars, experiment.replicas).items():
            if is_first():
                print(f"{key} {value:.6g}  ({evaluation.protocol.get(key, 'no protocol stated')})")
    if predict:
        if experiment.prediction is None or experiment.replicas:
            why = "is a run of several replicas" if experiment.replicas else "has no predictions"
            raise UserError(f"{name} {why}: --predict has nothing to say of files")
        out = folder / "predictions" / f"{images:010d}"
        names = class_names(folder)
        if names is None:  # a run from before they were kept
            names = experiment.class_names() if experiment.class_names is not None else ()
        lines = experiment.prediction(compiler, names)(state, files_of(predict), out)
        if is_first():
            print("\n".join(lines))
    if export is not None:
        if experiment.inference is None or experiment.replicas:
            raise UserError(f"{name} has no function of images to write: --export is for single runs that see")
        inference = experiment.inference(jax.device_get(state))
        write = write_onnx if export.suffix == ".onnx" else write_export
        if is_first():
            print(write(export.expanduser(), inference))
    if sample is not None:
        if experiment.sampling is None:
            raise UserError(f"{name} does not generate images: --sample has nothing to draw")
        if sample < 1:
            raise UserError(f"--sample takes a positive number of images, not {sample}")
        made = experiment.sampling(compiler)(state, SampleRequest(count=sample, seed=experiment.seed))
        pictures, captions = made.images, list(made.captions)
        if not is_first():
            return
        out = folder / "samples" / f"drawn-{images:010d}"
        out.mkdir(parents=True, exist_ok=True)
        for index, picture in enumerate(pictures):
            save_png(out / f"{index:05d}.png", picture)
        columns = sample if experiment.replicas else int(np.ceil(np.sqrt(sample)))  # one row a replica
        grid = sample_grid(pictures, columns=columns, captions=captions or None)
        save_png(out / "grid.png", grid)
        print(f"{len(pictures)} samples after {images:,} images: {out / 'grid.png'}")
