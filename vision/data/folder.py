"""A folder of images as a source: the images themselves, or one sub-folder per class.

Images are brought to a square resolution as in ImageNet evaluation: the shorter side is resized, then the centre is
cropped (Krizhevsky et al. 2012, section 2). Pillow resizes with antialiasing, here by LANCZOS, which keeps most detail.
Alternatively images keep their original size, for a crop on the host (`vision.data.crop`). A damaged image stops a run
unless `check_images` has left it out before.
"""

import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vision.data.class_names import check_name
from vision.data.grey_levels import rgb
from vision.data.image_file import MAX_PIXELS, SUFFIXES, ImageError, opened, upright
from vision.data.listing import Listing, entries, files_below, kinds
from vision.data.source import Record
from vision.errors import UserError
from vision.home import expanded

# Pixels of a resized image from which only what is left of it after the crop is made.
_LARGE = 2**25


def folder_source(
    path: str | Path,
    *,
    resolution: int | None,
    labelled: bool | None = None,
    shorter_side: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> "FolderSource":
    """The images of ``path``, sorted by class and file name.

    Args:
        path: a folder of images, or of sub-folders whose names are the classes, with images at any depth. Names that
            start with a dot are ignored; other files that are not images are counted on stderr. Linked folders are
            followed, see `vision.data.listing`.
        resolution: height and width of every image, in pixels; None keeps the original sizes.
        labelled: True requires classes, False takes all images at any depth without classes, None takes classes if
            there are sub-folders and none if images are directly in the folder.
        shorter_side: with a resolution of None, the number of pixels of the shorter side that is enough. A JPEG of two,
            four or eight times this size is decoded at a half, a quarter or an eighth, which is faster; see
            `FolderSource.shorter_side`. None always decodes the full size.
        max_pixels: limit of an image's width times height, see `vision.data.image_file.opened`.

    Returns:
        a source of "image" uint8 [h w 3], where h and w are ``resolution`` or the original size, and, with classes,
        "label" int32 [].

    Raises:
        UserError: the folder does not exist, has no images, a class without images or with a name that cannot be
            printed, or images both with and without a class; the resolution or shorter side is invalid; and when a
            sample is read, the image cannot be decoded or has more than ``max_pixels``.
    """
    root = expanded(path)
    if resolution is not None and resolution < 1:
        raise UserError(f"The resolution of images must be at least 1 pixel, got {resolution}.")
    if shorter_side is not None and (resolution is not None or shorter_side < 1):
        raise UserError(
            "shorter_side is a number of pixels for images at their original size (resolution None), got "
            f"{shorter_side} "
            f"with resolution {resolution}."
        )
    if not root.is_dir():
        raise UserError(f"There is no folder {root} to read images from.")
    inside = entries(root)
    plain = [entry for entry in inside if _is_image(entry)]
    folders = [entry for entry in inside if entry.is_dir()]
    if labelled is False:
        return FolderSource(image_files(root), None, (), resolution, shorter_side, max_pixels)
    if plain and folders:
        raise UserError(
            f"{root} has both images ({plain[0].name}, ...) and sub-folders ({folders[0].name}, ...): put "
            "every image into the folder of its class, or read them all without classes."
        )
    used = {*plain, *folders}
    others = tuple(entry for entry in inside if entry not in used)
    if not plain and not folders:
        found = f"; it has {kinds(others)}" if others else ""
        raise UserError(f"{root} has no images ({', '.join(sorted(SUFFIXES))}) and no folders of classes{found}.")
    if plain and labelled:
        raise UserError(f"{root} has images without classes: put every image into the folder of its class.")
    if plain:
        Listing(tuple(plain), others, ()).report(root, "images")
        return FolderSource(tuple(plain), None, (), resolution, shorter_side, max_pixels)
    listings = [files_below(folder, SUFFIXES) for folder in folders]
    for folder, listing in zip(folders, listings, strict=True):
        check_name(folder.name, f"The class folder {str(folder)!r}")
        if not listing.files:
            found = f" (it has {kinds(listing.ignored)})" if listing.ignored else ""
            raise UserError(f"The class folder {folder} has no images; add some or remove it{found}.")
    files = tuple(file for listing in listings for file in listing.files)
    labels = np.repeat(np.arange(len(folders), dtype=np.int32), [len(listing.files) for listing in listings])
    ignored = tuple(file for listing in listings for file in listing.ignored)
    circular = tuple(link for listing in listings for link in listing.circular)
    Listing(files, (*others, *ignored), circular).report(root, "images")
    return FolderSource(files, labels, tuple(folder.name for folder in folders), resolution, shorter_side, max_pixels)


def image_files(folder: Path, *, known: Collection[str] = ()) -> tuple[Path, ...]:
    """All images at any depth below a folder, sorted; what else is there, is reported.

    Args:
        folder: linked folders in it are followed.
        known: suffixes of files that are not worth a report.

    Raises:
        UserError: the folder does not exist or has no images.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder} to read images from.")
    listing = files_below(folder, SUFFIXES)
    if not listing.files:
        found = f"; it has {kinds(listing.ignored)}" if listing.ignored else ""
        raise UserError(f"{folder} has no images at any depth ({', '.join(sorted(SUFFIXES))}){found}.")
    listing.report(folder, "images", known=known)
    return listing.files


@dataclass(frozen=True, eq=False)
class FolderSource:
    """The source that `folder_source` returns: files and their classes."""

    files: tuple[Path, ...]
    """The images, in the source's order."""
    labels: np.ndarray | None
    """int32 [n], or None without classes."""
    class_names: tuple[str, ...]
    """Element i is the name of class i."""
    resolution: int | None
    """Height and width in pixels, or None for the original sizes."""
    shorter_side: int | None = None
    """Least shorter side in pixels to which JPEGs may be reduced while decoding. The reduction by 2, 4 or 8 happens in
    JPEG's cosine transform and is a little sharper than an area average. For a photograph of 512x600 pixels, a half and
    a quarter differ from a full decoding resized bilinearly by 2.4 levels (PSNR 35 dB); after a further resize by 0.6,
    by 0.8 and 1.0 levels (44 and 43 dB)."""
    max_pixels: int = MAX_PIXELS
    """Limit of an image's width times height as stored."""

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Record:
        file = self.files[index]
        with opened(file, max_pixels=self.max_pixels) as image:
            if self.resolution is not None:
                record = {"image": square(upright(image), self.resolution)}
            else:
                if self.shorter_side is not None:
                    # Only for JPEG: the largest reduction that leaves both sides at least this long
                    image.draft(None, (self.shorter_side, self.shorter_side))
                record = {"image": np.asarray(upright(image))}
        if self.labels is not None:
            record["label"] = self.labels[index]
        return record


@dataclass(frozen=True)
class DamageReport:
    """The result of `check_images`."""

    checked: int
    """How many files were decoded."""
    damaged: tuple[tuple[Path, str], ...]
    """Files that cannot be decoded, in the source's order, with reasons."""
    emptied: tuple[str, ...]
    """Classes without any image left."""

    def __str__(self) -> str:
        """A summary in one line, with the count and the first names."""
        if not self.damaged:
            return f"All {self.checked} images can be decoded."
        first = ", ".join(f"{file} ({reason})" for file, reason in self.damaged[:3])
        more = ", ..." if len(self.damaged) > 3 else ""
        text = f"{len(self.damaged)} of {self.checked} images cannot be decoded and are left out: {first}{more}."
        return f"{text} Classes without images now: {', '.join(self.emptied)}." if self.emptied else text


def check_images(source: FolderSource) -> tuple[FolderSource, DamageReport]:
    """Decode every file once, with a few threads, and leave out those that cannot be decoded.

    A JPEG with wrong compressed values decodes to a wrong image, which no decoder can detect. Detected are files that
    are empty, truncated, of an unknown format, or of a broken structure.

    Args:
        source: of a folder; all of its classes and their numbers are kept, even those without images.

    Returns:
        the source of the remaining images, in the same order, and a report to print.

    Raises:
        UserError: none of the images can be decoded.
    """
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        reasons = list(pool.map(partial(_damage, max_pixels=source.max_pixels), source.files))
    damaged = tuple((file, reason) for file, reason in zip(source.files, reasons, strict=True) if reason is not None)
    good = [index for index, reason in enumerate(reasons) if reason is None]
    if not good:
        raise UserError(f"None of the {len(reasons)} images can be decoded, such as {damaged[0][0]} ({damaged[0][1]}).")
    labels = None if source.labels is None else source.labels[good]
    left = set() if labels is None else set(labels.tolist())
    emptied = tuple(name for label, name in enumerate(source.class_names) if label not in left)
    kept = replace(source, files=tuple(source.files[index] for index in good), labels=labels)
    return kept, DamageReport(len(reasons), damaged, emptied)


def _damage(file: Path, max_pixels: int) -> str | None:
    """Why a file cannot be decoded, or None."""
    try:
        with opened(file, max_pixels=max_pixels) as image:
            upright(image)
    except ImageError as error:
        return error.reason
    return None


def square(image: Image.Image, resolution: int) -> UInt8[np.ndarray, "{resolution} {resolution} 3"]:
    """An upright image in RGB, its shorter side resized to ``resolution`` and its centre cropped."""
    image = rgb(image)
    width, height = image.size
    scale = resolution / min(width, height)
    size = (max(resolution, round(width * scale)), max(resolution, round(height * scale)))
    left, top = (size[0] - resolution) // 2, (size[1] - resolution) // 2
    if size[0] * size[1] > _LARGE:  # a line of pixels, which would become enormous before the crop
        x, y = width / size[0], height / size[1]
        box = (left * x, top * y, min(width, (left + resolution) * x), min(height, (top + resolution) * y))
        return np.asarray(image.resize((resolution, resolution), Image.Resampling.LANCZOS, box=box))
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(image.crop((left, top, left + resolution, top + resolution)))


def _is_image(entry: Path) -> bool:
    return entry.suffix.lower() in SUFFIXES and entry.is_file()
