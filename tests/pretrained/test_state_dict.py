import pickle
import struct
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from vision.errors import UserError
from vision.pretrained.state_dict import read_state_dict, some, write_state_dict

GOLDEN = Path(__file__).parents[1] / "golden"

ARRAYS = {
    "float": np.arange(6, dtype=np.float32).reshape(2, 3),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "half": np.array([1.5, 2.0], np.float16),
    "bfloat": np.array([1.5, 2.0], jnp.bfloat16),
    "ema": np.array(7, np.int64),
    "truth": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
}


def test_safetensors_there_and_back(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_state_dict(path, ARRAYS)
    found = read_state_dict(path)
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, strict=True)
    assert [file.name for file in tmp_path.iterdir()] == ["weights.safetensors"]


def test_the_content_decides_and_not_the_name(tmp_path):
    write_state_dict(tmp_path / "weights.bin", {"a": ARRAYS["float"]})
    np.testing.assert_array_equal(read_state_dict(tmp_path / "weights.bin")["a"], ARRAYS["float"])


def test_pytorch_files_are_unwrapped():
    """tensors.pth holds {"epoch": 3, "model": {"state_dict": ...}}."""
    assert "plain" in read_state_dict(GOLDEN / "tensors.pth")


def _pickled(path, value, tensor=b""):
    """A PyTorch file of plain values, with one tensor in the place of the string "TENSOR"."""
    raw = pickle.dumps(value, protocol=0)
    storage = b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI2\ntQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"I0\n(I2\nt(I1\ntI00\n(dtR"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", raw.replace(b"VTENSOR\np", tensor + b"p"))
        file.writestr("a/data/0", np.array([1, 2], "<f4").tobytes())
    return path


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model", "net", None])
def test_wrappers_and_data_parallel_prefixes(tmp_path, wrapper):
    inner = {"module.a": "TENSOR"}
    found = read_state_dict(_pickled(tmp_path / "w.pth", {"epoch": 1, wrapper: inner} if wrapper else inner))
    assert list(found) == ["a"]
    np.testing.assert_array_equal(found["a"], [1, 2])


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([1, 2], "holds no state dict"),
        ({}, "holds no state dict"),
        ({"state_dict": {}}, "holds no state dict"),
        ({"w": "TENSOR", "epoch": 3, "best": 1.0}, "holds no state dict: epoch, best of 3 entries are not tensors"),
    ],
)
def test_other_contents(tmp_path, value, problem):
    with pytest.raises(UserError, match=problem):
        read_state_dict(_pickled(tmp_path / "w.pth", value))


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(UserError, match=r"there is no file .*none\.pth"):
        read_state_dict(tmp_path / "none.pth")
    path = tmp_path / "cut.safetensors"
    raw = safetensors.numpy.save({"a": np.arange(100.0)})
    header = struct.unpack("<Q", raw[:8])[0] + 8
    for length in (9, header - 1, header, len(raw) - 1):
        path.write_bytes(raw[:length])
        with pytest.raises(UserError, match=r"cut\.safetensors is damaged or was not fully downloaded"):
            read_state_dict(path)
    path.write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(UserError, match="is no PyTorch checkpoint"):
        read_state_dict(path)


def test_few_names_are_listed():
    assert some(["a"]) == "a"
    assert some(["a", "b", "c"]) == "a, b, c"
    assert some(list("abcdefg")) == "a, b, c and 4 more"
