"""Fixed normalisation: its definition, that it is no parameter, and that training leaves it alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.nn.frozen_batch_norm import frozen_batch_norm


@pytest.mark.parametrize("epsilon", [0.0, 1e-2])
def test_definition(epsilon):
    generator = np.random.default_rng(0)
    names = ("scale", "bias", "mean", "var")
    fixed = {name: generator.uniform(0.5, 2, 3).astype(np.float32) for name in names}
    x = generator.normal(size=(2, 4, 5, 3)).astype(np.float32)
    expected = (x - fixed["mean"]) / np.sqrt(fixed["var"] + epsilon) * fixed["scale"] + fixed["bias"]
    for train in (False, True):
        norm = frozen_batch_norm(train=train, epsilon=epsilon, scale_init=jax.nn.initializers.zeros)
        found, new = norm.apply({"batch_stats": fixed}, jnp.asarray(x), mutable=["batch_stats"])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        jax.tree.map(np.testing.assert_array_equal, new["batch_stats"], fixed)


def test_it_begins_as_the_identity_and_has_no_parameters():
    norm = frozen_batch_norm(train=True, epsilon=0.0, scale_init=jax.nn.initializers.zeros)
    features = jnp.ones((1, 2, 2, 3))
    variables = norm.init(jax.random.key(0), features)
    assert variables.keys() == {"batch_stats"}
    np.testing.assert_array_equal(norm.apply(variables, features), features)
    assert frozen_batch_norm(train=False, dtype=jnp.bfloat16).apply(variables, features).dtype == jnp.bfloat16
