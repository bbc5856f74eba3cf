import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.nn.resample_bilinear import downsample_bilinear, upsample_bilinear, upsample_bilinear_to


def test_upsampling_is_bilinear_resizing():
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 2))
    expected = jax.image.resize(x, (2, 6, 10, 2), "bilinear")
    np.testing.assert_allclose(upsample_bilinear(x), expected, rtol=1e-5, atol=1e-6)


def test_downsampling_is_antialiased_bilinear_resizing_inside():
    x = jax.random.normal(jax.random.key(0), (2, 6, 10, 2))
    expected = jax.image.resize(x, (2, 3, 5, 2), "bilinear", antialias=True)
    found = downsample_bilinear(x)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], rtol=1e-5, atol=1e-6)


def test_downsampling_is_the_transpose_of_upsampling_inside():
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 1))
    _, transpose = jax.vjp(upsample_bilinear, jnp.zeros((1, 4, 4, 1)))
    np.testing.assert_allclose(
        downsample_bilinear(x)[:, 1:-1, 1:-1], transpose(x)[0][:, 1:-1, 1:-1] / 4, rtol=1e-5, atol=1e-6
    )


def test_flat_images_stay_flat():
    flat = jnp.full((1, 4, 4, 1), 0.7)
    for made in (upsample_bilinear(flat), downsample_bilinear(flat)):
        np.testing.assert_allclose(made, 0.7, rtol=1e-6)


@pytest.mark.parametrize("size", [(3, 5), (6, 10), (7, 9), (6, 5), (65, 49)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_upsampling_to_any_size_is_bilinear_resizing(size, dtype):
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 2), dtype)
    found = upsample_bilinear_to(x, size)
    assert found.dtype == x.dtype
    expected = jax.image.resize(x.astype(jnp.float32), (2, *size, 2), "bilinear")
    close = 1e-5 if dtype == "float32" else 2e-2
    np.testing.assert_allclose(found.astype(jnp.float32), expected, rtol=close, atol=close)
