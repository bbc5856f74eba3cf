"""Captioned data from a few options, and its batches: images, and the tokens of one caption of each.

To add a data set: a function that opens it, and an entry of :data:`CAPTIONED_SETS`.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vision.data.captions.coco import coco_captions
from vision.data.captions.content import captioned_content
from vision.data.captions.emoji import emoji_source
from vision.data.captions.folder import captioned_folder
from vision.data.captions.shapes import captioned_shapes
from vision.data.captions.shards import captioned_shards
from vision.data.captions.source import Captioned, SomeTexts, sampled
from vision.data.captions.tfds import captioned_tfds
from vision.data.dataset import DataConfig, Split, held_out_mask
from vision.data.fitted import FittedSource
from vision.data.folder import FolderSource, check_images
from vision.data.image_data import Data, HostBatch, process_share
from vision.data.notices import notice
from vision.data.pipeline import batches, evaluation_batches, training_order
from vision.data.shapes.world import ShapesSource
from vision.data.source import ArraySource, Source, in_memory
from vision.data.text.tokenizer import Tokenizer
from vision.errors import UserError
from vision.home import expanded
from vision.types import Content

EXAMINED = 10_000
"""Images whose captions a tokenizer is trained on, and examined for what it cuts or does not know."""


@dataclass(frozen=True)
class CaptionedConfig(DataConfig):
    """Which images with captions to use."""

    name: str = "shapes"
    """A name of CAPTIONED_SETS: "shapes" (rendered, no download), "folder" (metadata.jsonl, or a .txt beside each
    image), "coco" (JSON), "shards" (tar files of WebDataset) or "emoji"; or of TFDS."""
    train_json: str = "annotations/captions_train2017.json"
    """COCO: captions to train on, below data.dir."""
    test_json: str = "annotations/captions_val2017.json"
    """COCO: captions to evaluate on."""
    train_images: str = "train2017"
    """COCO: folder of the images to train on."""
    test_images: str = "val2017"
    """COCO: folder of the images to evaluate on."""
    text_feature: str = "captions/text"
    """TFDS: the feature that has the texts."""
    skin_tones: bool = False
    """Emoji: also those of a skin tone."""
    held_out: tuple[str, ...] = ()
    """Shapes world: kinds of objects such as "red star" that no training scene has, to be evaluated by themselves."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CaptionedData(Data):
    """Batches have "image", and "tokens" int32 [length] of a caption.

    In training it is one of several, by (seed, step) alone; in evaluation the first.
    """

    captioned: Callable[[Split], Captioned]
    """Opens a split: images at their original sizes, where they are no arrays, with all their captions."""
    tokenizer: Callable[[], Tokenizer]
    """Makes tokens of captions."""


@dataclass(frozen=True)
class CaptionedSet:
    """How a captioned data set is opened and described."""

    open: Callable[[CaptionedConfig, Split], Captioned]
    describe: Callable[[CaptionedConfig, Split], str]
    """(config, split) -> its description, for protocols."""


def _shapes(config: CaptionedConfig, split: Split) -> Captioned:
    size = config.shapes_count if split == "train" else 2_000
    world = replace(config.shapes, resolution=config.resolution)
    return captioned_shapes(ShapesSource(config=world, seed=0, size=size, split=split), held_out=config.held_out)


def _describe_shapes(config: CaptionedConfig, split: Split) -> str:
    without = f", {', '.join(config.held_out)} held out" if config.held_out else ""
    return f"the shapes world ({split}{without})"


def _folder(config: CaptionedConfig, split: Split) -> Captioned:
    root = expanded(config.test_dir if config.test_dir is not None and split == "test" else config.dir)
    found = _whole_folder(root, config.resolution, config.max_pixels, config.skip_damaged)
    assert isinstance(found.images, FolderSource)
    names = [file.relative_to(root).as_posix() for file in found.images.files]
    return found if config.test_dir is not None else _part(found, names, split, root)


@functools.cache  # both splits are parts of one folder
def _whole_folder(root: Path, resolution: int, max_pixels: int, skip_damaged: bool) -> Captioned:
    found = captioned_folder(root, resolution=resolution, max_pixels=max_pixels)
    return _decodable(found) if skip_damaged else found


def _decodable(found: Captioned) -> Captioned:
    """Without the files that cannot be decoded, which are reported."""
    assert isinstance(found.images, FolderSource)
    kept, report = check_images(found.images)
    if report.damaged:
        notice(str(report))
    places = {file: place for place, file in enumerate(found.images.files)}
    return Captioned(kept, SomeTexts(found.texts, np.array([places[file] for file in kept.files])))


def _shards(config: CaptionedConfig, split: Split) -> Captioned:
    root = expanded(config.test_dir if config.test_dir is not None and split == "test" else config.dir)
    found, names = _all_shards(root, config.max_pixels)
    return found if config.test_dir is not None else _part(found, names, split, root)


@functools.cache
def _all_shards(root: Path, max_pixels: int) -> tuple[Captioned, tuple[str, ...]]:
    return captioned_shards(root, max_pixels=max_pixels)


def _emoji(config: CaptionedConfig, split: Split) -> Captioned:
    found, names = emoji_source(config.dir, skin_tones=config.skin_tones)
    return _part(found, names, split, expanded(config.dir))


def _coco(config: CaptionedConfig, split: Split) -> Captioned:
    root, test = expanded(config.dir), split == "test"
    found = coco_captions(
        root / (config.test_json if test else config.train_json),
        root / (config.test_images if test else config.train_images),
        resolution=config.resolution,
        max_pixels=config.max_pixels,
    )
    return _decodable(found) if config.skip_damaged else found


def _tfds(config: CaptionedConfig, split: Split) -> Captioned:
    part = config.test_split if split == "test" else config.train_split
    where = {"data_dir": expanded(config.dir), "feature": config.text_feature, "max_pixels": config.max_pixels}
    return captioned_tfds(config.name, part, **where)


def _describe_held_out(config: CaptionedConfig, split: Split) -> str:
    if config.test_dir is not None:
        return f"{config.test_dir if split == 'test' else config.dir}"
    return f"{config.dir}, {'a tenth of the images' if split == 'test' else 'all but a tenth of the images'}, by name"


_TFDS = CaptionedSet(
    _tfds,
    lambda config, split: f"{config.name} ({config.test_split if split == 'test' else config.train_split})",
)
CAPTIONED_SETS: Mapping[str, CaptionedSet] = {
    "shapes": CaptionedSet(_shapes, _describe_shapes),
    "folder": CaptionedSet(_folder, _describe_held_out),
    "coco": CaptionedSet(_coco, lambda config, split: f"{config.test_json if split == 'test' else config.train_json}"),
    "shards": CaptionedSet(_shards, _describe_held_out),
    "emoji": CaptionedSet(_emoji, _describe_held_out),
}
"""Captioned data sets by name (``--data.name``); any other name is one that TFDS has prepared."""


def open_captioned(config: CaptionedConfig, split: Split) -> Captioned:
    """The images and captions that ``config`` names. Raises ``UserError`` with instructions if there are none."""
    return CAPTIONED_SETS.get(config.name, _TFDS).open(config, split)


def training_texts(captioned: Captioned) -> list[str]:
    """All captions of the first `EXAMINED` images."""
    return list(itertools.chain.from_iterable(captioned.first(EXAMINED)))


def captioned_data(
    config: CaptionedConfig, *, tokenizer: Callable[[], Tokenizer], length: int, channels: int = 3
) -> CaptionedData:
    """Images with the tokens of their captions.

    Args:
      config: which.
      tokenizer: made when the first batch is.
      length: tokens of a text that it makes.
      channels: of the model's images.

    Raises ``UserError`` for channels other than 3; and its functions, where the data is missing or does not fit.
    """
    if channels != 3:
        raise UserError("captioned images are colour images: set --model.channels 3")
    if config.stream and config.name == "shapes":
        raise UserError("the shapes world is rendered and not streamed: leave data.stream out")
    opened = functools.cache(functools.partial(open_captioned, config))

    @functools.cache
    def source(split: Split) -> Source:
        images = opened(split).images
        if isinstance(images, ArraySource) and config.name == "shapes":
            return images
        fitted = FittedSource(images, config.resolution, ("image",))
        return fitted if config.stream else in_memory(fitted)

    def description(split: Split) -> str:
        words = CAPTIONED_SETS.get(config.name, _TFDS).describe(config, split)
        return f"{words}, {config.resolution}x{config.resolution}"

    size = config.resolution
    sample = {
        "image": jax.ShapeDtypeStruct((size, size, channels), jnp.uint8),
        "tokens": jax.ShapeDtypeStruct((length,), jnp.int32),
    }
    return _data(
        source,
        opened,
        tokenizer,
        sample=sample,
        description=description,
        content=lambda split: captioned_content(opened(split)),
        workers=config.workers if config.stream else 0,
    )


def with_images(data: CaptionedData, source: Callable[[Split], Source], *, description: str) -> CaptionedData:
    """The same captions with other records in place of the images, as many and in the same order.

    Args:
      data: whose captions.
      source: opens the records of a split, whose fields are not those of ``data.sample``.
      description: what they are, added to that of the data.
    """
    return _data(
        source,
        data.captioned,
        data.tokenizer,
        sample=data.sample,
        description=lambda split: f"{data.description(split)}, {description}",
        content=data.content,
        workers=0,
    )


def _data(
    source: Callable[[Split], Source],
    opened: Callable[[Split], Captioned],
    tokenizer: Callable[[], Tokenizer],
    *,
    sample: Mapping[str, jax.ShapeDtypeStruct],
    description: Callable[[Split], str],
    content: Callable[[Split], Content],
    workers: int,
) -> CaptionedData:
    """Records of a source, with tokens of the captions of the images of the same indices."""

    def train_batches(
        batch_size: int, *, seed: int, start_step: int, process_index: int, process_count: int
    ) -> Iterator[HostBatch]:
        images, captioned = source("train"), opened("train")
        _report_coverage(tokenizer(), captioned, description("train"))
        share: dict[str, Any] = {"process_index": process_index, "process_count": process_count}
        order = training_order(len(captioned), seed=seed)
        local = batch_size // process_count
        stream = batches(images, batch_size=batch_size, seed=seed, start_step=start_step, workers=workers, **share)
        for step, batch in enumerate(stream, start=start_step):
            first = step * batch_size + process_index * local
            positions = np.arange(first, first + local, dtype=np.int64)
            texts = sampled(captioned.texts(order(positions)), positions, seed=seed)
            yield {**batch, "tokens": tokenizer().encode(texts)}

    def test_batches(size: int) -> Iterator[HostBatch]:
        captioned, share = opened("test"), process_share()
        local = size // share["process_count"]
        for number, batch in enumerate(evaluation_batches(source("test"), batch_size=size, workers=workers, **share)):
            first = number * size + share["process_index"] * local
            rows = np.minimum(np.arange(first, first + local), len(captioned) - 1)
            yield {**batch, "tokens": tokenizer().encode(of[0] for of in captioned.texts(rows))}

    return CaptionedData(
        sample=sample,
        source=source,
        train_batches=train_batches,
        test_batches=test_batches,
        description=description,
        class_names=tuple,
        content=content,
        captioned=opened,
        tokenizer=tokenizer,
    )


def _report_coverage(tokenizer: Tokenizer, captioned: Captioned, description: str) -> None:
    """Say on stderr how many captions are cut, and how many have unknown words."""
    found = tokenizer.coverage(training_texts(captioned))
    parts = [f"{found.cut:,} are longer than {tokenizer.length} tokens and are cut"] if found.cut else []
    parts += [f"{found.unknown:,} have words that are not in the vocabulary"] if found.unknown else []
    if parts:
        notice(f"of {found.texts:,} captions of {description}, {' and '.join(parts)}.", kind=f"coverage {description}")


def _part(found: Captioned, names: Sequence[str], split: Split, root: Path) -> Captioned:
    """The images of a split, which is a function of each one's name and of nothing else."""
    test = held_out_mask(names, root)
    return found.only(np.flatnonzero(test if split == "test" else ~test))
