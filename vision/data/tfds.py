"""Data sets that TensorFlow Datasets has prepared in array_record form, read without TensorFlow.

TFDS is the catalogue, the preparation and the file format:
https://www.tensorflow.org/datasets/datasets_and_versions for the layout of its directories,
https://www.tensorflow.org/datasets/splits for what a split may be. Images are decoded here with Pillow, to the number
    of channels that the feature declares: without TensorFlow, TFDS returns a grey or CMYK JPEG of a colour data set,
    such as some in COCO, with a different number of channels.
"""

import bisect
import functools
import io
import itertools
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from vision.data.image_file import MAX_PIXELS, opened
from vision.data.source import Record
from vision.errors import UserError
from vision.home import expanded

# The parts of a split, as in "train[:80%]+test": the name is the text before a bracket.
_SPLIT_NAME = re.compile(r"\s*([^\[\]+]+)")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
# Pillow's modes by dtype and number of channels.
_MODES = {("uint8", 1): "L", ("uint8", 3): "RGB", ("uint8", 4): "RGBA", ("uint16", 1): "I;16"}


def tfds_source(
    name: str,
    split: str,
    *,
    data_dir: str | Path,
    image_key: str = "image",
    label_key: str | None = "label",
    max_pixels: int = MAX_PIXELS,
) -> "TfdsSource":
    """The samples of one split of a prepared TFDS data set.

    A sample has "image" uint8 [h w c], "label" int32 [] unless ``label_key`` is None, and every other numeric feature
    under its own name, nested ones joined by "/" ("objects/bbox"). Left out are texts, which cannot be put on a device,
    sequences of sequences, and a feature called "image" or "label" if another one is chosen for that name.

    Args:
        name: as in TFDS: "cifar10", "cifar10:3.0.2", "coco/2017".
        split: "train", "train[:80%]", "train+test", ...
        data_dir: the TFDS root directory, or the prepared directory itself.
        image_key: the feature to take as "image"; it must be an 8-bit one.
        label_key: the feature to take as "label"; None for a set without labels.
        max_pixels: limit of an image's width times height, see `vision.data.image_file.opened`.

    Raises:
        UserError: the data set, split, feature or a file does not exist; a file is truncated; the data set is not in
            array_record form; and when a sample is read, its file is damaged.
    """
    # Importing TFDS takes half a second, which a run on another source does not need.
    import tensorflow_datasets as tfds

    logging.getLogger("absl").addFilter(_is_worth_showing)
    directory = _prepared_directory(name, expanded(data_dir))
    try:
        builder: Any = tfds.builder_from_directory(directory)
    except Exception as error:
        raise UserError(f"The description of {name} in {directory} cannot be read: {_line(error)}") from error
    if builder.name != re.split("[:/]", name)[0]:
        raise UserError(f"{directory} holds {builder.name}, not {name}.")
    forms = {form.value for form in builder.info.available_file_formats()}
    if "array_record" not in forms:
        raise UserError(
            f"{name} in {directory} is in {' and '.join(sorted(forms)) or 'an unknown'} form, which needs "
            f"TensorFlow to read; prepare it again in array_record form ({_how_to_prepare(name)})."
        )
    features: Any = builder.info.features
    _check_features(name, features, image_key, label_key, tfds)
    files = _files(name, split, directory, builder)
    try:
        raw = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    except Exception as error:
        raise UserError(f"Split {split!r} of {name} in {directory} cannot be opened: {_line(error)}") from error
    return TfdsSource(
        raw,
        files,
        features,
        images={key: mode for key, feature in features.items() if (mode := _mode(feature, tfds))},
        skip=tfds.decode.SkipDecoding,
        image_key=image_key,
        label_key=label_key,
        max_pixels=max_pixels,
        reopen=functools.partial(
            tfds_source,
            name,
            split,
            data_dir=data_dir,
            image_key=image_key,
            label_key=label_key,
            max_pixels=max_pixels,
        ),
    )


class TfdsSource:
    """One opened split; array_record opens the files themselves when they are first read."""

    def __init__(self, raw, files, features, *, images, skip, image_key, label_key, max_pixels, reopen):
        self._raw = raw
        self._files = [file for file, _ in files]
        self._counts = [count for _, count in files]
        self._ends = list(itertools.accumulate(count for _, count in files))
        self._features = features
        self._specs = features.get_tensor_info()
        self._images = images
        self._decoders = {key: skip() for key in images}
        self._image_key = image_key
        self._label_key = label_key
        self._max_pixels = max_pixels
        self._reopen = reopen
        # Only a ClassLabel has names.
        names = getattr(features[label_key], "names", None) if label_key is not None else None
        self.class_names: tuple[str, ...] = tuple(names or ())

    def __len__(self) -> int:
        return self._ends[-1]

    def shards(self) -> list[tuple[str, int]]:
        """Names of the files, and how many samples of each belong to the split."""
        return [(file.name, count) for file, count in zip(self._files, self._counts, strict=True)]

    @property
    def images_of_one_channel(self) -> tuple[str, ...]:
        """Names of the features that are images of one channel of integers, such as masks."""
        return tuple(sorted(key for key, mode in self._images.items() if mode in ("L", "I;16")))

    def names_of(self, feature: str) -> tuple[str, ...]:
        """Names of the values of a feature, as those of a ``LabeledImage``; empty where it has none."""
        return tuple(getattr(self._features[feature], "names", None) or ())

    def image_size(self, index: int, feature: str) -> tuple[int, int]:
        """(height, width) of an image, from its header."""
        example = self._features.deserialize_example_np(self._encoded(index), decoders=self._decoders)
        with opened(io.BytesIO(example[feature]), max_pixels=self._max_pixels, name=f"its {feature}") as image:
            return image.height, image.width

    def texts(self, index: int, feature: str) -> tuple[str, ...]:
        """The texts of a feature of one sample, of which there may be several; nested names are joined by "/".

        Raises ``UserError`` where there is no such feature of texts.
        """
        value: Any = self._features.deserialize_example_np(self._encoded(index), decoders=self._decoders)
        for part in feature.split("/"):
            if not isinstance(value, Mapping) or part not in value:
                known = ", ".join(sorted(self._features))
                raise UserError(f"the data set has no feature {feature!r} of texts, only {known}")
            value = value[part]
        texts = np.asarray(value, object).reshape(-1).tolist()
        if not all(isinstance(text, bytes | str) for text in texts):
            raise UserError(f"the feature {feature!r} is no text: choose another one")
        return tuple(text.decode(errors="replace") if isinstance(text, bytes) else text for text in texts)

    def __getitem__(self, index: int) -> Record:
        return self._record(self._encoded(index))

    def _encoded(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            return self._raw[index]
        except (OSError, RuntimeError) as error:
            file = self._files[bisect.bisect_right(self._ends, index)]
            raise UserError(f"{file} is damaged or missing ({_line(error)}); copy or prepare it again.") from error

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        return [self._record(example) for example in self._raw.__getitems__(list(indices))]

    def _record(self, encoded: bytes) -> Record:
        example = self._features.deserialize_example_np(encoded, decoders=self._decoders)
        for key, mode in self._images.items():
            example[key] = _decoded(example[key], mode, self._max_pixels)
        record = {"image": example.pop(self._image_key)}
        if self._label_key is not None:
            record["label"] = np.asarray(example.pop(self._label_key), np.int32)
        for key, value in _numeric(example, self._specs):
            record.setdefault(key, value)
        return record

    def __reduce__(self):
        return self._reopen, ()


def _decoded(encoded: bytes, mode: str, max_pixels: int) -> np.ndarray:
    with opened(io.BytesIO(encoded), max_pixels=max_pixels, name="its image") as image:
        # the indices of a palette are the values of a mask, and its colours only for display
        keep = image.mode == mode or (mode == "L" and image.mode == "P")
        pixels = np.asarray(image if keep else image.convert(mode))
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _numeric(example: Mapping[str, Any], specs: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    for key, spec in specs.items():
        if key not in example:
            continue
        if isinstance(spec, Mapping):
            for name, value in _numeric(example[key], spec):
                yield f"{key}/{name}", value
        elif np.dtype(spec.np_dtype).kind in "biuf" and spec.sequence_rank <= 1:
            # TFDS returns lists and Python numbers, and loses the shape of an empty sequence.
            value = np.asarray(example[key], spec.np_dtype)
            yield key, value if value.size else value.reshape([size or 0 for size in spec.shape])


def _prepared_directory(name: str, root: Path) -> Path:
    """The directory with the files of one version, below ``root`` or ``root`` itself."""
    wanted, _, version = name.partition(":")
    if not root.is_dir():
        raise UserError(f"There is no directory {root} to read {name} from; prepare it: {_how_to_prepare(name)}.")
    if (root / "dataset_info.json").is_file():
        return root
    directory = root / wanted
    if not directory.is_dir():
        raise UserError(
            f"{root} holds no data set {wanted}, it has {_listed(root)}; prepare it: {_how_to_prepare(name)}."
        )
    versions = sorted(
        (path.name for path in directory.iterdir() if _VERSION.fullmatch(path.name)),
        key=lambda text: [int(number) for number in text.split(".")],
    )
    if not versions:
        raise UserError(
            f"{directory} holds no version of {wanted}, it has {_listed(directory)}; give one of its "
            f"configurations as {wanted}/CONFIGURATION, or prepare it: {_how_to_prepare(name)}."
        )
    if version and version not in versions:
        raise UserError(f"{directory} holds no version {version}, it has {_listed(directory)}.")
    prepared = directory / (version or versions[-1])
    if not (prepared / "dataset_info.json").is_file():
        raise UserError(
            f"{name} is not prepared: {prepared} has no dataset_info.json; prepare it: {_how_to_prepare(name)}."
        )
    return prepared


def _listed(directory: Path) -> str:
    names = sorted(path.name for path in directory.iterdir() if path.is_dir() and path.name != "downloads")
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return shown or "no directories"


def _how_to_prepare(name: str) -> str:
    base = name.partition(":")[0]
    if base == "cifar10":
        return "python -m vision.data.cifar10 --data-dir DIR"
    return f"tfds build {base} --file_format=array_record --data_dir=DIR"


def _mode(feature: Any, tfds: Any) -> str | None:
    """Pillow's mode of an image feature that is decoded here; None for features that TFDS decodes."""
    if not isinstance(feature, tfds.features.Image):
        return None
    return _MODES.get((np.dtype(feature.np_dtype).name, feature.shape[-1]))


def _check_features(name: str, features: Any, image_key: str, label_key: str | None, tfds: Any) -> None:
    for argument, key in (("image_key", image_key), ("label_key", label_key)):
        if key is not None and key not in features:
            raise UserError(
                f"{name} has no feature {key!r}, it has {', '.join(sorted(features))}; choose one with "
                f"{argument}" + (", or None if there are no labels." if argument == "label_key" else ".")
            )
    image = features[image_key]
    if not _mode(image, tfds) or image.np_dtype != np.uint8:
        raise UserError(
            f"Feature {image_key!r} of {name} is not an 8-bit image of 1, 3 or 4 channels; choose one with image_key."
        )
    if label_key is not None:
        label = features[label_key]
        if label.shape != () or np.dtype(label.np_dtype).kind not in "iub":
            raise UserError(
                f"Feature {label_key!r} of {name} is not a class number; choose another one with label_key, or None."
            )


def _files(name: str, split: str, directory: Path, builder: Any) -> list[tuple[Path, int]]:
    """The files of the split in reading order, each with how many of its samples belong to the split."""
    splits = builder.info.splits
    listed = ", ".join(f"{key} ({info.num_examples} samples)" for key, info in splits.items()) or "none"
    names = [match.group(1).strip() if (match := _SPLIT_NAME.match(part)) else "" for part in split.split("+")]
    unknown = [part for part in names if part not in splits and part != "all"]
    if unknown:
        raise UserError(f"{name} in {directory} has no split {unknown[0]!r}, it has {listed}.")
    try:
        instructions = splits[split].file_instructions
    except Exception as error:
        raise UserError(
            f"Split {split!r} of {name} cannot be understood ({_line(error)}); there are {listed}, and parts "
            "of them such as 'train[:80%]'."
        ) from error
    files = [(Path(instruction.filename), instruction.take) for instruction in instructions]
    if sum(count for _, count in files) <= 0:
        raise UserError(f"Split {split!r} of {name} in {directory} holds no samples; there are {listed}.")
    again = f"copy it or prepare the set again: {_how_to_prepare(name)}"
    missing = [file for file, _ in files if not file.is_file()]
    if missing:
        raise UserError(
            f"{missing[0]} is missing ({len(missing)} of the {len(files)} files of split {split!r}); {again}."
        )
    # A file truncated at a multiple of 64 KiB opens and returns empty records, so the number of records is checked.
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(_number_of_records, (file for file, _ in files)))
    for (file, _), instruction, (records, reason) in zip(files, instructions, found, strict=True):
        if records != instruction.examples_in_shard:
            raise UserError(
                f"{file} is damaged: it has {records} of {instruction.examples_in_shard} samples{reason}; {again}."
            )
    return files


def _number_of_records(file: Path) -> tuple[int, str]:
    """The number of records according to the end of the file, and the reason if it cannot be read."""
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        reader = ArrayRecordReader(str(file))
        records = reader.num_records()
        reader.close()
    except RuntimeError as error:
        return 0, f" ({_line(error)})"
    return records, ""


def _is_worth_showing(record: logging.LogRecord) -> bool:
    # Files with groups of records are slower to read at random, but correct; and images are decoded here.
    return not str(record.msg).startswith(("File %s was created with group size", "OpenCV is not installed"))


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
