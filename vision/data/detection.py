"""Images with boxes for detection: the shapes world, or annotations in COCO's, VOC's or text form.

Samples have equal shapes: a letterboxed square and a fixed maximum number of boxes. The ground truth for evaluation is
the annotation itself, in pixels of the original images (`ground_truth`); "index" of a sample is its index there.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32

from vision.data.annotations.box_text import class_list, label_folder_of, read_box_text
from vision.data.annotations.cleaning import (
    AnnotatedImage,
    Annotations,
    CleaningRules,
    open_image,
    rendered_annotations,
)
from vision.data.annotations.coco import read_coco
from vision.data.annotations.voc import read_voc
from vision.data.dataset import Split
from vision.data.image_file import MAX_PIXELS
from vision.data.letterbox import Letterbox, letterboxed
from vision.data.on_demand import OnDemandSource
from vision.data.shapes.world import ShapesConfig, ShapesSource
from vision.data.source import Record, Source, in_memory
from vision.errors import UserError
from vision.home import expanded
from vision.ranges import ImageArea, NonNegativeInt, Pixels, PositiveInt, check_ranges

# Scenes of the shapes world to evaluate on.
_SHAPES_TEST = 500
# The fields of a scene that are used.
_SCENE = ("boxes", "shape", "valid")


@dataclass(frozen=True)
class DetectionConfig:
    """Which images and boxes to use, and how they are read. The defaults are the layout of COCO 2017."""

    name: Literal["shapes", "coco", "voc", "text"] = "shapes"
    """"shapes" (rendered, no download), "coco" (JSON), "voc" (XML) or "text" (lines of class, centre and size)."""
    dir: Path = Path("data")
    """Folder that all other paths are relative to; unused by shapes."""
    train_json: str = "annotations/instances_train2017.json"
    """COCO: annotation to train on."""
    test_json: str = "annotations/instances_val2017.json"
    """COCO: annotation to evaluate on."""
    train_images: str = "train2017"
    """COCO and text: folder of the images to train on."""
    test_images: str = "val2017"
    """COCO and text: folder of the images to evaluate on."""
    train_names: str = "train"
    """VOC: name of the list in ImageSets/Main to train on, without .txt; empty for all of Annotations."""
    test_names: str = "val"
    """VOC: name of the list in ImageSets/Main to evaluate on, without .txt; empty for all of Annotations."""
    classes: str = "classes.txt"
    """Text: file with one class name per line. VOC also takes its classes from this file if it exists,
    else the sorted names in all of its annotations."""
    resolution: Pixels = 640
    """Size in pixels of the square that images are letterboxed into."""
    max_boxes: PositiveInt = 100
    """Maximum number of boxes per image to train on; if there are more, the largest are kept."""
    overfit_images: NonNegativeInt = 0
    """Train and evaluate on only the first this many training images, to overfit on purpose. 0 for all."""
    stream: bool = False
    """Decode images during training instead of holding the data set in memory."""
    workers: NonNegativeInt = 0
    """Streaming: number of worker processes that decode; 0 for threads of the main process."""
    skip_damaged: bool = False
    """Decode all images first, and leave out and count those that are damaged or differ from their annotated size."""
    max_pixels: ImageArea = MAX_PIXELS
    """Largest width times height of an image; decoding takes up to 24 bytes of memory for each pixel."""
    shapes: ShapesConfig = ShapesConfig(resolution=640, max_objects=8, min_size=0.1, max_size=0.4)
    """The shapes world; its resolution is that of the data. The shapes are the classes, whatever their colour."""
    shapes_count: PositiveInt = 2_000
    """Number of training images of the shapes world."""

    def __post_init__(self):
        check_ranges(self)


def detection_source(config: DetectionConfig, split: Split, *, limit_bytes: int = 2 * 2**30) -> Source:
    """Samples to train or evaluate on, of equal shapes; in memory unless streamed.

    A sample has "image" uint8 [s s 3], letterboxed; "boxes" float32 [m 4] in pixels of that square, "labels" int32 [m]
    and "valid" bool [m] for at most m boxes, the valid ones first, padded with zeros, without crowds; and "index" int32
    [], the index of the image in `ground_truth`.

    Args:
        config: which data set.
        split: "train" or "test"; with ``config.overfit_images`` both are the first training images.
        limit_bytes: maximum size in memory; 2 GiB by default.

    Raises:
        UserError: the data does not exist or does not follow its format; an image is damaged (raised when it is read,
            if streamed); or the data set needs more memory than the limit.
    """
    if config.name == "shapes":
        source: Source = RenderedSource(_world(config, split), config.max_boxes)
    else:
        source = AnnotatedSource(ground_truth(config, split), config.resolution, config.max_boxes)
    if config.stream:
        return source
    needed = len(source) * (3 * config.resolution**2 + config.max_boxes * (4 * 4 + 4 + 1) + 4)
    if needed > limit_bytes:
        raise UserError(
            f"{len(source)} images of {config.resolution}x{config.resolution} need {needed / 2**30:.1f} GiB of "
            f"memory, more than the limit of {limit_bytes / 2**30:.1f} GiB: stream them, or lower the resolution."
        )
    if config.name == "shapes":
        return _rendered_source(config, split)
    return in_memory(source, limit_bytes=limit_bytes)


def ground_truth(config: DetectionConfig, split: Split) -> Annotations:
    """The annotations of the same images, including crowds, in pixels of the originals; their counts are for printing.

    For the shapes world they are those of the rendered scenes. The last few are cached.

    Raises:
        UserError: the data does not exist or does not follow its format.
    """
    return _ground_truth(config, "train" if config.overfit_images else split)


def description(config: DetectionConfig, split: Split) -> str:
    """A description for protocols: "data/annotations/instances_val2017.json (coco), letterboxed to 640x640"."""
    training = split == "train" or config.overfit_images > 0
    few = f"the first {config.overfit_images} images of " if config.overfit_images else ""
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
    """AnnotatedImage images from files as the samples of `detection_source`, decoded when they are asked for."""

    annotations: Annotations
    """The images and their boxes."""
    resolution: int
    """Size of the square in pixels."""
    max_boxes: int
    """Maximum number of boxes per image."""

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.annotations.class_names

    def __len__(self) -> int:
        return len(self.annotations.images)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        annotated = self.annotations.images[index]
        if annotated.file is None:
            raise ValueError(f"image {index} is rendered and has no file")
        size = annotated.width, annotated.height
        image = open_image(annotated.file, size, max_pixels=self.annotations.max_pixels)
        box = Letterbox(annotated.width, annotated.height, self.resolution)
        trainable = ~annotated.crowd
        boxes = padded_boxes(box.to_square(annotated.boxes[trainable]), annotated.labels[trainable], self.max_boxes)
        return {"image": letterboxed(image, self.resolution), **boxes, "index": np.asarray(index, np.int32)}


@dataclass(frozen=True)
class RenderedSource:
    """Scenes of the shapes world as the samples of `detection_source`, rendered on access."""

    scenes: ShapesSource
    """The scenes; their resolution is that of the samples."""
    max_boxes: int
    """Maximum number of boxes per image."""

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
    """Boxes padded to ``max_boxes``; if there are more, the largest are kept, in their order.

    Returns:
        "boxes" float32 [max_boxes 4], "labels" int32 [max_boxes] and "valid" bool [max_boxes], the valid ones first,
        padded with zeros.
    """
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = np.sort(np.argsort(-area, kind="stable")[:max_boxes])
    empty = max_boxes - len(kept)
    return {
        "boxes": np.pad(boxes[kept], ((0, empty), (0, 0))),
        "labels": np.pad(labels[kept], (0, empty)),
        "valid": np.arange(max_boxes) < len(kept),
    }


@functools.lru_cache(maxsize=4)  # a source and its ground truth need the same annotations, which may be slow to read
def _ground_truth(config: DetectionConfig, split: Split) -> Annotations:
    annotations = _scenes(_world(config, split)) if config.name == "shapes" else _read(config, split)
    if not annotations.counts.boxes:
        raise UserError(
            f"None of the {annotations.counts.images} images of the {split} split has a box to "
            f"{'train' if split == 'train' else 'evaluate'} on: {_where_boxes_are_missing(config, split)}."
        )
    if split == "test":
        return annotations
    beyond = sum(max(0, int((~each.crowd).sum()) - config.max_boxes) for each in annotations.images)
    return replace(annotations, counts=replace(annotations.counts, beyond_max_boxes=beyond))


def _read(config: DetectionConfig, split: Split) -> Annotations:
    folder, training = expanded(config.dir), split == "train"
    rules = CleaningRules(first=config.overfit_images, skip_damaged=config.skip_damaged, max_pixels=config.max_pixels)
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


def _where_boxes_are_missing(config: DetectionConfig, split: Split) -> str:
    """The likely cause."""
    folder, training = expanded(config.dir), split == "train"
    match config.name:
        case "coco":
            path = folder / (config.train_json if training else config.test_json)
            return f"{path} has no annotations, or of crowds alone; annotations of a test set are often kept back"
        case "voc":
            return f"the XML files in {folder / 'Annotations'} have no objects, or difficult ones alone"
        case "text":
            images = folder / (config.train_images if training else config.test_images)
            return f"the label files in {label_folder_of(images)} are empty"
        case _:
            return "the scenes have no objects"


def _world(config: DetectionConfig, split: Split) -> ShapesSource:
    """The scenes of a split; only the first few of training if ``overfit_images`` is set."""
    training = split == "train" or config.overfit_images > 0
    size = (config.overfit_images or config.shapes_count) if training else _SHAPES_TEST
    shapes = replace(config.shapes, resolution=config.resolution)
    return ShapesSource(config=shapes, size=size, split="train" if training else "test")


def _rendered_source(config: DetectionConfig, split: Split) -> OnDemandSource:
    """All scenes of the shapes world in memory, each rendered when it is first asked for."""
    world = _world(config, "train" if config.overfit_images else split)

    def make(indices: np.ndarray) -> dict[str, np.ndarray]:
        arrays = world.render(indices, ("image", *_SCENE))
        rows = [
            padded_boxes(boxes[valid], shape[valid].astype(np.int32), config.max_boxes)
            for boxes, shape, valid in zip(*(arrays[name] for name in _SCENE), strict=True)
        ]
        padded = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return {"image": arrays["image"], **padded, "index": indices.astype(np.int32)}

    fields = ("image", "boxes", "labels", "valid", "index")
    return OnDemandSource(make, size=len(world), fields=fields, class_names=world.config.shapes)


def _scenes(scenes: ShapesSource) -> Annotations:
    arrays = scenes.arrays(_SCENE)
    side = scenes.config.resolution
    columns = (arrays[name] for name in _SCENE)
    images = (_scene(boxes, shape, valid, side) for boxes, shape, valid in zip(*columns, strict=True))
    numbered: Sequence[AnnotatedImage] = [replace(each, image_id=number) for number, each in enumerate(images, start=1)]
    return rendered_annotations(tuple(numbered), scenes.config.shapes)


def _scene(
    boxes: Float32[np.ndarray, "m 4"], shape: Int[np.ndarray, " m"], valid: Bool[np.ndarray, " m"], side: int
) -> AnnotatedImage:
    boxes = boxes[valid]
    return AnnotatedImage(
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
    """Widths and heights of all boxes to train on, in pixels of the letterboxed squares, to fit anchors to."""
    sizes = [np.zeros((0, 2), np.float32)]
    for annotated in ground_truth(config, "train").images:
        boxes = Letterbox(annotated.width, annotated.height, config.resolution).to_square(
            annotated.boxes[~annotated.crowd]
        )
        sizes.append(boxes[:, 2:] - boxes[:, :2])
    return np.concatenate(sizes)
