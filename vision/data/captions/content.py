"""What a captioned data set consists of, wherever it lies: its images by ``vision.data.content``, and its captions."""

import hashlib
from collections.abc import Iterator

import numpy as np

from vision.data.captions.shapes import ShapesTexts
from vision.data.captions.source import Captioned, ListedTexts, SomeTexts, Texts
from vision.data.captions.tfds import TfdsTexts
from vision.data.content import content_of
from vision.types import Content


def captioned_content(captioned: Captioned) -> Content:
    """The content of a captioned data set."""
    # of rendered scenes, which would all have to be rendered for a hash, that of their settings
    images = captioned.texts.source if isinstance(captioned.texts, ShapesTexts) else captioned.images
    digest = hashlib.sha256(content_of(images).sha256.encode())
    for part in _parts(captioned.texts):
        digest.update(part)
        digest.update(b"\0")
    return Content(count=len(captioned), sha256=digest.hexdigest())


def _parts(texts: Texts) -> Iterator[bytes]:
    match texts:
        case ListedTexts():
            yield from (repr(each).encode("utf-8", "surrogatepass") for each in texts.texts)
        case SomeTexts():
            yield np.ascontiguousarray(texts.indices).tobytes()
            yield from _parts(texts.texts)
        case ShapesTexts():
            yield repr(texts.left_out).encode()
        case TfdsTexts():
            yield texts.feature.encode()
        case _:  # those of shards are named with their images
            return
