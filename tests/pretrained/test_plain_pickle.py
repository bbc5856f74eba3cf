"""Pickles of plain values: what Python's own unpickler makes of them, and nothing else."""

import io
import pickle
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.pretrained import plain_pickle

SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**2047), 2**2047) | st.floats(allow_nan=False) | st.text(max_size=20)
)
KEYS = st.text(max_size=5) | st.integers(-(2**63), 2**63) | st.none()
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=5)
        | inner.map(lambda value: [value, value])
    ),
    max_leaves=20,
)


def load(raw, named=None, persistent=None):
    """The value of a pickle that names nothing, unless what is named is given."""
    return plain_pickle.load(io.BytesIO(raw), named=named or _nothing, persistent=persistent or _nothing)


def _nothing(*what):
    raise AssertionError(what)


@given(VALUES, st.integers(0, 5))
def test_values_are_those_of_python(value, protocol):
    found = load(pickle.dumps(value, protocol=protocol))
    assert repr(found) == repr(value)


@given(st.binary(max_size=300), st.integers(3, 5))
def test_bytes(value, protocol):
    assert load(pickle.dumps([value, bytearray(value)][: 1 + (protocol > 4)], protocol=protocol))[0] == value


@given(st.binary(max_size=200))
def test_any_bytes_end(raw):
    """In a value of plain types, or in an exception that is not of the machine itself."""
    try:
        load(raw, named=lambda module, name: (module, name), persistent=lambda pid: None)
    except (RecursionError, MemoryError, SystemError):
        raise
    except Exception:
        return


def test_the_same_object_stays_the_same():
    shared = [1]
    found = load(pickle.dumps([shared, shared, {"a": shared}], protocol=2))
    assert found[0] is found[1] is found[2]["a"]
    circle = []
    circle.append(circle)
    found = load(pickle.dumps(circle, protocol=4))
    assert found[0] is found


def test_names_persistent_objects_and_where_it_stops():
    names = []

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("kept", str(value)) if isinstance(value, complex) else None

    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump([1j, OrderedDict(a=1)])
    end = stream.tell()
    stream.write(b"more")
    stream.seek(0)

    def named(module, name):
        names.append(f"{module}.{name}")
        return dict

    found = plain_pickle.load(stream, named=named, persistent=lambda pid: pid)
    assert found == [("kept", "1j"), {"a": 1}]
    assert names == ["collections.OrderedDict"]
    assert stream.tell() == end


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"\x80\x02}]Ns.", "a key of type list"),
        (b"\x80\x02})Ns.", "a key of type tuple"),
        (b"\x80\x02}\x8a\x0a" + b"\x01" * 10 + b"Ns.", "a key of type int"),
        (b"\x80\x02)Na.", "values for a tuple in place of a list"),
        (b"\x80\x02]NNs.", "keys and values for a list"),
        (b"\x80\x02}(Nu.", "keys and values for a dict"),
        (b"\x80\x02N)R.", "a call of a NoneType, which is not callable"),
        (b"\x80\x02]}b.", "attributes of a list"),
        (b"\x80\x02N\x86.", "a tuple of more values than there are"),
        (b"\x80\x04\x8f.", "the opcode EMPTY_SET, which is not part of a state dict"),
        (b"\x80\x04NN\x93.", "a name that is not a string"),
    ],
)
def test_what_is_refused(raw, problem):
    with pytest.raises(pickle.UnpicklingError, match=problem):
        load(raw)
