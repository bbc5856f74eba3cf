"""CIFAR-10, prepared without TensorFlow.

The data set: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. The TFDS builder of
this name needs TensorFlow to unpack the archive and to encode the images. This one writes the same name,
version, features and identifiers, so that each can read what the other has prepared:

    python -m vision.data.cifar10 --data-dir DIR
"""

import argparse
import functools
import hashlib
import http.client
import io
import sys
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image

from vision.errors import UserError
from vision.home import expanded

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_FOLDER = "cifar-10-batches-bin"
_FILES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
# One byte of class, then the red, green and blue planes of 32 rows of 32 pixels.
_SAMPLE_BYTES = 1 + 3 * 32 * 32


class Cifar10(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes the archive's samples as a TFDS data set; run it with `prepare`."""

    name = "cifar10"
    VERSION = tfds.core.Version("3.0.2")

    def __init__(self, *, archive: Path | None = None, **kwargs: Any):
        self._archive = archive
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="60,000 photographs of 32x32 pixels in 10 classes: 50,000 to train, 10,000 to test.",
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "image": tfds.features.Image(shape=(32, 32, 3)),
                    "label": tfds.features.ClassLabel(names=CLASS_NAMES),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # It needs a file of checksums next to this one, and TensorFlow to unpack.
        assert self._archive is not None
        files = _read_archive(self._archive)
        return {split: self._generate_examples(split, b"".join(files[split])) for split in _FILES}

    def _generate_examples(self, split: str, data: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
        samples = np.frombuffer(data, np.uint8).reshape(-1, _SAMPLE_BYTES)
        for index, sample in enumerate(samples):
            pixels = sample[1:].reshape(3, 32, 32).transpose(1, 2, 0)
            # TFDS shuffles by the key, so the index as key gives the order of TFDS's builder.
            yield index, {"id": f"{split}_{index:05d}", "image": _png(pixels), "label": int(sample[0])}


def prepare(data_dir: str | Path, *, url: str = URL, sha256: str = SHA256) -> Path:
    """Downloads the binary archive (170 MB) if necessary, and writes the data set below ``data_dir``.

    Args:
        data_dir: the TFDS root directory, created if absent. The archive is kept in its ``downloads``.
        url: where the archive is.
        sha256: its expected hash, in hexadecimal.

    Returns:
        the prepared directory, ``data_dir/cifar10/3.0.2``; if it exists already, nothing is done.

    Raises:
        UserError: the archive cannot be downloaded, has a different checksum, or is incomplete; or the directory cannot
            be written.
    """
    root = expanded(data_dir).absolute()
    prepared = root / Cifar10.name / str(Cifar10.VERSION)
    if (prepared / "dataset_info.json").is_file():
        return prepared
    try:
        archive = _download(url, sha256, root / "downloads" / "cifar-10-binary.tar.gz")
        builder = Cifar10(archive=archive, data_dir=root, file_format="array_record")
        builder.download_and_prepare()
    except OSError as error:
        raise UserError(f"CIFAR-10 cannot be written below {root}: {error}") from error
    return prepared


def _download(url: str, sha256: str, target: Path) -> Path:
    """The archive at ``target``, downloaded unless a file with the right checksum exists."""
    if target.is_file() and _sha256(target) == sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".part")
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            expected = response.headers.get("Content-Length")
            chunks = iter(functools.partial(response.read, 1 << 20), b"")
            size = _write(chunks, partial)
    except (
        urllib.error.URLError,
        http.client.HTTPException,
        TimeoutError,
        ConnectionError,
        ValueError,
    ) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"{url} cannot be downloaded ({reason}); check the network, or put the archive at {target} yourself."
        ) from error
    if expected is not None and size != int(expected):
        raise UserError(f"The download of {url} broke off after {size} of {expected} bytes; run it again.")
    if (found := _sha256(partial)) != sha256:
        partial.unlink()
        raise UserError(
            f"The archive from {url} has SHA-256 {found} instead of {sha256}; it was deleted; try again, "
            f"or put a copy from another source at {target}."
        )
    return partial.rename(target)


def _write(chunks: Iterator[bytes], path: Path) -> int:
    with path.open("wb") as file:
        return sum(file.write(chunk) for chunk in chunks)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_archive(archive: Path) -> dict[str, list[bytes]]:
    """The bytes of each binary file, by split; nothing is unpacked to disk."""
    wanted = {f"{_FOLDER}/{name}" for names in _FILES.values() for name in [*names, "batches.meta.txt"]}
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if member.isfile() and member.name.removeprefix("./") in wanted:
                    content = tar.extractfile(member)
                    assert content is not None  # Regular files have content.
                    found[Path(member.name).name] = content.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"The archive {archive} is damaged ({error}); delete it and run this again.") from error
    missing = sorted(name for name in wanted if Path(name).name not in found)
    if missing:
        raise UserError(f"The archive {archive} lacks {', '.join(missing)}; it is not the binary version of CIFAR-10.")
    names = tuple(found["batches.meta.txt"].decode("ascii", "replace").split())
    if names != CLASS_NAMES:
        raise UserError(f"The archive {archive} has the classes {', '.join(names)}, which are not those of CIFAR-10.")
    for name in (name for names in _FILES.values() for name in names):
        content = found[name]
        if not content or len(content) % _SAMPLE_BYTES:
            raise UserError(
                f"{name} in {archive} has {len(content)} bytes, which is not a multiple of {_SAMPLE_BYTES}: it is "
                "truncated."
            )
        if max(content[::_SAMPLE_BYTES]) >= len(CLASS_NAMES):
            raise UserError(f"{name} in {archive} has a class number above 9: it is damaged.")
    return {split: [found[name] for name in names] for split, names in _FILES.items()}


def _png(pixels: UInt8[np.ndarray, "32 32 3"]) -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    file.seek(0)
    return file


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m vision.data.cifar10",
        description="Downloads CIFAR-10 and writes it as a TFDS data set.",
    )
    parser.add_argument("--data-dir", required=True, type=Path, help="the TFDS root directory")
    parser.add_argument("--url", default=URL, help="where the archive is (default: %(default)s)")
    parser.add_argument("--sha256", default=SHA256, help="its checksum (default: the official archive's)")
    arguments = parser.parse_args()
    try:
        prepared = prepare(arguments.data_dir, url=arguments.url, sha256=arguments.sha256)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(error.code)
    print(prepared)


if __name__ == "__main__":
    main()
