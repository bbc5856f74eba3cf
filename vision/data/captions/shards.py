"""WebDataset: tar files whose members of one name are a sample, as ``0001.jpg`` and ``0001.txt``, read at random.

A shard is read through once, for the places of its members, which are kept in the user's cache under the shard's path,
size and time. After that a sample is two reads at known places, so that a batch is a function of the seed and the step,
as of any other source, and no shuffle buffer is needed. The name of a sample is its path up to the first dot of the
last part (https://github.com/webdataset/webdataset). Its texts are the lines of ``.txt``, or "caption" of ``.json``.
"""

import bisect
import contextlib
import hashlib
import io
import itertools
import json
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Int

from vision.atomic import write_atomically
from vision.data.captions.folder import report
from vision.data.captions.source import Captioned, checked
from vision.data.image_file import MAX_PIXELS, SUFFIXES, opened, upright
from vision.data.listing import files_below
from vision.data.source import Record
from vision.errors import UserError, on_one_line
from vision.home import cache_folder, expanded

CACHE = "vision-shards"
_VERSION = 1
_TEXTS = (".txt", ".json")
_BLOCK = 512
_LONGEST_TEXT = 2**22


@dataclass(frozen=True, eq=False)
class Shard:
    """The samples of one tar file."""

    file: Path
    images: Int[np.ndarray, "n 2"]
    """First byte and number of bytes of each image."""
    texts: Int[np.ndarray, "n 3"]
    """The same of each text, and its kind: 0 for .txt, 1 for .json."""
    names: tuple[str, ...]
    """Of the samples."""
    left_out: tuple[int, int]
    """Images without a text, and texts without an image."""

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False)
class ShardSource:
    """The images of shards, uint8 [h w 3] at their own sizes."""

    shards: tuple[Shard, ...]
    max_pixels: int = MAX_PIXELS
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.shards)

    def __getitem__(self, index: int) -> Record:
        shard, row = self.place(index)
        first, count = shard.images[row].tolist()
        name = f"{shard.names[row]} in {shard.file}"
        with opened(io.BytesIO(_read(shard, first, count)), max_pixels=self.max_pixels, name=name) as image:
            return {"image": np.asarray(upright(image))}

    def place(self, index: int) -> tuple[Shard, int]:
        """The shard of a sample and its row there; IndexError outside [0, len)."""
        ends = list(itertools.accumulate(len(shard) for shard in self.shards))
        if not 0 <= index < ends[-1]:
            raise IndexError(f"sample {index} of {ends[-1]}")
        number = bisect.bisect_right(ends, index)
        return self.shards[number], index - (ends[number - 1] if number else 0)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all samples, which do not say where the shards are."""
        return tuple(name for shard in self.shards for name in shard.names)


@dataclass(frozen=True, eq=False)
class ShardTexts:
    """The texts of shards, read when they are asked for."""

    source: ShardSource

    def __call__(self, indices: Int[np.ndarray, " b"]) -> list[tuple[str, ...]]:
        return [self._of(*self.source.place(index)) for index in indices.tolist()]

    def _of(self, shard: Shard, row: int) -> tuple[str, ...]:
        first, count, kind = shard.texts[row].tolist()
        where = f"{shard.names[row]} in {shard.file}"
        if count > _LONGEST_TEXT:
            raise UserError(f"{where} has a text of {count:,} bytes, more than {_LONGEST_TEXT:,}: shorten it.")
        lines = _lines(_read(shard, first, count), kind, where)
        texts = tuple(text for line in lines if (text := checked(line, where)))
        if not texts:
            raise UserError(f"{where} has an empty text: remove the sample.")
        return texts


def captioned_shards(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> tuple[Captioned, tuple[str, ...]]:
    """The samples of all tar files below a folder, or of one, in the order of their names; and those names.

    Samples without an image or without a text are left out and counted.

    Raises:
      UserError: there is no such folder, no tar file, or no sample; a file is compressed, damaged or no tar file.
    """
    root = expanded(path)
    files = (root,) if root.is_file() else files_below(root, (".tar",)).files if root.is_dir() else ()
    if not files:
        raise UserError(f"{root} has no .tar files: name a folder of them, or one.")
    shards = tuple(indexed(file) for file in files)
    images, texts = (sum(shard.left_out[place] for shard in shards) for place in (0, 1))
    source = ShardSource(tuple(shard for shard in shards if len(shard)), max_pixels)
    if not source.shards:
        raise UserError(f"no sample in {root} has an image and a text ({', '.join(_TEXTS)}) of the same name.")
    report(root, uncaptioned=images, missing=texts)
    return Captioned(source, ShardTexts(source)), source.names


def indexed(file: Path) -> Shard:
    """The places of the samples of a shard, from the cache or by reading it through.

    Raises ``UserError`` for a file that is no plain tar file, or is damaged.
    """
    try:
        status = file.stat()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}.") from error
    known = f"{_VERSION} {file.resolve()} {status.st_size} {status.st_mtime_ns}"
    kept = cache_folder(CACHE) / f"{hashlib.sha256(known.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.npz"
    found = _from_cache(kept, file, status.st_size)
    if found is None:
        found = _read_through(file, status.st_size)
        made = io.BytesIO()
        names = np.frombuffer("\n".join(found.names).encode("utf-8", "surrogateescape"), np.uint8)
        np.savez(made, images=found.images, texts=found.texts, names=names, left_out=np.array(found.left_out))
        with contextlib.suppress(OSError):  # the next start reads it through again
            write_atomically(kept, made.getvalue())
    return found


def _from_cache(kept: Path, file: Path, size: int) -> Shard | None:
    """None where there is nothing of use."""
    try:
        with np.load(io.BytesIO(kept.read_bytes()), allow_pickle=False) as content:
            images, texts, left_out = content["images"], content["texts"], content["left_out"]
            names = content["names"].tobytes().decode("utf-8", "surrogateescape").split("\n")
    except Exception:  # numpy and zipfile raise almost anything for damaged files
        return None
    names = names if len(images) else []
    kinds = all(array.dtype == np.int64 for array in (images, texts, left_out))
    shapes = images.shape == (len(names), 2) and texts.shape == (len(names), 3) and left_out.shape == (2,)
    if not kinds or not shapes:
        return None
    inside = all((part >= 0).all() and (part[:, :2].sum(1) <= size).all() for part in (images, texts))
    return Shard(file, images, texts, tuple(names), (int(left_out[0]), int(left_out[1]))) if inside else None


def _read_through(file: Path, size: int) -> Shard:
    images: dict[str, tuple[int, int]] = {}
    texts: dict[str, tuple[int, int, int]] = {}
    try:
        with tarfile.open(file, "r:") as archive:
            while (member := archive.next()) is not None:
                # or a million of them would stay in memory
                archive.members = []  # pyright: ignore[reportAttributeAccessIssue]
                if not member.isreg() or member.issparse():
                    continue
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"{on_one_line(member.name, 80)} reaches beyond its end")
                name, suffix = sample_name(member.name)
                if suffix in SUFFIXES:
                    images.setdefault(name, (member.offset_data, member.size))
                elif suffix in _TEXTS and (name not in texts or suffix == ".txt"):
                    texts[name] = (member.offset_data, member.size, _TEXTS.index(suffix))
            end = archive.offset
        with file.open("rb") as content:
            content.seek(end)
            if content.read(_BLOCK).strip(b"\0"):
                raise tarfile.ReadError(f"what follows byte {end:,} is no member")
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # tarfile raises ValueError, UnicodeError and others besides its own
        why = on_one_line(" ".join(str(error).split()))
        raise UserError(f"{file} is no plain tar file, or is damaged ({why}): unpack or fetch it again.") from error
    both = [name for name in images if name in texts]
    return Shard(
        file,
        np.array([images[name] for name in both], np.int64).reshape(-1, 2),
        np.array([texts[name] for name in both], np.int64).reshape(-1, 3),
        tuple(name.replace("\n", " ") for name in both),
        (len(images) - len(both), len(texts) - len(both)),
    )


def sample_name(member: str) -> tuple[str, str]:
    """The name of a member's sample, and its suffix in lower case: "a/1.jpg" is ".jpg" of "a/1"."""
    path = PurePosixPath(member)
    stem, dot, rest = path.name.partition(".")
    return str(path.with_name(stem)) if stem else str(path), f"{dot}{rest}".lower()


def _read(shard: Shard, first: int, count: int) -> bytes:
    """Bytes of a shard; several threads read at once, so that each opens the file for itself."""
    try:
        descriptor = os.open(shard.file, os.O_RDONLY)
        try:
            content = os.pread(descriptor, count, first)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UserError(f"{shard.file} cannot be read: {error.strerror or error}.") from error
    if len(content) != count:
        raise UserError(f"{shard.file} has become shorter since it was opened: fetch it again.")
    return content


def _lines(content: bytes, kind: int, where: str) -> Sequence[str]:
    try:
        if kind == 0:
            return content.decode("utf-8-sig").splitlines()
        fields = json.loads(content)
    # deep nesting is a RecursionError
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} has a text that cannot be read ({on_one_line(str(error))}): repair it.") from error
    caption = fields.get("caption") if isinstance(fields, dict) else None
    found = caption if isinstance(caption, list) else [caption]
    texts = [text for text in found if isinstance(text, str)]
    if not texts or len(texts) < len(found):
        raise UserError(f'{where} has a .json without "caption", a text or a list of texts: add it.')
    return texts
