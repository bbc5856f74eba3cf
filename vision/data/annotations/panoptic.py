"""Annotations in COCO's panoptic form (Kirillov et al. 2019, "Panoptic Segmentation"; cocodataset.org, "Data format").

A JSON file as of `vision.data.annotations.coco`, but with one annotation for each image: "image_id", the "file_name" of
a PNG of the size of the image, and "segments_info", a list of segments with "id", "category_id", "bbox" and "iscrowd".
A pixel of the PNG belongs to the segment of the id R + 256 G + 256^2 B, or to none where that is 0. A category has
"isthing": things become instances with boxes and masks, the others are stuff.

These rules hold beside those of `vision.data.annotations.cleaning`: all segments of a class of stuff in an image are
one, and a crowd of stuff is void, as is a segment whose category the file does not list, which is counted. The area of
a segment is the number of its pixels, whatever "area" says.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Integer, UInt8

from vision.data.annotations.cleaning import DEFAULT_RULES, Annotations, CleaningRules, RawAnnotation, collect
from vision.data.annotations.coco import (
    CocoImage,
    category_names,
    entry_list,
    file_name,
    json_content,
    listed_images,
    stated_box,
)
from vision.data.annotations.fields import Entry, shown
from vision.data.annotations.index_masks import mask_values
from vision.data.annotations.segmentation import Corners
from vision.data.annotations.stuff import Stuff
from vision.errors import UserError
from vision.ops import rle
from vision.ops.rle import Rle

LARGEST_ID = 2**24 - 1
"""Of a segment; 0 means none."""
MAX_STUFF = 254
"""Classes of stuff: in a semantic map of bytes two numbers mean things and void."""


def ids_of_colours(colours: UInt8[np.ndarray, "h w 3"]) -> Integer[np.ndarray, "h w"]:
    """The id of the segment of each pixel, int32: R + 256 G + 256^2 B."""
    wide = colours.astype(np.int32)
    return wide[..., 0] + (wide[..., 1] << 8) + (wide[..., 2] << 16)


def colours_of_ids(ids: Integer[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The colours that stand for ids from 0 to `LARGEST_ID`."""
    return np.stack([(ids >> shift) & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)


def read_panoptic(
    json_path: Path,
    image_folder: Path,
    map_folder: Path | None = None,
    *,
    rules: CleaningRules = DEFAULT_RULES,
) -> Annotations:
    """The images of a file in COCO's panoptic form, their things with boxes and masks, and their stuff.

    Args:
        json_path: with "images", "annotations" and "categories", see the module.
        image_folder: what the "file_name" of images is relative to.
        map_folder: what that of annotations is relative to; by default the folder beside the JSON file and of its name
            without suffix, as published.
        rules: options of reading and cleaning.

    Returns:
        images in the order of "images"; classes of things and of stuff each in ascending order of their ids.

    Raises:
        UserError: as for `vision.data.annotations.coco.read_coco`; an image has no annotation or two; a PNG is missing,
            damaged, grey, or of another size than its image; an id is in the PNG and not in the JSON file or the other
            way round, or is listed twice; there are no things, no stuff, or too many classes of it.
    """
    map_folder = json_path.with_suffix("") if map_folder is None else map_folder
    for folder, what in ((image_folder, "images"), (map_folder, "PNG files with the ids of segments")):
        if not folder.is_dir():
            raise UserError(f"There is no folder {folder} of {what} for {json_path}.")
    content = json_content(json_path)
    listed, entries, categories = (
        entry_list(content, key, json_path) for key in ("images", "annotations", "categories")
    )
    names = category_names(categories, json_path)
    things, stuff = _kinds(categories, names, json_path)
    images = listed_images(listed, json_path)
    maps, orphans = _maps(entries, images, map_folder, json_path, rules.max_pixels)
    stated = [_raw(number, image, maps[number], things, stuff, image_folder) for number, image in images.items()]
    return collect(
        stated,
        class_names=tuple(names[each] for each in things),
        category_ids=tuple(things),
        stuff_names=tuple(names[each] for each in stuff),
        stuff_ids=tuple(stuff),
        folder=image_folder,
        orphans=orphans,
        rules=rules,
    )


@dataclass(frozen=True)
class _Segment:
    """An entry of "segments_info" after its checks."""

    number: int
    category: int
    crowd: bool
    corners: Corners


@dataclass(frozen=True, eq=False)
class _SegmentMap:
    """The segments of an image, whose pixels are read when they are asked for."""

    file: Path
    segments: Sequence[_Segment]
    where: str
    max_pixels: int

    @functools.cached_property
    def read(self) -> tuple[tuple[int, int], Mapping[int, Rle]]:
        """Height and width, and the pixels of each segment by its id."""
        if not self.file.is_file():
            raise UserError(f"There is no file {self.file}, in which {self.where} has the ids of its segments.")
        colours = mask_values(self.file, max_pixels=self.max_pixels)
        if colours.ndim < 3:
            raise UserError(f"{self.file} is not in RGB: the colours of COCO's panoptic form are the ids of segments.")
        ids = np.asfortranarray(ids_of_colours(colours))  # run lengths go down the columns
        present = set(np.unique(ids).tolist()) - {0}
        known = {each.number for each in self.segments}
        if present - known:
            raise UserError(
                f"{self.file} has pixels of the segment {min(present - known)}, which {self.where} does not list."
            )
        if known - present:
            raise UserError(
                f"{self.file} has no pixel of the segment {min(known - present)}, which {self.where} lists."
            )
        return ids.shape, {number: rle.encode(ids == number) for number in sorted(present)}

    def masks(self, height: int, width: int) -> Mapping[int, Rle]:
        """The pixels of each segment by its id, in an image of this size."""
        (rows, columns), masks = self.read
        if (rows, columns) != (height, width):
            raise UserError(
                f"{self.file} has {columns}x{rows} pixels and its image {width}x{height}: the ids of segments have "
                "the size of the image."
            )
        return masks

    def mask(self, number: int, height: int, width: int) -> Rle:
        """The pixels of a segment in an image of this size."""
        return self.masks(height, width)[number]

    def stuff(self, labels: Mapping[int, int], height: int, width: int) -> Stuff:
        """The stuff in an image of this size; ``labels`` are those of its categories."""
        masks = self.masks(height, width)
        regions: dict[int, list[Rle]] = {}
        for each in self.segments:
            if each.category in labels and not each.crowd:
                regions.setdefault(labels[each.category], []).append(masks[each.number])
        ordered = sorted(regions)
        return Stuff(np.array(ordered, np.int32), tuple(rle.union(regions[label]) for label in ordered))


def _kinds(categories: Sequence[Entry], names: Mapping[int, str], path: Path) -> tuple[dict[int, int], dict[int, int]]:
    """Labels of things and of stuff by the ids of their categories."""
    is_thing: dict[int, bool] = {}
    for entry in categories:
        entry.value("isthing")
        is_thing[entry.integer("id")] = entry.flag("isthing")
    kinds = [[each for each in names if is_thing[each] == thing] for thing in (True, False)]
    for kind, what in zip(kinds, ("things", "stuff"), strict=True):
        if not kind:
            raise UserError(
                f"The annotation {path} has no category of {what}: panoptic segmentation has both things and stuff."
            )
    if len(kinds[1]) > MAX_STUFF:
        raise UserError(f"The annotation {path} has {len(kinds[1])} categories of stuff, more than {MAX_STUFF}.")
    things, stuff = ({category: label for label, category in enumerate(kind)} for kind in kinds)
    return things, stuff


def _maps(
    entries: Sequence[Entry], images: Mapping[int, CocoImage], folder: Path, path: Path, max_pixels: int
) -> tuple[dict[int, _SegmentMap], int]:
    """The segments of each image, and how many are of images that are not listed."""
    maps: dict[int, _SegmentMap] = {}
    orphans = 0
    for entry in entries:
        image, name, segments = entry.integer("image_id"), file_name(entry), _segments(entry)
        if image in maps:
            raise entry.refused(f"the image_id {image}, which an earlier one has")
        if image not in images:
            orphans += len(segments)
            continue
        where = f"{entry.kind}[{entry.place}] of {path}"
        maps[image] = _SegmentMap(folder / name, segments, where, max_pixels)
    missing = [number for number in images if number not in maps]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(images)} images of {path} have no annotation, such as that of the id "
            f"{missing[0]}: list images with their segments alone."
        )
    return maps, orphans


def _segments(entry: Entry) -> list[_Segment]:
    value = entry.value("segments_info")
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise entry.refused(f"segments_info that is not a list of objects: {shown(value)}")
    found: dict[int, _Segment] = {}
    for place, fields in enumerate(value):
        each = Entry(fields, f"{entry.kind}[{entry.place}].segments_info", place, entry.path)
        number = each.integer("id")
        if not 1 <= number <= LARGEST_ID:
            raise each.refused(f"the id {number}, and a colour stands for 1 to {LARGEST_ID:,}")
        if number in found:
            raise each.refused(f"the id {number}, which an earlier one has")
        found[number] = _Segment(number, each.integer("category_id"), each.flag("iscrowd"), stated_box(each))
    return list(found.values())


def _raw(
    number: int,
    image: CocoImage,
    segments: _SegmentMap,
    things: Mapping[int, int],
    stuff: Mapping[int, int],
    folder: Path,
) -> RawAnnotation:
    boxed = [each for each in segments.segments if each.category not in stuff]
    return RawAnnotation(
        file=folder / image.name,
        image_id=number,
        size=image.size,
        boxes=np.array([each.corners for each in boxed], np.float64).reshape(-1, 4),
        labels=np.array([things.get(each.category, -1) for each in boxed], np.int32),
        unknown=tuple(f"category {each.category}" for each in boxed if each.category not in things),
        crowd=np.array([each.crowd for each in boxed], bool),
        masks=tuple(functools.partial(segments.mask, each.number) for each in boxed),
        stuff=functools.partial(segments.stuff, stuff),
    )
