"""Numbers of a generator: distances and overlap between generated and real images in the features of a fixed network.

Next to each number is its floor: what test images get in place of the generated ones. A distance depends on how many
images it was computed from, so that counts belong to every protocol. A classifier recognises the images that it was
trained on better than others; that is part of the floor too, and a generator that copies training images may be below
it.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import jax
import numpy as np
from annotated_types import Interval
from jaxtyping import Float, Int

from vision.data.dataset import DataConfig
from vision.data.image_data import Data
from vision.data.pipeline import permutation
from vision.data.source import ArraySource, in_memory
from vision.data.subset import Subset
from vision.errors import UserError
from vision.evaluation.feature_extractors import FeaturesConfig, load_features
from vision.evaluation.generator import Generator
from vision.metrics.generation.classifier_score import classifier_score
from vision.metrics.generation.feature_extractor import ClassNamingExtractor, FeatureExtractor
from vision.metrics.generation.frechet import frechet_distance
from vision.metrics.generation.kernel_distance import kernel_distance
from vision.metrics.generation.manifold_overlap import manifold_overlap
from vision.metrics.generation.moments import moments
from vision.ops.pixels import to_float
from vision.ranges import PositiveInt, Seed, check_ranges
from vision.train.compile import Compiler
from vision.train.experiment import Evaluate, Evaluation, EvaluatorFactory
from vision.types import TrainState


@dataclass(frozen=True)
class GenerationConfig(FeaturesConfig):
    """Which features, how many images, and the constants of each number."""

    samples: PositiveInt = 5_000
    """Images that are generated; as many test images, or all if there are fewer, give the floor."""
    reference: PositiveInt = 5_000
    """Training images that they are compared with, chosen at random once."""
    batch: PositiveInt = 250
    """Images at a time. Where devices do not divide it, a few more are generated and left out."""
    neighbours: PositiveInt = 5
    """Precision, recall, density, coverage: the neighbour that the ball around each image reaches to."""
    subsets: PositiveInt = 100
    """Kernel distance: number of pairs of random subsets."""
    subset_size: Annotated[int, Interval(ge=2, le=10**9)] = 1_000
    """Kernel distance: images in each."""
    splits: PositiveInt = 10
    """Classifier score: number of parts that the images are divided into."""
    seed: Seed = 0
    """Of the noise and of what is chosen: the same for every state."""


@dataclass(frozen=True, eq=False)
class RealImages:
    """What generated images are compared with."""

    train: ArraySource
    """"image" uint8 [n h w c], and "label" int32 [n] where the generator is conditioned on classes."""
    test: ArraySource
    """The same."""
    train_description: str
    """In words, for the protocol: "mnist (train)"."""
    test_description: str
    generated_description: str = "generated images"
    """What the generator returns, for the protocol."""


@dataclass(frozen=True, eq=False)
class _Extracted:
    """What the feature extractor computes of a set of images."""

    features: Float[np.ndarray, "n d"]
    probabilities: Float[np.ndarray, "n k"]
    labels: Int[np.ndarray, " n"] | None
    """The images' classes, or those requested, as the extractor numbers them."""


def generation_metrics(
    generator: Generator,
    config: GenerationConfig,
    *,
    data: Data,
    images: DataConfig,
    generated: str = "generated images",
    preprocessed: str = "",
) -> EvaluatorFactory:
    """Distances to real images, overlap with them, score and class accuracy; no numbers without a feature extractor.

    Args:
      generator: what is evaluated.
      config: the features and counts.
      data: real images.
      images: names the data set, which "auto" looks at.
      generated: what the generator returns, for the protocol.
      preprocessed: what was done to the real images first, for the protocol: "binarised once".
    """
    of = {"data": data, "images": images, "generated": generated, "preprocessed": preprocessed}
    return metrics_of_generators(config, labelled=generator.classes > 0, **of)(generator)


def metrics_of_generators(
    config: GenerationConfig,
    *,
    data: Data,
    images: DataConfig,
    labelled: bool,
    generated: str = "generated images",
    preprocessed: str = "",
) -> Callable[[Generator], EvaluatorFactory]:
    """(generator) -> :func:`generation_metrics` of it; the features of real images are computed once for all.

    Args:
      config: the features and counts.
      data: real images.
      images: names the data set.
      labelled: whether the generators are conditioned on the labels of ``data``.
      generated: what they return.
      preprocessed: what was done to the real images first.
    """

    @functools.lru_cache(maxsize=1)
    def features(compiler: Compiler) -> RealFeatures | None:
        extractor = load_features(config, images.name)
        if extractor is None:
            return None
        how = f", {preprocessed}" if preprocessed else ""
        train, test = (f"{data.description(split)}{how}" for split in ("train", "test"))
        of = lambda split, most: _fields(data, split, labelled=labelled, most=most, seed=config.seed)
        real = RealImages(of("train", config.reference), of("test", config.samples), train, test, generated)
        return RealFeatures(compiler, extractor, config, real)

    def metrics_of(generator: Generator) -> EvaluatorFactory:
        def factory(compiler: Compiler) -> Evaluate:
            known = features(compiler)
            if known is None:
                return lambda state: Evaluation()
            evaluate = evaluator(generator, known)

            def of_state(state: TrainState) -> Evaluation:
                found = evaluate(generator.variables(state))
                protocol = {name: f"{text}; {generator.description}" for name, text in found.protocol.items()}
                return Evaluation(found.scalars, {}, protocol)

            return of_state

        return factory

    return metrics_of


def _fields(data: Data, split: Any, *, labelled: bool, most: int, seed: int) -> ArraySource:
    """The images of a split, of streamed ones ``most`` chosen at random."""
    source = data.source(split)
    if not isinstance(source, ArraySource):
        rows = np.sort(permutation(len(source), seed=seed, epoch=0)[:most])
        source = in_memory(Subset(source, rows, tuple(source.class_names)))
    return source.only(("image", "label") if labelled else ("image",))


class RealFeatures:
    """Real images as a feature extractor sees them: computed when a generator is first compared with them, and kept."""

    def __init__(
        self, compiler: Compiler, extractor: FeatureExtractor, config: GenerationConfig, real: RealImages
    ) -> None:
        """Check that there are as many images as every number needs.

        Args:
          compiler: of the mesh.
          extractor: a tree of arrays.
          config: counts.
          real: real images of the generators' size.

        Raises:
          UserError: there are fewer images than a number needs, or classes that the extractor does not know.
        """
        _check(extractor, config, real)
        self.compiler, self.extractor, self.config, self.real = compiler, extractor, config, real
        self._numbers_of_classes = [_classes(extractor, source) for source in (real.train, real.test)]
        self._of_images = compiler.function(
            lambda extractor, images: extractor.features_and_probabilities(to_float(images))
        )

    @functools.cached_property
    def held(self) -> Any:
        """The extractor on the devices."""
        return self.compiler.replicate(self.extractor)

    @functools.cached_property
    def chosen(self) -> list[tuple[ArraySource, np.ndarray | None]]:
        """Training and test images with their labels as the extractor numbers them; they may be made only here."""
        config, real = self.config, self.real
        of = [_chosen(real.train, config.reference, config.seed), _chosen(real.test, config.samples, config.seed)]
        return [
            (source, None if numbers is None else numbers[source.arrays["label"]])
            for source, numbers in zip(of, self._numbers_of_classes, strict=True)
        ]

    @functools.cached_property
    def reference_and_floor(self) -> tuple[Float[np.ndarray, "n d"], dict[str, float]]:
        """The features of the training images, and the numbers of test images against them."""
        train, test = (
            self.in_parts(
                {"image": source.arrays["image"]},
                len(source),
                labels,
                lambda part, _: self._of_images(self.held, part["image"]),
            )
            for source, labels in self.chosen
        )
        return train.features, _numbers(train.features, test, self.config)

    def in_parts(
        self,
        rows: Mapping[str, np.ndarray],
        count: int,
        labels: np.ndarray | None,
        call: Callable[[Any, int], Any],
    ) -> _Extracted:
        """What ``call`` (batch, its number) -> (features, probabilities) makes of ``count`` rows, batch by batch."""
        compiler, config, found = self.compiler, self.config, []
        size = compiler.rounded_up(config.batch)
        for index, start in enumerate(range(0, count, config.batch)):
            part = {name: value[start : start + config.batch] for name, value in rows.items()}
            filled = {
                name: compiler.shard_padded(np.resize(value, (size, *value.shape[1:]))) for name, value in part.items()
            }
            kept = min(config.batch, count - start)
            found.append([each[:kept] for each in jax.device_get(call(filled, index))])
        features, probabilities = (np.concatenate(each) for each in zip(*found, strict=True))
        return _Extracted(features, probabilities, labels)


def evaluator(generator: Generator, real: RealFeatures) -> Callable[[Any], Evaluation]:
    """(variables) -> Fréchet and kernel distance, precision, recall, density, coverage, score, class accuracy.

    All names begin with that of the feature extractor; those that end with "_floor" are of test images. Classes are
    requested as often as the training images have them. The generated class accuracy is the share of images whose
    class, as the extractor recognises it, is the one requested; it needs labels and an extractor whose classes have
    names.

    Args:
      generator: what generates; its variables are what the result is called with.
      real: what its images are compared with, and by which features.
    """
    compiler, extractor, config = real.compiler, real.extractor, real.config
    of_samples = compiler.function(
        lambda extractor, *request: extractor.features_and_probabilities(to_float(generator.sample(*request)))
    )
    index = compiler.shard_padded(np.arange(compiler.rounded_up(config.batch), dtype=np.int32))
    words = _protocol(extractor, config, real.real, reference=min(config.reference, len(real.real.train)))
    floors = _floor_protocol(words, real.real, min(config.samples, len(real.real.test)), config.samples)
    named = lambda numbers, end="": {f"{extractor.name}_{name}{end}": value for name, value in numbers.items()}

    def evaluate(variables: Any) -> Evaluation:
        source, classes = real.chosen[0]
        labels = source.arrays["label"] if generator.classes and "label" in source.fields else None
        condition = {} if labels is None else {"label": np.resize(labels, config.samples).astype(np.int32)}
        condition = condition if generator.given is None else generator.condition(config.samples)
        requested = None if classes is None else np.resize(classes, config.samples)
        key_of = lambda number: compiler.replicate(jax.random.fold_in(jax.random.key(config.seed), number))
        generated = real.in_parts(
            condition,
            config.samples,
            requested,
            lambda part, number: of_samples(real.held, variables, part, index, key_of(number)),
        )
        reference, floor = real.reference_and_floor
        numbers = _numbers(reference, generated, config)
        scalars = {**named(numbers), **named(floor, "_floor")}
        protocol = {**named({name: words[name] for name in numbers}), **named(floors, "_floor")}
        return Evaluation(scalars, {}, {name: text for name, text in protocol.items() if name in scalars})

    return evaluate


def _numbers(reference: np.ndarray, found: _Extracted, config: GenerationConfig) -> dict[str, float]:
    """All numbers of a set of images."""
    features = found.features
    kernel = kernel_distance(
        reference, features, subsets=config.subsets, subset_size=config.subset_size, seed=config.seed
    )
    numbers = {
        "frechet": frechet_distance(moments(reference), moments(features)),
        "kernel": kernel.mean,
        "kernel_deviation": kernel.deviation,
        **asdict(manifold_overlap(reference, features, neighbours=config.neighbours)),
        "score": classifier_score(found.probabilities, splits=config.splits).mean,
    }
    if found.labels is not None:
        numbers["generated_class_accuracy"] = float(np.mean(found.probabilities.argmax(1) == found.labels))
    return numbers


def _protocol(
    extractor: FeatureExtractor, config: GenerationConfig, real: RealImages, *, reference: int
) -> dict[str, str]:
    """What each number means, by name."""
    what, of = extractor.protocol(), f"{config.samples:,} {real.generated_description}"
    against = f"{of} against {reference:,} images of {real.train_description}"
    balls = f"balls to neighbour {config.neighbours} (Euclidean)"
    subsets = f"{config.subsets} subsets of {config.subset_size:,} of {against}, kernel (x.y/d + 1)^3, unbiased"
    kynkaanniemi = "Kynkäänniemi et al. 2019, with neighbour 3 there"
    numbers = {
        "frechet": f"squared Fréchet distance, unbiased covariances in float64, {against}",
        "kernel": f"squared maximum mean discrepancy, mean over {subsets}",
        "kernel_deviation": f"standard deviation of the squared maximum mean discrepancy over {subsets}",
        "precision": f"share of generated images within {balls} of real ones, {against} ({kynkaanniemi})",
        "recall": f"share of real images within {balls} of generated ones, {against} ({kynkaanniemi})",
        "density": f"number of {balls} of real images around a generated one, over k, {against} (Naeem et al. 2020)",
        "coverage": f"share of {balls} of real images with a generated one in them, {against} (Naeem et al. 2020)",
        "score": f"exp of the mean KL(p(y|x) || p(y)), mean over {config.splits} parts of {of}",
        "generated_class_accuracy": (
            f"share of {of} whose most likely class is the one requested; classes as frequent as in training"
        ),
    }
    return {name: f"{text}; {what}" for name, text in numbers.items()}


def _floor_protocol(words: Mapping[str, str], real: RealImages, count: int, samples: int) -> dict[str, str]:
    fewer = f", fewer than the {samples:,} generated, which makes distances larger" if count < samples else ""
    return {
        name: f"{count:,} images of {real.test_description} in place of those generated{fewer}; otherwise as: {text}"
        for name, text in words.items()
    }


def _check(extractor: FeatureExtractor, config: GenerationConfig, real: RealImages) -> None:
    """Raises ``UserError`` unless there are as many images as every number needs."""
    check_ranges(config)
    side = real.train[0]["image"].shape
    shape = jax.ShapeDtypeStruct((1, *side), np.float32)
    try:
        features, _ = jax.eval_shape(
            lambda extractor, images: extractor.features_and_probabilities(images), extractor, shape
        )
    except Exception as error:  # Flax and JAX raise what their layers raise
        raise UserError(
            f"{extractor.name} does not take images of {'x'.join(map(str, side))}: choose another feature extractor "
            "with --metrics.features, or none"
        ) from error
    size = features.shape[1]
    needs = {
        f"a covariance of {size:,} features": size + 1,
        f"kernel distances on subsets of {config.subset_size:,} (subset_size)": config.subset_size,
        f"balls to neighbour {config.neighbours} (neighbours)": config.neighbours + 1,
        f"scores of {config.splits} parts (splits)": config.splits,
    }
    counts = {
        "generated images (samples)": config.samples,
        "training images (reference)": config.reference,
        f"images of {real.test_description}": len(real.test),
    }
    fewest = min(counts.values())
    problems = []
    if missing := [f"{what} need{'s' * what.startswith('a ')} {n:,}" for what, n in needs.items() if n > fewest]:
        short = [f"{count:,} {whose}" for whose, count in counts.items() if count < max(needs.values())]
        problems.append(f"by {extractor.name}, {', '.join(missing)} images at least, and there are {', '.join(short)}")
    if config.reference > len(real.train):
        problems.append(
            f"{config.reference:,} training images are the reference, and {real.train_description} has only "
            f"{len(real.train):,}: set reference to less"
        )
    if problems:
        raise UserError("; ".join(problems))


def _chosen(source: ArraySource, count: int, seed: int) -> ArraySource:
    """At most ``count`` images at random, or all in another order: a folder's come sorted by class."""
    rows = permutation(len(source), seed=seed, epoch=0)[:count]
    return ArraySource(source.rows(rows), source.class_names)


def _classes(extractor: FeatureExtractor, source: ArraySource) -> Int[np.ndarray, " k"] | None:
    """The number that the extractor has for each class, by name; None without labels or without names."""
    if "label" not in source.fields or not isinstance(extractor, ClassNamingExtractor):
        return None
    known: Sequence[str] = extractor.class_names
    for name in source.class_names:
        if name not in known:
            raise UserError(
                f"{extractor.name} knows no class {name!r}, only {', '.join(known)}: choose another feature extractor"
            )
    return np.array([known.index(name) for name in source.class_names], np.int32)
