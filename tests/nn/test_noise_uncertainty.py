"""The learned weight of a loss at each noise level: least at the expected error, the same gradients at all levels."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vision.nn.noise_uncertainty import NoiseUncertainty, uncertainty_weighted


def test_it_starts_at_zero_and_is_then_the_plain_error():
    time = jnp.linspace(-1, 1, 5)
    head = NoiseUncertainty()
    params = head.init(jax.random.key(0), time)["params"]
    u = head.apply({"params": params}, time)
    np.testing.assert_array_equal(u, np.zeros(5))
    np.testing.assert_array_equal(uncertainty_weighted(jnp.arange(5.0), u), np.arange(5.0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 128


def test_the_loss_is_least_at_the_logarithm_of_the_error_and_its_gradient_there_is_the_relative_one():
    error = jnp.array([1e-3, 0.5, 40.0])
    at = jnp.log(error)
    slope = jax.grad(lambda u: uncertainty_weighted(error, u).sum())
    np.testing.assert_allclose(slope(at), np.zeros(3), atol=1e-6)
    assert (slope(at + 0.1) > 0).all()
    assert (slope(at - 0.1) < 0).all()
    np.testing.assert_allclose(jax.grad(lambda e: uncertainty_weighted(e, at).sum())(error), 1 / error, rtol=1e-5)


def test_it_learns_the_loss_of_each_noise_level():
    """Errors are exponential with a mean that falls by a factor of 400 over the noise levels."""
    head, mean = NoiseUncertainty(), lambda time: jnp.exp(-2 - 3 * jnp.sin(1.2 * time))
    params = head.init(jax.random.key(0), jnp.zeros(1))["params"]
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 300))

    @jax.jit
    def train(params):
        def step(carry, key):
            params, state = carry
            when, how = jax.random.split(key)
            time = jax.random.uniform(when, (256,), minval=-1.0, maxval=1.0)
            error = mean(time) * jax.random.exponential(how, (256,))
            loss = lambda params: uncertainty_weighted(error, head.apply({"params": params}, time)).mean()
            updates, state = optimizer.update(jax.grad(loss)(params), state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(jax.random.key(1), 300))[0][0]

    time = jnp.linspace(-0.9, 0.9, 10)
    np.testing.assert_allclose(head.apply({"params": train(params)}, time), jnp.log(mean(time)), atol=0.2)
