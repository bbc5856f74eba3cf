"""Where images and their semantic masks lie: in plain folders, and in the layouts of PASCAL VOC, Cityscapes, ADE20K."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vision.data.annotations.fields import text_lines
from vision.data.annotations.index_masks import VOID, MaskRules
from vision.data.folder import image_files
from vision.data.image_file import SUFFIXES
from vision.errors import UserError


@dataclass(frozen=True)
class Pair:
    """An image and its mask."""

    image: Path
    mask: Path


VOC = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""The classes of PASCAL VOC (Everingham et al. 2010), in their order."""

CITYSCAPES: Mapping[int, str] = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
"""The 19 classes that Cityscapes evaluates (Cordts et al. 2016) by the value in its "labelIds" files."""
CITYSCAPES_VALUES = 34
"""Values in "labelIds" files are 0 to 33; those of other classes are void."""

ADE20K_CLASSES = 150
"""Of the scene parsing benchmark (Zhou et al. 2017); the value 0 is void, classes are 1 to 150."""


def voc_rules() -> MaskRules:
    """Palette indices; the border of objects, 255, is void."""
    return MaskRules(classes=len(VOC))


def cityscapes_rules() -> MaskRules:
    """Values of "labelIds" to the 19 classes of the evaluation, numbered in their order; all others are void."""
    void = tuple(value for value in (*range(CITYSCAPES_VALUES), VOID) if value not in CITYSCAPES)
    renumbered = {value: label for label, value in enumerate(CITYSCAPES)}
    return MaskRules(classes=len(CITYSCAPES), void=void, renumbered=renumbered)


def ade20k_rules() -> MaskRules:
    """Values 1 to 150 are the classes; 0 is void."""
    return MaskRules(classes=ADE20K_CLASSES, first=1, void=(0,))


def folder_pairs(images: Path, masks: Path) -> list[Pair]:
    """The images of a folder, at any depth, each with the PNG of the same relative name below ``masks``.

    Raises:
        UserError: a folder does not exist, there is no image, or an image without a mask.
    """
    for folder, what in ((images, "images"), (masks, "masks")):
        if not folder.is_dir():
            raise UserError(f"There is no folder {folder} of {what}.")
    files = image_files(images)
    return [Pair(file, _mask_of(file, masks / file.relative_to(images).with_suffix(".png"))) for file in files]


def voc_pairs(root: Path, name: str) -> list[Pair]:
    """JPEGImages and SegmentationClass for the names in ImageSets/Segmentation/NAME.txt."""
    listed = root / "ImageSets" / "Segmentation" / f"{name}.txt"
    names = [line.strip() for line in text_lines(listed, "the list of images") if line.strip()]
    if not names:
        raise UserError(f"{listed} names no image")
    odd = next((each for each in names if "/" in each or "\\" in each or each.startswith(".")), None)
    if odd is not None:
        raise UserError(f"{listed} has {odd[:80]!r}, which is not the name of an image without its suffix")
    folder = root / "SegmentationClass"
    return [Pair(root / "JPEGImages" / f"{each}.jpg", _mask_of(each, folder / f"{each}.png")) for each in names]


def cityscapes_pairs(root: Path, split: str) -> list[Pair]:
    """leftImg8bit/SPLIT/CITY/*_leftImg8bit.png and gtFine/SPLIT/CITY/*_gtFine_labelIds.png."""
    images, masks = root / "leftImg8bit" / split, root / "gtFine" / split
    if not images.is_dir():
        raise UserError(f"There is no folder {images}: --data.dir is the one with leftImg8bit and gtFine.")
    ending = "_leftImg8bit.png"
    files = [file for file in image_files(images) if file.name.endswith(ending)]
    if not files:
        raise UserError(f"{images} has no file whose name ends in {ending}")
    named = lambda file: file.relative_to(images).with_name(f"{file.name.removesuffix(ending)}_gtFine_labelIds.png")
    return [Pair(file, _mask_of(file, masks / named(file))) for file in files]


def ade20k_pairs(root: Path, split: str) -> list[Pair]:
    """images/SPLIT/*.jpg and annotations/SPLIT/*.png, with "training" and "validation" as splits."""
    return folder_pairs(root / "images" / split, root / "annotations" / split)


def _mask_of(image: Path | str, mask: Path) -> Path:
    if not mask.is_file():
        other = _with_another_suffix(mask)
        found = f"; {other.name} is there, but masks are PNG files, since JPEG changes values" if other else ""
        raise UserError(f"the image {image} has no mask {mask}{found}")
    return mask


def _with_another_suffix(mask: Path) -> Path | None:
    return next((each for suffix in SUFFIXES if (each := mask.with_suffix(suffix)).is_file()), None)
