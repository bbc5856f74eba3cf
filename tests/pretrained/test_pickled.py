"""PyTorch's files against what PyTorch wrote (make_resnet_golden.py), and against damage and malice."""

import io
import os
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from vision.errors import UserError
from vision.pretrained.pickled import read_pickled

GOLDEN = Path(__file__).parents[1] / "golden"


def archive(path, structure, **storages):
    """A file as torch.save writes it, of a pickle and of storages."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", structure)
        for key, raw in storages.items():
            file.writestr(f"archive/data/{key}", raw)
    return path


def tensor_pickle(
    *, key="k", count=4, offset=0, shape=(4,), strides=(1,), rebuild=b"ctorch._utils\n_rebuild_tensor_v2\n"
):
    """The pickle of one tensor in text opcodes: rebuild(storage, offset, shape, strides, False, {})."""
    of = lambda value: pickle.dumps(value, protocol=0)[:-1]
    storage = b"(" + of("storage") + b"ctorch\nFloatStorage\n" + of(key) + of("cpu") + of(count) + b"tQ"
    return rebuild + b"(" + storage + of(offset) + of(shape) + of(strides) + of(False) + of({}) + b"tR."


FOUR = np.arange(4, dtype="<f4").tobytes()


def test_what_pytorch_wrote():
    found = read_pickled(GOLDEN / "tensors.pth")
    assert found["epoch"] == 3
    assert found["shape"] == (4, 6)
    tensors = found["model"]["state_dict"]
    base = np.arange(24, dtype=np.float32).reshape(4, 6) / 4
    expected = {
        "plain": base,
        "transposed": base.T,
        "part": base[1:3, 2:5],
        "expanded": np.full((2, 3), 1.5, np.float32),
        "parameter": base[0],
        "half": base[0].astype(np.float16),
        "bfloat": base[0].astype(jnp.bfloat16),
        "double": base[0].astype(np.float64),
        "long": np.array(7, np.int64),
        "truth": np.array([True, False, True]),
        "empty": np.zeros((0, 3), np.float32),
    }
    assert list(tensors) == list(expected)
    for name, array in expected.items():
        assert tensors[name].dtype == array.dtype, name
        np.testing.assert_array_equal(tensors[name], array, strict=True)
        assert not tensors[name].flags.writeable
    assert np.shares_memory(tensors["plain"], tensors["transposed"])
    assert np.shares_memory(tensors["plain"], tensors["part"])
    assert not np.shares_memory(tensors["plain"], tensors["parameter"])


@pytest.mark.parametrize("command", [os.system, eval, exec, getattr, io.open, print], ids=lambda f: f.__name__)
def test_nothing_foreign_is_executed(tmp_path, command):
    """A pickle that calls a function of the machine raises a sentence that names it, and nothing has happened."""
    trace = tmp_path / "trace"

    class Malice:
        def __reduce__(self):
            return command, (f"touch {trace}",)

    raw = pickle.dumps({"w": Malice()}, protocol=2)
    # It would work: the pickle is complete and does call the function
    assert any(code.name == "REDUCE" for code, *_ in pickletools.genops(raw))
    name = f"{command.__module__}.{command.__name__}".replace("builtins", "__builtin__").replace("_io", "io")
    with pytest.raises(UserError, match=f"was not read: it uses {name}, which is not part of a state dict"):
        read_pickled(archive(tmp_path / "bad.pth", raw))
    assert not trace.exists()


def test_the_same_pickle_executes_where_nothing_is_refused(tmp_path):
    """What the test above refuses is no dud."""

    class Malice:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'trace'}",)

    pickle.loads(pickle.dumps(Malice(), protocol=2))
    assert (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    "raw",
    [
        b"ccollections\nOrderedDict.fromkeys\n(tR.",
        b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n.",
        b"\x80\x04\x8c\x0bcollections\x8c\x16OrderedDict.__init____\x93.",
        b"ctorch\nload\n(tR.",
    ],
)
def test_attributes_and_neighbours_of_known_names_are_foreign(tmp_path, raw):
    with pytest.raises(UserError, match=r"it uses|is damaged"):
        read_pickled(archive(tmp_path / "bad.pth", raw))


def test_a_tensor_by_hand(tmp_path):
    """The builder of the damaged files below makes a sound one, which shows that the damage is what is refused."""
    path = archive(tmp_path / "good.pth", tensor_pickle(offset=1, shape=(2, 2), strides=(2, 0)), k=FOUR)
    np.testing.assert_array_equal(read_pickled(path), [[1, 1], [3, 3]])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"offset": 1}, "reaches beyond its storage of 4 values"),
        ({"strides": (2,)}, "reaches beyond"),
        ({"shape": (3, 2), "strides": (2, 1)}, "reaches beyond"),
        ({"strides": (-1,), "offset": 3}, "negative size"),
        ({"offset": -1}, "negative size"),
        ({"shape": (2, 2)}, "2 sizes and 1 strides"),
        ({"shape": ("4",)}, "negative size"),
        ({"count": 2**40, "shape": (2**40,)}, "has 16 bytes, not 4398046511104"),
        ({"key": "other"}, "incomplete: it has no archive/data/other"),
        ({"count": -1}, "unknown kind of storage"),
        ({"rebuild": b"ctorch\nFloatStorage\n"}, "not callable"),
    ],
    ids=str,
)
def test_tensors_that_cannot_be(tmp_path, changes, problem):
    path = archive(tmp_path / "bad.pth", tensor_pickle(**changes), k=FOUR)
    with pytest.raises(UserError, match=problem):
        read_pickled(path)


def test_a_tensor_cannot_be_changed_after_it_was_checked(tmp_path):
    """BUILD would set attributes of an ordinary object: a shape that reaches into other memory."""
    raw = tensor_pickle()[:-1] + pickle.dumps({"shape": (1000,)}, protocol=0)[:-1] + b"b."
    np.testing.assert_array_equal(read_pickled(archive(tmp_path / "bad.pth", raw, k=FOUR)), range(4))


def test_files_cut_short_or_changed(tmp_path):
    """Whatever is cut off, the answer is a sentence."""
    raw = (GOLDEN / "tensors.pth").read_bytes()
    path = tmp_path / "cut.pth"
    for length in (0, 1, 10, 100, 1000, 2000, len(raw) - 30, len(raw) - 1):
        path.write_bytes(raw[:length])
        with pytest.raises(UserError, match=r"cut\.pth (is damaged|is no PyTorch)"):
            read_pickled(path)
    for at in range(0, len(raw), 97):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 0x55]) + raw[at + 1 :])
        try:
            read_pickled(path)
        except UserError as error:
            assert "cut.pth" in str(error)  # noqa: PT017 - some bytes are of no consequence


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ({"readme.txt": b"no weights"}, "a zip archive without PyTorch's data.pkl"),
        ({"a/data.pkl": pickle.dumps({}), "a/byteorder": b"big"}, "big-endian"),
        ({"a/data.pkl": b"\x80\x02}q"}, "is damaged"),
    ],
)
def test_other_archives(tmp_path, names, problem):
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as file:
        for name, raw in names.items():
            file.writestr(name, raw)
    with pytest.raises(UserError, match=problem):
        read_pickled(tmp_path / "other.pth")


def test_a_text_file(tmp_path):
    (tmp_path / "page.pth").write_text("<html>404 not found</html>")
    with pytest.raises(UserError, match=r"page\.pth is no PyTorch checkpoint"):
        read_pickled(tmp_path / "page.pth")


def test_containers_stay(tmp_path):
    value = OrderedDict(a=[1, 2.5, "x", None], b={"c": (True,)})
    assert read_pickled(archive(tmp_path / "plain.pth", pickle.dumps(value, protocol=2))) == {
        "a": [1, 2.5, "x", None],
        "b": {"c": (True,)},
    }
