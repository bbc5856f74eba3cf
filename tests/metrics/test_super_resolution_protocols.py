"""The protocols of super-resolution: what each compares, by hand; and the published numbers of bicubic on Set5."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vision.errors import UserError
from vision.metrics.reconstruction.super_resolution import (
    ReconstructionProtocol,
    compared,
    reconstruction_quality,
    region_quality,
    rounded,
)
from vision.ops.imresize import crop_to_multiple, imresize
from vision.ops.ycbcr import luma

IMAGE, OTHER = np.random.default_rng(0).uniform(size=(2, 1, 20, 18, 3)).astype(np.float32)
Y = np.array([65.481, 128.553, 24.966]) / 255


def test_each_protocol_by_hand():
    levels = np.round(IMAGE.astype(float) * 255)
    exact = IMAGE.astype(float) @ Y + 16 / 255
    wanted = {
        "luma": exact,
        "luma of 8 bits": np.round(exact * 255) / 255,
        "luma of colours": levels / 255 @ Y + 16 / 255,
        "colours": levels / 255,
    }
    for name, expected in wanted.items():
        found = compared(jnp.asarray(IMAGE), ReconstructionProtocol(name, border=2))
        expected = expected[..., None] if expected.ndim == 3 else expected
        np.testing.assert_allclose(found, expected[:, 2:-2, 2:-2], atol=1e-6, err_msg=name)


def test_numbers_have_the_name_of_their_protocol():
    protocol = ReconstructionProtocol("colours", border=3)
    found = reconstruction_quality(jnp.asarray(IMAGE), jnp.asarray(OTHER), protocol)
    assert list(found) == ["psnr_rgb_8bit_border3", "ssim_rgb_8bit_border3"]
    inside = lambda x: np.round(x.astype(float)[:, 3:-3, 3:-3] * 255)
    error = np.mean((inside(IMAGE) - inside(OTHER)) ** 2)
    np.testing.assert_allclose(found["psnr_rgb_8bit_border3"], [20 * np.log10(255 / np.sqrt(error))], rtol=1e-5)
    assert protocol.words == "red, green and blue rounded to 8 bits; 3 pixels of the border left out"
    same = reconstruction_quality(jnp.asarray(IMAGE), jnp.asarray(IMAGE), ReconstructionProtocol())
    assert [float(each[0]) for each in same.values()] == [float("inf"), 1.0]


def test_rounding_is_matlabs():
    values = jnp.array([-0.2, 0.5 / 255, 1.49 / 255, 1.5 / 255, 2.5 / 255, 1.7])
    np.testing.assert_allclose(255 * rounded(values), [0, 1, 1, 2, 3, 255], atol=1e-5)


def test_refused():
    with pytest.raises(UserError, match="the protocol of colours needs images of 3 channels, got 1"):
        compared(jnp.zeros((1, 20, 20, 1)), ReconstructionProtocol("colours"))
    with pytest.raises(UserError, match="too small for the window of SSIM"):
        reconstruction_quality(jnp.asarray(IMAGE), jnp.asarray(OTHER), ReconstructionProtocol(border=5))


@functools.cache
def bicubic(folder, scale):
    """Means over Set5 of the bicubic enlargement, by protocol."""
    totals = {}
    for path in sorted((folder / "superres" / "set5").glob("*.png")):
        image = crop_to_multiple(jnp.asarray(np.asarray(Image.open(path)))[None] / 255, scale)

        @jax.jit
        def qualities(image):
            small_of = lambda x: imresize(x, 1 / scale)
            bits = rounded(luma(image))
            colours = imresize(rounded(small_of(image)), scale)
            made = {
                "luma": (imresize(small_of(luma(image)), scale), luma(image)),
                "luma of 8 bits": (imresize(rounded(small_of(bits)), scale), bits),
                "luma of colours": (colours, image),
                "colours": (colours, image),
            }
            quality = lambda name, pair: reconstruction_quality(*pair, ReconstructionProtocol(name, border=scale))
            return {name: quality(name, pair) for name, pair in made.items()}

        for name, found in qualities(image).items():
            values = [float(each[0]) for each in found.values()]
            totals.setdefault(name, []).append(values)
    return {name: np.mean(values, axis=0) for name, values in totals.items()}


EXPECTED = {
    "luma": (33.69, 30.41, 28.43),
    "luma of 8 bits": (33.65, 30.39, 28.42),
    "luma of colours": (33.68, 30.40, 28.43),
    "colours": (31.80, 28.63, 26.70),
}
# Kim et al. 2016, table 3
SIMILARITY = (0.9299, 0.8682, 0.8104)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_on_set5(real_data, scale):
    found = bicubic(real_data, scale)
    assert {name: f"{values[0]:.2f}" for name, values in found.items()} == {
        name: f"{values[scale - 2]:.2f}" for name, values in EXPECTED.items()
    }
    for name in ("luma", "luma of 8 bits"):
        assert abs(found[name][1] - SIMILARITY[scale - 2]) < 1e-3, name


@pytest.mark.parametrize("name", ["luma", "colours"])
def test_images_in_a_canvas_are_measured_alone(name):
    protocol = ReconstructionProtocol(name, 2)
    generator = np.random.default_rng(3)
    canvas = [generator.random((2, 30, 34, 3), np.float32) for _ in range(2)]
    sizes = jnp.array([[19, 34], [30, 17]])
    found = jax.jit(lambda *images: region_quality(*images, sizes, protocol))(*canvas)
    for row, (height, width) in enumerate(sizes.tolist()):
        cut = [jnp.asarray(image[row : row + 1, :height, :width]) for image in canvas]
        for key, value in reconstruction_quality(*cut, protocol).items():
            np.testing.assert_allclose(found[key][row], value[0], rtol=1e-4)
    same = region_quality(jnp.asarray(canvas[0]), jnp.asarray(canvas[0]), sizes, protocol)
    assert np.isinf(same[f"psnr_{protocol.label}"]).all()
    np.testing.assert_allclose(same[f"ssim_{protocol.label}"], 1.0)
