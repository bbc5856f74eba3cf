"""Latents of a data set, encoded once by a network and kept on disk for every later run.

They are grids, as those of a first stage, or one vector an image, as embeddings.

A folder holds one split of one data set, encoded by one network. It is named by the hash of all that decides its
content: the variables of the network, the content of the data, the resolution, whether images are flipped too, the
type. Images are divided into shards by their number alone; each shard is an array_record file, which appears at once,
and then a JSON file with its sums. So several processes write their shards side by side, one that is killed goes on
with the first shard that is missing, and latents.json, which says that the set is complete, is written last.

A record has the bytes of its fields one after the other: "latent", and whatever the images have otherss, as labels.
"""

import contextlib
import hashlib
import json
import math
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, UInt8

from vision.data.notices import notice
from vision.data.pipeline import evaluation_batches
from vision.data.source import ArraySource, Record, Source, read
from vision.data.subset import Subset
from vision.errors import UserError, on_one_line
from vision.types import Content

FILE = "latents.json"
VERSION = 2
LATENT = "latent"
"""The field of a record that the network made."""
SHARD_BYTES = 2**25
"""About as many bytes are in a shard: what is encoded again after a kill."""
_ABANDONED = 3600.0
"""Seconds after which nobody is writing to a temporary file any more."""
Encode = Callable[[UInt8[np.ndarray, "b h w c"]], Float[np.ndarray, "b *places m"]]
"""Images -> what is stored of them, float32."""


@dataclass(frozen=True, kw_only=True)
class LatentIdentity:
    """All that decides what a set of latents consists of."""

    variables: str
    """SHA-256 of the network's variables."""
    network: str
    """The network in words: its kind and its configuration."""
    gaussian: bool
    """Whether latents are means and deviations, along the channels, or the vectors themselves."""
    content: Content
    """Of the images."""
    image: tuple[int, int, int]
    """Height, width and channels of an image."""
    latent: tuple[int, ...]
    """Height, width and channels of what is stored of it; of an embedding the channels alone."""
    flips: bool
    """Whether each image is encoded as it is and flipped left to right: sample 2 i is image i, 2 i + 1 its flip."""
    dtype: Literal["float16", "float32"]
    """Type of stored latents."""

    @property
    def key(self) -> str:
        """Names the folder of the set."""
        return hashlib.sha256(json.dumps({**asdict(self), "version": VERSION}, sort_keys=True).encode()).hexdigest()[
            :24
        ]

    @property
    def versions(self) -> int:
        """Samples of an image."""
        return 2 if self.flips else 1

    def stated(self) -> dict[str, Any]:
        """As in latents.json."""
        return {"version": VERSION, **json.loads(json.dumps(asdict(self)))}


@dataclass(frozen=True, kw_only=True)
class _Shard:
    """What the JSON file of a shard says."""

    first: int
    """Its first image."""
    images: int
    bytes: int
    """Of its array_record file."""
    layout: Mapping[str, tuple[str, tuple[int, ...]]]
    """Type and shape of the fields of a record, in order."""
    sums: tuple[float, ...]
    """Of latents, by channel, over samples and places."""
    squares: tuple[float, ...]
    """Of their squares: those of Gaussian latents are expectations."""


class LatentSource:
    """A complete set of latents: records have "latent" and the other fields of the images.

    Raises ``UserError`` for a record of a damaged file.
    """

    def __init__(
        self,
        folder: Path,
        identity: LatentIdentity,
        shards: Sequence[_Shard],
        class_names: Sequence[str],
        fields: Sequence[str] | None = None,
    ):
        self.folder, self.identity, self.class_names = folder, identity, tuple(class_names)
        self._shards = tuple(shards)
        self._layout = self._shards[0].layout
        self._record = sum(np.dtype(kind).itemsize * math.prod(shape) for kind, shape in self._layout.values())
        self._fields = tuple(self._layout if fields is None else fields)
        self._files: Any = None

    def __len__(self) -> int:
        return self.identity.content.count * self.identity.versions

    def __getitem__(self, index: int) -> Record:
        """The record of a sample; IndexError outside [0, len)."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        try:
            content = self._opened()[index]
        # array_record raises what its layers raise
        except Exception as error:
            raise self._damaged(index, on_one_line(" ".join(str(error).split()))) from error
        if len(content) != self._record:
            raise self._damaged(index, f"a record has {len(content)} of {self._record} bytes")
        record, start = {}, 0
        for name, (kind, shape) in self._layout.items():
            record[name] = np.frombuffer(content, kind, math.prod(shape), start).reshape(shape)
            start += record[name].nbytes
        return {name: record[name] for name in self._fields}

    def only(self, fields: Sequence[str]) -> "LatentSource":
        """The same samples with only these fields; raises ``UserError`` for one that they have not."""
        if missing := [name for name in fields if name not in self._layout]:
            raise UserError(f"the latents in {self.folder} have no {missing[0]!r}, only {', '.join(self._layout)}")
        return LatentSource(self.folder, self.identity, self._shards, self.class_names, fields)

    @property
    def nbytes(self) -> int:
        """Bytes of all records."""
        return self._record * len(self)

    @property
    def mean(self) -> Float[np.ndarray, " d"]:
        """The mean of latents by channel, over all samples and places, float64."""
        return _moments(self._shards, self._places)[0]

    @property
    def deviation(self) -> Float[np.ndarray, " d"]:
        """Their deviation, that of sampled latents where they are Gaussian, float64."""
        return _moments(self._shards, self._places)[1]

    @property
    def _places(self) -> int:
        """Vectors of latents in the set."""
        return len(self) * math.prod(self._layout[LATENT][1][:-1])

    def _opened(self) -> Any:
        if self._files is None:
            from array_record.python.array_record_data_source import ArrayRecordDataSource

            # with their lengths, so that no file is opened before a record of it is read
            of = lambda each: f"{self.folder / _name(each.first)}[0:{each.images * self.identity.versions}]"
            self._files = ArrayRecordDataSource([of(each) for each in self._shards])
        return self._files

    def _damaged(self, index: int, why: str) -> UserError:
        image = index // self.identity.versions
        shard = next(each for each in reversed(self._shards) if each.first <= image)
        return UserError(
            f"{self.folder / _name(shard.first)} is damaged ({why}): delete it, and the next start encodes its "
            "images again"
        )

    def __reduce__(self):
        return LatentSource, (self.folder, self.identity, self._shards, self.class_names, self._fields)


def latent_folder(root: Path, identity: LatentIdentity) -> Path:
    """The folder of a set."""
    return root / identity.key


def open_latents(root: Path, identity: LatentIdentity) -> LatentSource | None:
    """A set that is complete; None for one that is not there or in part.

    Files that are missing, or have another size than when they were written, are as if they had not been written; the
    latter is reported.
    """
    folder = latent_folder(root, identity)
    content = _json(folder / FILE)
    if content is None or {name: content.get(name) for name in identity.stated()} != identity.stated():
        return None
    shards = _written(folder, identity)
    names = content.get("class_names")
    if not isinstance(names, list) or sum(each.images for each in shards) != identity.content.count:
        return None
    return LatentSource(folder, identity, shards, [str(name) for name in names])


def write_latents(
    root: Path,
    identity: LatentIdentity,
    source: Source,
    encode: Encode,
    *,
    batch_size: int,
    share: tuple[int, int] = (0, 1),
    report: Callable[[int], None] = lambda images: None,
) -> None:
    """Encode the images whose shards are missing, of a process's share of the shards.

    Args:
      root: what all sets of latents are in.
      identity: of the set.
      source: the images, "image" uint8 [h w c], with other fields of equal shapes.
      encode: see ``Encode``; called with ``batch_size`` images each time.
      batch_size: images at a time.
      share: index and number of the processes.
      report: called with the number of images that this process has behind it, including those of shards that were
        there.

    Raises:
      UserError: an image cannot be read, its latent is not finite in the type of the set, or the disk is full.
    """
    folder = latent_folder(root, identity)
    with _disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    behind = 0
    for first, images in list(_plan(identity, source))[share[0] :: share[1]]:
        found = _whole(folder, identity, first)
        if found is None or found.images != images:
            so_far = lambda done, before=behind: report(before + done)
            made = _encoded(_part(source, first, images), identity, encode, batch_size=batch_size, report=so_far)
            _write_shard(folder, identity, first, made)
        behind += images
        report(behind)


def finish_latents(root: Path, identity: LatentIdentity, class_names: Sequence[str]) -> None:
    """Write latents.json when all shards are written; one process does it after all have written theirs.

    Raises:
      UserError: shards are missing, as where processes do not share a file system; or the disk is full.
    """
    folder = latent_folder(root, identity)
    shards = _written(folder, identity)
    count = sum(each.images for each in shards)
    if count != identity.content.count:
        raise UserError(
            f"{folder} has latents of {count:,} of {identity.content.count:,} images after all processes have written "
            "theirs: name a folder that all of them share"
        )
    places = identity.content.count * identity.versions * math.prod(shards[0].layout[LATENT][1][:-1])
    mean, deviation = _moments(shards, places)
    content = {
        **identity.stated(),
        "latent": list(shards[0].layout[LATENT][1]),
        "mean": mean.tolist(),
        "deviation": deviation.tolist(),
        "class_names": list(class_names),
        "shards": [_name(each.first) for each in shards],
    }
    with _disk_errors(folder):
        for left in folder.glob(".*.tmp"):
            if time.time() - left.stat().st_mtime > _ABANDONED:  # by a process that was killed
                left.unlink(missing_ok=True)
        _replace(folder / FILE, lambda path: path.write_text(json.dumps(content, indent=2) + "\n"))


def _plan(identity: LatentIdentity, source: Source) -> Iterator[tuple[int, int]]:
    """First image and number of images of each shard: a function of the set alone."""
    others = sum(np.asarray(value).nbytes for name, value in read(source, 0).items() if name != "image")
    each = math.prod(identity.latent) * np.dtype(identity.dtype).itemsize + others
    most = max(1, SHARD_BYTES // (each * identity.versions))
    for first in range(0, identity.content.count, most):
        yield first, min(most, identity.content.count - first)


def _part(source: Source, first: int, images: int) -> Source:
    indices = np.arange(first, first + images)
    return ArraySource(source.rows(indices)) if isinstance(source, ArraySource) else Subset(source, indices, ())


@dataclass(frozen=True, kw_only=True, eq=False)
class _Encoded:
    """The records of a shard: latents [images, versions, ..., m], and the other fields [images, ...]."""

    latents: np.ndarray
    others: Mapping[str, np.ndarray]
    sums: np.ndarray


def _encoded(
    part: Source, identity: LatentIdentity, encode: Encode, *, batch_size: int, report: Callable[[int], None]
) -> _Encoded:
    latents: list[np.ndarray] = []
    others: list[Mapping[str, np.ndarray]] = []
    sums: list[np.ndarray] = []
    done = 0
    for batch in evaluation_batches(part, batch_size=batch_size):
        kept = int(batch.pop("mask").sum())
        images = batch.pop("image")
        flipped = (images, images[:, :, ::-1])[: identity.versions]
        made = np.stack([np.asarray(encode(each))[:kept] for each in flipped], axis=1)
        if made.shape[2:] != identity.latent:
            raise ValueError(f"latents of {made.shape[2:]} in a set of {identity.latent}")
        sums.append(latent_sums(made, gaussian=identity.gaussian))
        latents.append(_stored(made, identity))
        others.append({name: array[:kept] for name, array in batch.items()})
        done += kept
        report(done)
    joined = {name: np.concatenate([each[name] for each in others]) for name in others[0]}
    return _Encoded(latents=np.concatenate(latents), others=joined, sums=np.sum(sums, axis=0))


def _write_shard(folder: Path, identity: LatentIdentity, first: int, made: _Encoded) -> None:
    from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

    count = len(made.latents)

    def write(path: Path) -> None:
        # a record at a time, to be read in any order; not compressed, since latents hardly get smaller
        writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
        for row in range(count):
            others = b"".join(np.ascontiguousarray(array[row]).tobytes() for array in made.others.values())
            for version in range(identity.versions):
                writer.write(made.latents[row, version].tobytes() + others)
        writer.close()
        # the writer does not always say that the disk is full
        reader = ArrayRecordReader(str(path))
        if reader.num_records() != count * identity.versions:
            raise OSError("not all of a file was written")
        reader.close()

    layout = {LATENT: (made.latents.dtype.str, identity.latent)}
    layout.update({name: (array.dtype.str, array.shape[1:]) for name, array in made.others.items()})
    path = folder / _name(first)
    with _disk_errors(folder):
        size = _replace(path, write)
        totals, squares = (tuple(each.tolist()) for each in made.sums)
        shard = _Shard(first=first, images=count, bytes=size, layout=layout, sums=totals, squares=squares)
        _replace(path.with_suffix(".json"), lambda path: path.write_text(json.dumps(asdict(shard)) + "\n"))


def _stored(latents: np.ndarray, identity: LatentIdentity) -> np.ndarray:
    with np.errstate(over="ignore"):  # what overflows is not finite
        stored = np.ascontiguousarray(latents, identity.dtype)
    if not np.isfinite(stored).all():
        raise UserError(
            f"the network encodes some images to latents that are not finite in {identity.dtype}: choose another "
            "network" + (", or float32" if identity.dtype == "float16" else "")
        )
    return stored


def latent_sums(latents: Float[np.ndarray, "*places m"], *, gaussian: bool) -> Float[np.ndarray, "2 d"]:
    """The sums of latents and of their squares, by channel, in float64; of Gaussian ones the expectations."""
    flat = latents.reshape(-1, latents.shape[-1]).astype(np.float64)
    if not gaussian:
        return np.stack([flat.sum(0), np.square(flat).sum(0)])
    mean, deviation = np.split(flat, 2, axis=-1)
    return np.stack([mean.sum(0), (np.square(mean) + np.square(deviation)).sum(0)])


def mean_and_deviation(
    sums: Float[np.ndarray, "2 d"], places: int
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """Mean and deviation by channel, of the sums that :func:`latent_sums` gives over a number of places."""
    mean, square = sums / places
    return mean, np.sqrt(np.maximum(square - np.square(mean), 0.0))


def _moments(shards: Sequence[_Shard], places: int) -> tuple[np.ndarray, np.ndarray]:
    return mean_and_deviation(np.sum([[each.sums, each.squares] for each in shards], axis=0), places)


def _written(folder: Path, identity: LatentIdentity) -> list[_Shard]:
    """The shards that are there and whole, in order, without gaps from the first on."""
    found: list[_Shard] = []
    while (image := found[-1].first + found[-1].images if found else 0) < identity.content.count:
        shard = _whole(folder, identity, image)
        if shard is None or (found and shard.layout != found[0].layout):
            break
        found.append(shard)
    return found


def _whole(folder: Path, identity: LatentIdentity, first: int) -> _Shard | None:
    """The shard that begins with an image; None where it is missing, or damaged as far as can be seen at once."""
    path = folder / _name(first)
    shard = _shard(_json(path.with_suffix(".json")), identity)
    if shard is None or shard.first != first or not path.is_file():
        return None
    if (size := path.stat().st_size) != shard.bytes:
        notice(f"{path} has {size:,} of {shard.bytes:,} bytes: its images are encoded again")
        return None
    return shard


def _shard(content: Mapping[str, Any] | None, identity: LatentIdentity) -> _Shard | None:
    """A shard by its JSON file; None for one that is damaged."""
    try:
        assert content is not None
        layout = {
            str(name): (np.dtype(str(kind)).str, tuple(int(side) for side in shape))
            for name, (kind, shape) in content["layout"].items()
        }
        numbers = {name: int(content[name]) for name in ("first", "images", "bytes")}
        channels: dict[str, Any] = {name: tuple(float(each) for each in content[name]) for name in ("sums", "squares")}
        shard = _Shard(**numbers, layout=layout, **channels)
        plain = all(np.dtype(kind).kind in "?biufSU" and min(shape, default=0) >= 0 for kind, shape in layout.values())
        fitting = layout[LATENT] == (np.dtype(identity.dtype).str, identity.latent) and next(iter(layout)) == LATENT
        channel_count = identity.latent[-1] // (2 if identity.gaussian else 1)
        sums = (
            len(shard.sums) == len(shard.squares) == channel_count and np.isfinite([*shard.sums, *shard.squares]).all()
        )
    except (AssertionError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None
    inside = 0 < shard.images <= identity.content.count - shard.first and shard.first >= 0
    return shard if plain and fitting and sums and inside else None


def _json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None where there is none."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _name(first: int) -> str:
    return f"images-{first:09d}.array_record"


def _replace(path: Path, write: Callable[[Path], object]) -> int:
    """Write a file that appears at once, also where others write the same; returns its bytes."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        size = temporary.stat().st_size
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return size


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    # array_record's are RuntimeErrors
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"latents cannot be written to {folder} ({on_one_line(' '.join(str(error).split()))}): free some space or "
            "name another folder, and start again, which goes on from here",
            code=4,
        ) from error
