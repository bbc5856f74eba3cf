"""Parameters gathered once a step, and gradients summed into shares (ZeRO stage 3, Rajbhandari et al. 2020).

Left alone, XLA decides at each use of an array that is divided over ``fsdp`` whether its shares are gathered or the
other operand is moved. It gathers anew for each pass of a network, sums products with divided kernels that need no sum
(a power iteration), and moves activations where those are thought to be smaller. Here the program says what it wants:
a loss sees whole parameters, whose shares every device has received once, and whatever it does with them, no activation
has to move. The optimizer sees shares of parameters and gradients.

A device holds all that a loss reads while it reads it, as with ZeRO stage 2, and only shares between steps. Axes other
than ``fsdp`` stay as the sharding rules say.
"""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from vision.parallel.mesh import batch_shards
from vision.parallel.sharding import ShardingRules, partition_spec, path_name
from vision.platform import traced_for

_SHARING = ("data", "fsdp")
"""Axes that divide a batch."""

A = ParamSpec("A")
T = TypeVar("T")


@dataclass(frozen=True)
class _Placement:
    mesh: Mesh | AbstractMesh
    rules: ShardingRules


_placement: ContextVar[_Placement | None] = ContextVar("placement", default=None)


def traced_on(mesh: Mesh | AbstractMesh, rules: ShardingRules, function: Callable[A, T]) -> Callable[A, T]:
    """``function``, which while it is traced knows the platform of ``mesh`` and where arrays live on it.

    That is what ``jax.jit`` is given. During its calls the other functions here have an effect, where there are several
    devices.
    """
    placement = _Placement(mesh, rules) if mesh.size > 1 else None

    @wraps(function)
    def traced(*arguments: A.args, **keywords: A.kwargs) -> T:
        before = _placement.set(placement)
        try:
            return function(*arguments, **keywords)
        finally:
            _placement.reset(before)

    return traced_for(mesh, traced)


def gathered(tree: Any, name: str) -> Any:
    """The arrays of ``tree``, the part ``name`` ("params/generator") of a state, whole on every device of ``fsdp``."""
    return _constrained(tree, name, whole)


def divided(tree: Any, name: str) -> Any:
    """Arrays like those of the part ``name`` of a state, divided as they are there: a sum over devices is scattered."""
    return _constrained(tree, name, lambda spec: spec)


def over_samples(tree: Any) -> Any:
    """Arrays whose first axis is the samples of a batch, divided like a batch, where the devices can share them.

    For batches, for what a step makes of nothing, as random latents, and for results of layers: XLA divides what is
    between like its neighbours, of which the gradient of a kernel may be one that is divided otherwise.
    """
    placement = _placement.get()
    if placement is None:
        return tree
    shards = batch_shards(placement.mesh)

    def of(leaf: Array) -> Array:
        if leaf.shape[0] % shards:
            return leaf
        spec = P(_SHARING, *[P.UNCONSTRAINED] * (leaf.ndim - 1))
        return jax.lax.with_sharding_constraint(leaf, _sharding(placement, spec))

    return jax.tree.map(of, tree)


def sharing_mesh() -> Mesh | AbstractMesh | None:
    """The mesh whose devices share the samples of a batch; None for one device, and for one replica among several."""
    placement = _placement.get()
    return placement.mesh if placement is not None and jax.sharding.get_abstract_mesh().empty else None


def summed_over_shares(function: Callable[..., Array], mesh: Mesh | AbstractMesh | None, *arrays: Array) -> Array:
    """``function(*arrays)``, a sum over samples: by each device of its own, then over devices, in the result's type.

    Args:
      function: of arrays whose first axis is the samples.
      mesh: whose devices share them, of :func:`sharing_mesh` while the program was traced.
      arrays: whose samples, if the devices cannot share them equally, are not divided.
    """
    if mesh is None or any(each.shape[0] % batch_shards(mesh) for each in arrays):
        return function(*arrays)
    own = jax.shard_map(
        lambda *arrays: function(*arrays)[None, None],
        mesh=mesh,
        axis_names=set(_SHARING),
        in_specs=(P(_SHARING),) * len(arrays),
        out_specs=P(*_SHARING),
        check_vma=False,  # the sums over devices are those below
    )
    # one after the other: the first is scattered, as it could not be over more devices than those that keep the shares
    return jax.lax.optimization_barrier(own(*arrays).sum(1)).sum(0)


@jax.custom_jvp
def on_every_device(array: Array) -> Array:
    """``array``, computed whole on each device, for what depends on parameters alone, as a normalised kernel.

    Its gradient is left alone: it is what is summed over devices, and may be divided.
    """
    placement = _placement.get()
    return array if placement is None else jax.lax.with_sharding_constraint(array, _sharding(placement, P()))


@on_every_device.defjvp
def _on_every_device_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return on_every_device(*primals), tangents[0]


def whole(spec: P) -> P:
    """``spec`` without ``fsdp``; that of a batch, which ``fsdp`` divides together with ``data``, as it is."""
    return P(*(None if axis == "fsdp" else axis for axis in spec))


def _constrained(tree: Any, name: str, changed: Callable[[P], P]) -> Any:
    placement = _placement.get()
    if placement is None:
        return tree

    def of(path: tuple[Any, ...], leaf: Any) -> Any:
        full = f"{name}/{path_name(path)}"
        spec = partition_spec(full, leaf.shape, rules=placement.rules, mesh=placement.mesh, strict=False)
        if "fsdp" not in spec:
            return leaf
        return jax.lax.with_sharding_constraint(leaf, _sharding(placement, changed(spec)))

    return jax.tree_util.tree_map_with_path(of, tree)


def _sharding(placement: _Placement, spec: P) -> NamedSharding:
    inside = jax.sharding.get_abstract_mesh()  # that of a shard_map, in which some axes are fixed
    return NamedSharding(placement.mesh if inside.empty else inside, spec)
