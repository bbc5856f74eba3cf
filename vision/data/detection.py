"""Pictures with boxes for detection: the shapes world, or annotations in COCO's, VOC's or text form.

Samples have equal shapes: a letterboxed square and a fixed number of slots for boxes. What is evaluated against is the
annotation itself, in pixels of the original pictures (`ground_truth`); "index" of a sample is its place there.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32

from vision.data.annotations.box_text import class_list, read_box_text
from vision.data.annotations.cleaning import Annotated, Annotations, Rules, drawn, open_picture
from vision.data.annotations.coco import read_coco
from vision.data.annotations.voc import read_voc
from vision.data.dataset import Split
from vision.data.letterbox import Letterbox, letterboxed
from vision.data.shapes.world import ShapesConfig, ShapesSource
from vision.data.source import ArraySource, Record, Source, in_memory
from vision.errors import UserError

# Scenes of the shapes world to evaluate on.
_SHAPES_TEST = 500
# What is told of a scene.
_SCENE = ("boxes", "shape", "valid")


@dataclass(frozen=True)
class DetectionConfig:
    """Which pictures and boxes, and how they are read. The defaults are the layout of COCO 2017."""

    name: Literal["shapes", "coco", "voc", "text"] = "shapes"
    """"shapes" (drawn, no download), "coco" (JSON), "voc" (XML) or "text" (lines of class, centre and size)."""
    dir: Path = Path("data")
    """Folder that all other names are relative to; unused by shapes."""
    train_json: str = "annotations/instances_train2017.json"
    """COCO: annotation to train on."""
    test_json: str = "annotations/instances_val2017.json"
    """COCO: annotation to evaluate on."""
    train_images: str = "train2017"
    """COCO and text: folder of the pictures to train on."""
    test_images: str = "val2017"
    """COCO and text: folder of the pictures to evaluate on."""
    train_names: str = "train"
    """VOC: list in ImageSets/Main to train on, without .txt; empty for all of Annotations."""
    test_names: str = "val"
    """VOC: list in ImageSets/Main to evaluate on, without .txt; empty for all of Annotations."""
    classes: str = "classes.txt"
    """Text: file with the name of a class on each line. VOC takes its classes from there too if there is such a file,
    else the names in all of its annotations, sorted."""
    resolution: int = 640
    """Side in pixels of the square that pictures are letterboxed into."""
    max_boxes: int = 100
    """Boxes a picture that are trained on; of more, the largest."""
    overfit_images: int = 0
    """Train on the first so many pictures alone, and evaluate on them: for overfitting on purpose. 0 for all."""
    stream: bool = False
    """Decode pictures while training instead of holding the set in memory."""
    workers: int = 0
    """Streaming: processes that decode; 0 for threads of this one."""
    skip_damaged: bool = False
    """Decode all pictures first, and leave out, with a count, those that are damaged or not of their stated size."""
    shapes: ShapesConfig = ShapesConfig(resolution=640, max_objects=8, min_size=0.1, max_size=0.4)
    """The shapes world; its resolution is that of the data. Shapes are the classes, whatever their colour."""
    shapes_count: int = 2_000
    """Number of training pictures of the shapes world."""

    def __post_init__(self):
        for field, least in (
            ("resolution", 1),
            ("max_boxes", 1),
            ("overfit_images", 0),
            ("workers", 0),
            ("shapes_count", 1),
        ):
            if getattr(self, field) < least:
                raise UserError(f"{field} of detection data is {getattr(self, field)}, but must be at least {least}.")


def detection_source(config: DetectionConfig, split: Split, *, limit_bytes: int = 2 * 2**30) -> Source:
    """Samples to train or evaluate on, of equal shapes; in memory unless streamed.

    A sample has "image" uint8 [s s 3], letterboxed; "boxes" float32 [m 4] in pixels of that square, "labels" int32 [m]
    and "valid" bool [m] for m slots, the valid ones first and zeros elsewhere, crowds left out; and "index" int32 [],
    the place of the picture in `ground_truth`.

    Args:
        config: which.
        split: "train" or "test"; with ``config.overfit_images`` both are the first training pictures.
        limit_bytes: refuse to hold more than this in memory; 2 GiB unless told.

    Raises:
        UserError: the data is not there or not as its format says; a picture is damaged (when it is read, if
            streamed); or the set needs more memory than the limit.
    """
    if config.name == "shapes":
        source: Source = DrawnSource(_world(config, split), config.max_boxes)
    else:
        source = AnnotatedSource(ground_truth(config, split), config.resolution, config.max_boxes)
    if config.stream:
        return source
    needed = len(source) * (3 * config.resolution**2 + config.max_boxes * (4 * 4 + 4 + 1) + 4)
    if needed > limit_bytes:
        raise UserError(
            f"{len(source)} pictures of {config.resolution}x{config.resolution} need {needed / 2**30:.1f} GiB of "
            f"memory, more than the limit of {limit_bytes / 2**30:.1f} GiB: stream them, or lower the resolution."
        )
    if config.name == "shapes":
        return _drawn_source(config, split)
    return in_memory(source, limit_bytes=limit_bytes)


def ground_truth(config: DetectionConfig, split: Split) -> Annotations:
    """The annotation of the same pictures, crowds included, in pixels of the originals; its counts are for printing.

    Of the shapes world it is what was drawn. The last few are remembered, so asking again costs nothing.

    Raises:
        UserError: the data is not there or not as its format says.
    """
    return _ground_truth(config, "train" if config.overfit_images else split)


def description(config: DetectionConfig, split: Split) -> str:
    """The data in words, for protocols: "data/annotations/instances_val2017.json (coco), letterboxed to 640x640"."""
    training = split == "train" or config.overfit_images > 0
    few = f"the first {config.overfit_images} pictures of " if config.overfit_images else ""
    match config.name:
        case "shapes":
            where = f"the shapes world ({'train' if training else 'test'})"
        case "coco":
            where = f"{config.dir / (config.train_json if training else config.test_json)} (coco)"
        case "voc":
            listed = (config.train_names if training else config.test_names) or "all of Annotations"
            where = f"{config.dir}, {listed} (voc)"
        case "text":
            where = f"{config.dir / (config.train_images if training else config.test_images)} (text)"
    how = "" if config.name == "shapes" else "letterboxed to "
    return f"{few}{where}, {how}{config.resolution}x{config.resolution}"


@dataclass(frozen=True, eq=False)
class AnnotatedSource:
    """Annotated pictures from files as the samples of `detection_source`, decoded when they are asked for."""

    annotations: Annotations
    """What is read."""
    resolution: int
    """Side of the square in pixels."""
    max_boxes: int
    """Boxes a picture."""

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.annotations.class_names

    def __len__(self) -> int:
        return len(self.annotations.images)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        picture = self.annotations.images[index]
        if picture.file is None:
            raise ValueError(f"picture {index} was drawn and has no file")
        image = open_picture(picture.file, (picture.width, picture.height))
        box = Letterbox(picture.width, picture.height, self.resolution)
        learnt = ~picture.crowd
        boxes = padded_boxes(box.to_square(picture.boxes[learnt]), picture.labels[learnt], self.max_boxes)
        return {"image": letterboxed(image, self.resolution), **boxes, "index": np.asarray(index, np.int32)}


@dataclass(frozen=True)
class DrawnSource:
    """Scenes of the shapes world as the samples of `detection_source`, drawn when they are asked for."""

    scenes: ShapesSource
    """What is drawn; its resolution is that of the samples."""
    max_boxes: int
    """Boxes a picture."""

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.scenes.config.shapes

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Record:
        scene = self.scenes[index]
        valid = scene["valid"]
        boxes = padded_boxes(scene["boxes"][valid], scene["shape"][valid].astype(np.int32), self.max_boxes)
        return {"image": scene["image"], **boxes, "index": np.asarray(index, np.int32)}


def padded_boxes(
    boxes: Float32[np.ndarray, "n 4"], labels: Int32[np.ndarray, " n"], max_boxes: int
) -> dict[str, np.ndarray]:
    """Boxes padded to ``max_boxes``: of more, the largest, in their order.

    Returns:
        "boxes" float32 [max_boxes 4], "labels" int32 [max_boxes] and "valid" bool [max_boxes], the valid ones first and
        zeros elsewhere.
    """
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = np.sort(np.argsort(-area, kind="stable")[:max_boxes])
    empty = max_boxes - len(kept)
    return {
        "boxes": np.pad(boxes[kept], ((0, empty), (0, 0))),
        "labels": np.pad(labels[kept], (0, empty)),
        "valid": np.arange(max_boxes) < len(kept),
    }


@functools.lru_cache(maxsize=4)  # a source and its ground truth need the same annotation, which may take long to read
def _ground_truth(config: DetectionConfig, split: Split) -> Annotations:
    found = _scenes(_world(config, split), stream=config.stream) if config.name == "shapes" else _read(config, split)
    if split == "test":
        return found
    beyond = sum(max(0, int((~each.crowd).sum()) - config.max_boxes) for each in found.images)
    return replace(found, counts=replace(found.counts, beyond_slots=beyond))


def _read(config: DetectionConfig, split: Split) -> Annotations:
    folder, training = config.dir.expanduser(), split == "train"
    rules = Rules(first=config.overfit_images, skip_damaged=config.skip_damaged)
    images = folder / (config.train_images if training else config.test_images)
    classes = folder / config.classes
    match config.name:
        case "coco":
            return read_coco(folder / (config.train_json if training else config.test_json), images, rules=rules)
        case "voc":
            names = class_list(classes) if classes.is_file() else None
            listed = (config.train_names if training else config.test_names) or None
            return read_voc(folder, listed, class_names=names, rules=rules)
        case _:
            return read_box_text(images, classes, rules=rules)


def _world(config: DetectionConfig, split: Split) -> ShapesSource:
    """The scenes of a split; the first few of training alone if so configured."""
    training = split == "train" or config.overfit_images > 0
    size = (config.overfit_images or config.shapes_count) if training else _SHAPES_TEST
    shapes = replace(config.shapes, resolution=config.resolution)
    return ShapesSource(config=shapes, size=size, split="train" if training else "test")


@functools.lru_cache(maxsize=2)  # the source and its ground truth are of one drawing
def _drawn(scenes: ShapesSource, fields: tuple[str, ...]) -> dict[str, np.ndarray]:
    return scenes.arrays(fields)


def _drawn_source(config: DetectionConfig, split: Split) -> ArraySource:
    """All scenes of the shapes world in memory."""
    scenes = _world(config, "train" if config.overfit_images else split)
    arrays = _drawn(scenes, ("image", *_SCENE))
    rows = [
        padded_boxes(boxes[valid], shape[valid].astype(np.int32), config.max_boxes)
        for boxes, shape, valid in zip(*(arrays[name] for name in _SCENE), strict=True)
    ]
    padded = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    index = np.arange(len(rows), dtype=np.int32)
    return ArraySource({"image": arrays["image"], **padded, "index": index}, scenes.config.shapes)


def _scenes(scenes: ShapesSource, *, stream: bool) -> Annotations:
    arrays = _drawn(scenes, _SCENE if stream else ("image", *_SCENE))
    side = scenes.config.resolution
    columns = (arrays[name] for name in _SCENE)
    pictures = (_scene(boxes, shape, valid, side) for boxes, shape, valid in zip(*columns, strict=True))
    numbered: Sequence[Annotated] = [replace(each, image_id=number) for number, each in enumerate(pictures, start=1)]
    return drawn(tuple(numbered), scenes.config.shapes)


def _scene(
    boxes: Float32[np.ndarray, "m 4"], shape: Int[np.ndarray, " m"], valid: Bool[np.ndarray, " m"], side: int
) -> Annotated:
    boxes = boxes[valid]
    return Annotated(
        file=None,
        width=side,
        height=side,
        boxes=boxes,
        labels=shape[valid].astype(np.int32),
        crowd=np.zeros(len(boxes), bool),
        area=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
        image_id=0,
    )


def box_sizes(config: DetectionConfig) -> Float32[np.ndarray, "n 2"]:
    """Widths and heights of all boxes to learn, in pixels of the letterboxed squares: what anchors should be like."""
    sizes = [np.zeros((0, 2), np.float32)]
    for picture in ground_truth(config, "train").images:
        boxes = Letterbox(picture.width, picture.height, config.resolution).to_square(picture.boxes[~picture.crowd])
        sizes.append(boxes[:, 2:] - boxes[:, :2])
    return np.concatenate(sizes)
