"""A folder of images as a source: the images themselves, or one sub-folder of them for each class.

Images are brought to one square resolution as ImageNet evaluation does it: the shorter side is resized, then
the centre is cropped (Krizhevsky et al. 2012, section 2). Pillow resizes with antialiasing, here by LANCZOS,
which keeps most detail of what a smaller picture can show.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from vision.data.source import Record, Source
from vision.errors import UserError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif"})
"""What counts as an image, in lower case; other files are ignored."""


def folder_source(path: str | Path, *, resolution: int, labelled: bool | None = None) -> Source:
    """The images of ``path``, sorted by class and file name.

    Args:
        path: holds images, or sub-folders whose names are the classes, with images at any depth. Names that
            start with a dot are ignored.
        resolution: height and width of every image, in pixels.
        labelled: True demands classes, False takes all images at any depth without classes, None takes what
            is there: classes if there are sub-folders, none if images lie directly in the folder.

    Returns:
        a source of "image" uint8 [resolution resolution 3] and, with classes, "label" int32 [].

    Raises:
        UserError: no such folder, no images, a class without images, or images both with and without a class;
            and when a sample is read, an image that cannot be decoded.
    """
    root = Path(path).expanduser()
    if resolution < 1:
        raise UserError(f"The resolution of images must be at least 1 pixel, got {resolution}.")
    if not root.is_dir():
        raise UserError(f"There is no folder {root} to read images from.")
    entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    plain = [entry for entry in entries if _is_image(entry)]
    folders = [entry for entry in entries if entry.is_dir()]
    if labelled is False:
        images = _images_below(root)
        if not images:
            raise UserError(f"{root} has no images at any depth ({', '.join(sorted(SUFFIXES))}).")
        return FolderSource(tuple(images), None, (), resolution)
    if plain and folders:
        raise UserError(
            f"{root} has both images ({plain[0].name}, ...) and sub-folders ({folders[0].name}, ...): put "
            "every image into the folder of its class, or read them all without classes."
        )
    if not plain and not folders:
        raise UserError(f"{root} has no images ({', '.join(sorted(SUFFIXES))}) and no folders of classes.")
    if plain and labelled:
        raise UserError(f"{root} has images without classes: put every one into the folder of its class.")
    if plain:
        return FolderSource(tuple(plain), None, (), resolution)
    files: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        images = _images_below(folder)
        if not images:
            raise UserError(f"The class folder {folder} has no images; add some or remove it.")
        files += images
        labels += [label] * len(images)
    return FolderSource(tuple(files), np.array(labels, np.int32), tuple(f.name for f in folders), resolution)


@dataclass(frozen=True, eq=False)
class FolderSource:
    """The source that `folder_source` returns: files, and a class for each."""

    files: tuple[Path, ...]
    """The images, in the source's order."""
    labels: np.ndarray | None
    """int32 [n], or None without classes."""
    class_names: tuple[str, ...]
    """The name of class i at place i."""
    resolution: int
    """Height and width in pixels."""

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Record:
        file = self.files[index]
        try:
            with Image.open(file) as image:
                record = {"image": square(image, self.resolution)}
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{file} cannot be decoded ({reason}); repair or remove it.") from error
        if self.labels is not None:
            record["label"] = self.labels[index]
        return record


def square(image: Image.Image, resolution: int) -> UInt8[np.ndarray, "{resolution} {resolution} 3"]:
    """Upright as its EXIF data says, in RGB, shorter side resized to ``resolution``, centre cut out."""
    colour = rgb(ImageOps.exif_transpose(image))
    width, height = colour.size
    scale = resolution / min(width, height)
    size = (max(resolution, round(width * scale)), max(resolution, round(height * scale)))
    if size != colour.size:
        colour = colour.resize(size, Image.Resampling.LANCZOS)
    left, top = (size[0] - resolution) // 2, (size[1] - resolution) // 2
    return np.asarray(colour.crop((left, top, left + resolution, top + resolution)))


def rgb(image: Image.Image) -> Image.Image:
    """Any of Pillow's modes in 8-bit RGB: 16-bit grey by its upper byte, transparency on white."""
    if image.mode.startswith("I;16") or image.mode == "I":
        # Pillow's own conversion clips at 255 and would leave a 16-bit image white.
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
        image = Image.fromarray(grey.astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _is_image(entry: Path) -> bool:
    return entry.suffix.lower() in SUFFIXES and entry.is_file()


def _images_below(folder: Path) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [path for name in names if not name.startswith(".") and _is_image(path := Path(parent, name))]
    return sorted(found)
