"""Images with their semantic masks, before they lie in a canvas: of files, and of a set that TFDS has prepared."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vision.data.annotations.index_masks import MaskRules, classes_of, mask_values, other_size, read_mask
from vision.data.annotations.semantic_files import Pair
from vision.data.image_file import MAX_PIXELS, opened, upright
from vision.data.tfds import TfdsSource
from vision.errors import UserError

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True, eq=False)
class FileImages:
    """Images and masks in files."""

    pairs: tuple[Pair, ...]
    """Images and their masks."""
    rules: MaskRules
    """What the values of masks mean."""
    max_pixels: int = MAX_PIXELS
    """Limit of an image's width times height."""

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> tuple[Image.Image, UInt8[np.ndarray, "h w"]]:
        """The image in RGB, and the class of each of its pixels, `VOID` where there is none."""
        pair = self.pairs[index]
        with opened(pair.image, max_pixels=self.max_pixels) as file:
            image = upright(file)
        mask = read_mask(pair.mask, self.rules, size=image.size, image=pair.image, max_pixels=self.max_pixels)
        return image, mask

    def values(self, index: int) -> np.ndarray:
        """The mask as stored: indices uint8 or uint16 [h w], or colours uint8 [h w 3]."""
        return mask_values(self.pairs[index].mask, max_pixels=self.max_pixels)

    def size(self, index: int) -> Size:
        """Of the mask, from its header."""
        with opened(self.pairs[index].mask, max_pixels=self.max_pixels) as image:
            return image.height, image.width

    def name(self, index: int) -> str:
        """Where the mask is, for messages."""
        return f"the mask {self.pairs[index].mask}"

    def first(self, count: int) -> "FileImages":
        """At most as many of them, from the first one on."""
        return replace(self, pairs=self.pairs[:count])


@dataclass(frozen=True, eq=False)
class TfdsImages:
    """Images of a set of TFDS, with a feature that holds the mask."""

    source: TfdsSource
    """Its samples, without labels."""
    mask: str
    """The feature of the mask, an image of one channel."""
    rules: MaskRules
    """What the values of masks mean."""
    count: int
    """How many of the samples, from the first one on."""

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> tuple[Image.Image, UInt8[np.ndarray, "h w"]]:
        """The image in RGB, and the class of each of its pixels, `VOID` where there is none."""
        record = self.source[index]
        pixels, values = record["image"], record[self.mask][..., 0]
        if pixels.shape[:2] != values.shape:
            raise other_size(self.name(index), values.shape[::-1], "its image", pixels.shape[1::-1])
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")
        return image, classes_of(values, self.rules, self.name(index))

    def values(self, index: int) -> np.ndarray:
        """The mask as stored: indices uint8 or uint16 [h w]."""
        return self.source[index][self.mask][..., 0]

    def size(self, index: int) -> Size:
        """Of the mask, from its header."""
        return self.source.image_size(index, self.mask)

    def name(self, index: int) -> str:
        """Where the mask is, for messages."""
        return f"the {self.mask} of sample {index}"

    def first(self, count: int) -> "TfdsImages":
        """At most as many of them, from the first one on."""
        return replace(self, count=min(count, self.count))


MaskedImages = FileImages | TfdsImages


def check_mask_feature(source: TfdsSource, mask: str, name: str) -> None:
    """Raise ``UserError`` unless the feature ``mask`` of the set ``name`` is an image of one channel of integers."""
    if mask not in source.images_of_one_channel:
        listed = ", ".join(source.images_of_one_channel) or "none"
        raise UserError(
            f"{name} has no feature {mask!r} that is an image of one channel, as masks are; of those it has {listed}: "
            "give --data.mask-feature"
        )
