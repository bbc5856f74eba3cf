"""Losses of instance masks inside of boxes against numpy, and of degenerate instances."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.tasks.mask_losses import assembled, in_boxes, mask_cross_entropy, mask_dice, mean_of_images

SIZE = (6, 8)


def test_masks_are_sums_of_prototypes():
    generator = np.random.default_rng(0)
    prototypes, coefficients = generator.normal(size=(2, *SIZE, 3)), generator.normal(size=(2, 4, 3))
    found = assembled(jnp.asarray(prototypes, jnp.float32), jnp.asarray(coefficients, jnp.float32))
    np.testing.assert_allclose(found, np.einsum("bhwp,bnp->bnhw", prototypes, coefficients), rtol=1e-4, atol=1e-5)


def _sum(logits, truth, boxes, valid):
    losses = mask_cross_entropy(logits, truth, boxes, valid), mask_dice(logits, truth, boxes, valid)
    return sum(map(jnp.sum, losses)), losses


_both = jax.jit(jax.value_and_grad(_sum, has_aux=True))


def _slow(logits, truth, box):
    """Pixel by pixel of one instance."""
    places = [
        (y, x)
        for y, x in np.ndindex(*SIZE)
        if box[0] <= x + 0.5 < box[2] and box[1] <= y + 0.5 < box[3]
    ]  # fmt: skip
    if not places:
        return 0.0, 0.0
    s = np.array([1 / (1 + np.exp(-float(logits[place]))) for place in places])
    g = np.array([float(truth[place]) for place in places])
    entropy = -(g * np.log(s) + (1 - g) * np.log1p(-s)).mean()
    return entropy, 1 - 2 * (s * g).sum() / (s.sum() + g.sum()) if g.sum() else 0.0


@st.composite
def _instances(draw):
    """Three instances in two images: full, empty, of a pixel, at the border; boxes of no pixel and beyond the mask."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits = generator.normal(size=(2, 3, *SIZE)).astype(np.float32) * 3
    truth = np.zeros(logits.shape, np.float32)
    boxes = np.zeros((2, 3, 4), np.float32)
    for place in np.ndindex(2, 3):
        kind = draw(st.sampled_from(["full", "empty", "pixel", "border", "noise"]))
        if kind == "full":
            truth[place] = 1
        elif kind == "pixel":
            truth[place][generator.integers(0, 6), generator.integers(0, 8)] = 1
        elif kind == "border":
            truth[place][:, -1] = 1
        elif kind == "noise":
            truth[place] = generator.random(SIZE)
        low = generator.uniform(-2, 6, 2)
        boxes[place] = [*low, *(low + draw(st.sampled_from([0.0, 0.1, 1.0, 4.5, 20.0])))]
    return logits, truth, boxes, generator.random((2, 3)) < 0.8


@settings(max_examples=40)
@given(_instances())
def test_losses_are_those_of_pixels_in_the_box(instances):
    logits, truth, boxes, valid = instances
    # padding may hold anything
    logits[~valid], truth[~valid], boxes[~valid] = np.nan, np.inf, np.nan
    (_, found), gradient = _both(*instances)
    for place in np.ndindex(2, 3):
        expected = _slow(logits[place], truth[place], boxes[place]) if valid[place] else (0.0, 0.0)
        np.testing.assert_allclose([of[place] for of in found], expected, rtol=1e-4, atol=1e-6)
    assert np.isfinite(gradient).all()
    for of in found:
        means = mean_of_images(of, jnp.asarray(valid))
        expected = [row[some].mean() if some.any() else 0.0 for row, some in zip(np.asarray(of), valid, strict=True)]
        np.testing.assert_allclose(means, expected, rtol=1e-5, atol=1e-7)


def test_boxes_of_whole_pixels_hold_their_area():
    boxes = jnp.array([[[1.0, 2.0, 4.0, 6.0], [0.0, 0.0, 8.0, 6.0]]])
    inside = in_boxes(boxes, SIZE)
    assert inside.sum((2, 3)).tolist() == [[12, 48]]
    assert inside[0, 0, 2:6, 1:4].all()
