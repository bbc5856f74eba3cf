"""Networks with a context as diffusers has them, whose predictions are on record in condition_unets.npz."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from published_weights import published_array, uniform

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "condition_unets.npz")


def config_of(case):
    """The entries of config.json."""
    return json.loads(str(GOLDEN[f"{case}_config"]))


def shapes_of(case):
    """Published name -> shape."""
    return {name: tuple(shape) for name, shape in json.loads(str(GOLDEN[f"{case}_names"])).items()}


def arrays_of(case):
    """The arrays with which the predictions were made."""
    return {name: published_array(name, shape) for name, shape in shapes_of(case).items()}


def values(name, *shape):
    """Numbers of about unit variance by name."""
    return jnp.asarray((2.0 * uniform(name, shape)).astype(np.float32))
