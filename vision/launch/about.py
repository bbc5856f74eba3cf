"""What the list of experiments says of each: ``ABOUT = About(...)`` in its module, read without importing it."""

from dataclasses import dataclass
from typing import Literal

Task = Literal[
    "recognition",
    "detection",
    "segmentation",
    "instances",
    "images and texts",
    "editing",
    "diffusion",
    "variational autoencoders",
    "autoencoders",
    "adversarial networks",
    "restoration",
    "style",
    "feature extractors",
]


@dataclass(frozen=True, kw_only=True)
class About:
    """One line of ``python -m experiments``. Write the values as literals: the list reads the source."""

    task: Task
    """The heading below which the experiment is listed."""
    paper: str
    """What it follows, "Ho et al. 2020, arXiv:2006.11239"; "" for a recipe of this project."""
    quick: str
    """How long ``--quick`` takes on a laptop, "5 minutes"."""
