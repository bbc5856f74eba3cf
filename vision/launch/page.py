"""samples/, curves.png and report.html of a run folder."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vision.atomic import write_atomically
from vision.launch.inputs import data_changes
from vision.launch.options import Parsed, changes, command_line, nested
from vision.parallel.agreement import is_first
from vision.report.animation import animate_files, save_animation
from vision.report.grid import save_png
from vision.train.experiment import Evaluation, Experiment
from vision.train.records import read_metrics
from vision.train.replicas import FOLDER as REPLICAS
from vision.train.replicas import combined

KEPT = "evaluation.json"
_LEAST_SECONDS = 20.0
"""Between two renewals of curves and page, which take one: evaluations may be more frequent."""


def images_of(path: Path) -> str:
    """The number of training images in the name of a file of samples/, of fixed width."""
    return path.stem.rsplit("-", 1)[1]


class Page:
    """Renews samples/ after each evaluation, curves.png and report.html at most every 20 seconds and at the end.

    What the page says of the latest evaluation is also kept in evaluation.json, which is written after the images and
    before the page. So a process that finds it can tell what a kill has left out, and make the page again.
    """

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
        self._evaluated = False
        self._written = -math.inf

    def is_complete(self, step: int) -> bool:
        """Whether the evaluation after ``step`` is kept with all of its images."""
        kept = self._kept()
        return (
            kept is not None and kept["step"] == step and all((self._folder / file).exists() for file in kept["files"])
        )

    def write(self, step: int, images: int, evaluation: Evaluation) -> None:
        """Keep an evaluation with its images and write the page anew."""
        if not is_first():
            return
        self._evaluated = True
        self._latest = combined(evaluation.scalars, self._experiment.replicas)
        files = save_images(self._folder / "samples", images, evaluation)
        found = dict(zip((each.name for each in self._experiment.replicas), evaluation.replicas, strict=True))
        for name, of_replica in found.items():
            files += save_images(self._folder / REPLICAS / name / "samples", images, of_replica)
        kept = {
            "step": step,
            "images": images,
            "protocol": dict(evaluation.protocol),
            "replicas": {name: {k: float(v) for k, v in each.scalars.items()} for name, each in found.items()},
            "files": [str(file.relative_to(self._folder)) for file in files],
        }
        write_atomically(self._folder / KEPT, (json.dumps(kept, indent=2) + "\n").encode())
        if time.monotonic() - self._written > _LEAST_SECONDS:
            self._save_curves()
            self._render()
            self._written = time.monotonic()

    def finish(self) -> None:
        """Write the page once more, with the animation; an earlier process's page only where parts are missing.

        To be called at the end of the run, also of one that is interrupted.
        """
        if not is_first() or self._kept() is None:
            return
        samples, curves = self._folder / "samples", self._folder / "curves.png"
        animation = samples / "samples.gif"
        if self._evaluated or not animation.exists():
            animate_files(animation, sorted(samples.glob("samples-*.png"), key=images_of))
        if self._is_old(curves):
            self._save_curves()
        if self._evaluated or self._is_old(self._folder / "report.html"):
            self._render()

    def _kept(self) -> dict[str, Any] | None:
        """evaluation.json; None where there is none that can be read, so that it is made again."""
        try:
            kept = json.loads((self._folder / KEPT).read_text())
            return kept if {"step", "images", "protocol", "replicas", "files"} <= kept.keys() else None
        except (OSError, ValueError, AttributeError):
            return None

    def _is_old(self, path: Path) -> bool:
        """Whether a part of the page is missing, or older than the evaluation that it should show."""
        return not path.exists() or path.stat().st_mtime_ns < (self._folder / KEPT).stat().st_mtime_ns

    def _save_curves(self) -> None:
        from vision.report.curves import save_curves  # matplotlib takes a second to import

        save_curves(self._folder / "curves.png", read_metrics(self._folder / "metrics.jsonl"))

    def _render(self) -> None:
        from vision.report.page import write_page

        kept = self._kept()
        assert kept is not None
        samples, step, images = self._folder / "samples", kept["step"], kept["images"]
        total = self._experiment.total_steps * self._experiment.batch_size
        changed = data_changes(self._folder)
        write_page(
            self._folder / "report.html",
            title=f"{self._name}: {self._folder.name}",
            command=command_line(),
            config=nested(self._parsed.config),
            environment=self._environment,
            metrics=read_metrics(self._folder / "metrics.jsonl"),
            protocol={
                **{f"eval/{name}": words for name, words in kept["protocol"].items()},
                **({"the data changed during the run": "; ".join(changed)} if changed else {}),
            },
            sample_paths=sorted(samples.glob("*-*.png"), key=images_of, reverse=True),
            curves_path=self._folder / "curves.png",
            summary=self.summary(),
            replicas=kept["replicas"],
            description=self._description,
            status=f"{'Finished' if images >= total else 'Running'}: step {step:,}, {images:,} of {total:,} images",
            changed=set(changes(self._parsed.config, self._parsed.default)),
        )

    def summary(self) -> dict[str, str]:
        """The latest numbers of evaluation as text; of an earlier process where this one evaluated nothing."""
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


def save_images(folder: Path, images: int, evaluation: Evaluation) -> list[Path]:
    """Keep an evaluation's images and animations, named by the number of training images; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, pixels in evaluation.images.items():
        files.append(folder / f"{name}-{images:010d}.png")
        save_png(files[-1], pixels)
    for animation, frames in evaluation.animations.items():
        files.append(folder / f"{animation}-{images:010d}.gif")
        save_animation(files[-1], frames)
    return files
