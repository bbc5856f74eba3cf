"""Random conditions for tiny networks."""

import dataclasses

import jax.numpy as jnp
import numpy as np

ALL = {"classes": 3, "embedding": 5, "vocabulary": 7, "tokens": 4, "condition_channels": 2}
"""Every condition, as fields of a network's configuration."""


def conditions(config, side=8, count=2):
    """What a network with this configuration needs for ``count`` images of ``side`` pixels; the last label is null."""
    generator = np.random.default_rng(0)
    found = {}
    if config.classes:
        found["label"] = jnp.asarray([1] * (count - 1) + [config.classes])
    if config.embedding:
        found["embedding"] = jnp.asarray(generator.normal(size=(count, config.embedding)), jnp.float32)
    if config.tokens:
        found["tokens"] = jnp.asarray(generator.integers(1, config.vocabulary, (count, config.tokens)))
    if config.condition_channels:
        shape = (count, side, side, config.condition_channels)
        found["image"] = jnp.asarray(generator.normal(size=shape), jnp.float32)
    return found


def broken(config):
    """(configuration, conditions, message) for what networks must refuse: too few, too many, of another shape."""
    good = conditions(config)
    for name in good:
        yield (
            config,
            {key: value for key, value in good.items() if key != name},
            f"was not given the condition '{name}'",
        )
        yield config, {**good, name: good[name][:, None]}, f"the condition '{name}' of shape"
    yield config, {**good, "mask": jnp.zeros((2, 8, 8, 1))}, "was given the condition 'mask'"
    plain = dataclasses.replace(config, **dict.fromkeys(ALL, 0))
    for name, value in good.items():
        yield plain, {name: value}, f"without conditions was given the condition '{name}'"
