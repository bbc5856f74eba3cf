"""Whether generated images show what their captions ask for, in the shapes world, whose captions have a truth.

Of a caption of one figure, its shape and its colour are asked; of a caption of two figures, both shapes, both colours
and how they lie to each other: five facts, of which all must be right. What an image shows is read by
`vision.evaluation.figures_in_images` and the shape classifier, which never saw a generated image. Next to each number
is what the real images of the captions get, the ceiling, and what images of other captions get, the floor.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, UInt8

from vision.data.captions.data import CaptionedData
from vision.data.captions.shapes import ShapesTexts
from vision.data.shapes.scene_graph import APART
from vision.evaluation.figures_in_images import LEAST_AREA, Found, figures_in
from vision.evaluation.generator import Generator, generate
from vision.ops.pixels import to_float
from vision.pretrained.shape_classifier import RESOLUTION, load_shape_classifier
from vision.train.compile import Compiler
from vision.train.experiment import Evaluate, Evaluation, EvaluatorFactory
from vision.types import TrainState

_ALONG = {"left of": (0, -1.0), "right of": (0, 1.0), "above": (1, -1.0), "below": (1, 1.0)}
"""Axis and sign of the difference of two centres for which a relation holds."""
_CLASSIFIED = 256
"""Cut-out figures at a time."""


@dataclass(frozen=True)
class Asked:
    """What a caption says."""

    figures: tuple[tuple[str, str], ...]
    """(shape, colour) of each."""
    relations: tuple[str, ...] = ()
    """How the first of two lies to the second."""


@dataclass(frozen=True)
class Shown:
    """A figure of an image."""

    shape: str
    colour: str
    centre: tuple[float, float]
    """(x, y) as shares of the sides."""
    box: tuple[float, float, float, float]
    """(x0, y0, x1, y1) as shares of the sides."""


def asked_of(texts: ShapesTexts, count: int) -> list[Asked | None]:
    """What the first caption of each of the first ``count`` scenes asks for.

    None where that is more than can be read from an image: figures that hide one another, two without a relation, or
    more than two.
    """
    indices = np.arange(count)
    found: list[Asked | None] = []
    for graph, relations in zip(texts.graphs(indices), texts.stated(indices), strict=True):
        figures = tuple((each.shape, each.colour) for each in graph.figures)
        readable = bool(relations) and set(relations) <= set(_ALONG)
        known = len(figures) == 1 or (len(figures) == 2 and readable)
        found.append(Asked(figures, relations if len(figures) == 2 else ()) if known else None)
    return found


def is_right(asked: Asked, shown: Sequence[Shown]) -> bool:
    """Whether an image shows the figures that were asked for, no others, and as they were to lie."""
    if len(shown) != len(asked.figures):
        return False
    for order in (shown, shown[::-1]):
        same = all((each.shape, each.colour) == wanted for each, wanted in zip(order, asked.figures, strict=True))
        if same and all(_holds(relation, order) for relation in asked.relations):
            return True
    return False


def _holds(relation: str, pair: Sequence[Shown]) -> bool:
    axis, sign = _ALONG[relation]
    return sign * (pair[0].centre[axis] - pair[1].centre[axis]) >= APART


class Reader:
    """Reads what images of the shapes world show."""

    def __init__(self, compiler: Compiler):
        classifier = load_shape_classifier()
        self._names = (classifier.shapes, classifier.colours)
        self._held = compiler.replicate(classifier)

        def kinds(classifier: Any, images: Array) -> tuple[Array, Array]:
            shape, colour = classifier(to_float(images))
            return jnp.argmax(shape, axis=-1), jnp.argmax(colour, axis=-1)

        self._kinds, self._compiler = compiler.function(kinds), compiler
        self.protocol = (
            f"figures are regions of strong colour of at least {LEAST_AREA:.0%} of the image, cut out and recognised "
            f"by shape classifier {classifier.version} among {len(classifier.shapes)} shapes and "
            f"{len(classifier.colours)} colours; neither has seen generated images"
        )

    def __call__(self, images: UInt8[np.ndarray, "n h w 3"]) -> list[list[Shown]]:
        """The figures of each image."""
        found = [figures_in(image, side=RESOLUTION) for image in images]
        kinds = self._classified([figure.crop for of in found for figure in of])
        shown, first = [], 0
        for of in found:
            shown.append([self._named(figure, kinds[first + place]) for place, figure in enumerate(of)])
            first += len(of)
        return shown

    def _classified(self, crops: Sequence[np.ndarray]) -> list[tuple[int, int]]:
        """(shape, colour) of each, in batches of one size."""
        kinds: list[tuple[int, int]] = []
        for start in range(0, len(crops), _CLASSIFIED):
            part = np.stack(crops[start : start + _CLASSIFIED])
            filled = np.resize(part, (_CLASSIFIED, *part.shape[1:]))
            shape, colour = jax.device_get(self._kinds(self._held, self._compiler.replicate(filled)))
            kinds += list(zip(shape[: len(part)].tolist(), colour[: len(part)].tolist(), strict=True))
        return kinds

    def _named(self, figure: Found, kind: tuple[int, int]) -> Shown:
        x, y = figure.centre.tolist()
        x0, y0, x1, y1 = figure.box.tolist()
        return Shown(self._names[0][kind[0]], self._names[1][kind[1]], (x, y), (x0, y0, x1, y1))


def caption_facts(
    generator: Generator, data: CaptionedData, *, count: int, batch: int, name: str = "facts"
) -> EvaluatorFactory:
    """The share of captions all of whose facts are right; nothing for data that is not the shapes world.

    Args:
      generator: whose ``given`` conditions are those of the first test images.
      data: with the captions.
      count: captions of the test split, from the first one on; the whole split where it has fewer.
      batch: images at a time.
      name: with which those of numbers begin.

    Numbers: "facts_single" and "facts_pair", and the same with "_real" for the real images, "_shuffled" for images of
    another caption of as many figures, and "_unseen" for captions with a combination of shape and colour that was left
    out of training.
    """

    def factory(compiler: Compiler) -> Evaluate:
        captioned = data.captioned("test")
        texts = captioned.texts
        if not isinstance(texts, ShapesTexts):
            return lambda state: Evaluation()
        size = min(count, len(captioned))
        asked, read = asked_of(texts, size), Reader(compiler)
        unseen = np.zeros(size, bool) if captioned.unseen is None else captioned.unseen()[:size]
        real: list[Mapping[str, float]] = []
        words = f"the first captions of {size:,} images of {data.description('test')}"

        def evaluate(state: TrainState) -> Evaluation:
            condition = generator.condition(size)
            of: dict[str, Any] = {"count": size, "seed": 0, "batch": min(batch, size)}
            images = generate(compiler, generator, generator.variables(state), condition, **of)
            if not real:
                of_real = shares(asked, read(_test_images(data, size)), unseen)
                real.append({f"{which}_real": value for which, value in of_real.items() if "shuffled" not in which})
            scalars = {**shares(asked, read(images), unseen), **real[0]}
            protocol = protocols(scalars, read.protocol, words, generator.description)
            named = lambda numbers: {f"{name}_{which}": value for which, value in numbers.items()}
            return Evaluation(named(scalars), {}, named(protocol))

        return evaluate

    return factory


def _test_images(data: CaptionedData, count: int) -> UInt8[np.ndarray, "n h w 3"]:
    source = data.source("test")
    return np.stack([source[index]["image"] for index in range(count)])


def shares(
    asked: Sequence[Asked | None], shown: Sequence[Sequence[Shown]], unseen: Bool[np.ndarray, " n"]
) -> dict[str, float]:
    """The numbers of :func:`caption_facts`, "single" and "pair", of images that show ``shown``."""
    scalars: dict[str, float] = {}
    for name, figures in (("single", 1), ("pair", 2)):
        places = [place for place, each in enumerate(asked) if each is not None and len(each.figures) == figures]
        wanted = [each for each in asked if each is not None and len(each.figures) == figures]
        if not places:
            continue
        right = np.array([is_right(each, shown[place]) for each, place in zip(wanted, places, strict=True)])
        scalars[name] = float(right.mean())
        if len(places) > 1:
            others = [*places[1:], places[0]]
            marks = [is_right(each, shown[place]) for each, place in zip(wanted, others, strict=True)]
            scalars[f"{name}_shuffled"] = float(np.mean(marks))
        new = unseen[places]
        if new.any():
            scalars[f"{name}_unseen"] = float(right[new].mean())
    return scalars


def protocols(names: Mapping[str, float], how: str, captions: str, generator: str) -> dict[str, str]:
    """What each number is, in words."""
    found = {}
    for name in names:
        pair = "pair" in name
        facts = "two figures, both shapes, both colours and their relation" if pair else "one figure, shape and colour"
        whose = f"samples; {generator}"
        if name.endswith("_real"):
            whose = "the real images, the ceiling"
        elif name.endswith("_shuffled"):
            whose = f"the samples of the next such caption, the floor; {generator}"
        which = ", of a combination of shape and colour that training has not" if "_unseen" in name else ""
        found[name] = f"share of captions of {facts}{which}, with all of it right; {captions}; {how}; {whose}"
    return found


def captions_given(
    data: CaptionedData, made: Callable[[Sequence[str], Callable[[], UInt8[np.ndarray, "n h w 3"]]], Mapping[str, Any]]
) -> Callable[[int], Mapping[str, np.ndarray]]:
    """(number) -> conditions from the first captions of as many test images, and from the images themselves.

    Both are repeated where there are fewer.

    Args:
      data: with test images and captions.
      made: (texts, function that reads the images) -> conditions.
    """

    def given(count: int) -> Mapping[str, np.ndarray]:
        captioned = data.captioned("test")
        size = min(count, len(captioned))
        texts = [of[0] for of in captioned.first(size)]
        found = made(texts, lambda: _test_images(data, size))
        return {name: value[np.arange(count) % size] for name, value in found.items()}

    return given
