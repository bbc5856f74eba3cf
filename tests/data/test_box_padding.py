"""Which boxes are kept, by each rule at its border, and how they are packed, against a loop."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.data.augment.box_padding import packed, worth_keeping

_packed = partial(jax.jit, static_argnums=3)(packed)


def test_rules_hold_at_their_borders():
    whole = jnp.array([[0.0, 0.0, 10.0, 10.0]])
    keep = lambda visible, **rules: bool(
        worth_keeping(
            whole, jnp.array([visible]), **{"least_side": 0.0, "least_area": 0.0, "largest_ratio": 1e9, **rules}
        )[0]
    )
    assert keep([0.0, 0.0, 2.0, 5.0], least_side=2.0)
    assert not keep([0.0, 0.0, 1.9, 5.0], least_side=2.0)
    assert not keep([0.0, 0.0, 5.0, 1.9], least_side=2.0)
    assert keep([0.0, 0.0, 5.0, 5.0], least_area=0.25)
    assert not keep([0.0, 0.0, 5.0, 4.9], least_area=0.25)
    assert keep([0.0, 0.0, 1.0, 8.0], largest_ratio=8.0)
    assert not keep([0.0, 0.0, 8.0, 0.9], largest_ratio=8.0)
    # Of zero extent, or with swapped corners
    assert not keep([3.0, 3.0, 3.0, 9.0])
    assert not keep([4.0, 3.0, 3.0, 9.0])


def _by_hand(boxes, labels, valid, max_boxes):
    chosen = [i for i in range(len(valid)) if valid[i]]
    lost = max(len(chosen) - max_boxes, 0)
    if lost:
        area = lambda i: (boxes[i, 2] - boxes[i, 0]) * (boxes[i, 3] - boxes[i, 1])
        chosen = sorted(chosen, key=lambda i: -area(i))[:max_boxes]
    empty = max_boxes - len(chosen)
    return {
        "boxes": np.concatenate([boxes[chosen], np.zeros((empty, 4))]),
        "labels": np.concatenate([labels[chosen], np.zeros(empty)]),
        "valid": np.arange(max_boxes) < len(chosen),
        "dropped_boxes": lost,
    }


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), max_boxes=st.sampled_from([1, 3, 6, 9]), share=st.floats(0, 1))
def test_valid_boxes_come_first_and_the_largest_are_kept(seed, max_boxes, share):
    generator = np.random.default_rng(seed)
    corner = generator.integers(0, 20, (3, 6, 2))
    # Whole sides, so that some areas are equal
    boxes = np.concatenate([corner, corner + generator.integers(1, 4, (3, 6, 2))], axis=-1).astype(np.float32)
    labels = generator.integers(1, 80, (3, 6)).astype(np.int32)
    valid = generator.uniform(size=(3, 6)) < share
    before = np.int32([0, 2, 5])
    out = _packed(boxes, labels, valid, max_boxes, before)
    assert [out[name].dtype for name in ("boxes", "labels", "valid", "dropped_boxes")] == [
        "float32",
        "int32",
        "bool",
        "int32",
    ]
    for i in range(3):
        expected = _by_hand(boxes[i], labels[i], valid[i], max_boxes)
        for name in ("boxes", "labels", "valid"):
            np.testing.assert_array_equal(out[name][i], expected[name], err_msg=name)
        assert out["dropped_boxes"][i] == before[i] + expected["dropped_boxes"]
