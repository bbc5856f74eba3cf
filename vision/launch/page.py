"""samples/, curves.png and report.html of a run folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vision.launch.options import Parsed, changes, command_line, nested
from vision.parallel.agreement import is_first
from vision.report.animation import animate_files, save_animation
from vision.report.grid import save_png
from vision.train.experiment import Evaluation, Experiment
from vision.train.records import read_metrics
from vision.train.replicas import FOLDER as REPLICAS
from vision.train.replicas import combined


def images_of(path: Path) -> str:
    """The number of training images in the name of a file of samples/, of fixed width."""
    return path.stem.rsplit("-", 1)[1]


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
        """Keep the images of an evaluation and write the page anew."""
        if not is_first():
            return
        self._last = evaluation
        self._latest = combined(evaluation.scalars, self._experiment.replicas)
        samples = self._folder / "samples"
        save_images(samples, images, evaluation)
        for replica, of_replica in zip(self._experiment.replicas, evaluation.replicas, strict=True):
            save_images(self._folder / REPLICAS / replica.name / "samples", images, of_replica)
        from vision.report.curves import save_curves  # matplotlib takes a second to import

        save_curves(self._folder / "curves.png", read_metrics(self._folder / "metrics.jsonl"))
        self._render(step, images, evaluation)

    def finish(self, step: int, images: int) -> None:
        """Write the page once more, with the animation; where this process evaluated nothing, it is left as it is."""
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
                replica.name: {name: float(value) for name, value in of_replica.scalars.items()}
                for replica, of_replica in zip(self._experiment.replicas, evaluation.replicas, strict=True)
            },
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


def save_images(folder: Path, images: int, evaluation: Evaluation) -> None:
    """Keep an evaluation's images and animations, named by the number of training images."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, pixels in evaluation.images.items():
        save_png(folder / f"{name}-{images:010d}.png", pixels)
    for animation, frames in evaluation.animations.items():
        save_animation(folder / f"{animation}-{images:010d}.gif", frames)
