import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.data.on_demand import OnDemandSource
from vision.data.pipeline import batches, evaluation_batches
from vision.data.shapes.world import ShapesConfig, ShapesSource
from vision.data.source import ArraySource, in_memory

SIZE = 7


def source(log=None):
    def make(indices):
        if log is not None:
            log.append(indices.tolist())
        return {
            "image": np.stack([np.full((2, 2, 1), i, np.uint8) for i in indices]),
            "label": indices.astype(np.int32),
        }

    return OnDemandSource(make, size=SIZE, fields=("image", "label"), class_names=("a",))


@given(st.lists(st.lists(st.integers(0, SIZE - 1), max_size=9), max_size=4))
def test_rows_are_those_asked_for_and_each_sample_is_made_once(requests):
    log = []
    lazy = source(log)
    for indices in requests:
        rows = lazy.rows(np.array(indices, np.int64)) if indices else {}
        assert rows.get("label", np.zeros(0)).tolist() == indices
    made = [index for part in log for index in part]
    assert sorted(made) == sorted({index for part in requests for index in part})
    np.testing.assert_array_equal(lazy.arrays["label"], np.arange(SIZE))
    assert sorted(index for part in log for index in part) == list(range(SIZE))


def test_neither_length_nor_fields_nor_names_make_anything():
    log = []
    lazy = source(log)
    part = lazy.only(("label",))
    assert (len(lazy), lazy.fields, lazy.class_names, len(part), part.fields) == (
        7,
        ("image", "label"),
        ("a",),
        7,
        ("label",),
    )
    assert in_memory(lazy) is lazy
    assert log == []
    assert part.first(2)["label"].tolist() == [0, 1]
    assert lazy[1]["image"].shape == (2, 2, 1)
    assert log == [[0, 1]]  # what a part made the whole has


def test_an_index_beyond_the_end_is_an_error():
    with pytest.raises(IndexError):
        source()[SIZE]


def test_several_threads_get_the_same():
    lazy = source()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda k: lazy.rows(np.arange(k % SIZE + 1))["label"].tolist(), range(64)))
    assert found == [list(range(k % SIZE + 1)) for k in range(64)]


def test_a_pickled_source_has_its_arrays():
    copy = pickle.loads(pickle.dumps(source()))
    assert type(copy) is ArraySource
    np.testing.assert_array_equal(copy.arrays["label"], np.arange(SIZE))


def test_scenes_on_demand_are_those_rendered_at_once():
    world = ShapesSource(config=ShapesConfig(resolution=16, min_size=0.4), size=20)
    lazy, whole = world.in_memory(("image", "label")), ArraySource(world.arrays(("image", "label")), world.class_names)
    for one, other in zip(batches(lazy, batch_size=6, seed=1), batches(whole, batch_size=6, seed=1), strict=False):
        np.testing.assert_equal(one, other)
        if np.all(~lazy._memory._missing):
            break
    for one, other in zip(evaluation_batches(lazy, batch_size=6), evaluation_batches(whole, batch_size=6), strict=True):
        np.testing.assert_equal(one, other)
