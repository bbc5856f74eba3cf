"""What a trained model computes from images: the function that ``python -m vision export`` writes to a file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from jaxtyping import Array


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image of any size becomes the model's input, after rotation by EXIF data and conversion to 8-bit RGB."""

    resize: Literal["shorter side", "longer side"]
    """Which side is resized to ``side``; the other follows in proportion."""
    side: int
    """Pixels."""
    interpolation: Literal["bilinear", "lanczos"]
    """As in Pillow, with antialiasing."""
    fit: Literal["crop the centre", "pad around the centre"]
    """How the resized image becomes as large as the input."""
    padding: int | None = None
    """Value in every channel of what is padded."""


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
    preprocessing: Preprocessing | None = None
    """Of recognisers: how images of any size become the input."""
    candidates: Candidates | None = None
    """Of detectors: the same without suppression."""

    def description(self, class_names: Sequence[str]) -> dict[str, Any]:
        """What a user of the exported file must know, as JSON values.

        Args:
          class_names: element i is the name of class i; empty where there are no classes.
        """
        height, width, channels = self.image
        image = {"dtype": "uint8", "height": height, "width": width, "channels": channels, "range": [0, 255]}
        return {
            "class_names": list(class_names),
            "image": {**image, "order": "RGB" if channels == 3 else "grey"},
            "preprocessing": asdict(self.preprocessing) if self.preprocessing is not None else None,
        }
