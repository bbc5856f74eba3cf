"""Making the state of a run, and taking variables out of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

from vision.parallel.sharding import path_name
from vision.types import Params, TrainState

Optimizers = optax.GradientTransformation | Mapping[str, optax.GradientTransformation]


def parameters(state: TrainState) -> Params:
    """The parameters, which are what most averages are of."""
    return state.params


def variables(state: TrainState) -> dict[str, Any]:
    """What ``model.apply`` takes: the parameters and, beside them, what the model carries, as batch statistics.

    A network with BatchNorm is averaged with its statistics: those of the newest parameters do not fit the average.
    """
    return {"params": state.params, **{name: tree for name, tree in state.model_state.items() if name != "frozen"}}


def averages(state: TrainState) -> Any:
    """The averages "ema" of a state: of its variables where ``averaging=variables``."""
    return state.ema["ema"]


def attach_frozen(state: TrainState, frozen: Mapping[str, Any]) -> TrainState:
    """``state`` with the variables of frozen networks, by name, in ``model_state["frozen"]``; for none, as it is."""
    return state.replace(model_state={**state.model_state, "frozen": dict(frozen)}) if frozen else state


def detach_frozen(state: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """The inverse of :func:`attach_frozen`: the state without frozen networks, and their variables by name."""
    if not isinstance(state.model_state, Mapping) or "frozen" not in state.model_state:
        return state, {}
    rest = {name: tree for name, tree in state.model_state.items() if name != "frozen"}
    return state.replace(model_state=rest), dict(state.model_state["frozen"])


def with_values(tree: Any, values: Mapping[str, Any]) -> Any:
    """``tree`` with the leaves at the paths in ``values`` ("params/head/kernel") replaced by the arrays there.

    This is how a run starts from published weights, from another run, or from statistics of its data.

    Raises ``ValueError`` for a path that the tree lacks, or an array of another shape.
    """
    leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    if unknown := sorted(set(values) - set(leaves)):
        raise ValueError(f"there is no {unknown[0]} among the variables: {', '.join(sorted(leaves)[:3])}, ...")

    def chosen(path: tuple[Any, ...], leaf: Any) -> Any:
        if path_name(path) not in values:
            return leaf
        array = jnp.asarray(values[path_name(path)])
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
