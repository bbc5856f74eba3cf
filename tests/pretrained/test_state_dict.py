import json
import pickle
import struct
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from fuzz_weights import safetensors_file

from vision.errors import UserError
from vision.pretrained.state_dict import read_state_dict, read_weights, some, write_state_dict

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
def test_wrappers(tmp_path, wrapper):
    inner = {"a": "TENSOR"}
    found = read_weights(_pickled(tmp_path / "w.pth", {"epoch": 1, wrapper: inner} if wrapper else inner))
    assert found.averaged is None
    assert list(found.tensors) == ["a"]
    np.testing.assert_array_equal(found.tensors["a"], [1, 2])


@pytest.mark.parametrize(
    ("value", "averaged"),
    [
        ({"state_dict": {"raw": "TENSOR"}, "state_dict_ema": {"a": "TENSOR"}}, "state_dict_ema"),
        ({"model_ema": {"n_averaged": "TENSOR", "module.a": "TENSOR"}, "model": {"raw": "TENSOR"}}, "model_ema"),
        ({"model": {"raw": "TENSOR"}, "ema": {"decay": 0.99, "model": {"a": "TENSOR"}}}, "ema"),
        ({"state_dict": {"ema_state_dict": {"a": "TENSOR"}, "net": {"raw": "TENSOR"}}}, "ema_state_dict"),
        ({"module_ema": {"a": "TENSOR"}}, "module_ema"),
        ({"model": {"a": "TENSOR"}, "ema": {"decay": 0.99}}, None),
        ({"model": {"a": "TENSOR"}, "ema": {}}, None),
        ({"a": "TENSOR", "ema": "TENSOR"}, None),
    ],
)
def test_averaged_weights_are_preferred_where_there_are_some(tmp_path, value, averaged):
    found = read_weights(_pickled(tmp_path / "w.pth", value))
    assert found.averaged == averaged
    assert {name.removeprefix("module.") for name in found.tensors} - {"ema"} == {"a"}


def test_other_types_of_safetensors(tmp_path):
    """Those of numbers that numpy has not, bit by bit."""
    raw = {"BF16": b"\xc0\x3f\x00\xc0", "F8_E4M3": b"\x3c\xc0", "F8_E5M2": b"\x3e\xc0"}
    header, data = {}, b""
    for name, bits in raw.items():
        header[name] = {"dtype": name, "shape": [2, 1], "data_offsets": [len(data), len(data) + len(bits)]}
        data += bits
    (tmp_path / "w.safetensors").write_bytes(safetensors_file(header, data))
    found = read_state_dict(tmp_path / "w.safetensors")
    assert found.keys() == raw.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array.astype(np.float32), [[1.5], [-2.0]], err_msg=name)
    header = {"w": {"dtype": "F8_E8M0", "shape": [1], "data_offsets": [0, 1]}}
    (tmp_path / "w.safetensors").write_bytes(safetensors_file(header, b"\0"))
    with pytest.raises(UserError, match=r"w\.safetensors was not read: w is of type F8_E8M0, and only these are known"):
        read_state_dict(tmp_path / "w.safetensors")


def _sharded(folder, places, **changed):
    """Two files and their index."""
    write_state_dict(folder / "1.safetensors", {"float": ARRAYS["float"], "half": ARRAYS["half"]})
    write_state_dict(folder / "2.safetensors", {"ema": ARRAYS["ema"]})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places, **changed}, indent=2))
    return index


PLACES = {"float": "1.safetensors", "ema": "2.safetensors", "half": "1.safetensors"}


def test_an_index_of_several_files(tmp_path):
    found = read_state_dict(_sharded(tmp_path, PLACES))
    assert found.keys() == PLACES.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, ARRAYS[name], strict=True)


@pytest.mark.parametrize(
    ("places", "problem"),
    [
        ({**PLACES, "ema": "3.safetensors"}, r"needs files that are not in its folder: 3\.safetensors; fetch them"),
        (
            {**PLACES, "ema": "../2.safetensors"},
            r"names the file '\.\./2\.safetensors', and only files of its own folder",
        ),
        ({**PLACES, "ema": "/tmp/2.safetensors"}, "only files of its own folder are read"),
        ({**PLACES, "ema": ".."}, "only files of its own folder are read"),
        ({**PLACES, "ema": "x" * 300}, "only files of its own folder are read"),
        ({**PLACES, "ema": "1.safetensors"}, r"does not fit 1\.safetensors: ema are in one of them only"),
        ({**PLACES, "more": "2.safetensors"}, r"does not fit 2\.safetensors: more are in one of them only"),
        ({"float": "1.safetensors"}, r"does not fit 1\.safetensors: half are in one"),
        ({**PLACES, "ema": "model.safetensors.index.json"}, "is no PyTorch checkpoint"),
        ({**PLACES, "ema": 3}, 'it has no "weight_map" from arrays to files'),
        ({}, 'it has no "weight_map" from arrays to files'),
    ],
)
def test_an_index_that_does_not_fit(tmp_path, places, problem):
    with pytest.raises(UserError, match=problem):
        read_state_dict(_sharded(tmp_path, places))


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
