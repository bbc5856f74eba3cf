"""The platform that a program is compiled for, which need not be that of this machine.

Code that is faster in another form on some platform asks :func:`platform` while it is traced. ``jax.default_backend()``
would be the wrong answer where a machine without accelerators compiles for them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import ParamSpec, TypeVar

import jax
from jax.sharding import AbstractMesh, Mesh

P = ParamSpec("P")
T = TypeVar("T")

_target: ContextVar[str | None] = ContextVar("platform", default=None)
_composed: ContextVar[bool] = ContextVar("composed", default=False)


def platform() -> str:
    """What the function that is being traced is compiled for: "cpu", "gpu" or "tpu"; the default backend elsewhere."""
    return _target.get() or jax.default_backend()


def of_mesh(mesh: Mesh | AbstractMesh) -> str:
    """The platform of the devices of ``mesh``; the default backend where it names none."""
    if isinstance(mesh, AbstractMesh):
        return jax.default_backend()
    return mesh.devices.flat[0].platform


def traced_for(mesh: Mesh | AbstractMesh, function: Callable[P, T]) -> Callable[P, T]:
    """``function``, during whose calls :func:`platform` is that of ``mesh``: what ``jax.jit`` is given to trace."""

    @wraps(function)
    def traced(*arguments: P.args, **keywords: P.kwargs) -> T:
        before = _target.set(of_mesh(mesh))
        try:
            return function(*arguments, **keywords)
        finally:
            _target.reset(before)

    return traced


def shapes_of(function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
    """``jax.eval_shape``, which touches no devices: for what is built before processes have joined each other.

    ``function`` must make its own random keys, of which those from outside are arrays on a device.
    """
    before = _target.set("cpu")  # shapes are the same for all
    try:
        return jax.eval_shape(function, *arguments, **keywords)
    finally:
        _target.reset(before)


@contextmanager
def composed() -> Iterator[None]:
    """Within it, what is traced has compositions of JAX's operations in place of primitives of this project.

    For converters to other formats, which read a program and know JAX's primitives alone.
    """
    token = _composed.set(True)
    try:
        yield
    finally:
        _composed.reset(token)


def is_composed() -> bool:
    """Whether the function that is being traced is for a converter, see :func:`composed`."""
    return _composed.get()
