"""Windows by choices between shifted images are those that are cut out, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.ops import windows as module
from vision.ops.windows import windows


@pytest.fixture
def on_tpus(monkeypatch):
    monkeypatch.setattr(module, "platform", lambda: "tpu")


def cut(images, corner, size):
    return np.stack([x[r : r + size[0], c : c + size[1]] for x, (r, c) in zip(images, corner, strict=True)])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_they_are_cut_out(height, width, data):
    size = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    corner = np.stack([random.integers(0, height - size[0] + 1, 5), random.integers(0, width - size[1] + 1, 5)], 1)
    dtype = data.draw(st.sampled_from(["uint8", "float32"]))
    images = random.integers(0, 256, (5, height, width, 2)).astype(dtype)
    images = images / np.float32(7) if dtype == "float32" else images
    with pytest.MonkeyPatch.context() as patch:
        for name in ("cpu", "tpu"):
            patch.setattr(module, "platform", lambda name=name: name)
            made = windows(jnp.asarray(images), jnp.asarray(corner), size)
            assert made.dtype == dtype
            np.testing.assert_array_equal(made, cut(images, corner, size))


def test_no_loop_and_no_gather_on_tpus(on_tpus):
    images, corner = jnp.zeros((4, 40, 40, 3)), jnp.zeros((4, 2), jnp.int32)
    text = str(jax.make_jaxpr(lambda images, corner: windows(images, corner, (32, 32)))(images, corner))
    assert "gather" not in text
    assert "dynamic_slice" not in text


def test_its_gradient_is_that_of_cutting(on_tpus):
    random = np.random.default_rng(0)
    images, corner = jnp.asarray(random.normal(size=(3, 6, 7, 2)), jnp.float32), jnp.array([[0, 3], [2, 0], [1, 2]])
    weights = jnp.asarray(random.normal(size=(3, 4, 4, 2)), jnp.float32)
    found = jax.grad(lambda images: jnp.sum(windows(images, corner, (4, 4)) * weights))(images)
    expected = np.zeros(images.shape, np.float32)
    for index, (row, column) in enumerate(np.asarray(corner)):
        expected[index, row : row + 4, column : column + 4] = weights[index]
    np.testing.assert_array_equal(found, expected)
