"""Evaluation of classifiers: numbers and plots of a test set, and predictions for files."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8
from PIL import Image

from vision.data.image_data import Data
from vision.data.image_file import MAX_PIXELS
from vision.evaluation.classification_files import Classified, write_predictions
from vision.evaluation.image_files import nothing_to_predict, opened_or_reason, skipped
from vision.metrics.recognition import calibration, classification
from vision.report.confusion import confusion_plot
from vision.report.grid import save_png
from vision.report.mistakes import mistakes_sheet, prediction_sheet, worst_mistakes
from vision.report.reliability import reliability_diagram
from vision.train.compile import Compiler
from vision.train.experiment import Evaluate, Evaluation, EvaluatorFactory
from vision.types import TrainState

Classify = Callable[[Mapping[str, Any], Array], Array]
"""(variables, images uint8 [b h w c]) -> logits [b k]."""

MAX_MISTAKES = 32
"""On the sheet of mistakes."""
MAX_SHOWN = 60
"""On the sheet of predictions."""
THUMBNAIL = 320
"""Pixels of the longer side of images kept for that sheet, which shows them at half of it."""


@dataclass(frozen=True)
class ClassificationSet:
    """What a classifier is evaluated on."""

    batches: Callable[[], Iterable[Mapping[str, np.ndarray]]]
    """This process's share of the batches, the same number on each: "image" uint8, "label" int32, "mask" bool."""
    class_names: Sequence[str]
    """One for each class."""
    description: str
    """In words, for the protocol: "the test split of mnist, 28x28"."""


def evaluator(
    compiler: Compiler, classify: Classify, *, classes: int
) -> Callable[[Any, ClassificationSet], Evaluation]:
    """(variables, test set) -> accuracies, calibration, confusion matrix, reliability diagram and worst mistakes.

    The counts are sums over the global batch, computed on the devices; padding is masked. Of up to 20 classes, the
    accuracy of each that has images is a number of its own.
    """

    def update(sums: Any, variables: Any, batch: Mapping[str, Array]) -> Any:
        logits = classify(variables, batch["image"])
        marks, bins = sums
        more = (batch["label"], batch["mask"])
        sums = classification.update(marks, logits, *more), calibration.update(bins, logits, *more)
        probabilities = jax.nn.softmax(logits)
        return sums, (jnp.argmax(logits, -1), jnp.max(probabilities, -1))

    jax.eval_shape(lambda: classification.init(classes))  # refuses too few classes
    compiled = compiler.function(update)

    def evaluate(variables: Any, test: ClassificationSet) -> Evaluation:
        sums = compiler.replicate((classification.init(classes), calibration.init()))
        worst: list[_Mistake] = []
        for batch in test.batches():
            fields = {name: batch[name] for name in ("image", "label", "mask")}
            sums, predictions = compiled(sums, variables, compiler.shard(fields))
            if jax.process_count() == 1:  # the sheet of mistakes wants images, which other processes do not have here
                predicted, confidence = (of[fields["mask"]] for of in jax.device_get(predictions))
                worst = _most_confident([*worst, *_mistakes(fields, predicted, confidence)])
        marks, bins = classification.compute(jax.device_get(sums[0])), calibration.compute(jax.device_get(sums[1]))
        scalars = {**marks.scalars(), **bins.scalars()}
        protocol = {**marks.protocol(test.description), **bins.protocol(test.description)}
        if len(test.class_names) <= 20:
            for name, accuracy in zip(test.class_names, marks.class_accuracy.tolist(), strict=True):
                if not math.isnan(accuracy):  # a class of which there are no images
                    scalars[f"class_accuracy/{name}"] = accuracy
                    protocol[f"class_accuracy/{name}"] = (
                        f"share of the images of {name} that are recognised, {test.description}"
                    )
        images = {
            "confusion": confusion_plot(marks.confusion, test.class_names),
            "reliability": reliability_diagram(bins),
        }
        if jax.process_count() == 1:
            images["mistakes"] = mistakes_sheet(
                [each.image for each in worst],
                np.array([each.truth for each in worst], np.int32),
                np.array([each.predicted for each in worst], np.int32),
                np.array([each.confidence for each in worst], np.float32),
                test.class_names,
                mistakes=marks.count - int(np.trace(marks.confusion)),
                total=marks.count,
            )
        return Evaluation(scalars, images, protocol)

    return evaluate


def classification_metrics(
    classify: Classify,
    data: Data,
    variables: Callable[[TrainState], Any],
    *,
    classes: int,
    batch_size: int,
    description: str,
) -> EvaluatorFactory:
    """Accuracy and calibration on the test split, see :func:`evaluator`.

    Args:
      classify: the classifier.
      data: whose test split.
      variables: state -> variables of the classifier.
      classes: number of them.
      batch_size: images at a time, rounded up to a multiple of the devices.
      description: of the averages, for protocols: "EMA 0.999".
    """

    def factory(compiler: Compiler) -> Evaluate:
        evaluate = evaluator(compiler, classify, classes=classes)
        size, words = compiler.rounded_up(batch_size), f"{data.description('test')}, {description}"
        test = ClassificationSet(lambda: data.test_batches(size), data.class_names(), words)
        return lambda state: evaluate(variables(state), test)

    return factory


@dataclass(frozen=True, eq=False)
class _Mistake:
    """An image that was taken for another class."""

    image: UInt8[np.ndarray, "h w c"]
    truth: int
    predicted: int
    confidence: float


def _mistakes(batch: Mapping[str, np.ndarray], predicted: np.ndarray, confidence: np.ndarray) -> list[_Mistake]:
    """The most confident mistakes of a batch; ``predicted`` and ``confidence`` are of its real images."""
    truth = batch["label"][batch["mask"]]
    images = batch["image"][batch["mask"]]
    places = worst_mistakes(truth, predicted, confidence, MAX_MISTAKES).tolist()
    # copies, which do not keep their batch in memory
    return [_Mistake(images[i].copy(), int(truth[i]), int(predicted[i]), float(confidence[i])) for i in places]


def _most_confident(mistakes: list[_Mistake]) -> list[_Mistake]:
    """As many as are shown, the most confident first; of equally confident ones the first."""
    return sorted(mistakes, key=lambda each: -each.confidence)[:MAX_MISTAKES]


def predict_files(
    compiler: Compiler,
    classify: Classify,
    *,
    fitted: Callable[[Image.Image], UInt8[np.ndarray, "h w 3"]],
    class_names: Sequence[str],
    channels: int,
    batch_size: int = 64,
    max_classes: int = 5,
    max_pixels: int = MAX_PIXELS,
) -> Callable[[Any, Sequence[Path], Path], list[str]]:
    """(variables, files, folder) -> a line a file with its likeliest classes.

    Writes the sheet ``predictions.png``, and ``predictions.json`` and ``predictions.csv`` for other programs.
    Files that are no images are left out and named, in their place. Raises ``UserError`` where none is an image.

    Args:
      compiler: of the model's mesh.
      classify: the model.
      fitted: an image of any size and kind -> RGB as the model was tested on, of one size.
      class_names: one for each class.
      channels: of the model's images: 3, or 1 for grey.
      batch_size: images at a time; no more are in memory, but small ones of those on the sheet.
      max_classes: largest number of classes in a line.
      max_pixels: limit of an image's width times height.
    """
    compiled = compiler.function(lambda variables, images: jax.nn.softmax(classify(variables, images)))

    def prepared(file: Path) -> tuple[np.ndarray, np.ndarray] | str:
        """The image as the model gets it, and small for the sheet; or why it cannot be decoded."""
        colour = opened_or_reason(file, max_pixels)
        if isinstance(colour, str):
            return colour
        pixels = fitted(colour)
        colour.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        if channels == 1:
            pixels = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
        return pixels, np.asarray(colour)

    def likeliest(variables: Any, images: list[np.ndarray]) -> list[list[tuple[str, float]]]:
        """The first classes of each image; the batch is filled up, so that one program does for all."""
        if not images:
            return []
        padded = np.resize(np.stack(images), (batch_size, *images[0].shape))
        rows = jax.device_get(compiled(variables, compiler.shard_padded(padded)))[: len(images)]
        best = np.argsort(-rows, axis=-1, kind="stable")[:, :max_classes]
        return [[(class_names[int(i)], float(row[i])) for i in of] for row, of in zip(rows, best, strict=True)]

    def predict(variables: Any, files: Sequence[Path], folder: Path) -> list[str]:
        lines: list[str] = []
        rows: list[Classified] = []
        shown: list[tuple[np.ndarray, list[tuple[str, float]], str]] = []
        seen = 0
        for start in range(0, len(files), batch_size):
            part = files[start : start + batch_size]
            found = [prepared(file) for file in part]
            guesses = iter(likeliest(variables, [each[0] for each in found if not isinstance(each, str)]))
            for file, each in zip(part, found, strict=True):
                if isinstance(each, str):
                    lines.append(skipped(file, each))
                    rows.append(Classified(file, skipped=each))
                    continue
                top = next(guesses)
                rows.append(Classified(file, tuple(top)))
                lines.append(f"{file}: " + ", ".join(f"{label} {p:.3f}" for label, p in top))
                seen += 1
                if len(shown) < MAX_SHOWN:
                    shown.append((each[1], top, file.name))
        if not shown:
            raise nothing_to_predict(files)
        sheet = folder / "predictions.png"
        if jax.process_index() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            save_png(sheet, prediction_sheet(*(list(column) for column in zip(*shown, strict=True))))
            write_predictions(folder, rows)
        more = f", the first {len(shown)} of {seen} images" if seen > len(shown) else ""
        return [*lines, f"sheet: {sheet}{more}; tables: predictions.json and predictions.csv in the same folder"]

    return predict
