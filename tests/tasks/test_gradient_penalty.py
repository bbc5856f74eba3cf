"""Penalties against finite differences and closed forms, and what lazy ones cost in the mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.tasks.gradient_penalty import lazily, on_a_share, r1, r2, slopes, total, wasserstein_penalty, weighted

KEY, STEP = jax.random.key(0), jnp.int32(0)


def perceptron(params, image):
    hidden = jnp.tanh(image.reshape(image.shape[0], -1) @ params["in"])
    return hidden @ params["out"]


def setting():
    rng = np.random.default_rng(0)
    params = {
        "in": jnp.asarray(rng.normal(size=(12, 6)), jnp.float32) / 3,
        "out": jnp.asarray(rng.normal(size=6), jnp.float32),
    }
    image = lambda: jnp.asarray(rng.normal(size=(5, 2, 2, 3)), jnp.float32)
    return params, image(), image()


def wide(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def numpy_slopes(params, image):
    """The gradients in closed form, in float64."""
    hidden = np.tanh(image.reshape(len(image), -1) @ params["in"])
    return ((1 - hidden**2) * params["out"]) @ params["in"].T


def test_r1_and_r2_are_half_the_mean_squared_slope():
    params, real, fake = setting()
    critic = lambda image, label: perceptron(params, image)
    for penalty, at in ((r1, real), (r2, fake)):
        expected = 0.5 * np.mean(np.sum(numpy_slopes(wide(params), wide(at)) ** 2, axis=1))
        np.testing.assert_allclose(penalty(critic, real, fake, None, key=KEY, step=STEP), expected, rtol=1e-5)


def test_slopes_are_finite_differences():
    params, real, _ = setting()
    found = slopes(lambda image, label: perceptron(params, image), real, None)
    value = lambda image: np.tanh(image.reshape(len(image), -1) @ wide(params)["in"]) @ wide(params)["out"]
    x, step = wide(real), 1e-6
    for place in np.ndindex(x.shape[1:]):
        moved = np.zeros_like(x)
        moved[(slice(None), *place)] = step
        difference = (value(x + moved) - value(x - moved)) / (2 * step)
        np.testing.assert_allclose(found[(slice(None), *place)], difference, rtol=1e-4, atol=1e-5)


def test_the_gradient_of_r1_is_a_finite_difference():
    """With respect to every parameter: a derivative of a derivative."""
    params, real, fake = setting()
    loss = lambda params: r1(lambda image, label: perceptron(params, image), real, fake, None, key=KEY, step=STEP)
    found = jax.grad(loss)(params)
    value = lambda params: 0.5 * np.mean(np.sum(numpy_slopes(params, wide(real)) ** 2, axis=1))
    for name, leaf in wide(params).items():
        for place in np.ndindex(leaf.shape):
            moved = np.zeros_like(leaf)
            moved[place] = 1e-5
            up, down = ({**wide(params), name: leaf + sign * moved} for sign in (1, -1))
            np.testing.assert_allclose(found[name][place], (value(up) - value(down)) / 2e-5, rtol=1e-3, atol=1e-4)


def test_wasserstein_penalty_is_of_the_distance_to_slope_one():
    direction = jnp.asarray(np.random.default_rng(1).normal(size=(2, 2, 3)), jnp.float32)
    linear = lambda image, label: jnp.einsum("bhwc,hwc->b", image, direction)
    _, real, fake = setting()
    length = np.linalg.norm(np.asarray(direction, np.float64))
    found = wasserstein_penalty(linear, real, fake, None, key=KEY, step=STEP)
    np.testing.assert_allclose(found, (length - 1) ** 2, rtol=1e-5)
    # a quadratic critic has the slope x itself: it shows that the points lie between the pairs
    quadratic = lambda image, label: 0.5 * jnp.sum(image**2, axis=(1, 2, 3))
    between = jnp.ones_like(real) * 3
    np.testing.assert_allclose(
        wasserstein_penalty(quadratic, between, between, None, key=KEY, step=STEP),
        (3 * np.sqrt(12) - 1) ** 2,
        rtol=1e-5,
    )
    flat = lambda image, label: jnp.zeros(image.shape[0]) * image.sum()
    gradient = jax.grad(
        lambda scale: wasserstein_penalty(lambda x, label: scale * flat(x, label), real, fake, None, key=KEY, step=STEP)
    )(1.0)
    assert np.isfinite(gradient)


def test_composition_is_linear():
    params, real, fake = setting()
    critic = lambda image, label: perceptron(params, image)
    apply = lambda penalty: penalty(critic, real, fake, None, key=KEY, step=STEP)
    np.testing.assert_allclose(
        apply(total(weighted(r1, 3.0), weighted(r2, 0.5))), 3 * apply(r1) + 0.5 * apply(r2), rtol=1e-6
    )


def test_lazy_penalties_have_the_same_mean():
    params, real, fake = setting()
    critic = lambda image, label: perceptron(params, image)
    whole = r1(critic, real, fake, None, key=KEY, step=STEP)
    lazy = [lazily(r1, 3)(critic, real, fake, None, key=KEY, step=jnp.int32(step)) for step in range(6)]
    np.testing.assert_allclose(lazy, [3 * whole, 0, 0] * 2, rtol=1e-5)
    gradient = jax.grad(
        lambda p: lazily(r1, 3)(lambda x, label: perceptron(p, x), real, fake, None, key=KEY, step=jnp.int32(3))
    )(params)
    expected = jax.grad(lambda p: 3 * r1(lambda x, label: perceptron(p, x), real, fake, None, key=KEY, step=STEP))(
        params
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), gradient, expected)
    # shares of a batch: their mean, weighted by size, is the whole
    rolled = [jnp.roll(real, -start, axis=0) for start in range(5)]
    shares = [on_a_share(r1, 5)(critic, each, fake, None, key=KEY, step=STEP) for each in rolled]
    np.testing.assert_allclose(np.mean(shares), whole, rtol=1e-5)
    assert lazily(r1, 1) is r1
    assert on_a_share(r1, 1) is r1


@pytest.mark.parametrize("shape", [(5,), (5, 2, 2)])
def test_maps_of_logits_count_by_their_mean(shape):
    weights = jnp.arange(1.0, 1.0 + np.prod(shape[1:], dtype=int)).reshape(shape[1:])
    critic = lambda image, label: jnp.sum(image, axis=(1, 2, 3)).reshape(5, *(1,) * (len(shape) - 1)) * weights
    _, real, _ = setting()
    np.testing.assert_allclose(slopes(critic, real, None), np.full(real.shape, np.mean(weights)), rtol=1e-6)


def test_a_share_of_images_has_the_labels_that_belong_to_it():
    _, real, fake = setting()
    label = jnp.arange(5)
    critic = lambda image, label: jnp.sum(image, axis=(1, 2, 3)) * label
    found = on_a_share(r1, 2)(critic, real, fake, label, key=KEY, step=STEP)
    np.testing.assert_allclose(found, 0.5 * 12 * np.mean(np.array([0, 2, 4]) ** 2), rtol=1e-5)
