"""All that a run is: one pytree, and all that a checkpoint holds."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Key

from vision.parallel.sharding import path_name

Params = Any
Optimizers = optax.GradientTransformation | Mapping[str, optax.GradientTransformation]


class TrainState(struct.PyTreeNode):
    """The state of a run.

    Attributes:
      step: int32 scalar, steps taken.
      params: parameters; with several players, a mapping from player to its sub-tree.
      model_state: what the model carries besides (batch statistics, code books); ``{}`` for none.
      opt_state: Optax state; with several players, a mapping with the keys of ``params``.
      ema: averaged copies by name, of the parameters or of all variables; ``{}`` for none.
      key: the run's key; each step uses ``fold_in(key, step)``, so that randomness is a function of the step.
    """

    # Unchecked types: a state of shapes and a state of shardings are TrainStates too.
    step: Any
    params: Params
    model_state: Any
    opt_state: Any
    ema: dict[str, Any]
    key: Any


def parameters(state: TrainState) -> Params:
    """The parameters, which are what most averages are of."""
    return state.params


def variables(state: TrainState) -> dict[str, Any]:
    """What ``model.apply`` takes: the parameters and, beside them, what the model carries, as batch statistics.

    A network with BatchNorm is averaged with its statistics: those of the newest parameters do not fit the average.
    """
    return {"params": state.params, **state.model_state}


def with_given(tree: Any, given: Mapping[str, Any]) -> Any:
    """``tree`` with the leaves at the paths in ``given`` ("params/head/kernel") replaced by the arrays there.

    This is how a run starts from published weights, from another run, or from statistics of its data.

    Raises ``ValueError`` for a path that the tree lacks, or an array of another shape.
    """
    leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    if unknown := sorted(set(given) - set(leaves)):
        raise ValueError(f"there is no {unknown[0]} among the variables: {', '.join(sorted(leaves)[:3])}, ...")

    def chosen(path: tuple[Any, ...], leaf: Any) -> Any:
        if path_name(path) not in given:
            return leaf
        array = jnp.asarray(given[path_name(path)])
        if array.shape != leaf.shape:
            raise ValueError(f"{path_name(path)} has the shape {leaf.shape} and is given an array of {array.shape}")
        return array.astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(chosen, tree)


def network_state(
    made: Mapping[str, Any], *, optimizer: optax.GradientTransformation, key: Key[Array, ""], averages: Sequence[str]
) -> TrainState:
    """The state at step 0 of one network, of whose variables, parameters and statistics, averages are kept.

    Args:
      made: {"params": ..., ...}, as ``model.init`` returns them.
      optimizer: of the parameters.
      key: the run's key.
      averages: their names.
    """
    rest = {name: tree for name, tree in made.items() if name != "params"}
    return create_state(
        params=made["params"],
        optimizer=optimizer,
        key=key,
        model_state=rest,
        ema=dict.fromkeys(averages),
        averaging=variables,
    )


def create_state(
    *,
    params: Params,
    optimizer: Optimizers,
    key: Key[Array, ""],
    model_state: Any = None,
    ema: Mapping[str, Any] | None = None,
    averaging: Callable[[TrainState], Any] = parameters,
) -> TrainState:
    """A state at step 0.

    Args:
      params: initial parameters.
      optimizer: one optimizer of all parameters, or a mapping from player to the optimizer of its sub-tree. A player
        without an optimizer is frozen.
      key: the run's key.
      model_state: initial model state.
      ema: names (keys) of the averages to keep; each starts as a copy. See ``step.averaged``.
      averaging: state -> what is averaged: :func:`parameters`, :func:`variables`, or the sub-tree of one player.
    """
    if isinstance(optimizer, Mapping):
        opt_state = {part: each.init(params[part]) for part, each in optimizer.items()}
    else:
        opt_state = optimizer.init(params)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state={} if model_state is None else model_state,
        opt_state=opt_state,
        ema={},
        key=key,
    )
    return state.replace(ema={name: jax.tree.map(jnp.array, averaging(state)) for name in (ema or {})})
