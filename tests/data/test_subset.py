"""Parts of sources: the same samples from memory and from any source, balanced and nested."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vision.data.folder import folder_source
from vision.data.shapes.world import ShapesSource
from vision.data.source import ArraySource, in_memory
from vision.data.subset import Subset, labels_of, labels_per_class, of_classes
from vision.errors import UserError

NAMES = ("cat", "dog", "bird", "fish")
_LABELS = np.random.default_rng(0).integers(0, 4, 60).astype(np.int32)


def _arrays(labels=_LABELS, names=NAMES):
    """A source in memory whose image i has i in its first pixel."""
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(3, axis=-1)
    return ArraySource({"image": images, "label": np.asarray(labels, np.int32)}, names)


class Reader:
    """The same as a source that is not in memory; it counts what is read."""

    def __init__(self, source):
        self._source, self.class_names, self.reads = source, source.class_names, 0

    def __len__(self):
        return len(self._source)

    def __getitem__(self, index):
        self.reads += 1
        return self._source[index]


class BlockReader(Reader):
    """The same, in blocks."""

    def __getitems__(self, indices):
        return [self[index] for index in indices]


def _numbers(source):
    """Which samples of the full source they are, and their labels, as read one by one."""
    records = [source[i] for i in range(len(source))]
    return [int(r["image"][0, 0, 0]) for r in records], [int(r["label"]) for r in records]


@pytest.mark.parametrize("kind", [lambda source: source, Reader, BlockReader])
@pytest.mark.parametrize("classes", [("fish", "cat"), (3, 0)])
def test_classes_are_renumbered_in_the_given_order(kind, classes):
    part = of_classes(kind(_arrays()), classes)
    numbers, labels = _numbers(part)
    kept = [i for i in range(60) if _LABELS[i] in (0, 3)]
    assert numbers == kept
    assert labels == [{3: 0, 0: 1}[_LABELS[i]] for i in kept]
    assert part.class_names == ("fish", "cat")
    assert part[0]["label"].dtype == np.int32
    assert part[0]["label"].shape == ()


@pytest.mark.parametrize("kind", [lambda source: source, Reader])
def test_classes_may_keep_their_numbers(kind):
    part = of_classes(kind(_arrays()), ("fish", "dog"), relabel=False)
    numbers, labels = _numbers(part)
    assert numbers == [i for i in range(60) if _LABELS[i] in (1, 3)]
    assert labels == [_LABELS[i] for i in numbers]
    assert part.class_names == NAMES


@given(
    counts=st.lists(st.integers(5, 30), min_size=1, max_size=4),
    fewer=st.integers(1, 5),
    more=st.integers(1, 5),
    seed=st.integers(0, 2**32),
)
def test_few_labels_are_balanced_nested_and_the_same_everywhere(counts, fewer, more, seed):
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))
    whole = _arrays(labels, NAMES[: len(counts)])
    fewer, more = sorted((fewer, more))
    small, large = (labels_per_class(whole, count, seed=seed) for count in (fewer, more))
    (few, few_labels), (many, _) = _numbers(small), _numbers(large)
    assert np.bincount(few_labels).tolist() == [fewer] * len(counts)
    assert set(few) <= set(many)
    assert few == sorted(few)
    assert _numbers(labels_per_class(Reader(whole), fewer, seed=seed)) == (few, few_labels)


def test_a_choice_is_stable():
    """Different numbers would mean that published results on few labels were on different images."""
    part = labels_per_class(_arrays(np.arange(20) % 2, ("even", "odd")), 4, seed=7)
    assert _numbers(part)[0] == [0, 1, 4, 5, 10, 16, 17, 19]


def test_seeds_and_classes_choose_independently():
    labels = np.repeat([0, 1], 100)
    parts = [_numbers(labels_per_class(_arrays(labels, ("a", "b")), 30, seed=seed))[0] for seed in (0, 1)]
    assert parts[0] != parts[1]
    assert [i for i in parts[0] if i < 100] != [i - 100 for i in parts[0] if i >= 100]
    # Every sample is chosen equally often, by chi squared at 5 sigma
    hits = np.zeros(100)
    for seed in range(200):
        hits[_numbers(labels_per_class(_arrays(labels[:100], ("a",)), 10, seed=seed))[0]] += 1
    assert ((hits - 20) ** 2 / 20).sum() < 99 + 5 * np.sqrt(2 * 99)


def test_labels_are_found_without_images_where_possible(tmp_path):
    for label, name in enumerate(("a", "b", "c")):
        (tmp_path / name).mkdir()
        for i in range(label + 1):
            Image.fromarray(np.full((4, 4, 3), 10 * label + i, np.uint8)).save(tmp_path / name / f"{i}.png")
    folder = folder_source(tmp_path, resolution=4)
    (tmp_path / "a" / "0.png").write_bytes(b"damaged")
    np.testing.assert_array_equal(labels_of(folder), [0, 1, 1, 2, 2, 2])
    part = of_classes(folder, ("c", "b"))
    np.testing.assert_array_equal(labels_of(part), [1, 1, 0, 0, 0])
    assert _numbers(part)[0] == [10, 11, 20, 21, 22]

    shapes = ShapesSource(seed=1, size=40, split="test")
    np.testing.assert_array_equal(labels_of(shapes), [shapes[i]["label"] for i in range(40)])

    reader = Reader(_arrays())
    np.testing.assert_array_equal(labels_of(reader), _LABELS)
    assert reader.reads == 60
    labels_per_class(of_classes(reader, (0, 1), labels=_LABELS), 3, seed=0, labels=_LABELS[_LABELS < 2])
    assert reader.reads == 60


def test_parts_of_parts():
    whole = _arrays()
    for kind in (lambda source: source, Reader):
        part = labels_per_class(of_classes(kind(whole), ("bird", "cat")), 4, seed=3)
        numbers, labels = _numbers(part)
        assert len(part) == 8
        assert labels == [{2: 0, 0: 1}[_LABELS[i]] for i in numbers]
        np.testing.assert_array_equal(labels_of(part), labels)


@pytest.mark.parametrize("kind", [Reader, BlockReader])
def test_a_part_is_a_source(kind):
    part = of_classes(kind(_arrays()), (1, 2))
    assert isinstance(part, Subset)
    expected = in_memory(of_classes(_arrays(), (1, 2)))
    for source in (part, pickle.loads(pickle.dumps(part))):
        loaded = in_memory(source)
        for name in ("image", "label"):
            np.testing.assert_array_equal(loaded.arrays[name], expected.arrays[name])
    for outside in (-1, len(part)):
        with pytest.raises(IndexError):
            part[outside]
        with pytest.raises(IndexError):
            part.__getitems__([0, outside])


def test_arrays_of_the_whole_stay_as_they_are():
    whole = _arrays()
    of_classes(whole, ("fish",)).arrays["label"][:] = 9
    np.testing.assert_array_equal(whole.arrays["label"], _LABELS)


def test_classes_without_names_are_those_that_occur():
    part = labels_per_class(_arrays([5, 2, 5, 2, 5], ()), 2, seed=0)
    assert sorted(_numbers(part)[1]) == [2, 2, 5, 5]
    assert of_classes(_arrays([5, 2, 5], ()), (5,)).class_names == ()
    with pytest.raises(UserError, match="no class 6, only 0 to 5"):
        of_classes(_arrays([5, 2, 5], ()), (6,))


def test_invalid_subsets_are_refused():
    whole = _arrays([0, 0, 0, 1, 1], ("cat", "dog"))
    with pytest.raises(UserError, match=r"class 1 \(dog\) has 2 samples, fewer than the requested 3"):
        labels_per_class(whole, 3, seed=0)
    with pytest.raises(UserError, match="at least 1 and a seed of at least 0, not 0 and 0"):
        labels_per_class(whole, 0, seed=0)
    with pytest.raises(UserError, match="there is no class 'cow', only cat, dog"):
        of_classes(whole, ("cow",))
    with pytest.raises(UserError, match="no class -1, only 0 to 1"):
        of_classes(whole, (-1,))
    with pytest.raises(UserError, match="named twice: cat, 0"):
        of_classes(whole, ("cat", 0))
    with pytest.raises(UserError, match="at least one class"):
        of_classes(whole, ())
    with pytest.raises(UserError, match=r"class 2 \(cow\) has no samples"):
        of_classes(_arrays([0, 1], ("cat", "dog", "cow")), ("cow",))
    with pytest.raises(UserError, match="sample 0 has no label, only image"):
        labels_of(ArraySource({"image": np.zeros((2, 1, 1, 3), np.uint8)}))
