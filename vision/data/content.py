"""What a data set consists of, wherever it lies: a number of images and a hash.

The hash is over what names the images: the paths of files below their common folder and their classes, the boxes and
masks of an annotation, the files of a prepared data set, the settings of rendered scenes; of arrays in memory it is
over their bytes. A folder that is moved or copied keeps its hash; one that gains, loses or renames files does not.
"""

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from vision.data.captions.shards import ShardSource
from vision.data.detection import AnnotatedSource
from vision.data.folder import FolderSource
from vision.data.masked_images import FileImages, MaskedImages, TfdsImages
from vision.data.scenes import RenderedSource
from vision.data.semantic import MaskedSource
from vision.data.shapes.world import ShapesSource
from vision.data.source import ArraySource, Source
from vision.data.subset import Subset
from vision.data.tfds import TfdsSource
from vision.types import Content


def content_of(source: Source) -> Content:
    """The content of a source; of a kind that is not known here, its number of images and its classes."""
    digest = hashlib.sha256()
    for part in itertools.chain((repr(tuple(source.class_names)).encode(),), _parts(source)):
        digest.update(part)
        digest.update(b"\0")
    return Content(count=len(source), sha256=digest.hexdigest())


def _parts(source: Source) -> Iterable[bytes]:
    """Byte strings that name the samples, in their order where there is one for each."""
    match source:
        case Subset():
            parts = list(_parts(source.source))
            chosen = [np.ascontiguousarray(source.indices).tobytes(), repr(source.relabelled).encode()]
            whole = len(parts) != len(source.source)  # one name for several samples, such as that of a shard
            return [*parts, *chosen] if whole else [parts[index] for index in source.indices]
        case FolderSource():
            labels = [None] * len(source) if source.labels is None else source.labels.tolist()
            named = zip(_names(source.files), labels, strict=True)
            return [f"{name} {label}".encode("utf-8", "surrogateescape") for name, label in named]
        case AnnotatedSource():
            return _annotated(source)
        case MaskedSource():
            return _masked(source.images)
        case TfdsSource():
            return [f"{name} {count}".encode() for name, count in source.shards()]
        case ShardSource():
            return [
                f"{name} {image} {text}".encode("utf-8", "surrogateescape")
                for shard in source.shards
                for name, image, text in zip(
                    shard.names, shard.images[:, 1].tolist(), shard.texts[:, 1].tolist(), strict=True
                )
            ]
        case RenderedSource() | ShapesSource():
            return [repr(source).encode()]
        case ArraySource():
            return _arrays(source.arrays)
    return [str(len(source)).encode()]


def _names(files: Iterable[Path]) -> list[str]:
    """Paths below the folder that all files are in."""
    absolute = [os.path.abspath(file) for file in files]  # noqa: PTH100 - of a million files, strings are faster
    root = os.path.commonpath([os.path.dirname(file) for file in absolute])  # noqa: PTH120
    return [os.path.relpath(file, root) for file in absolute]


def _masked(images: MaskedImages) -> Iterable[bytes]:
    match images:
        case FileImages():
            files = zip(
                _names(pair.image for pair in images.pairs), _names(pair.mask for pair in images.pairs), strict=True
            )
            return [f"{image} {mask}".encode("utf-8", "surrogateescape") for image, mask in files]
        case TfdsImages():
            return [*_parts(images.source), f"{images.mask} {images.count}".encode()]


def _annotated(source: AnnotatedSource) -> Iterator[bytes]:
    images = source.annotations.images
    for name, image in zip(_names(image.file or Path(str(image.image_id)) for image in images), images, strict=True):
        yield f"{name} {image.width} {image.height}".encode("utf-8", "surrogateescape")
        yield from (np.ascontiguousarray(array).tobytes() for array in (image.boxes, image.labels, image.crowd))
        yield from (mask.counts for mask in image.masks or ())
        if image.stuff is not None:
            yield image.stuff.labels.tobytes()
            yield from (mask.counts for mask in image.stuff.masks)


def _arrays(arrays: Mapping[str, np.ndarray]) -> Iterator[bytes]:
    for name, array in sorted(arrays.items()):
        yield f"{name} {array.dtype.name} {array.shape}".encode()
        yield np.ascontiguousarray(array).tobytes()
