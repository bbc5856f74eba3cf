"""``python -m vision VERB RUN``: what can be done with a run, or with published weights, without training.

    python -m vision evaluate runs/detector --detector.iou 0.5
    python -m vision predict runs/classifier new/*.jpg
    python -m vision evaluate runs/shapes --average-length 0.05 0.13
    python -m vision sample runs/digits --count 20 --labels 3 7
    python -m vision sample runs/shapes --prompt "a red star" "two green hearts" --best-of 4
    python -m vision sample runs/decoder --prompt "a red star" --prior runs/prior --upsampler runs/upsampler
    python -m vision edit runs/editor --image a.png --instruction "make the star blue"
    python -m vision edit runs/inpainter --image a.png --mask auto:circle --segmenter runs/masks --remove --seeds 4
    python -m vision export runs/detector detector.onnx
    python -m vision export runs/classifier resnet50.safetensors
    python -m vision describe runs/detector
    python -m vision page runs/decoder
    python -m vision verify a.jpg --records runs/shapes/samples/sampled-0000040000
    python -m vision download resnet50
    python -m vision predict finetune --init-from pets.safetensors --model.classes 37 --data.dir pets -- new/*.jpg

RUN is the folder of a run, finished or not. All comes from its own config.json; options of the experiment that change
how a state is evaluated or sampled from, and the mesh, may follow. Files come before the options, or after ``--``. For
evaluate, predict, sample, edit and export RUN may also be the name of an experiment, followed by options of its own,
among them --init-from: its weights are then those, and nothing is trained.

``python -m vision VERB --help`` is about one verb.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision.errors import UserError
from vision.home import expanded
from vision.launch import actions
from vision.launch.average_length import with_average
from vision.launch.describe import describe, simulate_devices
from vision.launch.devices import compiler_of, use_compilation_cache
from vision.launch.download import main as download
from vision.launch.edit import edit
from vision.launch.exit_code import exit_code
from vision.launch.experiment_module import PACKAGE, experiment_paths
from vision.launch.field_doc import field_doc
from vision.launch.load_run import LoadedRun, StoredRun, load_run, open_run, to_stderr
from vision.launch.options import HELP, flatten, option_of, parse_fields, unknown_name
from vision.launch.run_folder import CONFIG
from vision.launch.untrained import untrained_run
from vision.launch.verb_options import (
    EditOptions,
    EvaluateOptions,
    Options,
    PageOptions,
    PredictOptions,
    SampleOptions,
)
from vision.launch.verify import main as verify
from vision.parallel.agreement import is_first
from vision.parallel.mesh import devices_needed
from vision.parallel.processes import start
from vision.train.experiment import Experiment


@dataclass(frozen=True, kw_only=True)
class Call:
    """A parsed command line of ``python -m vision``."""

    run: str
    """The word for the run: a folder, or the name of an experiment."""
    operands: tuple[str, ...]
    """The words behind it that are no options."""
    options: Any
    """The verb's own options."""
    overrides: tuple[str, ...]
    """Options of the experiment."""
    known: tuple[str, ...]
    """Names of the verb's own options, for messages."""
    package: str
    """Where experiments are."""

    def open(self) -> StoredRun:
        """The run without its checkpoint; raises ``UserError``."""
        return open_run(Path(self.run), overrides=self.overrides, package=self.package, known=self.known)

    def load(self) -> LoadedRun:
        """The run with its newest checkpoint, or an experiment with weights from a file; raises ``UserError``."""
        use_compilation_cache()
        start(self.options.processes, os.environ)
        if self.is_name():
            return untrained_run(self.run, self.overrides, package=self.package)
        return load_run(Path(self.run), overrides=self.overrides, package=self.package, known=self.known)

    def is_name(self) -> bool:
        """Whether ``run`` is the name of an experiment and not a run folder."""
        folder = expanded(self.run)
        return not (folder / CONFIG).exists() and self.run in experiment_paths(self.package)


@dataclass(frozen=True, kw_only=True)
class Verb:
    """What can be done with a run."""

    name: str
    summary: str
    """One line about it."""
    operands: str
    """The words of its command line that are no options: "RUN FILES..."."""
    act: Callable[[Call], None]
    """Does it and prints what there is to say."""
    offered: Callable[[Experiment], bool] = lambda experiment: True
    """Whether an experiment has it."""
    options: type[Options] = Options
    """Its own options."""
    takes_name: bool = False
    """Whether RUN may be the name of an experiment, with weights from ``--init-from``."""

    def check(self, operands: Sequence[str]) -> None:
        """Raise ``UserError`` unless ``operands``, RUN included, are what the verb takes."""
        names = self.operands.split()
        usage = f"python -m vision {self.name} {self.operands}"
        if len(operands) < len(names):
            missing = names[len(operands)].removesuffix("...")
            where = "" if missing == "RUN" else ", which come before the options or after --"
            raise UserError(f"{self.name} needs {missing}{where}: {usage}")
        if len(operands) > len(names) and not names[-1].endswith("..."):
            raise UserError(f"{operands[len(names)]} is one word too many: {usage}")


def _evaluate(call: Call) -> None:
    _print(actions.evaluate(call.load(), average_lengths=call.options.average_length))


def _predict(call: Call) -> None:
    actions.files_of(call.operands)  # a wrong name is an error before anything is compiled
    run = call.load()
    own = Path("predictions") / run.name if run.folder is None else run.folder / "predictions" / f"{run.images:010d}"
    _print(actions.predict(run, call.operands, call.options.out or own))


def _sample(call: Call) -> None:
    run, own = call.load(), call.options
    kind = ""
    if own.average_length is not None:
        run, words = with_average(run, own.average_length)
        to_stderr(words)
        kind = f"-length-{own.average_length:g}"
    request = actions.sample_request(
        run,
        count=own.count,
        labels=own.labels,
        prompts=own.prompt,
        images=own.image,
        masks=own.mask,
        best_of=own.best_of,
        interpolate=own.interpolate,
        difference=own.difference,
        components=own.components,
        seed=own.seed,
    )
    folder = own.out or (run.folder or Path()) / "samples" / f"sampled-{run.images:010d}{kind}"
    if own.out is None and is_first():
        # of an earlier call, perhaps more than there are now
        for path in [*folder.glob("[0-9]*.png"), *folder.glob("baseline*.png")]:
            path.unlink()
    baseline = load_run(own.baseline, package=call.package) if own.baseline is not None else None
    _print([actions.sample(run, request, folder, baseline=baseline, watermark=own.watermark)])


def _edit(call: Call) -> None:
    call.options.check()
    actions.files_of(call.options.image)  # a wrong name is an error before anything is compiled
    run, own = call.load(), call.options
    segmenter = load_run(own.segmenter) if own.segmenter is not None else None
    _print(edit(run, segmenter, own, own.out or (run.folder or Path()) / "edits" / f"{run.images:010d}"))


def _export(call: Call) -> None:
    _print([actions.export(call.load(), Path(call.operands[0]))])


def _page(call: Call) -> None:
    from vision.launch import web  # the extra "page"

    web.check_installed()
    web.serve(call.load(), overrides=call.overrides, host=call.options.host, port=call.options.port)


def _describe(call: Call) -> None:
    stored = call.open()
    simulate_devices(devices_needed(stored.experiment.mesh))
    compiler = compiler_of(stored.experiment)
    _print([describe(stored.experiment, compiler, config=stored.config, default=stored.module.config)])


VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb(
            name="evaluate",
            summary="measure the newest checkpoint",
            operands="RUN",
            act=_evaluate,
            options=EvaluateOptions,
            takes_name=True,
        ),
        Verb(
            name="predict",
            summary="say what the run recognises in images",
            operands="RUN FILES...",
            act=_predict,
            offered=lambda experiment: experiment.prediction is not None,
            options=PredictOptions,
            takes_name=True,
        ),
        Verb(
            name="sample",
            summary="generate images",
            operands="RUN",
            act=_sample,
            offered=lambda experiment: experiment.sampling is not None,
            options=SampleOptions,
            takes_name=True,
        ),
        Verb(
            name="edit",
            summary="change images by a mask, words or an instruction",
            operands="RUN",
            act=_edit,
            offered=lambda experiment: experiment.editing is not None,
            options=EditOptions,
            takes_name=True,
        ),
        Verb(
            name="export",
            summary="write the model for jax or to .onnx, or weights to .safetensors",
            operands="RUN FILE",
            act=_export,
            offered=lambda experiment: experiment.inference is not None,
            takes_name=True,
        ),
        Verb(
            name="page",
            summary="serve a local web page that generates images for sentences",
            operands="RUN",
            act=_page,
            offered=lambda experiment: "prompts" in experiment.requests,
            options=PageOptions,
        ),
        Verb(
            name="describe",
            summary="print the configuration, shapes, memory and operations",
            operands="RUN",
            act=_describe,
        ),
    )
}
"""Verbs of a run, by name."""
WITHOUT_RUN: dict[str, Callable[[Sequence[str]], None]] = {"download": download, "verify": verify}
"""Verbs of no run, by name."""


def main(arguments: Sequence[str], *, package: str = PACKAGE) -> int:
    """Run ``python -m vision`` with these arguments; returns the exit code, see ``vision.launch.exit_code``."""
    return exit_code(lambda: _main(arguments, package))


def _main(arguments: Sequence[str], package: str) -> None:
    if not arguments or arguments[0] in HELP:
        others = (
            f"  {'download NAME [FOLDER]':24} bring published weights from their publisher's address",
            f"  {'verify FILES...':24} say where images come from, by their record and their watermark",
        )
        print("\n".join([__doc__ or "", "Verbs:", *(_line(verb) for verb in VERBS.values()), *others]))
        return
    name, *words = arguments
    if name in WITHOUT_RUN:
        WITHOUT_RUN[name](words)
        return
    if name not in VERBS:
        names = [*VERBS, *WITHOUT_RUN]
        raise UserError(unknown_name("verb", name, names, f"there are {', '.join(names)}"))
    verb = VERBS[name]
    before, options, after = divided(words)
    if HELP & set(options):
        print(verb_help(verb))
        return
    operands = [*before, *after]
    verb.check(operands)
    known = [option_of(field) for field in flatten(verb.options())]
    own, overrides = chosen(options, known)
    call = Call(
        run=operands[0],
        operands=tuple(operands[1:]),
        options=parse_fields(f"python -m vision {name}", base=verb.options(), arguments=own),
        overrides=tuple(overrides),
        known=tuple(known),
        package=package,
    )
    if call.is_name() and not verb.takes_name:
        raise UserError(f"{name} is of trained runs: name the folder of a run of {call.run}")
    if not call.is_name() and verb.takes_name and not expanded(call.run).is_dir():
        near = unknown_name("run folder or experiment", call.run, list(experiment_paths(package)), "train first")
        raise UserError(near)
    verb.act(call)


def divided(words: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """(words before the first option, options with their values, words after ``--``)."""
    words = list(words)
    end = words.index("--") if "--" in words else len(words)
    first = next((index for index, word in enumerate(words[:end]) if word.startswith("--") or word == "-h"), end)
    return words[:first], words[first:end], words[end + 1 :]


def chosen(options: Sequence[str], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Options with their values, divided into those among ``names`` and the others."""
    inside: list[str] = []
    outside: list[str] = []
    target = outside
    for word in options:
        if word.startswith("--"):
            target = inside if word.split("=")[0].replace("_", "-") in names else outside
        target.append(word)
    return inside, outside


def verb_help(verb: Verb) -> str:
    """The text of ``python -m vision VERB --help``."""
    lines = [f"python -m vision {verb.name} {verb.operands} [options]", f"{verb.summary[0].upper()}{verb.summary[1:]}."]
    default = verb.options()
    rows = [(option_of(field), field_doc(default, field)) for field in vars(default) if field != "processes"]
    lines += ["", *(f"  {option:12} {text}" for option, text in rows)] if rows else []
    lines += [
        "",
        "RUN is the folder of a run" + (", or the name of an experiment." if verb.takes_name else "."),
        *(
            ["FILES are files, folders or patterns, before the options or after --."]
            if "FILES" in verb.operands
            else []
        ),
        "With a folder, options of the experiment that change how a state is evaluated or sampled from, and --mesh.*,",
        "may follow.",
    ]
    if verb.takes_name:
        lines += ["With a name, all options of the experiment may follow; --init-from names the weights."]
    return "\n".join(lines)


def _line(verb: Verb) -> str:
    return f"  {f'{verb.name} {verb.operands}':24} {verb.summary}"


def _print(lines: Sequence[str]) -> None:
    if is_first():
        print("\n".join(lines))
