"""Captions among the features of a data set of TFDS, such as "captions/text" of coco_captions."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from vision.data.captions.source import Captioned, checked
from vision.data.tfds import TfdsSource, tfds_source
from vision.errors import UserError


@dataclass(frozen=True, eq=False)
class TfdsTexts:
    """Texts that are read when they are asked for."""

    source: TfdsSource
    feature: str

    def __call__(self, indices: Int[np.ndarray, " b"]) -> list[tuple[str, ...]]:
        found = []
        for index in indices.tolist():
            texts = (checked(text, f"sample {index}") for text in self.source.texts(index, self.feature))
            found.append(tuple(text for text in texts if text))
            if not found[-1]:
                raise UserError(f"sample {index} of {len(self.source)} has no text in its feature {self.feature!r}.")
        return found


def captioned_tfds(name: str, split: str, *, data_dir: Path, feature: str, max_pixels: int) -> Captioned:
    """The images of a split with the texts of ``feature``.

    Raises ``UserError`` as ``vision.data.tfds.tfds_source``, and where there is no such feature, or no text in it.
    """
    source = tfds_source(name, split, data_dir=data_dir, label_key=None, max_pixels=max_pixels)
    texts = TfdsTexts(source, feature)
    texts(np.zeros(1, np.int64))
    return Captioned(source, texts)
