"""Annotations for detection: what every format is read into, and the rules for bad input, the same for all of them.

A reader (`vision.data.annotations.coco`, `vision.data.annotations.voc`, `vision.data.annotations.box_text`) turns its files into `Stated`, one a picture,
and raises `UserError` for what is not in its format. What is in the format but wrong goes through `collect`, in this
order, and is counted in `Counts`:

- a picture that is not in its folder is left out; if all are missing, that is an error;
- on request, one that cannot be decoded, or has another size than its annotation says, is left out too;
- a box of a class that is not in the list is dropped; if all are, that is an error;
- a box with a corner that is not finite is dropped;
- a box that reaches outside its picture is clipped to it;
- one narrower or lower than `SMALLEST` after that (also one whose corners are the wrong way round) is dropped;
- an exact duplicate (same class, same corners, both crowd or neither) is dropped;
- if there were boxes and none is left, that is an error;
- a picture without boxes stays: it teaches background.
"""

import collections
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, Int32
from PIL import ExifTags, Image, ImageOps

from vision.data.folder import rgb
from vision.errors import UserError

SMALLEST = 0.5
"""Sides of a box in pixels of its picture, below which it is dropped: half a pixel shows nothing."""
ROUNDING = 0.02
"""A box that reaches outside by no more, in pixels, is clipped without a word: coordinates are often rounded."""

# How many examples a count names.
_EXAMPLES = 3
# What Pillow raises at files that it cannot decode.
_DAMAGE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
# Values of EXIF's orientation that turn a picture by a quarter.
_QUARTER_TURNS = (5, 6, 7, 8)


@dataclass(frozen=True, eq=False)
class Annotated:
    """One picture and its n boxes."""

    file: Path | None
    """The picture; None where it is drawn."""
    width: int
    """In pixels."""
    height: int
    """In pixels."""
    boxes: Float32[np.ndarray, "n 4"]
    """(x0, y0, x1, y1) in pixels of the picture, its corners at (0, 0) and (width, height)."""
    labels: Int32[np.ndarray, " n"]
    """Places in the list of classes."""
    crowd: Bool[np.ndarray, " n"]
    """Whether a box is around a crowd (COCO) or difficult (VOC): never trained on, and no miss in an evaluation."""
    area: Float32[np.ndarray, " n"]
    """In square pixels: of the object's mask where the annotation states it, else of the box."""
    image_id: int
    """COCO's number of the picture; counted from 1 where the format has none."""


@dataclass(frozen=True)
class Counts:
    """What was found, what the rules changed, and a few examples of it."""

    images: int
    """Pictures that are there."""
    boxes: int
    """Boxes to learn: all that the rules left but crowds."""
    crowd: int
    """Boxes around crowds."""
    background: int
    """Pictures without a box to learn."""
    classes: int
    """Classes in the list."""
    empty_classes: tuple[str, ...] = ()
    """Names of classes without a box to learn."""
    clipped: int = 0
    """Boxes that were clipped to their picture, by more than `ROUNDING`, and stayed."""
    unknown: int = 0
    """Boxes dropped because their class is not in the list."""
    not_finite: int = 0
    """Boxes dropped because a corner is infinite or not a number."""
    without_area: int = 0
    """Boxes dropped because a side within the picture is shorter than `SMALLEST`."""
    duplicates: int = 0
    """Boxes dropped because an equal one came before."""
    orphans: int = 0
    """Boxes dropped because the annotation does not list their picture."""
    missing: int = 0
    """Pictures left out because they are not in their folder."""
    damaged: int = 0
    """Pictures left out because they cannot be decoded or have another size than the annotation says."""
    beyond_slots: int = 0
    """Boxes that are not trained on because their picture has more than there are slots."""
    unknown_examples: tuple[str, ...] = ()
    """The first few, each with its class and file."""
    missing_examples: tuple[str, ...] = ()
    """The first few, by name."""
    damaged_examples: tuple[str, ...] = ()
    """The first few, each with the reason."""

    @property
    def dropped(self) -> int:
        """How many boxes the rules took away from pictures that are there."""
        return self.unknown + self.not_finite + self.without_area + self.duplicates

    def __str__(self) -> str:
        """A line for people, and one more for each thing that is not as it should be."""
        crowd = f" and {_number(self.crowd, 'crowd', 'crowds')} (not trained on)" if self.crowd else ""
        empty = f"; {self.background} of the pictures have none and teach background" if self.background else ""
        boxes = f"{_number(self.boxes, 'box', 'boxes')} of {_number(self.classes, 'class', 'classes')}"
        lines = [f"{_number(self.images, 'picture', 'pictures')} with {boxes}{crowd}{empty}."]
        if self.clipped:
            lines.append(f"Clipped to their picture: {_number(self.clipped, 'box', 'boxes')}.")
        reasons = (
            (self.unknown, f"of an unknown class ({_examples(self.unknown_examples, self.unknown)})"),
            (self.not_finite, "with corners that are not finite"),
            (self.without_area, f"with a side of less than {SMALLEST} pixels in their picture"),
            (self.duplicates, "that are exact duplicates"),
            (self.orphans, "of pictures that are not listed"),
        )
        if self.dropped + self.orphans:
            lines.append(f"Boxes dropped: {', '.join(f'{count} {why}' for count, why in reasons if count)}.")
        reasons = (
            (self.missing, f"not in their folder ({_examples(self.missing_examples, self.missing)})"),
            (self.damaged, f"damaged ({_examples(self.damaged_examples, self.damaged)})"),
        )
        if self.missing + self.damaged:
            lines.append(f"Pictures left out: {', '.join(f'{count} {why}' for count, why in reasons if count)}.")
        if self.beyond_slots:
            lines.append(f"More than there are slots, the smallest of their picture: {self.beyond_slots} boxes.")
        if self.empty_classes:
            lines.append(f"Classes without boxes: {', '.join(self.empty_classes)}.")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class Annotations:
    """A set of annotated pictures."""

    images: tuple[Annotated, ...]
    """In the order of the annotation."""
    class_names: tuple[str, ...]
    """The name of label i at place i."""
    category_ids: tuple[int, ...]
    """The number that the annotation itself gives to label i (COCO's category id), for results in its terms."""
    counts: Counts
    """What reading found, to be printed once."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Stated:
    """What an annotation says of one picture, before the rules."""

    file: Path
    """Where the picture should be."""
    image_id: int
    """As in `Annotated`."""
    size: tuple[int, int] | None
    """(width, height) in pixels; None where the annotation does not say, and the header of the file is read."""
    boxes: Float64[np.ndarray, "n 4"]
    """(x0, y0, x1, y1) as in `Annotated`, or as fractions of width and height where ``normalised``."""
    labels: Int[np.ndarray, " n"]
    """Places in the list of classes, -1 for a class that is not in it."""
    unknown: tuple[str, ...] = ()
    """The class as it is written, for each label of -1, in order."""
    crowd: Bool[np.ndarray, " n"]
    """As in `Annotated`."""
    area: Float64[np.ndarray, " n"] | None = None
    """As in `Annotated`, NaN for a box whose area is not stated; None if none is."""
    normalised: bool = False
    """Whether boxes are fractions."""


@dataclass(frozen=True)
class Rules:
    """What may be chosen about reading."""

    first: int = 0
    """Read so many pictures alone, the first that are there; 0 for all."""
    skip_damaged: bool = False
    """Decode every picture once, by a few threads, and leave out those that are damaged; else the first one that is
    met stops the run."""


ALL = Rules()
"""Every picture, and a damaged one stops the run."""


def collect(
    stated: Sequence[Stated],
    *,
    class_names: tuple[str, ...],
    category_ids: tuple[int, ...],
    folder: Path,
    orphans: int = 0,
    rules: Rules = ALL,
) -> Annotations:
    """Apply the rules of this module to what a reader found.

    Args:
        stated: one for each picture that the annotation names, in its order.
        class_names: the list of classes.
        category_ids: the annotation's own number of each.
        folder: where pictures were looked for, for the message.
        orphans: boxes of pictures that are not among ``stated``, which the reader has dropped.
        rules: what may be chosen.

    Raises:
        UserError: there are no pictures; all are missing or damaged; all boxes are of unknown classes or dropped; a
            size must be read from a file that is damaged; ``first`` is negative.
    """
    if rules.first < 0:
        raise UserError(f"The number of pictures to read must not be negative, got {rules.first}; 0 reads all.")
    if not stated:
        raise UserError(f"The annotation of the pictures in {folder} names no pictures.")
    present = _present(item.file for item in stated)
    missing = [item.file.name for item, there in zip(stated, present, strict=True) if not there]
    if len(missing) == len(stated):
        raise UserError(
            f"None of the {len(stated)} pictures that the annotation names is in {folder}, such as {missing[0]}: "
            "check the folder of pictures."
        )
    there = [item for item, found in zip(stated, present, strict=True) if found]
    chosen = there[: rules.first] if rules.first else there
    sizes, damaged = _sizes(chosen, rules.skip_damaged)
    tally = _Tally()
    pictures = tuple(
        _ruled(item, size, tally) for item, size in zip(chosen, sizes, strict=True) if not isinstance(size, str)
    )
    numbers = tally.numbers
    counts = replace(
        _contents(pictures, class_names),
        **{name: numbers[name] for name in ("clipped", "unknown", "not_finite", "without_area", "duplicates")},
        orphans=orphans,
        missing=len(missing),
        damaged=len(damaged),
        unknown_examples=tuple(tally.unknown[:_EXAMPLES]),
        missing_examples=tuple(missing[:_EXAMPLES]),
        damaged_examples=tuple(damaged[:_EXAMPLES]),
    )
    if counts.unknown and counts.unknown == numbers["boxes"]:
        raise UserError(
            f"All {counts.unknown} boxes are of unknown classes "
            f"({_examples(counts.unknown_examples, counts.unknown)}); the known ones are "
            f"{_examples(class_names, len(class_names), 12)}."
        )
    if counts.dropped and counts.dropped == numbers["boxes"]:
        raise UserError(
            f"None of the {counts.dropped} boxes of the pictures in {folder} is left: {counts.unknown} are of unknown "
            f"classes, {counts.not_finite} not finite, {counts.without_area} without area inside their picture. "
            "Check the unit and the order of their coordinates."
        )
    return Annotations(pictures, class_names, category_ids, counts)


def drawn(pictures: tuple[Annotated, ...], class_names: tuple[str, ...]) -> Annotations:
    """Annotations that are right by construction; categories are numbered from 1."""
    ids = tuple(range(1, len(class_names) + 1))
    return Annotations(pictures, class_names, ids, _contents(pictures, class_names))


def open_picture(file: Path, size: tuple[int, int]) -> Image.Image:
    """The picture in RGB, of (width, height) ``size``: upright as its EXIF data says, or as stored if only that fits.

    Boxes are drawn by some tools on the upright picture, by others on the stored one; the stated size tells.

    Raises:
        UserError: it cannot be decoded, or has another size.
    """
    try:
        return _decoded(file, size)
    except _DAMAGE as error:
        raise UserError(_unusable(file, _reason(error))) from error


@dataclass
class _Tally:
    """What `_ruled` counts over all pictures."""

    numbers: collections.Counter = field(default_factory=collections.Counter)
    unknown: list[str] = field(default_factory=list)


def _contents(pictures: Sequence[Annotated], class_names: tuple[str, ...]) -> Counts:
    """What there is, before anything is said of what was changed."""
    learnt = np.zeros(len(class_names), np.int64)
    for each in pictures:
        np.add.at(learnt, each.labels[~each.crowd], 1)
    return Counts(
        images=len(pictures),
        boxes=int(learnt.sum()),
        crowd=sum(int(each.crowd.sum()) for each in pictures),
        background=sum(bool(each.crowd.all()) for each in pictures),
        classes=len(class_names),
        empty_classes=tuple(name for name, count in zip(class_names, learnt, strict=True) if not count),
    )


def _ruled(item: Stated, size: tuple[int, int], tally: _Tally) -> Annotated:
    """One picture's boxes after the rules."""
    corner = np.array([*size, *size], np.float64)
    with np.errstate(over="ignore"):
        stated = item.boxes * corner if item.normalised else item.boxes
    known, finite = item.labels >= 0, np.all(np.isfinite(stated), axis=1)
    stated = np.where(finite[:, None], stated, 0)
    # float32 before anything is compared, so that what is called equal is equal to whoever reads it
    boxes = np.clip(stated, 0, corner).astype(np.float32)
    sides = boxes[:, 2:] - boxes[:, :2]
    large = np.all(sides >= SMALLEST, axis=1)
    stays = known & finite & large
    once = _first_of_equals(boxes, item.labels, item.crowd, stays)
    kept = stays & once
    moved = np.any(np.abs(stated - boxes) > ROUNDING, axis=1)
    tally.numbers.update(
        boxes=len(boxes),
        unknown=int((~known).sum()),
        not_finite=int((known & ~finite).sum()),
        without_area=int((known & finite & ~large).sum()),
        duplicates=int((stays & ~once).sum()),
        clipped=int((kept & moved).sum()),
    )
    if len(tally.unknown) < _EXAMPLES:
        tally.unknown += [f"{name} in {item.file.name}" for name in item.unknown]
    area = sides[:, 0] * sides[:, 1]
    if item.area is not None:
        area = np.where(np.isnan(item.area), area, item.area).astype(np.float32)
    return Annotated(
        file=item.file,
        width=size[0],
        height=size[1],
        boxes=boxes[kept],
        labels=item.labels[kept].astype(np.int32),
        crowd=item.crowd[kept],
        area=area[kept],
        image_id=item.image_id,
    )


def _first_of_equals(
    boxes: Float32[np.ndarray, "n 4"],
    labels: Int[np.ndarray, " n"],
    crowd: Bool[np.ndarray, " n"],
    considered: Bool[np.ndarray, " n"],
) -> Bool[np.ndarray, " n"]:
    """Whether no box before is equal; only those ``considered`` count."""
    seen: set[tuple] = set()
    first = np.ones(len(boxes), bool)
    for place in np.flatnonzero(considered):
        key = (labels[place], crowd[place], *boxes[place].tolist())
        first[place] = key not in seen
        seen.add(key)
    return first


def _present(files: Iterable[Path]) -> list[bool]:
    """Whether each file is there, asking once for each folder: quicker than once a file where disks are far away."""
    listed: dict[Path, frozenset[str]] = {}
    found = []
    for file in files:
        folder = file.parent
        if folder not in listed:
            listed[folder] = frozenset(each.name for each in folder.iterdir()) if folder.is_dir() else frozenset()
        found.append(file.name in listed[folder])
    return found


def _sizes(items: Sequence[Stated], skip_damaged: bool) -> tuple[list[tuple[int, int] | str], list[str]]:
    """The size of each picture, or why it is damaged; and those that are, in words. Decodes them if some may be."""
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        sizes = list(pool.map(partial(_size, decode=skip_damaged), items))
    found = [(item.file, size) for item, size in zip(items, sizes, strict=True) if isinstance(size, str)]
    if found and not skip_damaged:
        raise UserError(_unusable(*found[0]))
    damaged = [f"{file.name}: {reason}" for file, reason in found]
    if len(damaged) == len(items):
        raise UserError(f"None of the {len(items)} pictures in {items[0].file.parent} can be used ({damaged[0]}).")
    return sizes, damaged


def _size(item: Stated, decode: bool) -> tuple[int, int] | str:
    """As stated, or upright from the header; or why the picture is damaged."""
    try:
        size = item.size or _header_size(item.file)
        if decode:
            _decoded(item.file, size)
    except _DAMAGE as error:
        return _reason(error)
    return size


def _header_size(file: Path) -> tuple[int, int]:
    with Image.open(file) as image:
        width, height = image.size
        turned = image.getexif().get(ExifTags.Base.Orientation) in _QUARTER_TURNS
    return (height, width) if turned else (width, height)


def _decoded(file: Path, size: tuple[int, int]) -> Image.Image:
    with Image.open(file) as image:
        upright = ImageOps.exif_transpose(image)
        for each in (upright, image):
            if each.size == size:
                return rgb(each)
    had, stated = (f"{width}x{height}" for width, height in (upright.size, size))
    raise ValueError(f"it has {had} pixels where its annotation says {stated}")


def _unusable(file: Path, reason: str) -> str:
    return f"{file} cannot be used ({reason}); repair or remove it, or leave such files out with skip_damaged."


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _number(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"


def _examples(shown: Sequence[str], count: int, most: int = _EXAMPLES) -> str:
    """The first few of ``count`` things."""
    return ", ".join(shown[:most]) + (", ..." if count > len(shown[:most]) else "")
