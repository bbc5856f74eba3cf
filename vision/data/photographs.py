"""Photographs of differing sizes: random crops of one size to train on, whole images to test on.

Test images lie in the upper left of canvases of few sizes, so that few programs are compiled. The rest of a canvas is
the image's mirror image, with which MATLAB's ``imresize`` continues an image too: reduced and enlarged images are those
of the image alone.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from vision.data.content import content_of
from vision.data.dataset import Split, held_out_by_name
from vision.data.folder import FolderSource, check_images, folder_source
from vision.data.image_data import Data, HostBatch, process_share
from vision.data.image_file import MAX_PIXELS
from vision.data.notices import notice
from vision.data.pipeline import batches
from vision.data.shapes.world import ShapesConfig, ShapesSource
from vision.data.source import Record, Source, read
from vision.errors import UserError
from vision.home import expanded
from vision.ranges import ImageArea, NonNegativeInt, Pixels, PositiveInt

SMALLEST = 16
"""Pixels that a test image has at least on each side without its border, of which 11 are SSIM's window."""
BEYOND = 4
"""Pixels of the smaller image by which a canvas is larger than an image that does not fill it: bicubic filters reach
no farther."""


@dataclass(frozen=True)
class PhotographsConfig:
    """Which photographs to use."""

    name: Literal["shapes", "folder"] = "folder"
    """"folder" (images at any depth below ``dir``) or "shapes" (rendered scenes, no download)."""
    dir: Path = Path("photographs")
    """The folder of images; unused by shapes."""
    test_dir: Path | None = None
    """The folder of images to evaluate on; if not set, about a tenth of the images is held out, chosen by their
    names."""
    patch: Pixels = 96
    """Side in pixels of the squares to train on, at the higher resolution."""
    test_images: NonNegativeInt = 0
    """Evaluate on only the first this many test images; 0 for all."""
    test_multiple: PositiveInt = 32
    """Test images are continued by their mirror image until their sides, at the lower resolution, are multiples of
    this, at least 1: the larger, the fewer programs are compiled. 1 leaves them as they are."""
    skip_damaged: bool = False
    """Decode all files first, and leave out and report those that cannot be decoded."""
    stream: bool = False
    """Leave training images on disk, and decode those of a batch when it is needed, instead of holding all in
    memory."""
    workers: NonNegativeInt = 0
    """Streaming: number of worker processes that decode; 0 for threads of the main process."""
    max_pixels: ImageArea = MAX_PIXELS
    """Largest width times height of an image; decoding takes up to 24 bytes of memory for each pixel."""
    shapes: ShapesConfig = ShapesConfig(resolution=96, max_objects=4, min_size=0.2, max_size=0.5)
    """The shapes world."""
    shapes_count: PositiveInt = 2_000
    """Number of training scenes of the shapes world; as many as a tenth are tested."""


@dataclass(frozen=True, eq=False)
class DecodedSource:
    """Images of differing sizes in memory."""

    images: Sequence[UInt8[np.ndarray, "_ _ 3"]]
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Record:
        return {"image": self.images[index]}


def photograph_data(config: PhotographsConfig, *, scale: int, margin: int, multiple: int = 1) -> Data:
    """The data of restoration.

    A training sample has "image" uint8 [s s 3], a random crop with s = patch + 2 margin scale; where an image is
    smaller, it is continued by its mirror image. A batch of test images has "image" uint8 [b H W 3], canvases, whose
    size differs from batch to batch; "size" int32 [b 2], height and width of the images in them, multiples of
    ``scale`` (what is over is cut off); "index" int32 [b], their place among the test images; and "mask".

    Args:
      config: which images.
      scale: of super-resolution; 1 for restoration.
      margin: pixels of the lower resolution that crops are larger on each side.
      multiple: what the network needs sides at the lower resolution to be multiples of.

    Raises:
      UserError: the patch is no multiple of scale and multiple; and its functions, where the data is missing, cannot be
        decoded, or is too small to be tested on.
    """
    if config.patch % (scale * multiple):
        raise UserError(
            f"data.patch {config.patch} must be a multiple of {scale * multiple}, so that the network's input has "
            "whole pixels"
        )
    side = config.patch + 2 * margin * scale
    step = int(np.lcm(config.test_multiple, multiple))

    @functools.cache
    def source(split: Split) -> Source:
        opened = unread_photographs(config, split)
        if split == "train" and config.stream:
            return opened
        decoded = decoded_photographs(opened, count=config.test_images if split == "test" else 0)
        if split == "test":
            _check_sizes(decoded, scale)
        else:
            _report_small(decoded, side)
        return decoded

    def train_batches(
        batch_size: int, *, seed: int, start_step: int, process_index: int, process_count: int
    ) -> Iterator[HostBatch]:
        share: dict[str, Any] = {"process_index": process_index, "process_count": process_count}
        how: dict[str, Any] = {"seed": seed, "start_step": start_step, "workers": config.workers, **share}
        crop = functools.partial(random_crop, side=side)
        return batches(source("train"), batch_size=batch_size, transform=crop, **how)

    return Data(
        sample={"image": jax.ShapeDtypeStruct((side, side, 3), jnp.uint8)},
        source=source,
        train_batches=train_batches,
        test_batches=lambda size: canvas_batches(
            source("test"), batch_size=size, scale=scale, multiple=step, **process_share()
        ),
        description=functools.partial(description, config),
        class_names=tuple,
        content=lambda split: content_of(unread_photographs(config, split)),
    )


def unread_photographs(config: PhotographsConfig, split: Split) -> Source:
    """The images of a split, decoded or rendered when they are asked for; raises ``UserError`` where there are none."""
    if config.name == "shapes":
        size = config.shapes_count if split == "train" else max(config.shapes_count // 10, 1)
        if split == "test" and config.test_images:
            size = min(size, config.test_images)
        return ShapesSource(config=config.shapes, size=size, split=split)
    apart = config.test_dir is not None
    root = expanded(config.test_dir if config.test_dir is not None and split == "test" else config.dir)
    found = _folder(root, config.skip_damaged, config.max_pixels)
    return found if apart else held_out_by_name(found, root, split)


@functools.cache  # both splits are parts of one folder, whose files need to be listed only once
def _folder(root: Path, skip_damaged: bool, max_pixels: int) -> FolderSource:
    source = folder_source(root, resolution=None, labelled=False, max_pixels=max_pixels)
    if skip_damaged:
        source, report = check_images(source)
        if report.damaged:
            notice(str(report))
    return source


def decoded_photographs(source: Source, *, count: int = 0, limit_bytes: int = 2 * 2**30) -> DecodedSource:
    """The first ``count`` images, or all for 0, in memory.

    Raises:
      UserError: an image cannot be decoded, or they take more than the limit.
    """
    images, total = [], 0
    for index in range(min(count or len(source), len(source))):
        image = np.asarray(read(source, index)["image"])
        total += image.nbytes
        if total > limit_bytes:
            raise UserError(
                f"the first {index + 1} of {len(source)} photographs take more than the limit of "
                f"{limit_bytes / 2**30:.1f} GiB of memory: give --data.stream for training images, or a smaller number "
                "of --data.test-images"
            )
        images.append(image)
    return DecodedSource(tuple(images))


def random_crop(record: Record, rng: np.random.Generator, *, side: int) -> Record:
    """A square of an image, all places equally likely; a smaller image is continued by its mirror image."""
    image = np.asarray(record["image"])
    height, width = image.shape[:2]
    more = (max(side - height, 0), max(side - width, 0))
    if any(more):
        notice(
            f"photographs of less than {side} pixels on a side, such as one of {height}x{width}, are continued by "
            "their mirror images to be cropped",
            kind="small photographs",
        )
        image = np.pad(image, ((0, more[0]), (0, more[1]), (0, 0)), mode="symmetric")
    top, left = (int(rng.integers(length - side + 1)) for length in image.shape[:2])
    return {"image": image[top : top + side, left : left + side]}


def canvas_side(side: int, *, scale: int, multiple: int) -> int:
    """The side of the canvas for an image's side, a multiple of ``scale``: equal to it, or larger by 4 and more."""
    small = side // scale
    return side if small % multiple == 0 else -(-(small + BEYOND) // multiple) * multiple * scale


def canvas_batches(
    source: Source, *, batch_size: int, scale: int, multiple: int, process_index: int, process_count: int
) -> Iterator[HostBatch]:
    """The process's share of batches of images whose canvases are equal, see :func:`photograph_data`."""
    groups: dict[tuple[int, int], list[int]] = {}
    sizes: Mapping[int, tuple[int, int]] = {
        index: _multiple_of(source[index]["image"].shape[:2], scale) for index in range(len(source))
    }
    for index, size in sizes.items():
        height, width = (canvas_side(side, scale=scale, multiple=multiple) for side in size)
        groups.setdefault((height, width), []).append(index)
    local = batch_size // process_count
    for canvas, indices in groups.items():
        for start in range(0, len(indices), batch_size):
            places = np.arange(start + process_index * local, start + (process_index + 1) * local)
            rows = [indices[min(place, len(indices) - 1)] for place in places.tolist()]
            yield {
                "image": np.stack([_on_canvas(source[row]["image"], sizes[row], canvas) for row in rows]),
                "size": np.array([sizes[row] for row in rows], np.int32),
                "index": np.array(rows, np.int32),
                "mask": places < len(indices),
            }


def _multiple_of(size: tuple[int, ...], scale: int) -> tuple[int, int]:
    return size[0] - size[0] % scale, size[1] - size[1] % scale


def _on_canvas(image: np.ndarray, size: tuple[int, int], canvas: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    more = [whole - side for whole, side in zip(canvas, size, strict=True)]
    return np.pad(image[: size[0], : size[1]], ((0, more[0]), (0, more[1]), (0, 0)), mode="symmetric")


def _check_sizes(source: DecodedSource, scale: int) -> None:
    least = SMALLEST + 3 * scale
    small = [index for index, image in enumerate(source.images) if min(image.shape[:2]) < least]
    if small:
        height, width = source.images[small[0]].shape[:2]
        raise UserError(
            f"{len(small)} of the {len(source)} test images have less than {least} pixels on a side, such as number "
            f"{small[0] + 1} with {height}x{width}: remove them, since they are too small to be measured on"
        )


def _report_small(source: DecodedSource, side: int) -> None:
    small = [image for image in source.images if min(image.shape[:2]) < side]
    if small:
        height, width = small[0].shape[:2]
        notice(
            f"{len(small)} of {len(source)} photographs have less than {side} pixels on a side, such as one of "
            f"{height}x{width}: they are continued by their mirror images to be cropped",
            kind="small photographs",
        )


def description(config: PhotographsConfig, split: Split) -> str:
    """A split in words, for protocols."""
    some = f"the first {config.test_images} of " if config.test_images and split == "test" else ""
    if config.name == "shapes":
        return f"{some}the shapes world ({split}), {config.shapes.resolution}x{config.shapes.resolution}"
    if config.test_dir is not None:
        return f"{some}{config.test_dir if split == 'test' else config.dir}, whole images"
    share = "a tenth of the images" if split == "test" else "all but a tenth of the images"
    return f"{some}{config.dir}, {share}, by name"
