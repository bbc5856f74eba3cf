"""Scenes of the shapes world as images with boxes, with masks and stuff on request: samples and annotations.

The stuff of a scene is its background, of the class of its kind.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from vision.data.annotations.cleaning import AnnotatedImage, Annotations, rendered_annotations
from vision.data.annotations.stuff import Stuff
from vision.data.box_padding import largest_boxes, padded_boxes
from vision.data.instance_maps import THINGS, map_dtype, renumbered_map
from vision.data.letterbox import Letterbox, letterboxed
from vision.data.on_demand import OnDemandSource
from vision.data.shapes.world import ShapesSource, instance_masks
from vision.data.source import Record
from vision.ops import rle

# The fields of a scene that are used.
_SCENE = ("boxes", "shape", "valid")
_SCENES_AT_ONCE = 64


@dataclass(frozen=True)
class RenderedSource:
    """Scenes as the samples of `vision.data.detection.detection_source`, rendered on access."""

    scenes: ShapesSource
    """The scenes, of the size of the samples or of a whole fraction of it."""
    resolution: int = field(repr=False)  # the scenes are the same
    """Size of the samples in pixels."""
    max_boxes: int
    """Maximum number of boxes per image."""
    masks: bool = field(default=False, repr=False)  # the images are the same
    """Whether samples have "instances"."""
    stuff: bool = field(default=False, repr=False)
    """Whether samples have "semantic"."""

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.scenes.config.shapes

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Record:
        scene = self.scenes[index]
        fields = _sample(scene, self.resolution, self.max_boxes, masks=self.masks, stuff=self.stuff)
        return {**fields, "index": np.asarray(index, np.int32)}


def rendered_in_memory(
    scenes: ShapesSource, resolution: int, max_boxes: int, *, masks: bool, stuff: bool
) -> OnDemandSource:
    """The same samples in memory, each rendered when it is first asked for; arguments as of `RenderedSource`."""
    used = ("image", *_used(masks=masks, stuff=stuff))

    def make(indices: np.ndarray) -> dict[str, np.ndarray]:
        arrays = scenes.render(indices, used)
        each = ({name: arrays[name][place] for name in used} for place in range(len(indices)))
        rows = [_sample(scene, resolution, max_boxes, masks=masks, stuff=stuff) for scene in each]
        return {**{name: np.stack([row[name] for row in rows]) for name in rows[0]}, "index": indices.astype(np.int32)}

    more = [name for name, wanted in (("instances", masks), ("semantic", stuff)) if wanted]
    fields = ("image", "boxes", "labels", "valid", "index", *more)
    return OnDemandSource(make, size=len(scenes), fields=fields, class_names=scenes.config.shapes)


def _used(*, masks: bool, stuff: bool) -> tuple[str, ...]:
    """Fields of scenes."""
    return (*_SCENE, *(("instances",) if masks or stuff else ()), *(("background",) if stuff else ()))


def _sample(
    scene: Mapping[str, np.ndarray], resolution: int, max_boxes: int, *, masks: bool, stuff: bool
) -> dict[str, np.ndarray]:
    """The fields of a sample, but for its index."""
    side = scene["image"].shape[0]
    valid = scene["valid"]  # the valid ones come first, so that the numbers of instances are those of boxes
    boxes = Letterbox(side, side, resolution).to_square(scene["boxes"][valid])
    fields = padded_boxes(boxes, scene["shape"][valid].astype(np.int32), max_boxes)
    if masks:
        numbers = renumbered_map(scene["instances"], largest_boxes(boxes, max_boxes), map_dtype(max_boxes))
        fields["instances"] = _repeated(numbers, resolution // side)
    if stuff:
        classes = np.where(scene["instances"] > 0, THINGS, 1 + scene["background"]).astype(np.uint8)
        fields["semantic"] = _repeated(classes, resolution // side)
    return {"image": _enlarged(scene["image"], resolution), **fields}


def _repeated(values: Integer[np.ndarray, "h w"], times: int) -> Integer[np.ndarray, "H W"]:
    return np.repeat(np.repeat(values, times, 0), times, 1)


def _enlarged(image: UInt8[np.ndarray, "h w 3"], resolution: int) -> UInt8[np.ndarray, "s s 3"]:
    """The image as any other is letterboxed."""
    return image if image.shape[0] == resolution else letterboxed(Image.fromarray(image), resolution)


def scene_annotations(scenes: ShapesSource, *, masks: bool, stuff: bool = False) -> Annotations:
    """The truth of all scenes, in their own pixels; with exact masks where they are asked for, alone or with stuff."""
    used = _used(masks=masks, stuff=stuff)
    images: list[AnnotatedImage] = []
    for start in range(0, len(scenes), _SCENES_AT_ONCE):  # of all scenes, maps would take much memory
        arrays = scenes.render(np.arange(start, min(start + _SCENES_AT_ONCE, len(scenes))), used)
        for place in range(len(arrays["valid"])):
            scene = {name: arrays[name][place] for name in used}
            images.append(_annotation(scene, len(images) + 1, scenes.config.resolution))
    return rendered_annotations(tuple(images), scenes.config.shapes, scenes.config.backgrounds if stuff else ())


def _annotation(scene: Mapping[str, np.ndarray], image_id: int, side: int) -> AnnotatedImage:
    """The annotation of a scene; with "instances" the masks are exact, and areas are theirs."""
    valid = scene["valid"]
    boxes, masks, stuff = scene["boxes"][valid], None, None
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    if "instances" in scene:
        masks = tuple(rle.encode(mask) for mask in instance_masks(scene["instances"][None], len(boxes))[0])
        area = np.array([rle.area(mask) for mask in masks], np.float32)
    if "background" in scene:
        stuff = Stuff(scene["background"].reshape(1), (rle.encode(scene["instances"] == 0),))
    return AnnotatedImage(
        file=None,
        width=side,
        height=side,
        boxes=boxes,
        labels=scene["shape"][valid].astype(np.int32),
        crowd=np.zeros(len(boxes), bool),
        area=area,
        image_id=image_id,
        masks=masks,
        stuff=stuff,
    )
