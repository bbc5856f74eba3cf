"""L-BFGS on images: a minimum that is known, and an optimisation that is written to a file and goes on."""

import jax.numpy as jnp
import numpy as np

from vision.tasks.style_optimisation import ImageOptimiser, scale_sizes


def objective(variables, image, targets):
    error = jnp.sum(variables * jnp.square(image - targets["image"]))
    return error, {"loss": error}


def problem():
    rng = np.random.default_rng(0)
    variables = jnp.asarray(rng.uniform(0.1, 10.0, (1, 4, 4, 3)), jnp.float32)
    return ImageOptimiser(objective, memory=4), variables, {"image": jnp.asarray(rng.normal(size=(1, 4, 4, 3)), "f4")}


def test_the_minimum_of_a_quadratic_form():
    optimiser, variables, targets = problem()
    state = optimiser.start(jnp.zeros((1, 4, 4, 3)))
    for _ in range(40):
        state = optimiser.step(state, variables, targets)
    assert state.iteration == 40
    np.testing.assert_allclose(state.image, targets["image"], atol=1e-3)


def test_resumed_equals_uninterrupted():
    optimiser, variables, targets = problem()
    state = optimiser.start(jnp.zeros((1, 4, 4, 3)), scale=1)
    for number in range(6):
        if number == 3:
            content = optimiser.to_bytes(state, {"curve": np.arange(3)})
        state = optimiser.step(state, variables, targets)
    again, more = problem()[0].from_bytes(content)
    assert (again.scale, again.iteration, more["curve"].tolist()) == (1, 3, [0, 1, 2])
    for _ in range(3):
        again = optimiser.step(again, variables, targets)
    np.testing.assert_array_equal(again.image, state.image)


def test_scales():
    assert list(scale_sizes((256, 192), 3)) == [(64, 48), (128, 96), (256, 192)]
    assert list(scale_sizes((70, 60), 3)) == [(70, 60)]
