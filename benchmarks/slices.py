"""Table of slices: the training step of every experiment, compiled for accelerators that are not there.

    python benchmarks/slices.py rows.jsonl                                 8 x H100 and 16 x v5e, data and data x fsdp
    python benchmarks/slices.py rows.jsonl --slices h100:8/2x4 --experiments resnet_cifar gan_cifar
    python benchmarks/slices.py rows.jsonl --options --model.dtype bfloat16   with options for every experiment
    python benchmarks/slices.py rows.jsonl --table                         the rows so far, as Markdown

    python benchmarks/slices.py chips.jsonl --slices v5e:1x1/1x1 h100:1/1x1
    python benchmarks/slices.py chips.jsonl --write-fits                   the column of ``python -m experiments``

Needs the extras tpu and cuda12, and no accelerator. One JSON line a program; those that are in the file already are
skipped, so that the table may be made in pieces. Each program is compiled in a process of its own, one at a time. A
batch that the devices cannot share equally is raised to the next multiple, which the row says.
"""

import argparse
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vision.errors import UserError
from vision.launch.experiment_module import experiment_paths, find_experiment
from vision.launch.fits import FILE, make_fits
from vision.launch.prove import prove, recording_compiler, versions
from vision.parallel.mesh import MeshConfig
from vision.parallel.topology import parse_topology, prepare
from vision.train.experiment import Experiment

SLICES = ("h100:8/8x1", "h100:8/2x4", "v5e:4x4/16x1", "v5e:4x4/4x4")
"""TOPOLOGY/DATAxFSDP."""


def main() -> None:
    """Compile what the file lacks, or print or store what it has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--slices", nargs="+", default=SLICES, metavar="TOPOLOGY/DATAxFSDP")
    parser.add_argument("--experiments", nargs="+", default=[], choices=list(experiment_paths()), metavar="NAME")
    parser.add_argument("--timeout", type=float, default=7200.0, help="seconds after which a program is given up")
    parser.add_argument("--one", action="store_true", help="compile one program in this process and print its row")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--write-fits", action="store_true")
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="of the experiments; comes last")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(row_of(arguments.experiments[0], arguments.slices[0], arguments.options)))
    elif arguments.table:
        print(table(read(arguments.file)))
    elif arguments.write_fits:
        path = Path(__file__).resolve().parents[1] / "experiments" / FILE
        path.write_text(make_fits(read(arguments.file), path.read_text() if path.exists() else "{}"))
    else:
        names = arguments.experiments or list(experiment_paths())
        fill(arguments.file, arguments.slices, names, arguments.options, arguments.timeout)


def fill(file: Path, slices: Sequence[str], names: Sequence[str], options: Sequence[str], timeout: float) -> None:
    """Append the rows that ``file`` lacks."""
    known = {(row["experiment"], row["slice"], tuple(row["options"])) for row in read(file)}
    for where in slices:
        for name in names:
            if (name, where, tuple(options)) in known:
                continue
            command = [sys.executable, __file__, str(file), "--one", "--experiments", name, "--slices", where]
            print(name, where, flush=True)
            try:
                done = subprocess.run(
                    [*command, "--options", *options], capture_output=True, text=True, timeout=timeout, check=False
                )
                if -done.returncode in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
                    sys.exit(f"{name} {where} was stopped by somebody: run the same command again")
                said = done.stdout.strip().splitlines()
                failed = None if done.returncode == 0 and said else f"exit code {done.returncode}: {_last(done.stderr)}"
                row = json.loads(said[-1]) if failed is None else {}
            except subprocess.TimeoutExpired:
                row, failed = {}, f"not compiled within {timeout:g} s"
            if failed is not None:
                row = {"experiment": name, "slice": where, "options": list(options), "problem": failed}
            with file.open("a") as lines:
                lines.write(json.dumps(row) + "\n")


def _last(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")[:300]


def read(file: Path) -> list[dict[str, Any]]:
    """The rows of a file; none where there is no file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def row_of(name: str, where: str, options: Sequence[str]) -> dict[str, Any]:
    """Compile the training step of an experiment for a slice."""
    topology_name, _, mesh = where.partition("/")
    topology = parse_topology(topology_name)
    prepare(topology)
    data, fsdp = map(int, mesh.split("x"))
    module = find_experiment(name)
    config = replace(module.parse(options).config, mesh=MeshConfig(data=data, fsdp=fsdp))
    row: dict[str, Any] = {"experiment": name, "slice": where, "options": list(options)}
    with contextlib.redirect_stdout(sys.stderr):
        try:
            experiment, batch = divided(module.build, config, data * fsdp)
            compiler = recording_compiler(experiment, topology)
            report = prove(experiment, compiler, only_step=True).programs[0]
        except UserError as error:
            return {**row, "problem": str(error).replace(str(Path.home()), "~")}
    return {
        **row,
        "batch": batch,
        "batch_by_default": config.batch_size,
        "memory_of_the_device": topology.chip.memory,
        "memory_available": topology.chip.available,
        **report.as_json(),
        "versions": versions(topology),
    }


def divided(build: Any, config: Any, shards: int) -> tuple[Experiment, int]:
    """The experiment and its batch: the configuration's, raised to the next one that ``shards`` devices can share."""
    unit = shards * config.microbatches
    raised = -(-config.batch_size // unit) * unit
    return build(replace(config, batch_size=raised)), raised


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as Markdown."""
    head = ["experiment", "slice", "batch", "fits", "compiled in, processor s", "GiB: arguments + temporaries"]
    head += ["sent, MiB", "of the least", "sums in"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for row in rows:
        name = " ".join([row["experiment"], *row["options"]])
        if not row.get("memory"):
            seconds = f"{row['processor_seconds']:.0f}" if "seconds" in row else ""
            cells = [name, row["slice"], str(row.get("batch", "")), f"no: {row['problem']}", seconds, "", "", "", ""]
        else:
            cells = [name, row["slice"], _batch(row), "yes" if row["fits"] else "no", f"{row['processor_seconds']:.0f}"]
            memory = row["memory"]
            cells.append(f"{memory['arguments'] / 2**30:.2f} + {memory['temporaries'] / 2**30:.2f}")
            sent = {kind: each["sent"] / 2**20 for kind, each in row["exchange"].items()}
            counts = {kind: each["count"] for kind, each in row["exchange"].items()}
            cells.append(", ".join(f"{kind} {sent[kind]:,.1f} ({counts[kind]:,.0f})" for kind in sent) or "none")
            least = sum(row["least"].values())
            cells.append(f"{sum(sent.values()) * 2**20 / least:.2f}" if least else "")
            sums = {name: size for name, size in row["sums"].items() if size > 0.01 * sum(row["sums"].values())}
            cells.append(", ".join(sums))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _batch(row: dict[str, Any]) -> str:
    raised = row["batch"] != row["batch_by_default"]
    return f"{row['batch']:,}" + (f" (default {row['batch_by_default']:,})" if raised else "")


if __name__ == "__main__":
    main()
