"""PyTorch's files from before 1.6: those of make_inception_golden.py and make_resnet_golden.py, and broken ones."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from vision.errors import UserError
from vision.pretrained.pickled import read_pickled
from vision.pretrained.state_dict import read_state_dict

GOLDEN = Path(__file__).parents[1] / "golden"
BASE = np.arange(24, dtype=np.float32).reshape(4, 6) / 4
MAGIC, VERSION, MACHINE = 0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}


def _file(path, *parts):
    """A row of pickles, in the protocol of PyTorch."""
    path.write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in parts))
    return path


def test_what_pytorch_has_written():
    path = GOLDEN / "legacy_state.pth"
    found = read_pickled(path)
    expected = {
        "plain": BASE,
        "transposed": BASE.T,
        "part": BASE[1:3, 2:5],
        "half": BASE[0].astype(np.float16),
        "counter": np.array(7, np.int64),
    }
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    assert np.shares_memory(found["plain"], found["part"])
    np.testing.assert_array_equal(read_pickled(GOLDEN / "legacy.pth")["w"], BASE[0, :2])


def test_every_truncation_is_noticed(tmp_path):
    whole = (GOLDEN / "legacy_state.pth").read_bytes()
    path = tmp_path / "part.pth"
    for length in {*range(20, len(whole), 41), len(whole) - 1}:
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"part\.pth is damaged or was not fully downloaded"):
            read_pickled(path)


class _Call:
    """A pickle that wants a function called."""

    def __reduce__(self):
        return (Path.touch, (Path("called"),))


def test_nothing_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in range(1, 5):  # without its magic number a file is not taken for one
        parts = [MAGIC, VERSION, MACHINE, {}, []]
        parts[place] = _Call()
        with pytest.raises(UserError, match="which is not part of a state dict"):
            read_pickled(_file(tmp_path / "evil.pth", *parts))
    assert not (tmp_path / "called").exists()


def test_what_is_no_state_dict(tmp_path):
    path = tmp_path / "other.pth"
    with pytest.raises(UserError, match=r"other\.pth is of version 1002"):
        read_pickled(_file(path, MAGIC, 1002, MACHINE, {}, []))
    with pytest.raises(UserError, match="big-endian"):
        read_pickled(_file(path, MAGIC, VERSION, {"little_endian": False}, {}, []))
    with pytest.raises(UserError, match="holds no state dict"):
        read_state_dict(_file(path, MAGIC, VERSION, MACHINE, {"epoch": 3}, []))
    assert read_pickled(_file(path, MAGIC, VERSION, MACHINE, {}, [])) == {}
