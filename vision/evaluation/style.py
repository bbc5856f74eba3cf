"""How stylised images are measured: how near to the painting, and how much of the photograph is left.

Distances depend on the network, whose name is part of each number's protocol. Gram and content losses of a result are
put in relation to what one would have without it: the photograph itself has the painting's Gram loss to lose, and an
unrelated photograph has the content loss of an image that shows something else.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from vision.metrics.generation.artfid import artfid
from vision.metrics.generation.frechet import frechet_distance
from vision.metrics.generation.moments import moments
from vision.metrics.reconstruction.lpips import lpips
from vision.ops.resize import resize
from vision.report.style import style_sheet
from vision.tasks.style import Features, StyleLossConfig, content_loss, gram_distance, gram_matrix
from vision.train.compile import Compiler
from vision.train.experiment import Evaluate, Evaluation, EvaluatorFactory

SHOWN = 6
"""Photographs on sheets, and unrelated ones that each is compared with, at most."""

Picture = UInt8[np.ndarray, "_ _ 3"]


@dataclass(frozen=True, kw_only=True)
class PerceptualDistance:
    """LPIPS in named features."""

    features: Callable[[Any, Array], Sequence[Array]]
    """(variables, images normalised as LPIPS does) -> the levels that are compared."""
    weights: tuple[Float[np.ndarray, " _"], ...]
    """Of the channels of each level."""
    name: str
    """"lpips" with published weights, another name with others."""
    words: str


@dataclass(frozen=True, kw_only=True)
class StyleNetworkMeasures:
    """The network of the losses, as measures need it."""

    activations: Callable[[Any, Array], Features]
    """(variables, images in [0, 1]) -> activations by layer."""
    loss: StyleLossConfig
    words: str
    """The network in words."""
    distance: PerceptualDistance


@dataclass(frozen=True)
class Measured:
    """The numbers of one stylised image, and what distances between sets need."""

    scalars: Mapping[str, float]
    pooled: Float[np.ndarray, "2 d"]
    """Mean activations of the deepest style layer, of the result and of the painting."""


class StyleMeasures:
    """Measures of images, compiled once for each size."""

    def __init__(self, network: StyleNetworkMeasures, compiled: Callable[..., Any] = jax.jit):
        """Args: the network; how functions are compiled."""
        self.network = network
        self._activations = compiled(network.activations)
        distance = network.distance
        self._distance = compiled(
            lambda variables, one, other: lpips(
                2.0 * one - 1.0,
                2.0 * other - 1.0,
                features=lambda images: distance.features(variables, images),
                weights=distance.weights,
            )[0]
        )

    def __call__(
        self, variables: Any, result: Picture, content: Picture, style: Picture, unrelated: Sequence[Picture] = ()
    ) -> Measured:
        """The numbers of one result.

        Args:
          variables: of the network.
          result: the stylised image.
          content: the photograph, of the result's size.
          style: the painting, of any size.
          unrelated: other photographs, resized to the result's size.
        """
        config = self.network.loss
        found, original, painting = (self._of(variables, image) for image in (result, content, style))
        scalars: dict[str, float] = {}
        ratios = []
        for name in config.style_layers:
            grams = [gram_matrix(each[name]) for each in (found, original, painting)]
            after, before = (float(gram_distance(gram, grams[2])[0]) for gram in grams[:2])
            scalars |= {f"gram/{name}": after, f"gram_of_content/{name}": before}
            ratios.append((after, before))
        weights = list(config.weights().values())
        total = [float(np.dot(weights, column)) for column in zip(*ratios, strict=True)]
        scalars |= {"gram": total[0], "gram_of_content": total[1], "gram_ratio": total[0] / max(total[1], 1e-12)}
        scalars["content"] = float(content_loss(found, original, config)[0])
        if unrelated:
            size = (content.shape[0], content.shape[1])
            others = [self._of(variables, resized(image, size)) for image in unrelated]
            apart = [float(content_loss(other, original, config)[0]) for other in others]
            scalars["content_of_unrelated"] = float(np.mean(apart))
            scalars["content_ratio"] = scalars["content"] / max(scalars["content_of_unrelated"], 1e-12)
        one, other = (jnp.asarray(image[None], jnp.float32) / 255.0 for image in (result, content))
        scalars[self.network.distance.name] = float(self._distance(variables, one, other))
        last = config.style_layers[-1]
        pooled = np.stack([np.asarray(each[last].mean((0, 1, 2))) for each in (found, painting)])
        return Measured(scalars, pooled)

    def summary(self, measured: Sequence[Measured]) -> dict[str, float]:
        """Means over results, and the distances between the sets of results and paintings."""
        names = list(dict.fromkeys(name for each in measured for name in each.scalars))
        of = lambda name: [each.scalars[name] for each in measured if name in each.scalars]
        scalars = {name: float(np.mean(of(name))) for name in names}
        # ratios of means, which no single easy pair dominates
        scalars["gram_ratio"] = scalars["gram"] / max(scalars["gram_of_content"], 1e-12)
        scalars |= {f"{name}_worst": max(of(name)) for name in ("gram_ratio", "content_ratio") if name in scalars}
        if len(measured) > 1:
            sets = [moments(np.stack([each.pooled[place] for each in measured])) for place in (0, 1)]
            scalars["frechet_pooled"] = frechet_distance(*sets)
            distance = self.network.distance.name
            scalars[f"artfid_pooled_{distance}"] = artfid(scalars[distance], scalars["frechet_pooled"])
        return scalars

    def protocol(self, what: str) -> dict[str, str]:
        """Each number in words.

        Args:
          what: on which images, "mean over 36 pairs at 256 pixels".
        """
        config, distance = self.network.loss, self.network.distance
        where = f"{what}; features: {self.network.words}, scaled to a mean of 1 in each layer"
        gram = "mean squared difference of Gram matrices over pixels, a quarter of it (Gatys et al. 2016, eq. 4)"
        layers, content = ", ".join(config.style_layers), ", ".join(config.content_layers)
        found = {
            "gram": f"Gram loss of the result to the painting, {gram}, {layers}; {where}",
            "gram_of_content": f"the same of the photograph itself; {where}",
            "gram_ratio": f"gram / gram_of_content, of the means; {where}",
            "gram_ratio_worst": f"the largest gram_ratio of one result; {where}",
            "content": f"mean squared difference of {content} to the photograph (eq. 1 as a mean); {where}",
            "content_of_unrelated": f"the same of other photographs, mean over them; {where}",
            "content_ratio": f"content / content_of_unrelated; {where}",
            "content_ratio_worst": f"the largest content_ratio of one result; {where}",
            distance.name: f"{distance.words}, result to photograph; {what}",
            "frechet_pooled": f"Fréchet distance of results to paintings in means of {config.style_layers[-1]} over "
            f"pixels, not FID; {where}",
        }
        found[f"artfid_pooled_{distance.name}"] = (
            f"(1 + {distance.name}) (1 + frechet_pooled), ArtFID's definition (Wright & Ommer 2022) in these features, "
            f"not comparable with published ArtFID; {what}"
        )
        for name in config.style_layers:
            found[f"gram/{name}"] = f"Gram loss of {name}; {where}"
            found[f"gram_of_content/{name}"] = f"the same of the photograph itself; {where}"
        return found

    def _of(self, variables: Any, image: Picture) -> Features:
        return self._activations(variables, jnp.asarray(image[None], jnp.float32) / 255.0)


def resized(image: Picture, size: tuple[int, int]) -> Picture:
    """A picture at a height and width, bicubic."""
    if image.shape[:2] == size:
        return image
    return np.asarray(resize(jnp.asarray(image[None]), size, method="bicubic")[0])


def fitted(image: Picture, longer: int) -> Picture:
    """A picture whose longer side has ``longer`` pixels."""
    factor = longer / max(image.shape[:2])
    return resized(image, (max(1, round(image.shape[0] * factor)), max(1, round(image.shape[1] * factor))))


@dataclass(frozen=True, kw_only=True)
class StyleTask:
    """What networks that paint are evaluated on."""

    contents: Callable[[], Sequence[Picture]]
    """Reads the test photographs."""
    styles: Callable[[], Sequence[Picture]]
    """Reads the paintings."""
    paint: Callable[[Any, Picture, Picture], Picture]
    """(state, photograph, painting) -> the painted photograph."""
    features: Callable[[Any], Any]
    """State -> variables of the network of the measures."""
    description: str
    """In words, for protocols."""
    size: int
    """The longer side, in pixels, that photographs and paintings are brought to."""


def style_metrics(network: StyleNetworkMeasures, task: StyleTask) -> EvaluatorFactory:
    """Numbers of all pairs of test photographs and paintings, and a sheet of them."""

    def factory(compiler: Compiler) -> Evaluate:
        measures = StyleMeasures(network, compiler.function)

        def evaluate(state: Any) -> Evaluation:
            contents, styles = ([fitted(image, task.size) for image in read()] for read in (task.contents, task.styles))
            variables = task.features(state)
            results, measured = {}, []
            for row, content in enumerate(contents):
                others = [other for number, other in enumerate(contents) if number != row][:SHOWN]
                for column, style in enumerate(styles):
                    made = task.paint(state, content, style)
                    measured.append(measures(variables, made, content, style, others))
                    if row < SHOWN:
                        results[row, column] = made
            pairs = f"mean over {len(contents)} photographs of {task.description} in {len(styles)} styles"
            scalars = measures.summary(measured)
            stated = measures.protocol(f"{pairs}, at {task.size} pixels")
            sheet = style_sheet(contents[:SHOWN], styles, results, cell=min(task.size, 192))
            return Evaluation(scalars, {"styles": sheet}, {name: stated[name] for name in scalars if name in stated})

        return evaluate

    return factory
