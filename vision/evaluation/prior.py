"""Evaluation of a prior: whether its samples for held-out texts are where the embeddings of their images are.

Next to every number is what stands in for the prior there: the embedding of the text itself, zeros (Ramesh et al. 2022,
section 5.1), chance, and the embedding of another image with the same text, which no prior can be better than.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import numpy as np
from annotated_types import Interval
from jaxtyping import Array, Float

from vision.data.captions.data import CaptionedData
from vision.data.latents import LATENT
from vision.data.source import read
from vision.data.text.tokenizer import Tokenizer
from vision.errors import UserError
from vision.evaluation.image_text import RetrievalConfig, comparison
from vision.metrics.retrieval.samples import chance, cosine_margin, directions, recalls, variance_share
from vision.ranges import NonNegativeInt, PositiveInt
from vision.report.grid import sample_grid
from vision.tasks.prior import SampleEmbeddings
from vision.train.compile import Compiler
from vision.train.experiment import Evaluate, Evaluation, EvaluatorFactory
from vision.types import TrainState

SHOWN = 12
"""Texts that are shown with the test image nearest to their sample."""


@dataclass(frozen=True)
class PriorEvaluationConfig:
    """What samples are compared with."""

    images: PositiveInt = 2_000
    """Test images that are considered, the first ones."""
    compared: Annotated[int, Interval(ge=2, le=1_000_000)] = 256
    """Largest number of images among which a sample finds its own, of first captions of which no two are alike."""
    texts: NonNegativeInt = 64
    """Largest number of texts whose samples' variance is compared with that of real images; 0 for none."""
    scenes: Annotated[int, Interval(ge=2, le=10_000)] = 8
    """Images, at least 2, that have such a text."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PriorSampling:
    """A prior as its evaluation sees it."""

    sample: SampleEmbeddings
    text: Callable[[Any, Array], Array]
    """(variables, tokens int32 [b n]) -> embeddings of texts [b e]."""
    tokenizer: Callable[[], Tokenizer]
    description: str
    """How samples are made, in words."""


class _Sampler:
    """Functions of texts, compiled for batches of one size; every process has all results."""

    def __init__(self, compiler: Compiler, prior: PriorSampling, *, batch_size: int):
        self._compiler, self._prior = compiler, prior
        self._size = compiler.rounded_up(batch_size)
        self._sample, self._text = compiler.function(prior.sample), compiler.function(prior.text)

    def samples(self, variables: Any, texts: Sequence[str]) -> Float[np.ndarray, "n e"]:
        """One for each text, whose noise depends on its place alone."""
        key = self._compiler.replicate(jax.random.key(0))
        return self._made(texts, lambda tokens, index: self._sample(variables, tokens, index, key))

    def texts(self, variables: Any, texts: Sequence[str]) -> Float[np.ndarray, "n e"]:
        """Their own embeddings."""
        return self._made(texts, lambda tokens, index: self._text(variables, tokens))

    def _made(self, texts: Sequence[str], call: Callable[[Any, Any], Any]) -> Float[np.ndarray, "n e"]:
        found = []
        for start in range(0, len(texts), self._size):
            tokens = self._prior.tokenizer().encode(texts[start : start + self._size])
            padded = self._compiler.shard_padded(np.resize(tokens, (self._size, tokens.shape[1])))
            index = self._compiler.shard_padded(np.arange(start, start + self._size, dtype=np.int32))
            found.append(np.asarray(jax.device_get(call(padded, index)))[: len(tokens)])
        return np.concatenate(found)


def shared_texts(
    captions: Sequence[tuple[str, ...]], config: PriorEvaluationConfig
) -> tuple[tuple[str, ...], tuple[np.ndarray, ...]]:
    """Texts, of any phrasing, that at least ``scenes`` images have, in the order in which they first occur.

    Returns:
      (texts, for each the indices int64 [scenes] of the first images that have it).
    """
    having: dict[str, list[int]] = defaultdict(list)
    for index, of in enumerate(captions):
        for text in dict.fromkeys(of):
            having[text].append(index)
    count = config.scenes
    found = [(text, np.array(of[:count])) for text, of in having.items() if len(of) >= count][: config.texts]
    return tuple(text for text, _ in found), tuple(of for _, of in found)


def prior_metrics(
    prior: PriorSampling,
    data: CaptionedData,
    images: CaptionedData,
    variables: Callable[[TrainState], Any],
    config: PriorEvaluationConfig,
    *,
    batch_size: int,
) -> EvaluatorFactory:
    """Recall, cosine margin and variance of samples for held-out texts, each with what it is to be compared with.

    Args:
      prior: what is evaluated.
      data: whose test split has the embeddings of images.
      images: the images that they are of.
      variables: state -> what the prior's functions take.
      config: what is compared.
      batch_size: texts at a time, rounded up to a multiple of the devices.

    Raises (the result): ``UserError`` where all test images have the same caption.
    """

    def factory(compiler: Compiler) -> Evaluate:
        sampler = _Sampler(compiler, prior, batch_size=batch_size)
        test = images.captioned("test")
        count = min(len(test), config.images)
        captions = test.first(count)
        compared = comparison(captions, RetrievalConfig(compared=config.compared, captions="first"))
        if len(compared.images) < 2:
            raise UserError(
                f"all of {data.description('test')} have the same caption, and samples are compared with the images of "
                "others: name more images"
            )
        texts, scenes = shared_texts(captions, config)
        again = _another(captions, compared.images)
        new_kinds = np.flatnonzero(test.unseen()[compared.images]) if test.unseen is not None else np.array([], int)
        words = f"{data.description('test')}, {prior.description}"

        def evaluate(state: TrainState) -> Evaluation:
            values = variables(state)
            source = data.source("test")
            real = np.stack([read(source, index)[LATENT] for index in range(count)])
            own = real[compared.images]
            samples = sampler.samples(values, compared.texts)
            found = {
                **_numbers("", samples, own, "samples of the prior", words),
                **_numbers("text_", sampler.texts(values, compared.texts), own, "the embeddings of the texts", words),
                **_numbers("zeros_", np.zeros_like(own), own, "zeros", words),
                **_of_depths("chance_", chance(len(own)), f"of {len(own):,} images in a random order"),
            }
            if len(again):
                places, others = np.array(list(again)), real[list(again.values())]
                what = f"of {len(places):,} embeddings of another test image with the same text"
                found |= _of_depths("same_text_", recalls(others, own, places), what)
            if len(new_kinds):
                what = f"of the {len(new_kinds):,} images with a kind of object that no training image shows"
                found |= _of_depths("unseen_", recalls(samples[new_kinds], own, new_kinds), what)
            if texts:
                each = config.scenes
                made = sampler.samples(values, [text for text in texts for _ in range(each)])
                share = variance_share(list(made.reshape(len(texts), each, -1)), [real[of] for of in scenes])
                found["variance_share"] = (
                    share,
                    f"variance of {each} samples of a text over that of the embeddings of as many test images with "
                    f"this text, as vectors of length 1, pooled over {len(texts)} texts, {words}",
                )
            nearest = np.argmax(directions(samples[:SHOWN]) @ directions(own).T, axis=1)
            pictures = images.source("test")
            shown = np.stack([read(pictures, index)["image"] for index in compared.images[nearest].tolist()])
            return Evaluation(
                {name: value for name, (value, _) in found.items()},
                {"nearest": sample_grid(shown, columns=4, captions=list(compared.texts[: len(shown)]))},
                {name: text for name, (_, text) in found.items()},
            )

        return evaluate

    return factory


def _another(captions: Sequence[tuple[str, ...]], compared: np.ndarray) -> dict[int, int]:
    """Place among the compared images -> another image with the same first caption, where there is one."""
    places = {captions[image][0]: place for place, image in enumerate(compared.tolist())}
    found: dict[int, int] = {}
    for index, of in enumerate(captions):
        place = places.get(of[0])
        if place is not None and index != compared[place]:
            found.setdefault(place, index)
    return found


def _numbers(name: str, vectors: np.ndarray, own: np.ndarray, what: str, words: str) -> dict[str, tuple[float, str]]:
    of = f"{len(own):,} images with first captions of which no two are alike"
    found = {
        f"{name}r{depth}": (
            share,
            f"share of {what} to which their own image is among the {depth} most similar of {of}, by cosine, of equal "
            f"ones the wrong before it, {words}",
        )
        for depth, share in recalls(vectors, own).items()
    }
    margin = f"mean cosine of {what} to the embedding of their own image minus that to the others of {of}, {words}"
    return {**found, f"{name}cosine_margin": (cosine_margin(vectors, own), margin)}


def _of_depths(name: str, found: Mapping[int, float], what: str) -> dict[str, tuple[float, str]]:
    return {f"{name}r{depth}": (share, f"as r{depth}, {what}") for depth, share in found.items()}
