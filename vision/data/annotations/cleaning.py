"""Annotations for detection: the form that every format is read into, and the same cleaning of bad input for all.

A reader (`vision.data.annotations.coco`, `vision.data.annotations.voc`, `vision.data.annotations.box_text`) turns its
files into one `RawAnnotation` per image and raises `UserError` for malformed files. Well-formed but wrong input is
handled by `collect`, in this order, and counted in `Counts`:

- an image that is not in its folder is left out; if all are missing, that is an error;
- on request, an image that cannot be decoded, or whose size differs from its annotation, is left out too;
- a box of a class that is not in the list is dropped; if all boxes are, that is an error;
- a box with a corner that is not finite is dropped;
- a box that reaches outside its image is clipped to it;
- one narrower or lower than `MIN_SIDE` after that (or with swapped corners) is dropped;
- with masks, an instance whose mask has no pixel in the image is dropped;
- an exact duplicate (same class, corners and crowd flag, and with masks the same pixels) is dropped;
- if there were boxes and all have been dropped, that is an error;
- an image without boxes is kept as background.
"""

import collections
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, Int32
from PIL import ExifTags, Image

from vision.data.annotations.counts import EXAMPLES, MIN_SIDE, ROUNDING_TOLERANCE, Counts, examples
from vision.data.annotations.stuff import LazyStuff, Stuff
from vision.data.grey_levels import rgb
from vision.data.image_file import MAX_PIXELS, ImageError, opened, upright
from vision.data.listing import entries
from vision.errors import UserError
from vision.ops import rle
from vision.ops.rle import Rle

# What is counted over all images, and is of the same name in `Counts`.
_TALLIED = ("clipped", "unknown", "not_finite", "without_area", "without_pixels", "duplicates")
# Values of EXIF's orientation that rotate an image by 90 degrees.
_QUARTER_TURNS = (5, 6, 7, 8)


LazyMask = Callable[[int, int], Rle]
"""The mask of an instance in an image of a height and a width in pixels, which may be known from its file alone."""


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """One image and its n boxes."""

    file: Path | None
    """The image; None where it is rendered."""
    width: int
    """In pixels."""
    height: int
    """In pixels."""
    boxes: Float32[np.ndarray, "n 4"]
    """(x0, y0, x1, y1) in pixels of the image, its corners at (0, 0) and (width, height)."""
    labels: Int32[np.ndarray, " n"]
    """Indices into the list of classes."""
    crowd: Bool[np.ndarray, " n"]
    """Whether a box is around a crowd (COCO) or difficult (VOC): never trained on, and not counted as missed in an
    evaluation."""
    area: Float32[np.ndarray, " n"]
    """In square pixels: of the object's mask where the annotation has it, else of the box."""
    image_id: int
    """COCO's id of the image; the index from 1 where the format has none."""
    masks: tuple[Rle, ...] | None = None
    """One for each of the n boxes, crowds among them, at the size of the image; None where masks were not read."""
    stuff: Stuff | None = None
    """What is around the things; None where stuff was not read."""


@dataclass(frozen=True, eq=False)
class Annotations:
    """A set of annotated images."""

    images: tuple[AnnotatedImage, ...]
    """In the order of the annotation."""
    class_names: tuple[str, ...]
    """Element i is the name of label i."""
    category_ids: tuple[int, ...]
    """The annotation's number for label i (COCO's category id), for writing results."""
    counts: Counts
    """Statistics of reading and cleaning, to be printed once."""
    max_pixels: int = MAX_PIXELS
    """Limit of an image's width times height, for opening the files."""
    stuff_names: tuple[str, ...] = ()
    """Element i is the name of label i of stuff; empty where stuff was not read."""
    stuff_ids: tuple[int, ...] = ()
    """The annotation's number for each."""


@dataclass(frozen=True, eq=False, kw_only=True)
class RawAnnotation:
    """The annotation of one image before cleaning."""

    file: Path
    """Where the image should be."""
    image_id: int
    """As in `AnnotatedImage`."""
    size: tuple[int, int] | None
    """(width, height) in pixels; None where the annotation has none, in which case the file's header is read."""
    boxes: Float64[np.ndarray, "n 4"]
    """(x0, y0, x1, y1) as in `AnnotatedImage`, or as fractions of width and height where ``normalised``."""
    labels: Int[np.ndarray, " n"]
    """Indices into the list of classes, -1 for a class that is not in it."""
    unknown: tuple[str, ...] = ()
    """The class as written, for each label of -1, in order."""
    crowd: Bool[np.ndarray, " n"]
    """As in `AnnotatedImage`."""
    area: Float64[np.ndarray, " n"] | None = None
    """As in `AnnotatedImage`, NaN for a box without an area; None if no box has one. The area that is missing is that
    of the mask, or without masks of the box."""
    masks: tuple[LazyMask, ...] | None = None
    """Of every box, crowds among them; None where masks are not read."""
    stuff: LazyStuff | None = None
    """As in `AnnotatedImage`."""
    normalised: bool = False
    """Whether boxes are fractions."""


@dataclass(frozen=True)
class CleaningRules:
    """Options of reading and cleaning annotations."""

    first: int = 0
    """Read only this many images, the first that exist; 0 for all."""
    skip_damaged: bool = False
    """Decode every image once, by a few threads, and leave out damaged ones; otherwise the first damaged image stops
    the run."""
    max_pixels: int = MAX_PIXELS
    """Limit of an image's width times height, see `vision.data.image_file.opened`."""


DEFAULT_RULES = CleaningRules()
"""All images, and a damaged one stops the run."""


def collect(
    stated: Sequence[RawAnnotation],
    *,
    class_names: tuple[str, ...],
    category_ids: tuple[int, ...],
    stuff_names: tuple[str, ...] = (),
    stuff_ids: tuple[int, ...] = (),
    folder: Path,
    orphans: int = 0,
    rules: CleaningRules = DEFAULT_RULES,
) -> Annotations:
    """Clean the raw annotations of a reader, by the rules of this module.

    Args:
        stated: one for each image that the annotation names, in its order.
        class_names: the list of classes.
        category_ids: the annotation's number for each.
        stuff_names: the list of classes of stuff, where it is read.
        stuff_ids: the annotation's number for each.
        folder: where images are expected, for messages.
        orphans: how many boxes of unlisted images the reader has dropped.
        rules: options of reading and cleaning.

    Raises:
        UserError: there are no images; all are missing or damaged; all boxes are of unknown classes or dropped; a
            size must be read from a file that is damaged; ``first`` is negative.
    """
    if rules.first < 0:
        raise UserError(f"The number of images to read must not be negative, got {rules.first}; 0 reads all.")
    if not stated:
        raise UserError(f"The annotation of the images in {folder} lists no images.")
    present = _present(item.file for item in stated)
    missing = [item.file.name for item, there in zip(stated, present, strict=True) if not there]
    if len(missing) == len(stated):
        raise UserError(
            f"None of the {len(stated)} images in the annotation is in {folder}, such as {missing[0]}: "
            "check the image folder."
        )
    there = [item for item, found in zip(stated, present, strict=True) if found]
    chosen = there[: rules.first] if rules.first else there
    sizes, damaged = _sizes(chosen, rules)
    tally = _Tally()
    usable = [(item, size) for item, size in zip(chosen, sizes, strict=True) if not isinstance(size, str)]
    annotated = tuple(
        replace(_ruled(item, size, tally), stuff=stuff)
        for (item, size), stuff in zip(usable, _stuff(usable), strict=True)
    )
    numbers = tally.numbers
    counts = replace(
        _contents(annotated, class_names),
        **{name: numbers[name] for name in _TALLIED},
        orphans=orphans,
        missing=len(missing),
        damaged=len(damaged),
        unknown_examples=tuple(tally.unknown[:EXAMPLES]),
        missing_examples=tuple(missing[:EXAMPLES]),
        damaged_examples=tuple(damaged[:EXAMPLES]),
    )
    what = "instances" if counts.masks else "boxes"
    if counts.unknown and counts.unknown == numbers["boxes"]:
        raise UserError(
            f"All {what} ({counts.unknown}) are of unknown classes "
            f"({examples(counts.unknown_examples, counts.unknown)}); the known ones are "
            f"{examples(class_names, len(class_names), 12)}."
        )
    if counts.dropped and counts.dropped == numbers["boxes"]:
        pixels = f", {counts.without_pixels} with a mask without pixels in it" if counts.masks else ""
        raise UserError(
            f"None of the {counts.dropped} {what} of the images in {folder} is left: {counts.unknown} are of unknown "
            f"classes, {counts.not_finite} not finite, {counts.without_area} without area inside their image{pixels}. "
            "Check the unit and the order of their coordinates."
        )
    return Annotations(annotated, class_names, category_ids, counts, rules.max_pixels, stuff_names, stuff_ids)


def rendered_annotations(
    annotated: tuple[AnnotatedImage, ...], class_names: tuple[str, ...], stuff_names: tuple[str, ...] = ()
) -> Annotations:
    """Annotations of rendered images, which need no cleaning; categories are numbered from 1, stuff after things."""
    ids = tuple(range(1, len(class_names) + len(stuff_names) + 1))
    things = len(class_names)
    counts = _contents(annotated, class_names)
    return Annotations(annotated, class_names, ids[:things], counts, stuff_names=stuff_names, stuff_ids=ids[things:])


def open_image(file: Path, size: tuple[int, int], *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image in RGB, of (width, height) ``size``: after EXIF rotation, or as stored if only that fits.

    Some tools annotate the rotated image, others the stored one; the size in the annotation tells which.

    Raises:
        UserError: it cannot be decoded, has more than ``max_pixels``, or has a different size.
    """
    try:
        return _decoded(file, size, max_pixels)
    except ImageError as error:
        raise UserError(_unusable(file, error.reason)) from error


@dataclass
class _Tally:
    """What `_cleaned` counts over all images."""

    numbers: collections.Counter = field(default_factory=collections.Counter)
    unknown: list[str] = field(default_factory=list)


def _contents(annotated: Sequence[AnnotatedImage], class_names: tuple[str, ...]) -> Counts:
    """Counts of what is kept, without those of what was changed."""
    trainable = np.zeros(len(class_names), np.int64)
    for each in annotated:
        np.add.at(trainable, each.labels[~each.crowd], 1)
    return Counts(
        images=len(annotated),
        boxes=int(trainable.sum()),
        crowd=sum(int(each.crowd.sum()) for each in annotated),
        background=sum(bool(each.crowd.all()) for each in annotated),
        classes=len(class_names),
        masks=any(each.masks is not None for each in annotated),
        stuff=sum(len(each.stuff.labels) for each in annotated if each.stuff is not None),
        empty_classes=tuple(name for name, count in zip(class_names, trainable, strict=True) if not count),
    )


def _ruled(item: RawAnnotation, size: tuple[int, int], tally: _Tally) -> AnnotatedImage:
    """One image's boxes after cleaning. Masks are decoded only where the box passes its rules."""
    corner = np.array([*size, *size], np.float64)
    with np.errstate(over="ignore"):
        stated = item.boxes * corner if item.normalised else item.boxes
    known, finite = item.labels >= 0, np.all(np.isfinite(stated), axis=1)
    stated = np.where(finite[:, None], stated, 0)
    # Converted to float32 before comparing, so that equality is that of the values that are returned
    boxes = np.clip(stated, 0, corner).astype(np.float32)
    sides = boxes[:, 2:] - boxes[:, :2]
    large = np.all(sides >= MIN_SIDE, axis=1)
    stays = known & finite & large
    masks = None if item.masks is None else _masks(item.masks, size, stays)
    pixels = None if masks is None else np.array([rle.area(each) for each in masks], np.int64)
    filled = stays if pixels is None else stays & (pixels > 0)
    once = _first_of_equals(boxes, item.labels, item.crowd, filled, masks)
    kept = filled & once
    moved = np.any(np.abs(stated - boxes) > ROUNDING_TOLERANCE, axis=1)
    tally.numbers.update(
        boxes=len(boxes),
        unknown=int((~known).sum()),
        not_finite=int((known & ~finite).sum()),
        without_area=int((known & finite & ~large).sum()),
        without_pixels=int((stays & ~filled).sum()),
        duplicates=int((filled & ~once).sum()),
        clipped=int((kept & moved).sum()),
    )
    if len(tally.unknown) < EXAMPLES:
        tally.unknown += [f"{name} in {item.file.name}" for name in item.unknown]
    area = sides[:, 0] * sides[:, 1] if pixels is None else pixels.astype(np.float32)
    if item.area is not None:
        area = np.where(np.isnan(item.area), area, item.area).astype(np.float32)
    return AnnotatedImage(
        file=item.file,
        width=size[0],
        height=size[1],
        boxes=boxes[kept],
        labels=item.labels[kept].astype(np.int32),
        crowd=item.crowd[kept],
        area=area[kept],
        image_id=item.image_id,
        masks=None if masks is None else tuple(masks[place] for place in np.flatnonzero(kept).tolist()),
    )


def _stuff(items: Sequence[tuple[RawAnnotation, tuple[int, int]]]) -> Sequence[Stuff | None]:
    """The stuff of images of (width, height) sizes; it is in files, which are slow to decode."""
    if all(item.stuff is None for item, _ in items):
        return [None] * len(items)
    made = lambda item, size: None if item.stuff is None else item.stuff(size[1], size[0])
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda pair: made(*pair), items))


def _masks(lazy: Sequence[LazyMask], size: tuple[int, int], wanted: Bool[np.ndarray, " n"]) -> list[Rle]:
    """Masks in an image of (width, height) ``size``; those that are not ``wanted`` have no pixel."""
    width, height = size
    empty = rle.of_run_lengths([width * height], height, width)
    return [make(height, width) if want else empty for make, want in zip(lazy, wanted, strict=True)]


def _first_of_equals(
    boxes: Float32[np.ndarray, "n 4"],
    labels: Int[np.ndarray, " n"],
    crowd: Bool[np.ndarray, " n"],
    considered: Bool[np.ndarray, " n"],
    masks: Sequence[Rle] | None,
) -> Bool[np.ndarray, " n"]:
    """Whether no earlier box is equal, and where there are masks its mask; only ``considered`` boxes count."""
    seen: dict[tuple, list[int]] = {}
    first = np.ones(len(boxes), bool)
    for place in np.flatnonzero(considered).tolist():
        earlier = seen.setdefault((labels[place], crowd[place], *boxes[place].tolist()), [])
        first[place] = not any(masks is None or _same_pixels(masks[place], masks[each]) for each in earlier)
        earlier.append(place)
    return first


def _same_pixels(one: Rle, other: Rle) -> bool:
    """Whether two masks of an image are equal; one mask may be written in several ways."""
    if one == other:
        return True
    return rle.area(one) == rle.area(other) and np.array_equal(rle.decode(one), rle.decode(other))


def _present(files: Iterable[Path]) -> list[bool]:
    """Whether each file exists, by listing each folder once: faster than one query per file on network disks."""
    listed: dict[Path, frozenset[str]] = {}
    found = []
    for file in files:
        folder = file.parent
        if folder not in listed:
            listed[folder] = frozenset(each.name for each in entries(folder)) if folder.is_dir() else frozenset()
        found.append(file.name in listed[folder])
    return found


def _sizes(items: Sequence[RawAnnotation], rules: CleaningRules) -> tuple[list[tuple[int, int] | str], list[str]]:
    """The size of each image or why it is damaged, and descriptions of the damaged; decodes if ``skip_damaged``."""
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        sizes = list(pool.map(partial(_size, rules=rules), items))
    found = [(item.file, size) for item, size in zip(items, sizes, strict=True) if isinstance(size, str)]
    if found and not rules.skip_damaged:
        raise UserError(_unusable(*found[0]))
    damaged = [f"{file.name}: {reason}" for file, reason in found]
    if len(damaged) == len(items):
        raise UserError(f"None of the {len(items)} images in {items[0].file.parent} can be used ({damaged[0]}).")
    return sizes, damaged


def _size(item: RawAnnotation, rules: CleaningRules) -> tuple[int, int] | str:
    """The annotated size, or that of the header after EXIF rotation; or why the image is damaged."""
    try:
        size = item.size or _header_size(item.file, rules.max_pixels)
        if rules.skip_damaged:
            _decoded(item.file, size, rules.max_pixels)
    except ImageError as error:
        return error.reason
    return size


def _header_size(file: Path, max_pixels: int) -> tuple[int, int]:
    with opened(file, max_pixels=max_pixels) as image:
        return _upright_size(image)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    turned = image.getexif().get(ExifTags.Base.Orientation) in _QUARTER_TURNS
    return (height, width) if turned else (width, height)


def _decoded(file: Path, size: tuple[int, int], max_pixels: int) -> Image.Image:
    with opened(file, max_pixels=max_pixels) as image:
        image.load()  # some files have the orientation after the pixels
        had = _upright_size(image)
        if had == size:
            return upright(image)
        if image.size == size:
            return rgb(image)
        raise ValueError(f"it has {had[0]}x{had[1]} pixels, but its annotation says {size[0]}x{size[1]}")


def _unusable(file: Path, reason: str) -> str:
    return f"{file} cannot be used ({reason}); repair or remove it, or leave such files out with skip_damaged."
