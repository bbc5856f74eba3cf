r"""From sentences to images: CLIP, prior, decoder and upsampler, trained in turn (Ramesh et al. 2022, "DALL-E 2").

Each stage is an experiment of its own in a folder of its own: clip (``clip_shapes``), prior (``prior_shapes``),
upsampler (``upsampler_shapes``) and decoder (``decoder_shapes``), which comes last, since its evaluation is that of the
whole. The folder of the decoder is the system: it names the others, and knows them by their content.

    python -m experiments.unclip --quick                    the shapes world: 32 pixels, enlarged to 64
    python -m experiments.unclip --quick --extra baseline   also the model of texts alone, to compare with
    python -m experiments.unclip --quick --decoder.images 200000 --prior.model.width 256 --workdir runs/larger
    python -m experiments.unclip --quick --data.name folder --data.dir my_images --workdir runs/mine
    python -m experiments.unclip --dry-run                  the commands of the stages, one a line

    python -m vision sample runs/unclip/quick/decoder --prompt "a red star left of a blue circle" "two green hearts"
    python -m vision sample runs/unclip/quick/decoder --prompt "a red star" --baseline runs/unclip/quick/baseline
    python -m vision evaluate runs/unclip/quick/decoder
    python -m vision page runs/unclip/quick/decoder

To go on after an interruption, run the same command: a finished stage is not trained again, an unfinished one resumes.
Options of a stage begin with its name, ``--data.*`` and ``--mesh.*`` are of all. report.html of the folder has the
share of held-out captions whose facts are right, next to that of real images and of the baseline.
"""

import dataclasses
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax

from vision.errors import UserError
from vision.home import expanded
from vision.launch.about import About
from vision.launch.exit_code import exit_code
from vision.launch.options import HELP, command_line, flatten, option_of, parse_fields
from vision.launch.page import KEPT
from vision.launch.stages import Stage, StageRun, run_stages, stage_runs
from vision.launch.verbs import chosen
from vision.recipes.quick_data import PAIRS
from vision.report.system_page import StageRow, write_system_page
from vision.train.records import read_metrics

ABOUT = About(task="images and texts", paper="Ramesh et al. 2022, arXiv:2204.06125", quick="not timed")

_CLIP = {"clip.weights": "clip"}
CLIP = Stage(name="clip", experiment="clip_shapes")
PRIOR = Stage(name="prior", experiment="prior_shapes", needs=_CLIP)
UPSAMPLER = Stage(name="upsampler", experiment="upsampler_shapes")
SECOND = Stage(name="second_upsampler", experiment="upsampler_shapes")
BASELINE = Stage(name="baseline", experiment="text_to_image_shapes", needs=_CLIP)
DECODER = Stage(
    name="decoder", experiment="decoder_shapes", needs={**_CLIP, "prior": "prior", "upsampler": "upsampler"}
)
Extra = Literal["baseline", "second_upsampler"]
SYSTEM = ("text_facts_", "large_facts_")
"""With which the names of the numbers of the whole begin."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Of the system; those of stages begin with their names."""

    quick: bool = False
    """Small stages on the shapes world, made for a laptop."""
    workdir: Path | None = None
    """The folder. Default: runs/unclip/quick, or runs/unclip/default."""
    extra: tuple[Extra, ...] = ()
    """Further stages: the baseline, which is conditioned on texts alone; a second upsampler."""
    dry_run: bool = False
    """Print the commands of the stages, one a line, and stop."""


def data_options() -> str:
    """The figures that all quick stages are of, as options of the CLIP's, whose own are simpler."""
    words: list[str] = []
    for name in ("max_objects", "min_size", "max_size", "backgrounds", "min_visible"):
        value = getattr(PAIRS.shapes, name)
        words += [option_of(f"data.shapes.{name}"), *map(str, value if isinstance(value, tuple) else (value,))]
    return " ".join([*words, "--data.shapes-count", str(PAIRS.shapes_count)])


_AT_THE_END = "--intervals.evaluate 1000000000"
QUICK: Mapping[str, str] = {
    "clip": f"{data_options()} --model.image.patch 8 --model.image.width 64 --model.text.length 24 "
    f"--model.text.width 64 --model.text.depth 3 --batch-size 128 --images 128000 {_AT_THE_END}",
    "prior": f"--images 96000 {_AT_THE_END}",
    "upsampler": f"--images 16000 {_AT_THE_END}",
    "decoder": f"--images 80000 {_AT_THE_END}",
    "baseline": f"--images 80000 {_AT_THE_END}",
}
"""Options of the quick stages: a CLIP of the size of the one that comes with the project, and budgets."""


def stages(options: Options) -> list[Stage]:
    """In the order in which they are trained."""
    decoder, found = DECODER, [CLIP, PRIOR, UPSAMPLER]
    if "second_upsampler" in options.extra:
        found.append(SECOND)
        decoder = dataclasses.replace(decoder, needs={**decoder.needs, SECOND.name: SECOND.name})
    found += [*([BASELINE] if "baseline" in options.extra else []), decoder]
    if not options.quick:
        return found
    return [dataclasses.replace(each, options=tuple(QUICK.get(each.name, "").split())) for each in found]


def main(arguments: Sequence[str]) -> None:
    """Train, or print, what the command line says. Raises ``UserError``."""
    own, rest = chosen(arguments, [option_of(name) for name in flatten(Options())])
    options = parse_fields("python -m experiments.unclip", base=Options(), arguments=own)
    root = options.workdir or Path("runs") / "unclip" / ("quick" if options.quick else "default")
    runs = sized(stage_runs(stages(options), rest, root=root, quick=options.quick))
    if options.dry_run:
        print("\n".join(shlex.join(run.command) for run in runs))
        return
    run_stages(runs, say=lambda text: print(text, file=sys.stderr, flush=True))
    report(expanded(root), runs)
    print(f"the system: {root / DECODER.name}\nreport: {root / 'report.html'}")


def sized(runs: list[StageRun]) -> list[StageRun]:
    """Upsamplers with the side that follows from the stage before, where the command line says another than theirs."""
    given = next(run for run in runs if run.stage.name == DECODER.name).arguments
    if not any(word.split("=")[0] == "--data.resolution" for word in given):
        return runs
    side = next(run for run in runs if run.stage.name == DECODER.name).config().data.resolution
    found = []
    for run in runs:
        if run.stage.experiment == UPSAMPLER.experiment:
            side *= run.config().upsampling.factor
            run = dataclasses.replace(run, arguments=(*run.arguments, "--data.resolution", str(side)))
        found.append(run)
    return found


def report(root: Path, runs: Sequence[StageRun]) -> None:
    """Write system.json and report.html: the numbers of the whole, and the stages."""
    rows, numbers, protocol = [], {}, {}
    for run in runs:
        lines = read_metrics(run.folder / "metrics.jsonl")
        spent = sum(float(line[name]) for line in lines for name in line if name.endswith("_seconds"))
        last = {name.removeprefix("eval/"): float(line[name]) for line in lines for name in line if "eval/" in name}
        said = json.loads((run.folder / KEPT).read_text())["protocol"]
        rows.append(
            StageRow(
                name=run.stage.name,
                command=shlex.join(run.command),
                images=max(int(line["images"]) for line in lines),
                seconds=spent,
            )
        )
        if run.stage.name == BASELINE.name:
            found = {f"baseline_{name}": name for name in last if name.startswith(("facts_single", "facts_pair"))}
        else:
            found = {name: name for name in last if name.startswith(SYSTEM)} if run.stage.name == DECODER.name else {}
        numbers |= {name: last[own] for name, own in found.items() if "real" not in name or "text" in name}
        protocol |= {name: said.get(own, "") for name, own in found.items()}
    content = {"numbers": numbers, "stages": {row.name: {"images": row.images, "seconds": row.seconds} for row in rows}}
    (root / "system.json").write_text(json.dumps(content, indent=2) + "\n")
    pictures = sorted((root / DECODER.name / "samples").glob("text_samples-*.png"))
    write_system_page(
        root / "report.html",
        title=f"unclip: {root.name}",
        command=command_line(),
        stages=rows,
        numbers=numbers,
        protocol=protocol,
        figure=pictures[-1] if pictures else None,
    )


def act() -> None:
    """What ``python -m experiments.unclip`` does."""
    words = sys.argv[1:]
    if HELP & set(words):
        print(__doc__)
        return
    try:
        main(words)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be written or read: {error.strerror}") from error


if __name__ == "__main__":
    # Only stages need devices, and one that is held here would be missing there.
    jax.config.update("jax_platforms", "cpu")
    sys.exit(exit_code(act))
