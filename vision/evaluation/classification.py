"""How classifiers are evaluated and shown: all numbers and pictures of a test set, and what is said of files."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8
from PIL import Image, ImageOps

from vision.data.folder import rgb
from vision.errors import UserError
from vision.metrics import calibration, classification
from vision.report.confusion import confusion_picture
from vision.report.grid import save_png
from vision.report.mistakes import mistakes_sheet, prediction_sheet, worst_mistakes
from vision.report.reliability import reliability_picture
from vision.train.compile import Compiler
from vision.train.experiment import Evaluation

Classify = Callable[[Mapping[str, Any], Array], Array]
"""(variables, images uint8 [b h w c]) -> logits [b k]."""

MOST_MISTAKES = 32


@dataclass(frozen=True)
class TestSet:
    """What a classifier is judged on."""

    batches: Callable[[], Iterable[Mapping[str, np.ndarray]]]
    """This process's share of the batches, the same number on each: "image" uint8, "label" int32, "mask" bool."""
    class_names: Sequence[str]
    """One for each class."""
    description: str
    """In words, for the protocol: "the test split of mnist, 28x28"."""


def evaluator(compiler: Compiler, classify: Classify, *, classes: int) -> Callable[[Any, TestSet], Evaluation]:
    """(variables, test set) -> accuracies, calibration, confusion matrix, reliability diagram and worst mistakes.

    The counts are sums over the global batch, computed on the devices; padding is masked.
    """

    def update(sums: Any, variables: Any, batch: Mapping[str, Array]) -> Any:
        logits = classify(variables, batch["image"])
        marks, bins = sums
        more = (batch["label"], batch["mask"])
        sums = classification.update(marks, logits, *more), calibration.update(bins, logits, *more)
        probabilities = jax.nn.softmax(logits)
        return sums, (jnp.argmax(logits, -1), jnp.max(probabilities, -1))

    compiled = compiler.function(update)

    def evaluate(variables: Any, test: TestSet) -> Evaluation:
        sums = compiler.replicate((classification.init(classes), calibration.init()))
        truths, predictions, confidences, images = [], [], [], []
        for batch in test.batches():
            fields = {name: batch[name] for name in ("image", "label", "mask")}
            sums, (predicted, confidence) = compiled(sums, variables, compiler.shard(fields))
            if jax.process_count() == 1:  # the sheet of mistakes wants images, which other processes do not have here
                real = fields["mask"]
                predictions.append(jax.device_get(predicted)[real])
                confidences.append(jax.device_get(confidence)[real])
                truths.append(fields["label"][real])
                wrong = worst_mistakes(truths[-1], predictions[-1], confidences[-1], MOST_MISTAKES)
                images.append({int(place): fields["image"][real][place] for place in wrong})
        marks, bins = (
            part.compute(jax.device_get(own)) for part, own in zip((classification, calibration), sums, strict=True)
        )
        scalars = {**marks.scalars(), **bins.scalars()}
        protocol = {**marks.protocol(test.description), **bins.protocol(test.description)}
        few = len(test.class_names) <= 20
        if few:
            for name, accuracy in zip(test.class_names, marks.class_accuracy, strict=True):
                scalars[f"class_accuracy/{name}"] = float(accuracy)
                protocol[f"class_accuracy/{name}"] = (
                    f"share of the images of {name} that are recognised, {test.description}"
                )
        pictures = {
            "confusion": confusion_picture(marks.confusion, test.class_names),
            "reliability": reliability_picture(bins),
        }
        if truths:
            pictures["mistakes"] = _mistakes(truths, predictions, confidences, images, test.class_names)
        return Evaluation(scalars, pictures, protocol)

    return evaluate


def _mistakes(
    truths: list[np.ndarray],
    predictions: list[np.ndarray],
    confidences: list[np.ndarray],
    images: list[dict[int, np.ndarray]],
    class_names: Sequence[str],
) -> UInt8[np.ndarray, "h w 3"]:
    """The sheet of the surest mistakes. Of each batch only the images of its own surest ones were kept."""
    starts = np.cumsum([0, *map(len, truths)])
    kept = {int(at) + place: image for at, own in zip(starts, images, strict=False) for place, image in own.items()}
    truth, predicted, confidence = (np.concatenate(parts) for parts in (truths, predictions, confidences))
    shown = worst_mistakes(truth, predicted, confidence, MOST_MISTAKES)
    return mistakes_sheet(
        [kept[place] for place in shown.tolist()],
        truth[shown],
        predicted[shown],
        confidence[shown],
        class_names,
        mistakes=int(np.sum(truth != predicted)),
        total=len(truth),
    )


def predict_files(
    compiler: Compiler,
    classify: Classify,
    *,
    class_names: Sequence[str],
    resolution: int,
    channels: int,
    batch_size: int = 64,
    most: int = 5,
) -> Callable[[Any, Sequence[Path], Path], list[str]]:
    """(variables, files, folder) -> a line a file with its likeliest classes; writes the sheet ``predictions.png``.

    Files that are no images are left out and named. Images are brought to the resolution as a folder's are: shorter
    side resized, centre cut out.
    """
    compiled = compiler.function(lambda variables, images: jax.nn.softmax(classify(variables, images)))

    def predict(variables: Any, files: Sequence[Path], folder: Path) -> list[str]:
        shown, inputs, names, lines = [], [], [], []
        for file in files:
            try:
                with Image.open(file) as image:
                    upright = rgb(ImageOps.exif_transpose(image))
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                lines.append(f"{file}: left out, it cannot be decoded ({' '.join(str(error).split())})")
                continue
            shown.append(np.asarray(upright))
            fitted = ImageOps.fit(upright, (resolution, resolution), Image.Resampling.LANCZOS)
            inputs.append(np.asarray(fitted.convert("L"))[..., None] if channels == 1 else np.asarray(fitted))
            names.append(str(file))
        if not inputs:
            raise UserError(f"none of the {len(files)} files is an image that can be decoded: {files[0]}, ...")
        probabilities = []
        for start in range(0, len(inputs), batch_size):
            part = np.stack(inputs[start : start + batch_size])
            padded = np.resize(part, (batch_size, *part.shape[1:]))
            probabilities.append(jax.device_get(compiled(variables, compiler.spread(padded)))[: len(part)])
        top = []
        for name, row in zip(names, np.concatenate(probabilities), strict=True):
            best = np.argsort(-row)[: min(most, len(row))]
            top.append([(class_names[index], float(row[index])) for index in best])
            lines.append(f"{name}: " + ", ".join(f"{label} {p:.3f}" for label, p in top[-1]))
        sheet = folder / "predictions.png"
        folder.mkdir(parents=True, exist_ok=True)
        save_png(sheet, prediction_sheet(shown[:60], top[:60], [Path(name).name for name in names[:60]]))
        more = f", the first 60 of {len(shown)} images" if len(shown) > 60 else ""
        return [*lines, f"sheet: {sheet}{more}"]

    return predict
