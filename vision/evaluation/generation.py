"""From a generator to numbers: distances and overlap between what it draws and real images, in the features of a judge.

Beside each number stands its floor, what the test set gets in the place of the drawn images. A distance depends on how
many images it was computed of, so that counts belong to every protocol. A classifier knows the images that it was
trained on better than others; that too is in the floor, and a generator that copies training images may be below it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key

from vision.data.pipeline import permutation
from vision.data.source import ArraySource
from vision.errors import UserError, at_least_one
from vision.metrics.generation.classifier_score import classifier_score
from vision.metrics.generation.feature_extractor import ClassNamingExtractor, FeatureExtractor
from vision.metrics.generation.frechet import frechet_distance
from vision.metrics.generation.kernel_distance import kernel_distance
from vision.metrics.generation.manifold_overlap import manifold_overlap
from vision.metrics.generation.moments import moments
from vision.ops.pixels import to_float
from vision.train.compile import Compiler
from vision.train.experiment import Evaluation

Draw = Callable[[Any, Array, Key[Array, ""]], Array]
"""(variables, labels int32 [n], key) -> images uint8 [n h w c]; without classes the labels play no part."""


@dataclass(frozen=True)
class GenerationConfig:
    """How many images are judged, and by which numbers."""

    samples: int = 5_000
    """Images that are drawn and judged, and test images that are judged for the floor, as far as there are so many."""
    reference: int = 5_000
    """Training images that they are compared with, chosen at random once."""
    batch: int = 250
    """Images at a time. Where devices do not divide it, they draw a few more, which are left out."""
    neighbours: int = 5
    """Precision, recall, density, coverage: the neighbour that the ball about each image reaches to."""
    subsets: int = 100
    """Kernel distance: how many pairs of random subsets."""
    subset_size: int = 1_000
    """Kernel distance: images in each."""
    splits: int = 10
    """Score of the classifier: parts that the images are divided into."""
    seed: int = 0
    """Of what is drawn and chosen: the same for every state."""


@dataclass(frozen=True, eq=False)
class RealImages:
    """What a generator is compared with."""

    train: ArraySource
    """"image" uint8 [n h w c], and "label" int32 [n] where the generator draws the class that it is asked for."""
    test: ArraySource
    """The same."""
    train_description: str
    """In words, for the protocol: "mnist (train)"."""
    test_description: str
    drawn_description: str = "drawn images"
    """What the generator makes, for the protocol."""


@dataclass(frozen=True, eq=False)
class _Judged:
    """What a judge says of a set of images."""

    features: Float[np.ndarray, "n d"]
    probabilities: Float[np.ndarray, "n k"]
    labels: Int[np.ndarray, " n"] | None
    """Classes of the judge that the images are of, or were asked for."""


def evaluator(
    compiler: Compiler, judge: FeatureExtractor, draw: Draw, config: GenerationConfig, real: RealImages
) -> Callable[[Any], Evaluation]:
    """(variables) -> Fréchet and kernel distance, precision, recall, density, coverage, score, judged accuracy.

    All names begin with that of the judge; those that end with "_floor" are of test images. Classes are asked for as
    often as the training images show them. The judged accuracy is the share of images whose class, as the judge finds
    it, is the one asked for; it needs labels and a judge whose classes have names.

    The real images are judged at once, so that a state costs only its own.

    Args:
      compiler: of the mesh.
      judge: a tree of arrays.
      draw: the generator; its variables are what the result is called with.
      config: counts.
      real: images as the generator draws them.

    Raises:
      UserError: there are fewer images than a number needs, or classes that the judge does not know.
    """
    _check(judge, config, real)
    chosen = [_chosen(real.train, config.reference, config.seed), _chosen(real.test, config.samples, config.seed)]
    wanted, truth = (_classes(judge, source) for source in chosen)
    held = compiler.replicate(judge)
    size = compiler.rounded_up(config.batch)
    said = compiler.function(lambda judge, images: judge.features_and_probabilities(to_float(images)))
    drawn = compiler.function(
        lambda judge, variables, labels, key: judge.features_and_probabilities(to_float(draw(variables, labels, key)))
    )

    def in_parts(rows: np.ndarray, labels: np.ndarray | None, call: Callable[[Array, int], Any]) -> _Judged:
        found = []
        for index, start in enumerate(range(0, len(rows), config.batch)):
            part = rows[start : start + config.batch]
            filled = compiler.shard_padded(np.resize(part, (size, *part.shape[1:])))
            found.append([each[: len(part)] for each in jax.device_get(call(filled, index))])
        features, probabilities = (np.concatenate(each) for each in zip(*found, strict=True))
        return _Judged(features, probabilities, labels)

    train, test = (
        in_parts(source.arrays["image"], labels, lambda images, _: said(held, images))
        for source, labels in zip(chosen, (wanted, truth), strict=True)
    )
    reference = train.features
    floor = _numbers(reference, test, config)
    labels = chosen[0].arrays.get("label", np.zeros(1))
    asked = np.resize(labels, config.samples).astype(np.int32)
    wanted = None if wanted is None else np.resize(wanted, config.samples)
    words = _protocol(judge, config, real, reference=len(reference))
    floors = _floor_protocol(words, real, len(test.features), config.samples)
    named = lambda numbers, end="": {f"{judge.name}_{name}{end}": value for name, value in numbers.items()}

    def evaluate(variables: Any) -> Evaluation:
        key_of = lambda index: compiler.replicate(jax.random.fold_in(jax.random.key(config.seed), index))
        judged = in_parts(asked, wanted, lambda labels, index: drawn(held, variables, labels, key_of(index)))
        numbers = _numbers(reference, judged, config)
        scalars = {**named(numbers), **named(floor, "_floor")}
        protocol = {**named({name: words[name] for name in numbers}), **named(floors, "_floor")}
        return Evaluation(scalars, {}, {name: text for name, text in protocol.items() if name in scalars})

    return evaluate


def _numbers(reference: np.ndarray, judged: _Judged, config: GenerationConfig) -> dict[str, float]:
    """All numbers of a set of images."""
    features = judged.features
    kernel = kernel_distance(
        reference, features, subsets=config.subsets, subset_size=config.subset_size, seed=config.seed
    )
    numbers = {
        "frechet": frechet_distance(moments(reference), moments(features)),
        "kernel": kernel.mean,
        "kernel_deviation": kernel.deviation,
        **asdict(manifold_overlap(reference, features, neighbours=config.neighbours)),
        "score": classifier_score(judged.probabilities, splits=config.splits).mean,
    }
    if judged.labels is not None:
        numbers["generated_class_accuracy"] = float(np.mean(judged.probabilities.argmax(1) == judged.labels))
    return numbers


def _protocol(judge: FeatureExtractor, config: GenerationConfig, real: RealImages, *, reference: int) -> dict[str, str]:
    """What each number means, by name."""
    what, of = judge.protocol(), f"{config.samples:,} {real.drawn_description}"
    against = f"{of} against {reference:,} images of {real.train_description}"
    balls = f"balls to neighbour {config.neighbours} (Euclidean)"
    subsets = f"{config.subsets} subsets of {config.subset_size:,} of {against}, kernel (x.y/d + 1)^3, unbiased"
    kynkaanniemi = "Kynkäänniemi et al. 2019, with neighbour 3 there"
    numbers = {
        "frechet": f"squared Fréchet distance, unbiased covariances in float64, {against}",
        "kernel": f"squared maximum mean discrepancy, mean over {subsets}",
        "kernel_deviation": f"standard deviation of the squared maximum mean discrepancy over {subsets}",
        "precision": f"share of drawn images within {balls} of real ones, {against} ({kynkaanniemi})",
        "recall": f"share of real images within {balls} of drawn ones, {against} ({kynkaanniemi})",
        "density": f"{balls} of real images that a drawn one is in, by k, {against} (Naeem et al. 2020)",
        "coverage": f"share of {balls} of real images with a drawn one in it, {against} (Naeem et al. 2020)",
        "score": f"exp of the mean KL(p(y|x) || p(y)), mean over {config.splits} parts of {of}",
        "generated_class_accuracy": f"share of {of} whose likeliest class is the one asked for, as often as training has it",
    }
    return {name: f"{text}; {what}" for name, text in numbers.items()}


def _floor_protocol(words: Mapping[str, str], real: RealImages, count: int, samples: int) -> dict[str, str]:
    fewer = f", fewer than the {samples:,} drawn, which makes distances larger" if count < samples else ""
    return {
        name: f"{count:,} images of {real.test_description} in the place of those drawn{fewer}; else as: {text}"
        for name, text in words.items()
    }


def _check(judge: FeatureExtractor, config: GenerationConfig, real: RealImages) -> None:
    """Raises ``UserError`` unless there are as many images as every number needs."""
    at_least_one(config, "samples", "reference", "batch", "neighbours", "subsets", "splits")
    shape = jax.ShapeDtypeStruct((1, *real.train.arrays["image"].shape[1:]), np.float32)
    features, _ = jax.eval_shape(lambda judge, images: judge.features_and_probabilities(images), judge, shape)
    size = features.shape[1]
    needs = {
        f"a covariance of {size} features": size + 1,
        f"kernel distances on subsets of {config.subset_size:,}": max(config.subset_size, 2),
        f"balls to neighbour {config.neighbours}": config.neighbours + 1,
        f"scores of {config.splits} parts": config.splits,
    }
    if config.reference > len(real.train):
        raise UserError(
            f"{config.reference:,} training images were to be compared with, but {real.train_description} has only "
            f"{len(real.train):,}: set reference to less"
        )
    counts = {
        "drawn images (samples)": config.samples,
        "training images (reference)": config.reference,
        f"images of {real.test_description}": len(real.test),
    }
    for what, least in needs.items():
        for whose, count in counts.items():
            if count < least:
                raise UserError(
                    f"{what} by {judge.name}: at least {least:,} {whose} are needed, but there are {count:,}"
                )


def _chosen(source: ArraySource, count: int, seed: int) -> ArraySource:
    """So many images at random, or all in another order: a folder's come sorted by class."""
    rows = permutation(len(source), seed=seed, epoch=0)[:count]
    return ArraySource({name: array[rows] for name, array in source.arrays.items()}, source.class_names)


def _classes(judge: FeatureExtractor, source: ArraySource) -> Int[np.ndarray, " n"] | None:
    """The images' labels as the judge numbers them, by name; None without labels or without names."""
    if "label" not in source.arrays or not isinstance(judge, ClassNamingExtractor):
        return None
    known: Sequence[str] = judge.class_names
    for name in source.class_names:
        if name not in known:
            raise UserError(f"{judge.name} knows no class {name!r}, only {', '.join(known)}: choose another judge")
    return np.array([known.index(name) for name in source.class_names], np.int32)[source.arrays["label"]]


def drawn(
    compiler: Compiler,
    compiled: Callable[..., Array],
    variables: Any,
    labels: Int[np.ndarray, " n"],
    *,
    seed: int,
    most: int = 256,
) -> np.ndarray:
    """An image for each label, uint8 [n h w c], in parts of one size, so that one program of bounded memory draws all.

    Args:
      compiler: of the mesh.
      compiled: a `Draw`, compiled.
      variables: of the generator.
      labels: what is asked for.
      seed: of the keys, one for each part.
      most: images in a part.
    """
    size, parts = min(len(labels), most), []
    for index, start in enumerate(range(0, len(labels), size)):
        part = np.resize(labels[start : start + size], size)
        key = compiler.replicate(jax.random.fold_in(jax.random.key(seed), index))
        parts.append(jax.device_get(compiled(variables, compiler.shard_padded(part), key))[:size])
    return np.concatenate(parts)[: len(labels)]
