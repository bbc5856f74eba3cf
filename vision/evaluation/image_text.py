"""Evaluation of embeddings that images and texts share: retrieval both ways, CLIP score, classification by texts."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from vision.data.captions.data import CaptionedData
from vision.data.captions.source import Attribute
from vision.data.dataset import DataConfig, named_split, open_dataset
from vision.data.fitted import FittedSource
from vision.data.image_data import HostBatch, process_share
from vision.data.pipeline import evaluation_batches
from vision.data.source import read
from vision.data.text.tokenizer import Tokenizer
from vision.errors import UserError
from vision.metrics.generation import clip_score
from vision.metrics.retrieval import zero_shot
from vision.metrics.retrieval.recall import DEPTHS, ranks, recall
from vision.ranges import PositiveInt
from vision.report.grid import sample_grid
from vision.train.compile import Compiler
from vision.train.experiment import Evaluate, Evaluation, EvaluatorFactory
from vision.types import TrainState

SHOWN = 12
"""Test images that are shown with the most similar caption."""


@dataclass(frozen=True)
class RetrievalConfig:
    """What is compared with what."""

    images: PositiveInt = 5_000
    """Test images that are embedded, the first ones."""
    compared: PositiveInt = 5_000
    """Largest number of images in the comparison with captions."""
    captions: Literal["all", "first"] = "all"
    """All captions of each image; or only the first one, of images whose first caption no earlier image has."""


@dataclass(frozen=True)
class ZeroShotConfig:
    """Classification of images by texts, without training for it."""

    name: str = ""
    """A labelled data set, as data.name of classifiers; empty for none."""
    dir: Path = Path("~/tensorflow_datasets")
    """Where it is."""
    split: str = "test"
    """The split of TFDS."""
    templates: tuple[str, ...] = zero_shot.TEMPLATES
    """Sentences with "{}" for the name of a class; of the embeddings of all, the mean stands for the class."""
    classes: tuple[str, ...] = ()
    """For ``python -m vision predict RUN FILES``: what images may show."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageTextEncoder:
    """Images and texts to vectors of length 1."""

    image: Callable[[Any, Array], Array]
    """(variables, images uint8 [b h w c]) -> float32 [b e]."""
    text: Callable[[Any, Array], Array]
    """(variables, tokens int32 [b n]) -> float32 [b e]."""
    tokenizer: Callable[[], Tokenizer]
    name: str
    """Of the model, for the CLIP score."""


class Embedder:
    """An encoder, compiled for batches of one size; every process has all embeddings."""

    def __init__(self, compiler: Compiler, encoder: ImageTextEncoder, *, batch_size: int):
        self._compiler, self._encoder = compiler, encoder
        self.size = compiler.rounded_up(batch_size)
        self._text = compiler.function(encoder.text)

        def images(variables: Any, batch: Mapping[str, Array]) -> dict[str, Array]:
            rest = {name: value for name, value in batch.items() if name != "image"}
            return {"embedding": encoder.image(variables, batch["image"]), **rest}

        self._image = compiler.function(images)

    def images(self, variables: Any, batches: Iterable[HostBatch], count: int) -> dict[str, np.ndarray]:
        """Of the first ``count`` images of evaluation batches of ``size``: "embedding" [count e], "label" if any."""
        found: list[dict[str, np.ndarray]] = []
        for batch in itertools.islice(batches, -(-count // self.size)):
            fields = {name: batch[name] for name in ("image", "label") if name in batch}
            found.append(jax.device_get(self._image(variables, self._compiler.shard(fields))))
        return {name: np.concatenate([each[name] for each in found])[:count] for name in found[0]}

    def texts(self, variables: Any, texts: Sequence[str]) -> Float[np.ndarray, "n e"]:
        """Of texts, the same on every process."""
        found = []
        for start in range(0, len(texts), self.size):
            tokens = self._encoder.tokenizer().encode(texts[start : start + self.size])
            padded = self._compiler.shard_padded(np.resize(tokens, (self.size, tokens.shape[1])))
            found.append(jax.device_get(self._text(variables, padded))[: len(tokens)])
        return np.concatenate(found)

    def classes(self, variables: Any, names: Sequence[str], templates: Sequence[str]) -> Float[np.ndarray, "k e"]:
        """Of classes by their prompts, see :func:`vision.metrics.retrieval.zero_shot.class_embeddings`."""
        texts = self.texts(variables, zero_shot.prompts(names, templates))
        return zero_shot.class_embeddings(texts, templates=len(templates))


@dataclass(frozen=True, eq=False)
class Comparison:
    """Images and texts, and which belong together."""

    images: Int[np.ndarray, " n"]
    """Indices of images."""
    texts: tuple[str, ...]
    """No two alike."""
    own: tuple[Int[np.ndarray, " _"], ...]
    """For each image the indices of its texts."""

    @property
    def shown(self) -> tuple[Int[np.ndarray, " _"], ...]:
        """For each text the places in ``images`` of those that have it."""
        places: list[list[int]] = [[] for _ in self.texts]
        for place, own in enumerate(self.own):
            for text in own.tolist():
                places[text].append(place)
        return tuple(np.array(each) for each in places)


def comparison(captions: Sequence[tuple[str, ...]], config: RetrievalConfig) -> Comparison:
    """What is compared: images with their captions, of which equal ones are one text that belongs to several images."""
    numbers: dict[str, int] = {}
    chosen, own = [], []
    for index, of in enumerate(captions):
        if len(chosen) == config.compared:
            break
        texts = of if config.captions == "all" else of[:1]
        if config.captions == "first" and texts[0] in numbers:
            continue
        chosen.append(index)
        own.append(np.unique([numbers.setdefault(text, len(numbers)) for text in texts]))
    return Comparison(np.array(chosen), tuple(numbers), tuple(own))


def image_text_metrics(
    encoder: ImageTextEncoder,
    data: CaptionedData,
    variables: Callable[[TrainState], Any],
    config: RetrievalConfig,
    *,
    batch_size: int,
    description: str,
) -> EvaluatorFactory:
    """Recall at 1, 5 and 10 both ways, the CLIP score of pairs, and the accuracy for each attribute of the data.

    Args:
      encoder: what is evaluated.
      data: whose test split.
      variables: state -> what the encoder takes.
      config: what is compared.
      batch_size: images at a time, rounded up to a multiple of the devices.
      description: of the averages, for protocols: "EMA 0.999".
    """

    def factory(compiler: Compiler) -> Evaluate:
        embedder = Embedder(compiler, encoder, batch_size=batch_size)
        test = data.captioned("test")
        count = min(len(test), config.images)
        captions = test.first(count)
        compared = comparison(captions, config)
        facts = {} if test.facts is None else test.facts()
        unseen = None if test.unseen is None else test.unseen()[:count]
        first = np.stack([read(data.source("test"), index)["image"] for index in compared.images[:SHOWN].tolist()])

        def evaluate(state: TrainState) -> Evaluation:
            values = variables(state)
            images = embedder.images(values, data.test_batches(embedder.size), count)["embedding"]
            texts = embedder.texts(values, compared.texts)
            words = f"{data.description('test')}, {description}"
            scalars, protocol = _retrieval(images[compared.images], texts, compared, config, words)
            own = texts[[of[0] for of in compared.own]]
            name = f"clip_score/{encoder.name}"
            scalars[name] = float(clip_score.clip_score(images[compared.images], own).mean())
            pairs = f"{len(own):,} images of {words} with the first of their captions"
            protocol[name] = clip_score.protocol(encoder.name, pairs)
            for fact, attribute in facts.items():
                classes = embedder.classes(values, attribute.names, attribute.templates)
                right = zero_shot.predicted(images, classes) == attribute.values[:count]
                new = _accuracy(fact, right, attribute, unseen, words)
                scalars.update({name: value for name, (value, _) in new.items()})
                protocol.update({name: text for name, (_, text) in new.items()})
            nearest = np.argmax(images[compared.images[:SHOWN]] @ texts.T, axis=1)
            shown = [compared.texts[index] for index in nearest]
            return Evaluation(scalars, {"captions": sample_grid(first, columns=4, captions=shown)}, protocol)

        return evaluate

    return factory


def _retrieval(
    images: np.ndarray, texts: np.ndarray, compared: Comparison, config: RetrievalConfig, words: str
) -> tuple[dict[str, float], dict[str, str]]:
    scalars, protocol = {}, {}
    which = "all their captions" if config.captions == "all" else "their first captions, no two alike"
    of = f"{len(images):,} images and {len(texts):,} texts, {which}, {words}"
    ways = (
        ("image_to_text", "images whose own caption, or one of them, is", ranks(images, texts, compared.own)),
        ("text_to_image", "captions whose image, or one of them, is", ranks(texts, images, compared.shown)),
    )
    for way, what, found in ways:
        for depth in DEPTHS:
            scalars[f"{way}_r{depth}"] = recall(found, depth)
            protocol[f"{way}_r{depth}"] = (
                f"share of {what} among the {depth} most similar by cosine, of equal ones the wrong before it; {of}"
            )
    return scalars, protocol


def _accuracy(
    fact: str, right: np.ndarray, attribute: Attribute, unseen: np.ndarray | None, words: str
) -> dict[str, tuple[float, str]]:
    """Accuracies with their protocols, of all images and of those with unseen combinations."""
    of = (
        f"the {fact} of which {len(attribute.templates)} sentences are most similar is right, among "
        f"{len(attribute.names)}, {words}"
    )
    found = {f"zero_shot/{fact}": (float(right.mean()), f"share of {len(right):,} images where {of}")}
    if unseen is not None and unseen.any():
        which = f"{int(unseen.sum()):,} images with a combination that was held out"
        found[f"zero_shot/{fact}_unseen"] = (float(right[unseen].mean()), f"share of {which} where {of}")
    return found


def zero_shot_metrics(
    encoder: ImageTextEncoder,
    variables: Callable[[TrainState], Any],
    config: ZeroShotConfig,
    *,
    resolution: int,
    batch_size: int,
    description: str,
) -> EvaluatorFactory:
    """The accuracy on a labelled data set whose classes are described by texts; nothing where none is named.

    Args:
      encoder: what is evaluated.
      variables: state -> what the encoder takes.
      config: which data, and the sentences.
      resolution: side of the images.
      batch_size: images at a time, rounded up to a multiple of the devices.
      description: of the averages, for protocols.
    """

    def factory(compiler: Compiler) -> Evaluate:
        if not config.name:
            return lambda state: Evaluation()
        labelled = DataConfig(name=config.name, dir=config.dir, resolution=resolution, test_split=config.split)
        source = open_dataset(labelled, "test")
        names = tuple(source.class_names)
        if not names:
            raise UserError(f"the data set {config.name} has no classes to tell apart: choose another zero_shot.name")
        zero_shot.prompts(names, config.templates)
        embedder = Embedder(compiler, encoder, batch_size=batch_size)
        fitted = FittedSource(source, resolution, ("image", "label"))

        def evaluate(state: TrainState) -> Evaluation:
            values = variables(state)
            batches = evaluation_batches(fitted, batch_size=embedder.size, **process_share())
            found = embedder.images(values, batches, len(source))
            classes = embedder.classes(values, names, config.templates)
            name = f"zero_shot/{config.name}"
            right = zero_shot.predicted(found["embedding"], classes) == found["label"]
            protocol = (
                f"share of {len(right):,} images of {named_split(labelled, 'test')}, {resolution}x{resolution}, whose "
                f"class is the most similar of {len(names)}, each the mean of {len(config.templates)} sentences such "
                f"as {config.templates[0]!r}, {description}"
            )
            return Evaluation({name: float(right.mean())}, {}, {name: protocol})

        return evaluate

    return factory


def classifier_of_texts(encoder: ImageTextEncoder, scale: Callable[[Any], Array]) -> Callable[[Any, Array], Array]:
    """({"model": variables, "classes": embeddings [k e]}, images uint8) -> logits [b k].

    Args:
      encoder: of images.
      scale: variables -> what cosines are multiplied by.
    """

    def logits(values: Mapping[str, Any], images: Array) -> Array:
        return scale(values["model"]) * encoder.image(values["model"], images) @ values["classes"].T

    return logits
