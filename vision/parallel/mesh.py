"""The device mesh: the distribution of the batch and the parameters over devices."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import jax
from annotated_types import Interval
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vision.errors import UserError
from vision.ranges import NonNegativeInt, PositiveInt

AXES = ("seeds", "data", "fsdp", "tensor")


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; their product is the number of devices."""

    seeds: NonNegativeInt = 0
    """Groups of devices among which the replicas of --seeds or --sweep are divided; 0 for as many as fit."""
    data: Annotated[int, Interval(ge=-1, le=1_000_000)] = -1
    """Devices that each take a share of the batch and hold complete parameters; -1 for all remaining devices."""
    fsdp: PositiveInt = 1
    """Devices that each take a share of the batch and of every large parameter (fully sharded data parallelism)."""
    tensor: PositiveInt = 1
    """Devices that share the channels of a layer (tensor parallelism), by the model's sharding rules."""


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None, *, replicas: int = 1) -> Mesh:
    """A mesh over ``devices`` (all of them by default) with axes ``seeds``, ``data``, ``fsdp``, ``tensor``.

    Args:
      config: sizes of the axes.
      devices: the devices of the mesh.
      replicas: runs trained as one program, which the axis ``seeds`` divides. By default that axis is as long as
        replicas and devices allow: replicas do not communicate, shares of a batch do.

    Raises:
      UserError: the sizes do not multiply to the number of devices, or the replicas cannot be divided.
    """
    devices = jax.devices() if devices is None else devices
    if config.fsdp < 1 or config.tensor < 1 or (config.data < 1 and config.data != -1) or config.seeds < 0:
        raise UserError(f"mesh sizes are positive (or -1 for data, 0 for seeds), not {config}")
    fixed = config.fsdp * config.tensor * (1 if config.data == -1 else config.data)
    seeds = config.seeds or math.gcd(replicas, max(len(devices) // fixed, 1))
    if replicas % seeds:
        raise UserError(
            f"{replicas} run{'s' if replicas > 1 else ''} cannot be divided among mesh.seeds={seeds} groups of "
            "devices: "
            f"choose a divisor of {replicas}"
        )
    data = len(devices) // (fixed * seeds) if config.data == -1 else config.data
    sizes = (seeds, data, config.fsdp, config.tensor)
    if math.prod(sizes) != len(devices) or data == 0:
        named = ", ".join(
            f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True) if axis != "seeds" or size > 1
        )
        raise UserError(
            f"a mesh of {named.replace('data=0', 'data=-1')} does not fit "
            f"{len(devices)} devices: the product must be {len(devices)}"
        )
    # Explicit axis types, the default of make_mesh, refuse convolution gradients and gathers; Auto lets XLA place them.
    return jax.make_mesh(sizes, AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(AXES), devices=list(devices))


def devices_needed(config: MeshConfig) -> int:
    """The minimum number of devices for the sizes."""
    return max(config.seeds, 1) * max(config.data, 1) * config.fsdp * config.tensor


def undivided(mesh: Mesh) -> Mesh:
    """The same devices for one run: the groups of ``seeds`` become shares of its batch."""
    sizes = (1, mesh.shape["seeds"] * mesh.shape["data"], mesh.shape["fsdp"], mesh.shape["tensor"])
    return Mesh(mesh.devices.reshape(sizes), AXES, axis_types=mesh.axis_types)


def replicated(mesh: Mesh) -> NamedSharding:
    """The same value on every device."""
    return NamedSharding(mesh, P())


def batch_shards(mesh: Mesh | AbstractMesh) -> int:
    """The number of shards of a global batch."""
    return mesh.shape["data"] * mesh.shape["fsdp"]
