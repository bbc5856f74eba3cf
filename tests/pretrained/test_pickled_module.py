"""Whole models as PyTorch pickles them, of today and of before 0.4, read without their classes; what is refused."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from vision.errors import UserError
from vision.pretrained.state_dict import read_state_dict

W = np.arange(6, dtype="<f4").reshape(2, 3)


class Kind(type):
    """Classes that pickle writes under names that are not theirs."""


named = lambda module, name: Kind(name, (), {"__module__": module})
NET, CONV = named("publisher.net", "Net"), named("torch.nn.modules.conv", "Conv2d")
OTHER = named("argparse_like", "Namespace")


class Tensor:
    """Pickled as _rebuild_tensor_v2 of a storage, and by old PyTorch inside of a Parameter."""

    def __init__(self, key, shape):
        self.key, self.shape = key, shape


class Pickler(pickle._Pickler):
    """Writes names that do not exist here."""

    def save_global(self, obj, name=None):
        self.write(f"c{obj.__module__}\n{obj.__name__}\n".encode())
        self.memoize(obj)

    dispatch = {**pickle._Pickler.dispatch, Kind: save_global}  # noqa: RUF012 - pickle's own

    def save(self, value, save_persistent_id=True):
        if not isinstance(value, Tensor):
            return super().save(value, save_persistent_id)
        strides = tuple(int(np.prod(value.shape[i + 1 :])) for i in range(len(value.shape)))
        parameter = value.key.startswith("old")
        if parameter:
            self.write(b"ctorch.nn.parameter\nParameter\n")
        self.write(b"ctorch._utils\n_rebuild_tensor\n")
        self.write(b"((")
        super().save("storage")
        self.write(b"ctorch\nFloatStorage\n")
        for each in (value.key, "cpu", int(np.prod(value.shape))):
            super().save(each)
        self.write(b"tQ")
        for each in (0, value.shape, strides):
            super().save(each)
        self.write(b"tR")
        if parameter:
            self.write(b"\x85R")
            super().save((True, False, {}))
            self.write(b"b")
        return None


def module(kind, parameters=None, buffers=None, children=None, **others):
    made = kind()
    made.__dict__.update(
        others,
        training=True,
        _parameters=parameters or {},
        _buffers=buffers or {},
        _modules=children or {},
        _forward_hooks={},
    )
    return made


def write(path, value):
    stream = io.BytesIO()
    Pickler(stream, 2).dump(value)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", stream.getvalue())
        for key in ("w", "old", "b"):
            file.writestr(f"a/data/{key}", W.tobytes())
    return path


@pytest.mark.parametrize("key", ["w", "old"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_module_is_its_state_dict(tmp_path, key, wrapped):
    conv = module(CONV, {"weight": Tensor(key, (2, 3)), "bias": None}, kernel_size=(3, 3))
    norm = module(CONV, buffers={"running_mean": Tensor("b", (3,))})
    whole = module(NET, children={"body": module(NET, children={"0": conv}), "norm": norm})
    found = read_state_dict(write(tmp_path / "m.pth", {"epoch": 5, "model": whole} if wrapped else whole))
    assert list(found) == ["body.0.weight", "norm.running_mean"]
    np.testing.assert_array_equal(found["body.0.weight"], W)
    np.testing.assert_array_equal(found["norm.running_mean"], [0, 1, 2])


def test_objects_that_are_no_modules_are_refused(tmp_path):
    other = OTHER()
    other.lr = 0.1
    conv = module(CONV, {"weight": Tensor("w", (2, 3))})
    for value in ({"model": conv, "options": other}, {"model": conv, "options": OTHER}):
        with pytest.raises(UserError, match=r"it uses argparse_like\.Namespace, which is not part of a state dict"):
            read_state_dict(write(tmp_path / "m.pth", value))
    wrong = module(NET, children={"0": 3})
    with pytest.raises(UserError, match="a int among modules"):
        read_state_dict(write(tmp_path / "m.pth", wrong))


def test_a_tree_that_doubles_is_refused(tmp_path):
    """Forty modules, each with the one before it twice, have 2^40 tensors."""
    made = module(CONV, {"w": Tensor("w", (2, 3))})
    for _ in range(40):
        made = module(NET, children={"a": made, "b": made})
    with pytest.raises(UserError, match="a pickle of more than 2,000,000 opcodes"):
        read_state_dict(write(tmp_path / "m.pth", made))


def test_a_class_that_is_called_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.pth", "w") as file:
        file.writestr("a/data.pkl", b"cposix\nsystem\n(U\x04trueoR.".replace(b"(U\x04trueo", b"U\x04true\x85"))
    with pytest.raises(UserError, match=r"it uses posix\.system, which is not part of a state dict"):
        read_state_dict(tmp_path / "m.pth")
    with zipfile.ZipFile(tmp_path / "m.pth", "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02cposix\nsystem\nU\x04true\x85\x81.")
    with pytest.raises(UserError, match="a new object of a UnknownClass"):
        read_state_dict(tmp_path / "m.pth")
