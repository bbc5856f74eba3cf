"""Semantic masks in image files: a class for each pixel, as an index or as a colour.

Palette images and grey ones of 8 or 16 bits hold indices; the palette itself is only for display. Images in RGB hold
colours, which a table maps to indices. One value, *void*, marks pixels without a class: they are neither trained on nor
evaluated. In memory void is always `VOID`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vision.data.annotations.fields import text_lines
from vision.data.class_names import check_name
from vision.data.image_file import MAX_PIXELS, opened
from vision.errors import UserError

VOID = 255
"""Of masks in memory: pixels without a class."""
MAX_CLASSES = 255
"""Indices of classes are below `VOID`."""

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class MaskRules:
    """How the values of mask files become classes."""

    classes: int
    """Number of classes; values are ``first`` to ``first + classes - 1`` unless ``renumbered`` says otherwise."""
    first: int = 0
    """Value in the files of the class 0."""
    void: tuple[int, ...] = (VOID,)
    """Values in the files that are void."""
    renumbered: Mapping[int, int] = field(default_factory=dict)
    """Value in the files -> class, where they differ; then every value that is neither here nor void is refused."""
    colours: tuple[Colour, ...] = ()
    """Of masks in RGB, the colour of each class."""
    void_colours: tuple[Colour, ...] = ((0, 0, 0),)
    """Of masks in RGB: colours that are void unless a class has them."""

    @property
    def values(self) -> Mapping[int, int]:
        """Value in the files -> class."""
        return self.renumbered or {self.first + label: label for label in range(self.classes)}

    def table(self) -> np.ndarray:
        """int32 [65536]: value in the files -> class, `VOID`, or -1 for an unknown value."""
        table = np.full(2**16, -1, np.int32)
        for value, label in self.values.items():
            table[value] = label
        for value in self.void:
            table[value] = VOID
        return table


def read_mask(
    file: Path, rules: MaskRules, *, size: tuple[int, int], image: Path, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "h w"]:
    """The classes of a mask file, `VOID` where there is none.

    Args:
        file: of the mask.
        rules: what its values mean.
        size: (width, height) of its image in pixels.
        image: the image's file, for messages.
        max_pixels: limit of width times height.

    Raises:
        UserError: the file cannot be decoded, has another size than the image, or a value or colour that is unknown.
    """
    values = mask_values(file, max_pixels=max_pixels)
    height, width = values.shape[:2]
    if (width, height) != size:
        raise other_size(f"the mask {file}", (width, height), f"its image {image}", size)
    return classes_of(values, rules, f"the mask {file}")


def other_size(mask: str, size: tuple[int, int], image: str, image_size: tuple[int, int]) -> UserError:
    """The error that a mask has another (width, height) than its image; ``mask`` and ``image`` name them."""
    (width, height), (columns, rows) = size, image_size
    turned = ", which EXIF data may turn by 90 degrees" if size == image_size[::-1] else ""
    return UserError(
        f"{mask} has {width}x{height} pixels and {image} {columns}x{rows}: a mask has the size of its image{turned}"
    )


def classes_of(values: np.ndarray, rules: MaskRules, name: str) -> UInt8[np.ndarray, "h w"]:
    """The classes of a mask as stored, `VOID` where there is none.

    Args:
        values: indices uint8 or uint16 [h w], or colours uint8 [h w 3].
        rules: what they mean.
        name: of the mask, for messages: "the mask a.png".

    Raises:
        UserError: a value or colour is unknown.
    """
    if values.ndim == 3:
        return _of_colours(values, rules, name)
    found = rules.table()[values]
    if (found < 0).any():
        raise _unknown(values, found < 0, name, rules)
    return found.astype(np.uint8)


def mask_values(file: Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The values of a mask file as stored: indices uint8 or uint16 [h w], or colours uint8 [h w 3].

    EXIF rotation is not applied to masks, since no program that writes them sets it.

    Raises:
        UserError: the file cannot be decoded, or has neither indices nor colours.
    """
    with opened(file, max_pixels=max_pixels) as image:
        if image.mode in ("P", "L", "1"):
            return np.asarray(image if image.mode != "1" else image.convert("L")).astype(np.uint8)
        if image.mode.startswith("I;16"):
            return np.asarray(image).astype(np.uint16)
        if image.mode == "I":
            values = np.asarray(image)
            if values.min() < 0 or values.max() >= 2**16:
                raise ValueError(f"its values reach from {values.min()} to {values.max()}, and not from 0 to 65535")
            return values.astype(np.uint16)
        if image.mode in ("RGB", "RGBA"):
            return np.asarray(image.convert("RGB"))
        raise ValueError(f"its mode {image.mode} has neither indices nor colours of classes")


def _of_colours(values: np.ndarray, rules: MaskRules, name: str) -> UInt8[np.ndarray, "h w"]:
    if not rules.colours:
        raise UserError(
            f"{name} is in RGB, and no colours of the classes are known: write them behind the names in the "
            'list of classes ("road 128 64 128"), or save masks with indices'
        )
    packed = _packed(values)
    found = np.full(packed.shape, -1, np.int32)
    for colour in rules.void_colours:
        found[packed == _packed(np.array(colour))] = VOID
    for label, colour in enumerate(rules.colours):
        found[packed == _packed(np.array(colour))] = label
    if (found < 0).any():
        raise _unknown(values, found < 0, name, rules)
    return found.astype(np.uint8)


def _packed(colours: np.ndarray) -> Any:
    """RGB as one number."""
    wide = colours.astype(np.int32)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def _unknown(values: np.ndarray, where: np.ndarray, name: str, rules: MaskRules) -> UserError:
    row, column = (int(each[0]) for each in np.nonzero(where))
    value = values[row, column]
    if values.ndim == 3:
        what = f"the colour {' '.join(str(int(each)) for each in value)}"
        known = f"the {len(rules.colours)} classes have other colours"
    else:
        what = f"the value {int(value)}"
        names = ", ".join(map(str, rules.void)) or "none"
        known = f"classes are {rules.first} to {rules.first + rules.classes - 1} and void is {names}"
        if rules.renumbered:
            known = f"the {len(rules.renumbered)} known values are others, and void is {names}"
    return UserError(f"{name} has {what} at row {row}, column {column} ({int(where.sum()):,} unknown pixels): {known}")


def class_table(file: Path) -> tuple[tuple[str, ...], tuple[Colour, ...]]:
    """The names of a list of classes, one a line, and their colours where every line ends in three numbers.

    "road", or "road 128 64 128". Empty lines and lines that begin with # are left out.

    Raises:
        UserError: the file cannot be read; it has no class, or more than `MAX_CLASSES`; only some lines have colours; a
            colour is not within 0 to 255; two classes share a name or a colour.
    """
    names: list[str] = []
    colours: list[Colour | None] = []
    for number, line in enumerate(text_lines(file, "the list of classes"), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        colour = _colour(words[-3:], f"{file}, line {number}") if len(words) > 3 else None
        names.append(" ".join(words[:-3] if colour else words))
        colours.append(colour)
    _check_classes(file, names, colours)
    return tuple(names), tuple(each for each in colours if each is not None)


def _colour(words: Sequence[str], where: str) -> Colour | None:
    if not all(word.isdecimal() for word in words):
        return None
    red, green, blue = (int(word) for word in words)
    if max(red, green, blue) > 255:
        raise UserError(f"{where} has the colour {red} {green} {blue}: each number is from 0 to 255")
    return red, green, blue


def _check_classes(file: Path, names: Sequence[str], colours: Sequence[Colour | None]) -> None:
    if not names:
        raise UserError(f"{file} has no class: write one name a line")
    if len(names) > MAX_CLASSES:
        raise UserError(f"{file} has {len(names)} classes: masks have at most {MAX_CLASSES}")
    for name in names:
        check_name(name, str(file))
    for what, values in (("name", names), ("colour", [each for each in colours if each is not None])):
        twice = next((value for value in values if list(values).count(value) > 1), None)
        if twice is not None:
            shown = twice if isinstance(twice, str) else " ".join(map(str, twice))
            raise UserError(f"two classes in {file} have the {what} {shown}: each class has its own")
    with_colour = sum(each is not None for each in colours)
    if with_colour not in (0, len(colours)):
        missing = names[[each is None for each in colours].index(True)]
        raise UserError(
            f"{file} has colours for {with_colour} of {len(names)} classes, and none for {missing}: give all or none"
        )


def palette(classes: int) -> UInt8[np.ndarray, "classes 3"]:
    """Colours of classes for display: those of PASCAL VOC, bits of the index spread over the channels, from index 1 on.

    The colour of index 0 of VOC, black, is left out, since here it stands for void.
    """
    index = np.arange(1, classes + 1)
    colours = np.zeros((classes, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def save_mask(path: Path, mask: UInt8[np.ndarray, "h w"], colours: UInt8[np.ndarray, "k 3"]) -> None:
    """Write classes as a palette PNG: indices that other programs read, shown in ``colours``; `VOID` is black."""
    image = Image.fromarray(mask)
    full = np.zeros((256, 3), np.uint8)
    full[: len(colours)] = colours
    image.putpalette(full.reshape(-1).tolist())
    image.save(path)
