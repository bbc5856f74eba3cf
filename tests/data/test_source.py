import threading

import numpy as np
import pytest

from vision.data.source import ArraySource, BlockSource, Source, in_memory
from vision.errors import UserError


class Files:
    """A source that is not in memory: sample i is filled with i mod 256; ``damaged`` ones raise."""

    def __init__(self, size, *, sides=None, damaged=()):
        self.class_names = ("even", "odd")
        self.sides = sides or [2] * size
        self.damaged = damaged
        self.readers = set()

    def __len__(self):
        return len(self.sides)

    def __getitem__(self, index):
        self.readers.add(threading.get_ident())
        if index in self.damaged:
            raise ValueError("no such marker")
        side = self.sides[index]
        return {"image": np.full((side, 2, 3), index % 256, np.uint8), "label": np.int32(index % 2)}


class Blocks(Files):
    """The same, in blocks."""

    def __init__(self, size, **kwargs):
        super().__init__(size, **kwargs)
        self.blocks = 0

    def __getitems__(self, indices):
        self.blocks += 1
        return [self[index] for index in indices]


def test_array_source_slices_its_arrays():
    arrays = {"image": np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3), "label": np.array([4, 5], np.int32)}
    source: Source = ArraySource(arrays, ("a", "b"))
    assert len(source) == 2
    assert source.class_names == ("a", "b")
    record = source[1]
    np.testing.assert_array_equal(record["image"], arrays["image"][1])
    assert record["label"].shape == ()
    assert record["label"].dtype == np.int32
    assert record["label"] == 5


def test_array_source_refuses_axes_that_differ():
    with pytest.raises(UserError, match=r"equal size, got image \[2, 3\], label \[3\]"):
        ArraySource({"image": np.zeros((2, 3)), "label": np.zeros(3)})
    with pytest.raises(UserError, match=r"equal size, got label \[\]"):
        ArraySource({"label": np.zeros(())})
    with pytest.raises(UserError, match="at least one array"):
        ArraySource({})


@pytest.mark.parametrize("kind", [Files, Blocks])
def test_in_memory_reads_every_sample(kind):
    files = kind(600)
    source = in_memory(files)
    np.testing.assert_array_equal(source.arrays["image"][:, 0, 0, 0], np.arange(600) % 256)
    np.testing.assert_array_equal(source.arrays["label"], np.arange(600) % 2)
    assert source.arrays["image"].dtype == np.uint8
    assert source.class_names == ("even", "odd")
    assert in_memory(source) is source
    assert isinstance(files, BlockSource) == (kind is Blocks)
    assert getattr(files, "blocks", 3) == 3


@pytest.mark.parametrize("kind", [Files, Blocks])
def test_in_memory_names_what_is_wrong(kind):
    with pytest.raises(UserError, match="Sample 400 of 500 cannot be read: ValueError: no such marker"):
        in_memory(kind(500, damaged={400}))
    with pytest.raises(UserError, match=r"Sample 3 has image uint8 \[5, 2, 3\].* sample 0 has image uint8 \[2, 2, 3\]"):
        in_memory(kind(4, sides=[2, 2, 2, 5]))
    with pytest.raises(UserError, match=r"The 100 samples need 0.0 MiB .* limit of 0.0 MiB"):
        in_memory(kind(100), limit_bytes=1599)
    assert len(in_memory(kind(100), limit_bytes=1600)) == 100
    with pytest.raises(UserError, match="empty"):
        in_memory(kind(0))
