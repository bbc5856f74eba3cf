"""Normal numbers of a sample that do not depend on which other samples are computed with it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry_2x32
from jaxtyping import Array, Float, Int, Key


def normal_rows(key: Key[Array, ""], index: Int[Array, " n"], shape: tuple[int, ...]) -> Float[Array, "n ..."]:
    """Rows ``index`` of an endless array of standard normal rows, of which ``jax.random.normal`` gives the first.

    Row i is a function of (key, i) alone, and ``normal_rows(key, arange(n), shape)`` equals
    ``jax.random.normal(key, (n, *shape))`` bit by bit. Keys are of JAX's default kind, Threefry (Salmon et al. 2011),
    which is a function of (key, position in the array).
    """
    size = math.prod(shape)
    row, place = index.astype(jnp.uint32)[:, None], jnp.arange(size, dtype=jnp.uint32)
    # position = row * size + place in 64 bits, as two words of 32: the product by halves of 16 bits
    carry = (row & 0xFFFF) * (size & 0xFFFF) >> 16
    middle = (row >> 16) * (size & 0xFFFF) + carry
    low_middle = (middle & 0xFFFF) + (row & 0xFFFF) * (size >> 16)
    high = (row >> 16) * (size >> 16) + (middle >> 16) + (low_middle >> 16)
    start = row * jnp.uint32(size)
    low = start + place
    high = jnp.broadcast_to(high, low.shape) + (low < start)
    first, second = jnp.split(threefry_2x32(jax.random.key_data(key), jnp.concatenate([high.ravel(), low.ravel()])), 2)
    # as jax.random.uniform: 23 random bits make the mantissa of a number in [1, 2)
    mantissa = (first ^ second) >> 9 | np.float32(1.0).view(np.uint32)
    unit = jax.lax.bitcast_convert_type(mantissa, jnp.float32) - 1.0
    least = np.nextafter(np.float32(-1.0), np.float32(0.0))
    uniform = jnp.maximum(least, unit * (np.float32(1.0) - least) + least)
    return (np.float32(math.sqrt(2)) * jax.lax.erf_inv(uniform)).reshape(-1, *shape)
