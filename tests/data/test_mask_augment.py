"""Images and masks under one change: aligned to half a pixel, void outside, no mixed classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vision.data.annotations.index_masks import VOID
from vision.data.augment.masks import MaskAugmentConfig, mask_augment, scaled_window
from vision.errors import UserError

FILL = (0.5, -0.5, 0.25)
SIDE = 32


def disc(batch=3):
    """An image of a bright disc, which is also its mask, at another place in every sample."""
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    masks = np.stack([(rows - 12 - i) ** 2 + (columns - 18 + i) ** 2 < (7 + i) ** 2 for i in range(batch)])
    image = np.repeat(np.where(masks, 1.0, -1.0)[..., None], 3, -1).astype(np.float32)
    return jnp.asarray(image), jnp.asarray(masks.astype(np.uint8))


def window(scale, first, size=(40, 36), extent=(SIDE, SIDE), batch=3):
    image, mask = disc(batch)
    many = lambda x, dtype: jnp.broadcast_to(jnp.asarray(x, dtype), (batch, *np.shape(x)))
    return jax.jit(scaled_window, static_argnames=("size", "fill"))(
        image,
        mask,
        many(extent, jnp.int32),
        scale=many(scale, jnp.float32),
        first=many(first, jnp.float32),
        size=size,
        fill=FILL,
    )


@settings(max_examples=30)
@given(st.floats(0.5, 2.0), st.integers(-9, 20), st.integers(-9, 20))
def test_masks_stay_aligned_to_half_a_pixel(scale, row, column):
    """Where the image is half bright is the border of the mask: they differ by less than half a pixel of area."""
    image, mask = window(scale, (row, column))
    known = np.asarray(mask) != VOID
    bright = np.asarray(image)[..., 0] > 0
    differ = (bright != (np.asarray(mask) == 1)) & known
    # a shift by half a pixel of the window would change half of the disc's outline, of up to 2 r pixels each way
    for each, inside in zip(differ, (np.asarray(mask) == 1), strict=True):
        outline = (inside[1:] != inside[:-1]).sum() + (inside[:, 1:] != inside[:, :-1]).sum()
        assert each.sum() <= 0.33 * outline + 2


def test_centres_of_mass_do_not_move():
    image, mask = window(1.37, (3, 5))
    weight = (np.asarray(image)[..., 0] + 1) * (np.asarray(mask) != VOID)
    for soft, hard in zip(weight, np.asarray(mask) == 1, strict=True):
        rows, columns = np.mgrid[:40, :36]
        centre = lambda w, rows=rows, columns=columns: np.array([(w * rows).sum(), (w * columns).sum()]) / w.sum()
        np.testing.assert_allclose(centre(soft), centre(hard.astype(float)), atol=0.2)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_it_is_a_resize_of_pillow(scale):
    """Bilinear with antialiasing for the image; the nearest pixel for the mask."""
    image, mask = disc(1)
    side = round(SIDE * scale)
    made, nearest = window(scale, (0, 0), size=(side, side), batch=1)
    expected = Image.fromarray(np.asarray(image)[0, :, :, 0]).resize((side, side), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(made[0, :, :, 0], np.asarray(expected), atol=2e-6)
    expected = Image.fromarray(np.asarray(mask)[0]).resize((side, side), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(nearest[0], np.asarray(expected))


def test_outside_of_the_image_is_void_and_fill():
    image, mask = window(1.0, (-4, 10), size=(48, 48), extent=(20, 24))
    inside = np.zeros((48, 48), bool)
    inside[4:24, :14] = True
    np.testing.assert_array_equal(np.asarray(mask) != VOID, np.broadcast_to(inside, (3, 48, 48)))
    np.testing.assert_allclose(np.asarray(image)[:, ~inside], np.broadcast_to(FILL, (3, (~inside).sum(), 3)))
    original, _ = disc()
    np.testing.assert_allclose(image[:, 4:24, :14], original[:, :20, 10:24], atol=1e-6)


def augmented(key=0, **changes):
    image, mask = disc(8)
    sample = {"image": image, "semantic": mask, "size": jnp.full((8, 2), SIDE)}
    config = MaskAugmentConfig(**changes)
    return jax.jit(lambda key: mask_augment(sample, config, size=(24, 28), fill=FILL, key=key))(jax.random.key(key))


def test_every_window_has_as_much_of_the_image_as_it_can():
    """Where the enlarged image is larger than the canvas there is no void; where it is smaller, all of it is there."""
    made = augmented(scale=(1.0, 2.0))
    assert (np.asarray(made["semantic"]) != VOID).all()
    made = augmented(scale=(0.5, 0.5), flip=0.0)
    assert ((np.asarray(made["semantic"]) != VOID).sum((1, 2)) == 16 * 16).all()
    corners = {tuple(np.argwhere(np.asarray(each) != VOID)[0]) for each in made["semantic"]}
    assert len(corners) > 4  # at random places


def test_flips_are_of_both():
    plain, flipped = (augmented(scale=(1.0, 1.0), flip=probability) for probability in (0.0, 1.0))
    for name in ("image", "semantic"):
        np.testing.assert_array_equal(np.asarray(flipped[name])[:, :, ::-1], plain[name])


def test_classes_are_never_mixed_and_values_stay_in_range():
    made = augmented(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.1)
    assert set(np.unique(made["semantic"]).tolist()) <= {0, 1, VOID}
    assert made["image"].shape == (8, 24, 28, 3)
    assert np.abs(made["image"]).max() <= 1


def test_samples_depend_on_the_key_alone():
    one, again, other = augmented(3), augmented(3), augmented(4)
    np.testing.assert_array_equal(one["image"], again["image"])
    assert np.abs(one["image"] - other["image"]).max() > 0.1


def test_factors_in_the_wrong_order():
    with pytest.raises(UserError, match=r"augment\.scale is two factors, the smaller first"):
        MaskAugmentConfig(scale=(2.0, 1.0))
