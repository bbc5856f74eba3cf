"""Images of any size as a source of squares of one size, for data that is decoded while training."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vision.data.folder import square
from vision.data.source import BlockSource, Record, Source
from vision.errors import UserError


@dataclass(frozen=True, eq=False)
class FittedSource:
    """The samples of a source with "image" uint8 [side side 3] and the other fields named.

    The shorter side is resized with antialiasing, then the centre is cropped (Dhariwal & Nichol 2021, as for ImageNet).
    """

    source: Source
    side: int
    """Pixels."""
    fields: tuple[str, ...]
    """Fields that are kept, "image" among them."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Those of ``source``."""
        return self.source.class_names

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        return self._fitted(self.source[index])

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        """Several samples at once, as fast as ``source`` reads them."""
        if isinstance(self.source, BlockSource):
            return [self._fitted(record) for record in self.source.__getitems__(indices)]
        return [self[index] for index in indices]

    def _fitted(self, record: Record) -> Record:
        for name in self.fields:
            if name not in record:
                raise UserError(f"the sample has no {name!r}, only {', '.join(record)}")
        kept = {name: record[name] for name in self.fields}
        image = np.asarray(kept["image"])
        if image.shape != (self.side, self.side, 3):
            pixels = image[..., 0] if image.shape[-1] == 1 else image
            kept["image"] = square(Image.fromarray(pixels), self.side)
        return kept
