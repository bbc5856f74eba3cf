"""Whatever the bytes: a correct state dict, or one sentence, with little memory and in little time.

Each file is read by a process with limits of both (fuzz_weights.py), so that a bomb that goes off fails one test.
"""

import pickle
import re
import struct
import zipfile

import numpy as np
import pytest
from fuzz_weights import FORMATS, MEMORY, Reader, archive, mutated, outcomes, safetensors_file, written

from vision.pretrained.state_dict import read_state_dict

COUNT = 150
"""Damaged files of each format; fuzz_weights.py reads thousands."""


@pytest.fixture(scope="module")
def reader():
    with Reader() as process:
        yield process


@pytest.fixture
def read(reader, tmp_path):
    """What becomes of a file of these bytes, or of these files of which the first is read."""

    def outcome(raw):
        files = raw if isinstance(raw, dict) else {"w.pth": raw}
        return reader.read(written(files, tmp_path))

    return outcome


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_files(form):
    found = list(outcomes(form, range(COUNT)))
    assert [each for each in found if each.kind == "failed"] == []
    assert {each.kind for each in found} == {"read", "refused"}
    assert max(each.seconds for each in found) < 2
    assert max(each.mebibytes for each in found) < 100


def test_a_seed_gives_the_same_bytes_everywhere():
    assert mutated("zip", 3) == mutated("zip", 3) != mutated("zip", 4)


def test_the_limits_hold(reader, tmp_path):
    """The process that reads does end where a reader takes too much: an honest file of 3 GiB that is mostly a hole."""
    header = {"w": {"dtype": "F32", "shape": [3, 2**28], "data_offsets": [0, 3 * 2**30]}}
    path = tmp_path / "w.safetensors"
    with path.open("wb") as file:
        file.write(safetensors_file(header))
        file.truncate(file.tell() + 3 * 2**30)
    assert path.stat().st_size > MEMORY
    found = reader.read(path)
    assert found.kind == "failed"
    assert "does not fit into memory: use a machine with more" in found.message


# ---- pickles


def framed(structure, *, storages=False):
    """A sequence of pickles in the format before PyTorch 1.6 around the one of the structure, with the storage FOUR."""
    parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, ["k"] if storages else []]
    magic, version, machine, keys = (pickle.dumps(part, protocol=2) for part in parts)
    return magic + version + machine + structure + keys + (struct.pack("<Q", 4) + FOUR["k"] if storages else b"")


def unicode(text):
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def tensor(*, key="k", count=4, offset=0, shape=(4,), strides=(1,), kind="FloatStorage", name="_rebuild_tensor_v2"):
    """The opcodes of one tensor; numbers may be of any size."""
    of = lambda value: pickle.dumps(value, protocol=2)[2:-1]
    storage = (
        b"(" + unicode("storage") + f"ctorch\n{kind}\n".encode() + unicode(key) + unicode("cpu") + of(count) + b"tQ"
    )
    arguments = b"(" + storage + of(offset) + of(shape) + of(strides)
    more = b"\x89}t" if name.endswith("v2") else b"t"
    return f"ctorch._utils\n{name}\n".encode() + arguments + more + b"R"


def table(*entries):
    """The pickle of a table of opcodes by name."""
    return b"\x80\x02}(" + b"".join(unicode(name) + opcodes for name, opcodes in entries) + b"u."


SOUND = ("w", tensor())
FOUR = {"k": np.arange(4, dtype="<f4").tobytes()}
NESTED = b"]q\x01" + b"0h\x01h\x01\x86q\x01" * 60  # a pair of twice the pair before
TUPLES = NESTED.replace(b"]", b")")  # whose hash takes 2**60 steps
PAIRS = b"(" + b"".join(unicode(str(i)) + b"K\x01\x86" for i in range(20_000)) + b"lq\x01"
TUPLE = b"(" + b"N" * 20_000 + b"tq\x01"
CALLS = b"q\x02" + b"0h\x02h\x01\x85R" * 500 + b"."
LISTS = b"]" * 100_000 + b"a" * 99_999
TABLES = (b"}" + unicode("model")) * 100_000 + b"}" + b"s" * 100_000

_CALLED = tensor(shape=(1,) * 64, strides=(1,) * 64, name="_rebuild_tensor").partition(b"_rebuild_tensor\n")
MANY = b"\x80\x02" + _CALLED[0] + _CALLED[1] + b"q\x01" + _CALLED[2][:-1] + b"q\x02"
MANY += b"h\x01h\x02R0" * 120_000 + b"."

PICKLES = {
    "memo index of 2**30": (b"\x80\x02}r\xff\xff\xff\x3f.", "holds no state dict"),
    "memo index in text": (b"\x80\x02}p4000000000\n.", "holds no state dict"),
    "memo index of 2**30 and a sound table": (table(SOUND)[:-1] + b"r\xff\xff\xff\x3f.", None),
    "a value from nowhere": (b"\x80\x02j\xff\xff\xff\x3f.", "is damaged .*KeyError"),
    "bytes of 2**40": (b"\x80\x02\x8e" + struct.pack("<Q", 2**40) + b".", "is damaged"),
    "byte array of 2**40": (b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".", "is damaged"),
    "byte array of 2**31": (b"\x80\x05\x96" + struct.pack("<Q", 2**31) + b".", "is damaged"),
    "string of 2**63": (b"\x80\x04\x8d" + struct.pack("<Q", 2**63) + b".", "is damaged"),
    "string of 2**31": (b"\x80\x02X\xff\xff\xff\x7f.", "is damaged"),
    "frame of 2**50": (b"\x80\x04\x95" + struct.pack("<Q", 2**50) + table(SOUND)[2:], None),
    "integer of 2**31 bytes": (b"\x80\x02\x8b\xff\xff\xff\x7f.", "is damaged"),
    "integer of many bits": (
        b"\x80\x02\x8b" + struct.pack("<I", 10**6) + b"\x7f" * 10**6 + b".",
        "8000000 bits|7999999",
    ),
    "integer of many digits": (b"\x80\x02L" + b"9" * 10**6 + b"L\n.", "is damaged"),
    "pairs of pairs": (table(("x", NESTED), SOUND), "x of 2 entries are not tensors"),
    "pairs of pairs as a key": (b"\x80\x02}(" + TUPLES + b"K\x01u.", "a key of type tuple"),
    "pairs of pairs as a set": (b"\x80\x04(" + TUPLES + b"\x91.", "the opcode FROZENSET"),
    "pairs of pairs as a storage": (b"\x80\x02" + NESTED + b"Q.", "an unknown kind of storage"),
    "pairs of pairs as a size": (table(("w", tensor().replace(b"K\x04\x85", NESTED))), "is damaged"),
    "keys whose hashes collide": (
        b"\x80\x02}("
        + b"".join(pickle.dumps(i * (2**61 - 1), protocol=2)[2:-1] + b"N" for i in range(2**20, 2**20 + 50_000))
        + b"u.",
        "a key of type int",
    ),
    "a list in itself": (b"\x80\x02]q\x00h\x00a.", "holds no state dict"),
    "a table in itself": (b"\x80\x02}q\x00" + unicode("model") + b"h\x00s.", "holds no state dict"),
    "a table in itself with a tensor": (
        b"\x80\x02}q\x00(" + unicode("w") + tensor() + unicode("ema") + b"h\x00u.",
        "ema of 2 entries are not tensors",
    ),
    "lists in lists": (b"\x80\x02" + LISTS + b".", "holds no state dict"),
    "tables in tables": (b"\x80\x02" + TABLES + b".", "holds no state dict"),
    "copies of a table": (
        b"\x80\x02" + PAIRS + b"ccollections\nOrderedDict\nq\x02" + b"0h\x02h\x01\x85R" * 500 + b".",
        "opcodes",
    ),
    "copies of a size": (b"\x80\x02" + TUPLE + b"ctorch\nSize\n" + CALLS, "opcodes"),
    "calls of many arguments": (
        b"\x80\x02" + TUPLE + b"ctorch._utils\n_rebuild_parameter\nh\x01R.",
        "not callable like",
    ),
    "more opcodes than are read": (b"\x80\x02(" + b"N" * 2_000_001 + b"l.", "more than 2,000,000 opcodes"),
    "marks": (b"\x80\x02" + b"(" * 300_000 + b".", "is damaged"),
    "names that are numbers": (
        b"\x80\x02}(K\x01" + tensor() + b"K\x02" + tensor() + b"u.",
        "named by a value of type int",
    ),
    "a name of two lines": (table(("a\nerror: b", tensor())), r"that cannot be printed: a\\nerror: b"),
    "a long name": (table(("a" * 10**6, tensor())), "has 1000000 characters"),
    "attributes of a function": (b"\x80\x02ctorch._utils\n_rebuild_parameter\n}b.", "attributes of a "),
    "values of one value": (
        table(("w", tensor(count=1, shape=(10**6, 10**6), strides=(0, 0)))),
        "repeat the values of their storages to more than 16,777,216 values",
    ),
    "values of one value, often": (
        table(*((f"w{i}", tensor(count=1, shape=(2**20,), strides=(0,))) for i in range(18))),
        "repeat the values",
    ),
    "a storage of 2**62 values": (
        table(("w", tensor(count=2**62, shape=(2**62,)))),
        "has 16 bytes,|has 4 values,",
    ),
    "a storage of 2**70 values": (table(("w", tensor(count=2**70))), "has 16 bytes,|has 4 values,"),
    "an offset of 2**70": (table(("w", tensor(offset=2**70))), "one that is not a number"),
    "an offset of 10**4000": (table(("w", tensor(offset=10**4000))), "is damaged"),
    "an offset beyond nothing": (table(("w", tensor(offset=2**62, shape=(0,)))), None),
    "a stride of 2**63 - 1": (table(("w", tensor(shape=(1,), strides=(2**63 - 1,)))), None),
    "sizes whose product is 2**126": (
        table(("w", tensor(shape=(2**63 - 1, 2**63 - 1), strides=(0, 0)))),
        "repeat the values",
    ),
    "nothing of size 2**62": (table(("w", tensor(shape=(0, 2**62, 2**62), strides=(1, 1, 1)))), "is damaged"),
    "71 dimensions": (table(("w", tensor(shape=(1,) * 71, strides=(1,) * 71))), "71 sizes and 71 strides"),
    "very many tensors of 64 dimensions": (MANY, "opcodes"),
    "no tensor, but a number": (table(("w", b"K\x01")), "holds no state dict"),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", PICKLES)
def test_pickles(read, name, legacy):
    structure, problem = PICKLES[name]
    raw = framed(structure, storages=b"storage" in structure) if legacy else archive(structure, FOUR)
    assert_harmless(read(raw), problem)


def assert_harmless(found, problem):
    """Read where there is no problem, otherwise refused with it."""
    __tracebackhide__ = True
    assert found.kind == ("read" if problem is None else "refused"), found
    assert problem is None or re.search(problem, found.message), found.message
    assert found.seconds < 5
    assert found.mebibytes < 700


def read_here(tmp_path, raw):
    """The state dict of these bytes."""
    return read_state_dict(written({"w.pth": raw}, tmp_path))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_names_of_older_and_newer_files(tmp_path, legacy):
    """The function of files before PyTorch 0.4; parameters with attributes; the table that Python 2 wrote."""
    old = tensor(offset=1, shape=(2,), name="_rebuild_tensor")
    parameter = b"ctorch._utils\n_rebuild_parameter_with_state\n(" + tensor() + b"\x88}}" + unicode("a") + b"K\x01stR"
    pairs = b"](](" + unicode("old") + old + b"e](" + unicode("parameter") + parameter + b"ee"
    structure = b"\x80\x02ccollections\nOrderedDict\n" + pairs + b"\x85R}" + unicode("_metadata") + b"Nsb."
    found = read_here(tmp_path, framed(structure, storages=True) if legacy else archive(structure, FOUR))
    assert list(found) == ["old", "parameter"]
    np.testing.assert_array_equal(found["old"], np.float32([1, 2]), strict=True)
    np.testing.assert_array_equal(found["parameter"], np.float32([0, 1, 2, 3]), strict=True)


def test_a_storage_without_a_tensor_is_passed_over(tmp_path):
    storage = b"(" + unicode("storage") + b"ctorch\nFloatStorage\n" + unicode("k") + unicode("cpu") + b"K\x04tQ"
    structure = b"\x80\x02}(" + unicode("raw") + storage + unicode("model") + table(SOUND)[2:-1] + b"u."
    for raw in (archive(structure, FOUR), framed(structure, storages=True)):
        np.testing.assert_array_equal(read_here(tmp_path, raw)["w"], np.float32([0, 1, 2, 3]), strict=True)


def test_as_much_as_is_stated_is_expanded(tmp_path):
    found = read_here(tmp_path, archive(table(("w", tensor(count=4, shape=(2**24, 1), strides=(0, 0)))), FOUR))
    assert found["w"].shape == (2**24, 1)
    assert found["w"].base is not None


# ---- zip archives

SIXTEEN = "archive/data/k"


def test_compressed_entries(read, tmp_path):
    """16 MiB of zeros in a file of 17 KB; PyTorch compresses nothing."""
    bomb = archive(table(("w", tensor(count=2**22, shape=(2**22,)))), {"k": bytes(2**24)}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 20_000
    assert_harmless(read(bomb), "data.pkl is compressed, unlike what torch.save writes")
    for compression in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(tmp_path / "z.pth", "w") as file:
            file.writestr("archive/data.pkl", table(SOUND))
            file.writestr(SIXTEEN, bytes(2**24), compression)
        assert_harmless(read((tmp_path / "z.pth").read_bytes()), "archive/data/k is compressed")


@pytest.mark.parametrize("size", [2**20, 2**31 - 1, 2**32 - 2])
def test_entries_that_declare_more_than_they_have(read, size):
    """The size in the directory, of an entry whose storage has it too."""
    raw = archive(table(("w", tensor(count=size // 4, shape=(size // 4,)))), FOUR)
    at = raw.rindex(b"PK\x01\x02")
    declared = struct.pack("<II", size, size)
    changed = raw[: at + 20] + declared + raw[at + 28 :]
    assert_harmless(read(changed), r"has \d+ bytes, not")
    # more than the storage has is no harm: what it declares is read
    harmless = archive(table(SOUND), {"k": FOUR["k"] + bytes(100)})
    assert_harmless(read(harmless), None)


def test_storages_that_share_an_entry(read):
    """A thousand sizes of one storage of 1 MB: 1 GB, of a file of a little more than 1 MB."""
    structure = table(*((f"w{count}", tensor(count=count)) for count in range(2**18, 2**18 - 1000, -1)))
    assert_harmless(read(archive(structure, {"k": bytes(2**20)})), "is damaged: archive/data/k has 1048576 bytes, not")
    assert_harmless(read(archive(table(("w", tensor(count=2**18))), {"k": bytes(2**20)})), None)


def test_a_directory_of_many_entries(read):
    """500,000 entries of no bytes; each would take about a kilobyte of memory."""
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *[0] * 9, 1, *[0] * 6) + b"x"
    directory = entry * 500_000
    ending = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, len(directory), 0, 0)
    assert_harmless(read(directory + ending), "a directory of more than 16,777,216 bytes")


# ---- safetensors

F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
HEADERS = {
    "sound": ({"w": F32}, None),
    "of no array": ({}, None),
    "71 dimensions": ({"w": {**F32, "shape": [1] * 71}}, "w has 71 dimensions, where at most 64 are possible"),
    "nothing of size 2**62": (
        {"w": {**F32, "shape": [0, 2**62], "data_offsets": [0, 0]}, "v": F32},
        "a size that is too l",
    ),
    "sizes whose product is 2**66": ({"w": {**F32, "shape": [2**33, 2**33]}}, "is damaged"),
    "a negative size": ({"w": {**F32, "shape": [-1]}}, "is damaged"),
    "a type that is none": ({"w": {**F32, "dtype": "F31"}}, "is damaged"),
    "a type of half a byte": ({"w": {**F32, "dtype": "F4", "shape": [8]}}, "w is of type F4, and only these are known"),
    "the same bytes twice": ({"w": F32, "v": F32}, "is damaged"),
    "overlapping bytes": ({"w": {**F32, "dtype": "U8", "shape": [3], "data_offsets": [0, 3]}, "v": F32}, "is damaged"),
    "bytes before the file": ({"w": {**F32, "data_offsets": [-4, 0]}}, "is damaged"),
    "bytes backwards": ({"w": {**F32, "data_offsets": [4, 0]}}, "is damaged"),
    "bytes beyond the file": ({"w": {**F32, "data_offsets": [0, 2**40], "shape": [2**38]}}, "is damaged"),
    "no offsets": ({"w": {"dtype": "F32", "shape": [1]}}, "is damaged"),
    "text": (b'{"w": F32}', "is damaged"),
    "a list": (b"{[1, 2]}", "is damaged"),
    "deep": (b'{"w":' * 100_000, "is damaged"),
    "half a character": (b'{"\xff": {}}', "is damaged"),
    "a name of two lines": ({"a\nerror: b": F32}, r"that cannot be printed: a\\nerror: b"),
    "a long name": ({"a" * 10**6: F32}, "has 1000000 characters"),
    "metadata": ({"__metadata__": {"format": "pt"}, "w": F32}, None),
    "metadata that is none": ({"__metadata__": [1], "w": F32}, "is damaged"),
    "many arrays": ({f"w{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(50_000)}, None),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers(read, name):
    header, problem = HEADERS[name]
    data = b"" if name in ("of no array", "many arrays") else bytes(4)
    assert_harmless(read(safetensors_file(header, data)), problem)


@pytest.mark.parametrize("length", [2**24 + 1, 2**30, 2**62, 2**63, 2**64 - 1])
def test_headers_that_declare_more_than_is_read(read, length):
    assert_harmless(
        read(length.to_bytes(8, "little") + b"{}"), "its header has .* bytes, where at most 16,777,216 are read"
    )


# ---- indices


@pytest.mark.parametrize(
    ("index", "problem"),
    [
        (b"{", "is no index of weights"),
        (b'{"weight_map": {"w": ' + b"[" * 100_000, "is no index of weights"),
        (b'{"weight_map": ' * 100_000, "is no index of weights"),
        (b'{"weight_map": ' + b"9" * 10_000 + b"}", "is no index of weights"),
        (b'{"weight_map": {"w": "\\ud800.safetensors"}}', "names the file .*ud800.safetensors"),
        (b'{"weight_map": {"w": "a\\u0000b"}}', "only files of its own folder"),
        (b'{"weight_map": {"w": "shard/../shard"}}', "only files of its own folder"),
        (b'{"weight_map": {"w": "C:/shard"}}', "only files of its own folder"),
        (b'{"weight_map": {"\\ud800": "shard"}}', r"does not fit shard: \\ud800, w are in one of them only"),
        (b'{"weight_map": {"w": "shard", "v": "shard"}}', "does not fit shard: v are in one of them only"),
        (b'{"weight_map": {"w": "index"}}', "index is no PyTorch checkpoint"),
        (b'{"weight_map": {"w": "none"}}', "needs files that are not in its folder: none;"),
        (b'{"weight_map": {"w": "shard"}}' + b" " * 2**24, "it has more than 16,777,216 bytes"),
        (b'\n {"weight_map": {"w": "shard"}}', None),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_indices(read, index, problem):
    assert_harmless(read({"index": index, "shard": safetensors_file({"w": F32}, bytes(4))}), problem)
