"""Bilinear operations whose gradients are written here, for every transformation of JAX.

A convolution y = F(x, k) is linear in the features x and in the kernel k. So are its gradients D(y, k), of the shape of
x, and W(x, y), of the shape of k, with

    <F(x, k), y> = <x, D(y, k)> = <k, W(x, y)>.

Each of the three is a primitive of JAX here, and the gradients of each are the other two. So ``jvp``, ``grad``, any
nesting of them, ``vmap`` and ``remat`` work, where ``jax.custom_vjp`` has no forward mode, and where a composition of
JAX's own operations leaves the form of its gradients to XLA.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.core
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

from vision.platform import is_composed, platform

Shape = tuple[Any, ...]
"""The shape of an array: ints, and a symbolic dimension where a program is exported for any number of samples."""


@runtime_checkable
class Operation(Protocol):
    """F, D or W as a composition of JAX's operations."""

    def __call__(self, left: Array, right: Array, /, *, shape: Shape, dtype: Any, how: Any) -> Array:
        """The result, of ``shape`` and ``dtype``; ``how`` holds the settings of the operation, such as strides."""
        ...


@dataclass(frozen=True)
class Operations:
    """The three operations. Features and results have the samples along their first axis, kernels have none."""

    forward: Operation
    """F(x, k), of the type of x, to which the kernel has been cast."""
    to_features: Operation
    """D(y, k), of the type of y, to which the kernel has been cast."""
    to_kernel: Operation
    """W(x, y), summed over the samples, of the type of k, which may be wider than that of x and y."""


Bilinear = Callable[..., Array]
"""(x, k, *, shape, how) -> F(x, k) with the given shape, which JAX can differentiate and vectorize."""


def bilinear(
    name: str, operations: Operations, *, cpu: Operations | None = None, gpu: Operations | None = None
) -> Bilinear:
    """Make primitives of three operations, and return the first.

    Args:
      name: of the operation, as it is shown in programs: the primitives are ``name``, ``name_to_features`` and
        ``name_to_kernel``.
      operations: the operations as they are compiled.
      cpu: as they are compiled for CPUs.
      gpu: as they are compiled for NVIDIA's GPUs.
    """
    named = zip(("", "_to_features", "_to_kernel"), ("forward", "to_features", "to_kernel"), strict=True)
    primitives = F, D, W = tuple(  # noqa: N806 - as above
        _primitive(name + ending, _by_platform(kind, operations, cpu, gpu)) for ending, kind in named
    )
    like = lambda operand: {"shape": operand.aval.shape, "dtype": operand.aval.dtype}
    # <F(x, k), c> = <x, D(c, k)> = <k, W(x, c)>;  <D(y, k), c> = <y, F(c, k)> = <k, W(c, y)>;
    # <W(x, y), c> = <x, D(y, c)> = <F(x, c), y>
    ad.defbilinear(
        F,
        lambda c, x, k, *, shape, dtype, **of: D.bind(c, k, **of, **like(x)),
        lambda c, x, k, *, shape, dtype, **of: W.bind(x, c, **of, **like(k)),
    )
    ad.defbilinear(
        D,
        lambda c, y, k, *, shape, dtype, **of: F.bind(c, k, **of, **like(y)),
        lambda c, y, k, *, shape, dtype, **of: W.bind(c, y, **of, **like(k)),
    )
    ad.defbilinear(
        W,
        lambda c, x, y, *, shape, dtype, **of: D.bind(y, c, **of, **like(x)),
        lambda c, x, y, *, shape, dtype, **of: F.bind(x, c, **of, **like(y)),
    )
    for primitive, kind in zip(primitives, ("forward", "to_features", "to_kernel"), strict=True):
        batching.primitive_batchers[primitive] = partial(
            _batched, primitive, _by_platform(kind, operations, cpu, gpu), samples=primitive is not W
        )

    composition = _by_platform("forward", operations, None, None)["tpu"]

    def bind(x: Array, k: Array, *, shape: Shape, how: Any) -> Array:
        precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
        if is_composed():
            return composition(x, k, shape=tuple(shape), dtype=x.dtype, how=how, precision=precision)
        return F.bind(x, k, shape=tuple(shape), dtype=x.dtype, how=how, precision=precision)

    return bind


def _by_platform(
    kind: str, operations: Operations, cpu: Operations | None, gpu: Operations | None
) -> dict[str, Callable[..., Array]]:
    """One of the three operations by platform."""
    chosen = {"cpu": cpu or operations, "gpu": gpu or operations, "tpu": operations}
    operation = {platform: getattr(each, kind) for platform, each in chosen.items()}
    if kind == "to_kernel":
        return {of: partial(_at_precision, each) for of, each in operation.items()}
    return {of: partial(_at_precision, partial(_cast, each)) for of, each in operation.items()}


def _at_precision(operation: Operation, left: Array, right: Array, /, *, precision: str | None, **how: Any) -> Array:
    """``operation`` with the precision of products that was asked for where its result is used.

    Primitives are lowered when the context of ``jax.default_matmul_precision`` has been left.
    """
    with jax.default_matmul_precision(precision):
        return operation(left, right, **how)


def _cast(operation: Operation, left: Array, kernel: Array, /, **how: Any) -> Array:
    return operation(left, kernel.astype(left.dtype), **how)


def _primitive(name: str, operation: dict[str, Callable[..., Array]]) -> Primitive:
    primitive = Primitive(name)
    # under jit, layers of equal shapes share one trace of what may be hundreds of operations
    own = {of: jax.jit(each, static_argnames=("shape", "dtype", "how", "precision")) for of, each in operation.items()}
    primitive.def_impl(lambda *operands, **how: own.get(platform(), own["tpu"])(*operands, **how))
    primitive.def_abstract_eval(lambda left, right, *, shape, dtype, **_: jax.core.ShapedArray(shape, dtype))
    mlir.register_lowering(primitive, mlir.lower_fun(own["tpu"], multiple_results=False))
    for of, named in (("cpu", "cpu"), ("gpu", "cuda")):
        if operation[of] is not operation["tpu"]:
            mlir.register_lowering(primitive, mlir.lower_fun(own[of], multiple_results=False), platform=named)
    return primitive


def _batched(
    primitive: Primitive,
    operation: dict[str, Callable[..., Array]],
    operands: Any,
    axes: Any,
    *,
    samples: bool,
    shape: Shape,
    **how: Any,
) -> tuple[Array, int]:
    """One of many: along the samples where only what has samples differs.

    Where kernels differ too, one after another on CPUs, where a convolution vmapped over its kernels is several times
    slower than the same work in turn; elsewhere as XLA vectorizes the operation.
    """
    (left, right), (of_left, of_right) = operands, axes
    if samples and of_right is None:
        left = jnp.moveaxis(left, of_left, 0)
        count, size = left.shape[:2]
        merged = left.reshape(count * size, *left.shape[2:])
        found = primitive.bind(merged, right, shape=(count * shape[0], *shape[1:]), **how)
        return found.reshape(count, *shape), 0
    if platform() != "cpu":
        return jax.vmap(partial(operation.get(platform(), operation["tpu"]), shape=shape, **how), axes)(left, right), 0
    count = next(each.shape[axis] for each, axis in zip(operands, axes, strict=True) if axis is not None)
    at = lambda each, axis, index: each if axis is None else jax.lax.index_in_dim(each, index, axis, keepdims=False)
    rows = [
        primitive.bind(at(left, of_left, index), at(right, of_right, index), shape=shape, **how)
        for index in range(count)
    ]
    return jnp.stack(rows), 0
