"""What a trained model computes from images: the function that ``python -m vision export`` writes to a file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jaxtyping import Array


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The input of non-maximum suppression, for file formats that have an operator of their own for it (ONNX)."""

    function: Callable[[Array], Mapping[str, Array]]
    """Images uint8 [b h w c] -> "boxes" float32 [b n 4] in pixels, "scores" float32 [b k n] in [0, 1]."""
    confidence: float
    """Boxes with scores up to this are left out."""
    iou: float
    """Boxes that overlap a more confident one of their class by more than this are left out."""
    max_detections: int
    """Largest number of detections of one class in an image."""
    agnostic: bool
    """Whether boxes of different classes suppress each other too."""


@dataclass(frozen=True, kw_only=True)
class Inference:
    """A pure function of images, with its variables inside."""

    function: Callable[[Array], Mapping[str, Array]]
    """Images uint8 [b h w c] -> outputs by name, the images along the first axis."""
    image: tuple[int, int, int]
    """Height, width and channels of the images."""
    candidates: Candidates | None = None
    """Of detectors: the same without suppression."""
