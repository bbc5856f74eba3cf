"""Mixup and copy-paste of samples with boxes: pixels, boxes, and the choice of samples."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from vision.data.augment.box_mixing import copy_paste, mixup_with_boxes

COUNT, SIDE = 600, 8


def _samples(value, boxes, valid, label):
    """Images of one value, all with the same boxes; labels count from ``label``."""
    slots = len(boxes)
    return {
        "image": jnp.full((COUNT, SIDE, SIDE, 3), value),
        "boxes": jnp.tile(jnp.asarray(boxes, jnp.float32), (COUNT, 1, 1)) * jnp.asarray(valid)[None, :, None],
        "labels": jnp.tile((jnp.arange(slots, dtype=jnp.int32) + label) * jnp.asarray(valid), (COUNT, 1)),
        "valid": jnp.tile(jnp.asarray(valid), (COUNT, 1)),
        "dropped_boxes": jnp.zeros(COUNT, jnp.int32),
        "id": jnp.arange(COUNT),
    }


OWN = _samples(0.0, [[0, 0, 4, 4], [4, 4, 8, 8], [0, 0, 8, 8]], [True, True, False], 1)
OTHER = _samples(1.0, [[1, 0, 4, 3], [5, 1, 8, 3], [0, 6, 3, 8]], [True, True, True], 11)
OTHER["dropped_boxes"] = jnp.full(COUNT, 2, jnp.int32)


def _run(function, key=0, **options):
    run = jax.jit(lambda a, b, key: function(a, b, key=key, **options))
    return {name: np.asarray(of) for name, of in run(OWN, OTHER, jax.random.key(key)).items()}


def test_mixup_is_about_the_mean_with_the_boxes_of_both():
    out = _run(mixup_with_boxes, probability=0.4)
    mixed = out["image"][:, 0, 0, 0] > 0
    assert stats.binomtest(int(mixed.sum()), COUNT, 0.4).pvalue > 1e-6
    share = out["image"][mixed, 0, 0, 0]
    assert stats.kstest(share, stats.beta(32, 32).cdf).pvalue > 1e-4
    np.testing.assert_array_equal(out["image"], np.broadcast_to(out["image"][:, :1, :1, :1], out["image"].shape))
    for name in OWN:
        if name != "dropped_boxes":
            np.testing.assert_array_equal(out[name][~mixed], np.asarray(OWN[name])[~mixed])
    # Five boxes for three max_boxes: the largest stay, in order where they are equal; two are dropped, in addition to
    # two before
    np.testing.assert_array_equal(out["labels"][mixed], np.tile([1, 2, 11], (mixed.sum(), 1)))
    np.testing.assert_array_equal(out["dropped_boxes"], np.where(mixed, 4, 0))
    np.testing.assert_array_equal(out["boxes"][mixed][0, 2], [1, 0, 4, 3])


def test_probabilities_of_nought_and_one():
    for function, options in ((mixup_with_boxes, {}), (copy_paste, {"max_pastes": 3})):
        out = _run(function, probability=0.0, **options)
        for name in OWN:
            np.testing.assert_array_equal(out[name], OWN[name])
        changed = (_run(function, probability=1.0, **options)["image"] != 0).any((1, 2, 3))
        assert changed.all()


def test_pasted_boxes_cover_little_of_what_is_there():
    """The first covers 9/16 of the sample's first box; the second and the third touch nothing."""
    out = _run(copy_paste, probability=1.0, max_pastes=3)
    expected = np.zeros((SIDE, SIDE, 3))
    expected[1:3, 5:8] = expected[6:8, 0:3] = 1
    np.testing.assert_array_equal(out["image"], np.tile(expected, (COUNT, 1, 1, 1)))
    # Four boxes for three max_boxes: the smaller two are equal, so that the first of them in a random order stays
    np.testing.assert_array_equal(out["labels"][:, :2], np.tile([1, 2], (COUNT, 1)))
    assert set(out["labels"][:, 2].tolist()) == {12, 13}
    np.testing.assert_array_equal(out["dropped_boxes"], 1)
    assert out["valid"].all()
    for share, allowed in ((9 / 16 - 0.01, False), (9 / 16 + 0.01, True)):
        pasted = _run(copy_paste, probability=1.0, max_pastes=3, max_overlap=share)["image"][:, 0, 1, 0]
        assert (pasted == allowed).all()


def test_pastes_are_a_random_choice_of_a_bounded_number():
    out = _run(copy_paste, probability=0.5, max_pastes=1, max_overlap=1.0)
    kinds = {11: (0, 1), 12: (1, 5), 13: (6, 0)}
    pasted = np.stack([out["image"][:, row, column, 0] == 1 for row, column in kinds.values()], axis=-1)
    assert (pasted.sum(1) <= 1).all()
    assert stats.binomtest(int(pasted.any(1).sum()), COUNT, 0.5).pvalue > 1e-6
    assert stats.chisquare(pasted.sum(0)).pvalue > 1e-4
    for label, column in zip(kinds, pasted.T, strict=True):
        np.testing.assert_array_equal(out["valid"][column], True)
        np.testing.assert_array_equal(out["labels"][column, 2], label)
    np.testing.assert_array_equal(out["valid"][~pasted.any(1)], np.asarray(OWN["valid"])[~pasted.any(1)])
    np.testing.assert_array_equal(out["dropped_boxes"], 0)
    again = _run(copy_paste, key=1, probability=0.5, max_pastes=1, max_overlap=1.0)
    assert (again["image"] != out["image"]).any()
