"""Images with boxes for detection: the shapes world, or annotations in COCO's, VOC's or text form.

Samples have equal shapes: a letterboxed square and a fixed maximum number of boxes, on request with a map of their
instances and one of the stuff around them (`vision.data.instance_maps`). The ground truth for evaluation is the
annotation itself, in pixels of the original images (`ground_truth`); "index" of a sample is its index there.
"""

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32

from vision.data.annotations.box_text import class_list, label_folder_of, read_box_text
from vision.data.annotations.cleaning import Annotations, CleaningRules, open_image
from vision.data.annotations.coco import read_coco
from vision.data.annotations.panoptic import read_panoptic
from vision.data.annotations.voc import read_voc
from vision.data.box_padding import largest_boxes, padded_boxes
from vision.data.dataset import Split
from vision.data.image_file import MAX_PIXELS
from vision.data.instance_maps import instance_map, map_dtype, semantic_map
from vision.data.letterbox import Letterbox, letterboxed
from vision.data.scenes import RenderedSource, rendered_in_memory, scene_annotations
from vision.data.shapes.world import ShapesConfig, ShapesSource
from vision.data.source import Record, Source, in_memory
from vision.errors import UserError
from vision.home import expanded
from vision.ranges import ImageArea, NonNegativeInt, Pixels, PositiveInt, check_ranges


@dataclass(frozen=True)
class DetectionConfig:
    """Which images and boxes to use, and how they are read. The defaults are the layout of COCO 2017."""

    name: Literal["shapes", "coco", "voc", "text"] = "shapes"
    """"shapes" (rendered, no download), "coco" (JSON), "voc" (XML) or "text" (lines of class, centre and size)."""
    dir: Path = Path("data")
    """Folder that all other paths are relative to; unused by shapes."""
    train_json: str = "annotations/instances_train2017.json"
    """COCO: annotation to train on. Where stuff is read, it is in the panoptic form, with a folder of PNG files of the
    same name beside it."""
    test_json: str = "annotations/instances_val2017.json"
    """COCO: annotation to evaluate on."""
    train_images: str = "train2017"
    """COCO and text: folder of the images to train on."""
    test_images: str = "val2017"
    """COCO and text: folder of the images to evaluate on."""
    train_names: str = "train"
    """VOC: name of the list in ImageSets/Main to train on, without .txt; empty for all of Annotations. Where masks are
    read, it is in ImageSets/Segmentation, and all are those of SegmentationObject."""
    test_names: str = "val"
    """VOC: likewise of the list to evaluate on."""
    classes: str = "classes.txt"
    """Text: file with one class name per line. VOC also takes its classes from this file if it exists, else the sorted
    names in all of its annotations; where masks are read, the names of the values from 1 on, else VOC's own 20."""
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
    shapes_test_count: PositiveInt = 500
    """Number of scenes of the shapes world to evaluate on."""
    shapes_reduction: PositiveInt = 1
    """Scenes of the shapes world are rendered with this fraction of the resolution, and enlarged."""

    def __post_init__(self):
        check_ranges(self)
        if self.resolution % self.shapes_reduction:
            raise UserError(
                f"data.shapes_reduction must divide data.resolution, and {self.shapes_reduction} does not divide "
                f"{self.resolution}"
            )


def detection_source(
    config: DetectionConfig,
    split: Split,
    *,
    masks: bool = False,
    stuff: bool = False,
    limit_bytes: int = 2 * 2**30,
) -> Source:
    """Samples to train or evaluate on, of equal shapes; in memory unless streamed.

    A sample has "image" uint8 [s s 3], letterboxed; "boxes" float32 [m 4] in pixels of that square, "labels" int32 [m]
    and "valid" bool [m] for at most m boxes, the valid ones first, padded with zeros, without crowds; and "index" int32
    [], the index of the image in `ground_truth`. With masks it has "instances" uint8 [s s], or uint16 for more than 255
    boxes, too: 1 + k at the pixels of the k-th box, 0 elsewhere; a box may have no pixel (see `instance_map`). With
    stuff it has both "instances" and "semantic" uint8 [s s] (see `semantic_map`).

    Args:
        config: which data set.
        split: "train" or "test"; with ``config.overfit_images`` both are the first training images.
        masks: whether to read the masks of the instances.
        stuff: whether to read masks and the stuff around them.
        limit_bytes: maximum size in memory; 2 GiB by default.

    Raises:
        UserError: the data does not exist, has no masks or stuff where they are asked for, or does not follow its
            format; an image is damaged (raised when it is read, if streamed); or the data set needs more memory than
            the limit.
    """
    masks = masks or stuff
    map_bytes = (map_dtype(config.max_boxes).itemsize if masks else 0) + stuff
    if config.name == "shapes":
        source: Source = RenderedSource(_world(config, split), config.resolution, config.max_boxes, masks, stuff)
    else:
        source = AnnotatedSource(
            ground_truth(config, split, masks=masks, stuff=stuff), config.resolution, config.max_boxes
        )
    if config.stream:
        return source
    needed = len(source) * ((3 + map_bytes) * config.resolution**2 + config.max_boxes * (4 * 4 + 4 + 1) + 4)
    if needed > limit_bytes:
        raise UserError(
            f"{len(source)} images of {config.resolution}x{config.resolution} need {needed / 2**30:.1f} GiB of "
            f"memory, more than the limit of {limit_bytes / 2**30:.1f} GiB: stream them, or lower the resolution."
        )
    if config.name == "shapes":
        world = _world(config, "train" if config.overfit_images else split)
        return rendered_in_memory(world, config.resolution, config.max_boxes, masks=masks, stuff=stuff)
    return in_memory(source, limit_bytes=limit_bytes)


def ground_truth(config: DetectionConfig, split: Split, *, masks: bool = False, stuff: bool = False) -> Annotations:
    """The annotations of the same images, including crowds, in pixels of the originals; their counts are for printing.

    For the shapes world they are those of the rendered scenes. With masks, every image has them; with stuff, it has
    both. The last few are cached.

    Raises:
        UserError: the data does not exist, has no masks or stuff where they are asked for, or does not follow its
            format.
    """
    return _ground_truth(config, "train" if config.overfit_images else split, masks or stuff, stuff)


def stuff_names(config: DetectionConfig) -> tuple[str, ...]:
    """The classes of stuff. Raises ``UserError`` as `ground_truth`."""
    if config.name == "shapes":
        return config.shapes.backgrounds
    return ground_truth(config, "test", stuff=True).stuff_names


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
    """Annotated images from files as the samples of `detection_source`, decoded when they are asked for."""

    annotations: Annotations
    """The images and their boxes; samples have "instances" where these have masks, and "semantic" where they have
    stuff."""
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
        boxes = box.to_square(annotated.boxes[trainable])
        padded = padded_boxes(boxes, annotated.labels[trainable], self.max_boxes)
        record = {"image": letterboxed(image, self.resolution), **padded, "index": np.asarray(index, np.int32)}
        if annotated.masks is not None:
            kept = np.flatnonzero(trainable)[largest_boxes(boxes, self.max_boxes)]
            masks = [annotated.masks[place] for place in kept.tolist()]
            record["instances"] = instance_map(masks, box, map_dtype(self.max_boxes))
        if annotated.masks is not None and annotated.stuff is not None:
            record["semantic"] = semantic_map(annotated.masks, annotated.stuff, box)
        return record


@functools.lru_cache(maxsize=4)  # a source and its ground truth need the same annotations, which may be slow to read
def _ground_truth(config: DetectionConfig, split: Split, masks: bool, stuff: bool) -> Annotations:
    if config.name == "shapes":
        annotations = scene_annotations(_world(config, split), masks=masks, stuff=stuff)
    else:
        annotations = _read(config, split, masks=masks, stuff=stuff)
    if not annotations.counts.boxes:
        what, use = "an instance" if masks else "a box", "train" if split == "train" else "evaluate"
        raise UserError(
            f"None of the {annotations.counts.images} images of the {split} split has {what} to {use} on: "
            f"{_where_boxes_are_missing(config, split, masks=masks, stuff=stuff)}."
        )
    if stuff and not annotations.counts.stuff:
        raise UserError(
            f"None of the {annotations.counts.images} images of the {split} split has stuff, of which panoptic "
            "segmentation learns too: list segments of stuff, or use instance segmentation for things alone."
        )
    if split == "test":
        return annotations
    beyond = sum(max(0, int((~each.crowd).sum()) - config.max_boxes) for each in annotations.images)
    return replace(annotations, counts=replace(annotations.counts, beyond_max_boxes=beyond))


def _read(config: DetectionConfig, split: Split, *, masks: bool, stuff: bool) -> Annotations:
    folder, training = expanded(config.dir), split == "train"
    rules = CleaningRules(first=config.overfit_images, skip_damaged=config.skip_damaged, max_pixels=config.max_pixels)
    images = folder / (config.train_images if training else config.test_images)
    classes = folder / config.classes
    if stuff and config.name != "coco":
        raise UserError(f"data of the form {config.name} has no stuff: COCO's panoptic form has (--data.name coco)")
    match config.name:
        case "coco":
            path = folder / (config.train_json if training else config.test_json)
            if stuff:
                return read_panoptic(path, images, rules=rules)
            return read_coco(path, images, masks=masks, rules=rules)
        case "voc":
            names = class_list(classes) if classes.is_file() else None
            listed = (config.train_names if training else config.test_names) or None
            return read_voc(folder, listed, class_names=names, masks=masks, rules=rules)
        case _:
            return read_box_text(images, classes, masks=masks, rules=rules)


def _where_boxes_are_missing(config: DetectionConfig, split: Split, *, masks: bool, stuff: bool) -> str:
    """The likely cause."""
    folder, training = expanded(config.dir), split == "train"
    match config.name:
        case "coco" if stuff:
            path = folder / (config.train_json if training else config.test_json)
            return f"{path} lists no segments of things, or crowds alone"
        case "coco":
            path = folder / (config.train_json if training else config.test_json)
            return f"{path} has no annotations, or of crowds alone; annotations of a test set are often kept back"
        case "voc" if masks:
            return f"the masks in {folder / 'SegmentationObject'} have no objects"
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
    size = (config.overfit_images or config.shapes_count) if training else config.shapes_test_count
    shapes = replace(config.shapes, resolution=config.resolution // config.shapes_reduction)
    return ShapesSource(config=shapes, size=size, split="train" if training else "test")


def box_sizes(config: DetectionConfig) -> Float32[np.ndarray, "n 2"]:
    """Widths and heights of all boxes to train on, in pixels of the letterboxed squares, to fit anchors to."""
    sizes = [np.zeros((0, 2), np.float32)]
    for annotated in ground_truth(config, "train").images:
        boxes = Letterbox(annotated.width, annotated.height, config.resolution).to_square(
            annotated.boxes[~annotated.crowd]
        )
        sizes.append(boxes[:, 2:] - boxes[:, :2])
    return np.concatenate(sizes)
