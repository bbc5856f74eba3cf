"""Captions in COCO's JSON (Chen et al. 2015, "Microsoft COCO Captions"): "images", and "annotations" with a caption."""

from pathlib import Path

from vision.data.annotations.coco import entry_list, json_content, listed_images
from vision.data.annotations.fields import shown
from vision.data.captions.folder import report
from vision.data.captions.source import Captioned, ListedTexts, checked
from vision.data.folder import FolderSource
from vision.data.image_file import MAX_PIXELS
from vision.errors import UserError


def coco_captions(
    json_path: Path, image_folder: Path, *, resolution: int | None, max_pixels: int = MAX_PIXELS
) -> Captioned:
    """The images of a file that have captions, in its order; those that are missing are left out and counted.

    Args:
      json_path: with "images" (each "id" and "file_name") and "annotations" (each "image_id" and "caption").
      image_folder: what "file_name" is relative to; no name leads out of it.
      resolution: as in ``vision.data.folder.folder_source``.
      max_pixels: limit of an image's width times height.

    Raises:
      UserError: the file or folder does not exist; it is not JSON, lacks a key or has a value of the wrong type (with
        the entry); no image has a caption.
    """
    if not image_folder.is_dir():
        raise UserError(f"There is no folder {image_folder} of images for {json_path}.")
    content = json_content(json_path)
    images = listed_images(entry_list(content, "images", json_path), json_path)
    found: dict[int, list[str]] = {number: [] for number in images}
    orphans = set()
    for entry in entry_list(content, "annotations", json_path):
        number = entry.integer("image_id")
        text = checked(entry.text("caption"), f"annotations[{entry.place}] of {json_path}")
        if number not in found:
            orphans.add(number)
        elif text:
            found[number].append(text)
    captioned = [number for number in images if found[number]]
    kept = [number for number in captioned if (image_folder / images[number].name).is_file()]
    if not kept:
        first = next(iter(images.values())).name
        why = f"none of them is in {image_folder}" if captioned else "no annotation is of one of them"
        raise UserError(f"{json_path} lists {len(images)} images, such as {shown(first)}, and {why}.")
    missing = len(captioned) - len(kept) + len(orphans)
    report(json_path, uncaptioned=len(images) - len(captioned), missing=missing)
    files = tuple(image_folder / images[number].name for number in kept)
    texts = ListedTexts([tuple(found[number]) for number in kept])
    return Captioned(FolderSource(files, None, (), resolution, None, max_pixels), texts)
