"""The least that devices must exchange in a training step, by the theory of data and fully sharded parallelism."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from vision.parallel.collectives import MOVED


def least_exchange(
    params: Any, placed: Any, mesh: Mesh | AbstractMesh, *, frozen: Any = (), itemsize: int | None = None
) -> dict[str, float]:
    """Bytes that each device sends in a step, by kind of collective, with ring algorithms.

    A parameter that every device holds: its gradient is summed over the n devices that share the batch (all-reduce,
    2 (n - 1) / n of its bytes; Patarasuk & Yuan 2009). One that f devices share (ZeRO stage 3, Rajbhandari et al.
    2020): it is gathered once, (f - 1) / f, its gradient is summed and divided, (f - 1) / f, and the shares are summed
    over the other devices. A program that does not keep what it has gathered gathers again in the backward pass, and
    sends that part twice. Where the activations of a layer are smaller than its parameters, XLA may exchange those in
    their place, and less than this. Statistics of the batch, losses and norms, some numbers a channel, are not counted;
    nor is what tensor parallelism exchanges, which are activations.

    Args:
      params: trained parameters, of ShapeDtypeStructs; every one has one gradient a step.
      placed: their NamedShardings.
      mesh: with axes ``data`` and ``fsdp``.
      frozen: variables of frozen networks, of ShapeDtypeStructs with shardings: they are gathered and have no gradient.
      itemsize: bytes of a number in which parameters are gathered; by default that of the parameter.
    """
    data, fsdp = mesh.shape["data"], mesh.shape["fsdp"]
    least = dict.fromkeys(("all-gather", "reduce-scatter", "all-reduce"), 0.0)

    def add(leaf: Any, where: Any, *, trained: bool) -> None:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return
        held = math.prod(where.shard_shape(leaf.shape))
        shared = any("fsdp" in (axis if isinstance(axis, tuple) else (axis,)) for axis in where.spec if axis)
        over = fsdp if shared else 1
        least["all-gather"] += MOVED["all-gather"](over) * held * over * (itemsize or leaf.dtype.itemsize)
        if trained:
            held *= leaf.dtype.itemsize
            least["reduce-scatter"] += MOVED["reduce-scatter"](over) * held * over
            least["all-reduce"] += MOVED["all-reduce"](data if shared else data * fsdp) * held

    for leaf, where in zip(jax.tree.leaves(params), jax.tree.leaves(placed), strict=True):
        add(leaf, where, trained=True)
    for leaf in jax.tree.leaves(frozen):
        add(leaf, leaf.sharding, trained=False)
    return {kind: size for kind, size in least.items() if size}
