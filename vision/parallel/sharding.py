"""Shardings from a table of regular expressions over parameter paths; the first match wins.

Other arrays are sharded over ``fsdp`` along their largest divisible axis (ZeRO, Rajbhandari et al. 2020) if they are
large enough to be worth the communication.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vision.errors import UserError

ShardingRules = Sequence[tuple[str, P]]

FSDP_MIN_ELEMENTS = 2**14
"""Arrays with fewer elements are replicated over ``fsdp``: gathering them would cost more than holding them."""


def path_name(path: tuple[Any, ...]) -> str:
    """The name of a leaf in rules, tables and messages, such as ``params/down_0_block_0/conv_in/kernel``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def partition_spec(
    name: str, shape: tuple[int, ...], *, rules: ShardingRules, mesh: Mesh | AbstractMesh, strict: bool
) -> P:
    """The PartitionSpec of one array.

    Args:
      name: path of the array, as of :func:`path_name`.
      shape: its shape.
      rules: (regular expression, PartitionSpec); the first that is found in ``name`` wins.
      mesh: a mesh with axes ``data``, ``fsdp``, ``tensor``.
      strict: whether an inapplicable rule raises. Parameters are strict. Optimizer states are not: a factored moment
        has the path of its parameter but a different shape, and falls back to the default.

    Raises:
      UserError: if ``strict`` and the winning rule names more axes than the array has, or does not divide it.
    """
    axes: list[Any] = [None] * len(shape)
    for pattern, spec in rules:
        if not re.search(pattern, name):
            continue
        problem = _misfit(spec, shape, mesh)
        if problem is None:
            axes[: len(spec)] = [axis if axis is None or mesh.shape[axis] > 1 else None for axis in spec]
        elif strict:
            raise UserError(
                f"sharding rule {pattern!r} -> {spec} cannot be applied to {name} of shape {shape} "
                f"on mesh {dict(mesh.shape)}: {problem}"
            )
        break
    fsdp = mesh.shape["fsdp"]
    if fsdp > 1 and "fsdp" not in axes and np.prod(shape) >= FSDP_MIN_ELEMENTS:
        free = [i for i, axis in enumerate(axes) if axis is None and shape[i] % fsdp == 0]
        if free:
            axes[max(free, key=lambda i: (shape[i], i))] = "fsdp"
    while axes and axes[-1] is None:
        axes.pop()
    return P(*axes)


def _misfit(spec: P, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> str | None:
    if len(spec) > len(shape):
        return f"it names {len(spec)} axes and the array has {len(shape)}"
    for position, axis in enumerate(spec):
        if axis is not None and axis not in mesh.shape:
            return f"the mesh has no axis {axis!r}"
        if axis is not None and axis in spec[:position]:
            return f"it names {axis!r} twice"
        if axis is not None and shape[position] % mesh.shape[axis]:
            return f"axis {position} of length {shape[position]} is not a multiple of {axis}={mesh.shape[axis]}"
    return None


def shardings(abstract: Any, *, mesh: Mesh | AbstractMesh, rules: ShardingRules) -> Any:
    """A tree of NamedShardings like ``abstract`` (a TrainState of ShapeDtypeStructs, or any tree).

    Leaves under ``params`` and ``ema`` must follow their rules (see :func:`partition_spec`); the others do so if
    possible. Random keys and scalars are replicated.
    """

    def of(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name = path_name(path)
        strict = name.split("/")[0] in ("params", "ema")
        return NamedSharding(mesh, partition_spec(name, leaf.shape, rules=rules, mesh=mesh, strict=strict))

    return jax.tree_util.tree_map_with_path(of, abstract)


def bytes_per_device(leaf: Any, sharding: NamedSharding) -> int:
    """Bytes of one device's share of an abstract array."""
    shape = sharding.shard_shape(leaf.shape)
    itemsize = 4 * 2 if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf.dtype.itemsize
    return int(np.prod(shape, dtype=np.int64)) * itemsize
