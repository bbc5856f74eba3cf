"""Damaged and hostile files of weights, by a seed: what becomes of thousands of them. Runs by hand.

    python tests/pretrained/fuzz_weights.py --inputs 4000 --seed 0

prints for each format how many files were read, refused in one sentence, or failed, and the peak memory of the reader
beyond what it needs to start. test_hostile_weights.py runs a few hundred. Each file is read by a process with a limit
of memory and of time (Linux), since a reader that fails may also take all memory or never return.
"""

import argparse
import collections
import io
import json
import pickletools
import random
import resource
import select
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.numpy

from vision.errors import UserError
from vision.pretrained.state_dict import read_state_dict

GOLDEN = Path(__file__).parents[1] / "golden"
FORMATS = ("zip", "legacy", "safetensors", "index")
MEMORY = 2 << 30
"""Bytes that the reader may take beyond what it needs to start."""
SECONDS = 10

Files = dict[str, bytes]
"""Content by name; the first is the one to be read."""


class Outcome(NamedTuple):
    """What became of a file."""

    kind: str
    """"read", "refused" or "failed"."""
    message: str
    """The sentence, or the exception."""
    seconds: float
    mebibytes: float
    """Peak memory of this and the files before it, beyond what the reader needs to start."""


# ---- the process that reads


def outcome_of(path: Path) -> tuple[str, str]:
    """Read one file: the kind of its outcome, and the message."""
    try:
        tensors = read_state_dict(path)
        for name, array in tensors.items():
            if not isinstance(name, str) or not isinstance(array, np.ndarray):
                return "failed", f"an entry of {type(name).__name__} and {type(array).__name__}"
            np.array(array)
    except UserError as error:
        message = str(error)
        sentence = message.isprintable() and 0 < len(message) < 1000
        fits = "MemoryError" not in message and "not fit into memory" not in message
        return ("refused" if sentence and fits else "failed"), message
    except BaseException as error:
        return "failed", f"{type(error).__name__}: {error}"
    return "read", f"{len(tensors)} arrays"


def _virtual() -> int:
    """Bytes of this process's address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _peak() -> float:
    """Peak memory of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def serve() -> None:
    """Read the files whose paths come line by line, and answer each with a line of JSON."""
    limit = _virtual() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is that of the imports
    start = _peak()
    for line in sys.stdin:
        began = time.monotonic()
        kind, message = outcome_of(Path(line.strip()))
        message = message[:1000].encode("ascii", "backslashreplace").decode()
        print(json.dumps([kind, message, time.monotonic() - began, _peak() - start]), flush=True)


class Reader:
    """A process that reads files; a new one after each crash or hang."""

    def __init__(self):
        self._process = None

    def read(self, path: Path) -> Outcome:
        """What becomes of a file."""
        if self._process is None:
            command = [sys.executable, "-W", "ignore", __file__, "--serve"]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        process = self._process
        process.stdin.write(f"{path}\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], SECONDS + 10)
        line = process.stdout.readline() if ready else ""
        if line:
            outcome = Outcome(*json.loads(line))
            late = outcome.seconds > SECONDS
            return outcome._replace(kind="failed", message=f"{outcome.seconds:.0f} s") if late else outcome
        self.close()
        return Outcome("failed", "crashed" if ready else "hangs", SECONDS, 0.0)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def __enter__(self):
        return self

    def __exit__(self, *_: object):
        self.close()


# ---- sound files, and damage


def archive(structure: bytes, storages: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A file as torch.save writes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        content = {"archive/data.pkl": structure, **{f"archive/data/{key}": raw for key, raw in storages.items()}}
        for name, raw in content.items():
            # of a fixed date, so that a seed gives the same bytes
            file.writestr(zipfile.ZipInfo(name), raw, compression)
    return buffer.getvalue()


def safetensors_file(header: object, data: bytes = b"") -> bytes:
    """A file of a header, as JSON or as it is, and of data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


_SMALL = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "bn.bias": np.arange(3, dtype=np.float16),
    "count": np.array(7, np.int64),
}


def _zip_parts() -> tuple[bytes, dict[str, bytes]]:
    with zipfile.ZipFile(GOLDEN / "tensors.pth") as file:
        content = {name: file.read(name) for name in file.namelist()}
    structure = next(raw for name, raw in content.items() if name.endswith("data.pkl"))
    return structure, {name.split("/")[-1]: raw for name, raw in content.items() if "/data/" in name}


# Pieces of pickles that are worth trying anywhere
_SNIPPETS = (
    *(
        b"]q\x01",
        b"h\x01a",
        b"h\x01h\x01\x86",
        b"}q\x02",
        b"h\x02s",
        b"0",
        b"2",
        b"(",
        b"1",
        b".",
        b"R",
        b"b",
        b"Q",
        b"s",
    ),
    b"r\xff\xff\xff\x3f" + b"j\xff\xff\xff\x3f",
    b"p2000000000\n",
    b"\x8e" + (2**40).to_bytes(8, "little"),
    b"\x96" + (2**40).to_bytes(8, "little"),
    b"\x8d" + (2**62).to_bytes(8, "little"),
    b"X\xff\xff\xff\x7f",
    b"T\xff\xff\xff\x7f",
    b"\x8b\xff\xff\xff\x7f",
    b"\x8a\x0b" + b"\x7f" * 11,
    b"\x95" + (2**50).to_bytes(8, "little"),
    b"ccollections\nOrderedDict\n)R",
    b"ctorch\nSize\n)R",
    b"cos\nsystem\nVtrue\n\x85R",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"(l(lt",
    b"\x8f(\x90",
    b"K\x01" * 20,
    b"N\x88\x89",
)
_NUMBERS = (0, 1, -1, 3, 64, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63, 2**64, 10**30, 1.5, 1e300)


def _changed_bytes(generator: random.Random, raw: bytes, snippets: tuple[bytes, ...] = ()) -> bytes:
    """Bytes with one change of any kind."""
    at = generator.randrange(len(raw) + 1)
    end = min(len(raw), at + generator.choice((1, 1, 2, 4, 16, 200)))
    noise = generator.randbytes(end - at)
    changes = [
        raw[:at],
        raw[:at] + raw[end:],
        raw[:end] + raw[at:],
        raw[:at] + noise + raw[end:],
        raw[:at] + noise + raw[at:],
        raw[:at] + generator.choice((b"\xff", b"\x7f", b"\0")) * (end - at) + raw[end:],
        *(raw[:at] + snippet + raw[at:] for snippet in generator.sample(snippets, min(3, len(snippets)))),
    ]
    return generator.choice(changes)


def _changed_pickle(generator: random.Random, raw: bytes) -> bytes:
    """A pickle with a change between its opcodes or of one of them, or anywhere."""
    if generator.random() < 0.3:
        return _changed_bytes(generator, raw, _SNIPPETS)
    starts = [position for _, _, position in pickletools.genops(raw)] + [len(raw)]
    first = generator.randrange(len(starts) - 1)
    at, end = starts[first], starts[min(first + generator.choice((1, 1, 1, 3, 10)), len(starts) - 1)]
    other = generator.randrange(len(starts) - 1)
    piece = raw[starts[other] : starts[min(other + generator.choice((1, 3, 10)), len(starts) - 1)]]
    number = generator.choice([n for n in _NUMBERS if isinstance(n, int)])
    wide = b"\x8a" + bytes([16]) + number.to_bytes(16, "little", signed=True)
    snippet = generator.choice(_SNIPPETS)
    return generator.choice(
        [
            raw[:at] + raw[end:],
            raw[:at] + snippet + raw[at:],
            raw[:at] + snippet + raw[end:],
            raw[:at] + wide + raw[end:],
            raw[:at] + piece + raw[at:],
            raw[:at] + piece * generator.choice((1, 2, 1000)) + raw[end:],
        ]
    )


_VALUES = (None, True, "", "F32", "F8_E4M3", "F4", "C64", "BOOL", "a\nb", "\ud800", "../x", "/etc/passwd", [], {}, [[]])


def _changed_json(generator: random.Random, value: object) -> object:
    """A JSON value with one change somewhere in it."""
    if isinstance(value, dict | list) and value and generator.random() < 0.85:
        copy = dict(value) if isinstance(value, dict) else list(value)
        key = generator.choice(list(copy) if isinstance(copy, dict) else range(len(copy)))
        action = generator.random()
        if action < 0.1:
            del copy[key]
        elif action < 0.2 and isinstance(copy, dict):
            copy[generator.choice(("x", "x" * 2000, "a\nb", "__metadata__", "weight_map"))] = copy[key]
        elif action < 0.3 and isinstance(copy, list):
            copy += copy * generator.choice((1, 2, 70))
        else:
            copy[key] = _changed_json(generator, copy[key])
        return copy
    return generator.choice([*_NUMBERS, *_VALUES])


def _index() -> tuple[dict[str, object], Files]:
    """An index and its two shards."""
    names = list(_SMALL)
    shards = {"one.safetensors": names[:2], "two.safetensors": names[2:]}
    files = {shard: safetensors.numpy.save({name: _SMALL[name] for name in held}) for shard, held in shards.items()}
    places = {name: shard for shard, held in shards.items() for name in held}
    return {"metadata": {"total_size": 110}, "weight_map": places}, files


def mutated(form: str, seed: int) -> Files:
    """A damaged file of a format, the same for the same seed everywhere."""
    generator = random.Random(f"{form} {seed}")
    times = generator.choice((1, 1, 1, 2, 3))
    if form == "zip":
        structure, storages = _zip_parts()
        if generator.random() < 0.25:
            raw = archive(structure, storages)
            for _ in range(times):
                raw = _changed_bytes(generator, raw)
            return {"w.pth": raw}
        if generator.random() < 0.1:
            storages[generator.choice(list(storages))] = generator.randbytes(generator.choice((0, 1, 1000)))
        compression = zipfile.ZIP_DEFLATED if generator.random() < 0.05 else zipfile.ZIP_STORED
        return {"w.pth": archive(_pickle_changed_often(generator, structure, times), storages, compression)}
    if form == "legacy":
        raw = (GOLDEN / "legacy_state.pth").read_bytes()
        parts = _pickles(raw)
        if generator.random() < 0.25:
            return {"w.pth": _changed_bytes(generator, raw)}
        place = generator.choice((1, 2, 3, 3, 3, 3, 4))
        parts[place] = _pickle_changed_often(generator, parts[place], times)
        return {"w.pth": b"".join(parts)}
    if form == "safetensors":
        raw = safetensors.numpy.save(_SMALL)
        length = int.from_bytes(raw[:8], "little") + 8
        if generator.random() < 0.25:
            return {"w.safetensors": _changed_bytes(generator, raw)}
        header: object = json.loads(raw[8:length])
        for _ in range(times):
            header = _changed_json(generator, header)
        return {"w.safetensors": safetensors_file(header, raw[length:])}
    index, files = _index()
    if generator.random() < 0.2:
        return {"m.safetensors.index.json": _changed_bytes(generator, json.dumps(index).encode()), **files}
    if generator.random() < 0.2:
        shard = generator.choice(list(files))
        files[shard] = _changed_bytes(generator, files[shard])
    changed: object = index
    for _ in range(times):
        changed = _changed_json(generator, changed)
    return {"m.safetensors.index.json": json.dumps(changed).encode(), **files}


def _pickle_changed_often(generator: random.Random, raw: bytes, times: int) -> bytes:
    for _ in range(times):
        try:
            raw = _changed_pickle(generator, raw)
        except ValueError:  # no longer a pickle
            raw = _changed_bytes(generator, raw, _SNIPPETS)
    return raw


def _pickles(raw: bytes) -> list[bytes]:
    """The five pickles of a legacy file, and what follows."""
    stream, parts = io.BytesIO(raw), []
    for _ in range(5):
        start = stream.tell()
        collections.deque(pickletools.genops(stream), maxlen=0)
        parts.append(raw[start : stream.tell()])
    return [*parts, raw[stream.tell() :]]


def written(files: Files, folder: Path) -> Path:
    """Write the files into a folder; the path of the first."""
    for name, raw in files.items():
        (folder / name).write_bytes(raw)
    return folder / next(iter(files))


def outcomes(form: str, seeds: range) -> Iterator[Outcome]:
    """What becomes of the damaged files of a format."""
    with Reader() as reader, tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            yield reader.read(written(mutated(form, seed), Path(folder)))


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description="Read damaged files of weights.")
    parser.add_argument("--inputs", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve", action="store_true", help="read the paths of the standard input")
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return
    for form in FORMATS:
        kinds: collections.Counter[str] = collections.Counter()
        failures: collections.Counter[str] = collections.Counter()
        peak = slowest = 0.0
        count = arguments.inputs // len(FORMATS)
        for outcome in outcomes(form, range(arguments.seed * 10**6, arguments.seed * 10**6 + count)):
            kinds[outcome.kind] += 1
            failures[outcome.message.rpartition("/")[2][:90]] += outcome.kind == "failed"
            peak, slowest = max(peak, outcome.mebibytes), max(slowest, outcome.seconds)
        numbers = ", ".join(f"{kinds[kind]} {kind}" for kind in ("read", "refused", "failed"))
        print(f"{form}: {numbers}; at most {slowest:.1f} s and {peak:.0f} MiB")
        for message, times in failures.most_common(12):
            if times:
                print(f"    {times} x {message}")


if __name__ == "__main__":
    main()
