"""The options of the verbs of ``python -m vision``."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from vision.errors import UserError
from vision.parallel.processes import ProcessOptions
from vision.ranges import AverageLength, Fraction, NonNegativeFloat, NonNegativeInt, Port, PositiveInt, Seed
from vision.types import EditMethod, EditRequest

AUTO = "auto:"
"""Before the name of a class that a segmenter is to find."""
SHADOW = 2.0
"""Least pixels by which the mask of a class grows, since shadows and soft edges are no part of it."""


@dataclass(frozen=True)
class Options:
    """Options of every verb."""

    processes: ProcessOptions = ProcessOptions()


@dataclass(frozen=True)
class EvaluateOptions(Options):
    """Options of evaluate."""

    average_length: tuple[AverageLength, ...] = ()
    """Relative lengths of averages reconstructed from the run's snapshots and evaluated in place of its own."""


@dataclass(frozen=True)
class PredictOptions(Options):
    """Options of predict."""

    out: Path | None = None
    """Folder for what is written. Default: predictions/ in the run folder."""


@dataclass(frozen=True)
class SampleOptions(Options):
    """Options of sample."""

    count: PositiveInt = 16
    """Number of images."""
    labels: tuple[str, ...] = ()
    """Names or numbers of classes, repeated until there are enough. Default: equal numbers of all."""
    prompt: tuple[str, ...] = ()
    """Texts, repeated until there are enough; each is one word of the command line, in quotes."""
    image: tuple[str, ...] = ()
    """Files, folders or patterns of images to start from, repeated until there are enough."""
    mask: tuple[str, ...] = ()
    """Grey images, white where --image may change; one for all, or one for each."""
    best_of: PositiveInt = 1
    """Images that are generated for each one that is kept: the one whose text fits it best by the run's CLIP."""
    interpolate: bool = False
    """Steps of equal length from the first of two images or texts to the second, with the same noise."""
    difference: tuple[str, ...] = ()
    """Two texts: --image moves from what the first says towards what the second says, in steps of equal length."""
    components: tuple[NonNegativeInt, ...] = ()
    """--image is reconstructed from these numbers of leading principal components of embeddings; --count follows."""
    baseline: Path | None = None
    """Folder of another run, whose images for the same request are shown next to these."""
    watermark: bool = False
    """Mark images invisibly, so that verify knows them when their record is lost; from 32x32 pixels on, in colour."""
    seed: Seed = 0
    """Seed of the noise."""
    average_length: AverageLength | None = None
    """Relative length of an average reconstructed from the run's snapshots and sampled from in place of its own."""
    out: Path | None = None
    """Folder for what is written. Default: samples/ in the run folder."""


@dataclass(frozen=True)
class PageOptions(Options):
    """Options of page."""

    host: str = "127.0.0.1"
    """Address to listen on. By default this machine alone can see the page."""
    port: Port = 8000
    """Port to listen on."""


@dataclass(frozen=True)
class EditOptions(Options):
    """Options of edit."""

    image: tuple[str, ...] = ()
    """Files, folders or patterns of images to edit."""
    mask: str | None = None
    """A grey image, white where the image may change; or auto:CLASS, or auto:CLASS:NUMBER, found by --segmenter."""
    box: tuple[NonNegativeInt, ...] = ()
    """x0 y0 x1 y1 in pixels of the image, in place of a mask."""
    invert: bool = False
    """The mask or the box says what stays."""
    grow: NonNegativeFloat = 0.0
    """Pixels by which the mask grows; with auto:CLASS at least 2, since shadows are no part of a class."""
    feather: NonNegativeFloat = 0.0
    """Pixels over which the edit fades out beyond the mask."""
    remove: bool = False
    """Nothing should be left inside the mask."""
    prompt: str = ""
    """What the result shows, or the inside of the mask for a run that inpaints with words."""
    instruction: str = ""
    """What to do, for a run that follows instructions."""
    background: str = ""
    """What the background becomes; without a mask, where --segmenter finds background."""
    source: str = ""
    """What the image shows, for inversion."""
    method: EditMethod = "auto"
    """How; auto takes what the run was trained for, else repaint, blended or sdedit by what is given."""
    strength: Fraction = 0.75
    """Share of the sampler's steps that the edit takes: 0 returns the image."""
    strengths: tuple[Fraction, ...] = (0.25, 0.5, 0.75, 1.0)
    """Of the strip."""
    resamplings: PositiveInt = 10
    """Of repaint: how often each step is made."""
    jump: PositiveInt = 5
    """Of repaint: steps that are taken back at once."""
    seeds: PositiveInt = 1
    """Results for each image, each with noise of its own."""
    seed: Seed = 0
    """Seed of the noise."""
    segmenter: Path | None = None
    """Folder of a run that finds classes or objects with masks."""
    out: Path | None = None
    """Folder for what is written. Default: edits/ in the run folder."""

    def check(self) -> None:
        """Raise ``UserError`` where options contradict each other."""
        if not self.image:
            raise UserError("edit needs an image: name one with --image")
        if self.mask is not None and self.box:
            raise UserError("--mask and --box both say where: give one of them")
        if self.box and len(self.box) != 4:
            raise UserError(f"--box is four numbers x0 y0 x1 y1, not {len(self.box)}")
        if self.background and (self.prompt or self.instruction or self.remove):
            raise UserError("--background says what to do, and so do --prompt, --instruction and --remove: give one")

    def request(self, image: UInt8[np.ndarray, "h w 3"], mask: UInt8[np.ndarray, "h w 1"] | None) -> EditRequest:
        """What is asked of the run, of one image."""
        found = self.mask is not None and self.mask.startswith(AUTO)
        return EditRequest(
            image=image,
            mask=mask,
            grow=max(self.grow, SHADOW) if found else self.grow,
            feather=self.feather,
            method=self.method,
            prompt=self.prompt,
            instruction=self.instruction,
            background=self.background,
            source=self.source,
            remove=self.remove,
            strength=self.strength,
            resamplings=self.resamplings,
            jump=self.jump,
            count=self.seeds,
            seed=self.seed,
        )
