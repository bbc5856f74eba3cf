"""The device mesh: which devices hold which share of the batch and of the parameters."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vision.errors import UserError

AXES = ("data", "fsdp", "tensor")


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; their product is the number of devices."""

    data: int = -1
    """Devices that each take a share of the batch and hold whole parameters; -1 for all that remain."""
    fsdp: int = 1
    """Devices that each take a share of the batch and of every large parameter (fully sharded data parallelism)."""
    tensor: int = 1
    """Devices that share the channels of a layer (tensor parallelism), by the model's sharding rules."""


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over ``devices`` (all of them by default) with axes ``data``, ``fsdp``, ``tensor``.

    Raises ``UserError`` when the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    fixed = config.fsdp * config.tensor
    if config.fsdp < 1 or config.tensor < 1 or (config.data < 1 and config.data != -1):
        raise UserError(f"mesh sizes are positive (or -1 for data), not {config}")
    data = len(devices) // fixed if config.data == -1 else config.data
    sizes = (data, config.fsdp, config.tensor)
    if math.prod(sizes) != len(devices) or data == 0:
        raise UserError(
            f"a mesh of data={config.data}, fsdp={config.fsdp}, tensor={config.tensor} does not fit "
            f"{len(devices)} devices: the product must be {len(devices)}"
        )
    # Explicit axis types, the default of make_mesh, refuse convolution gradients and gathers; Auto lets XLA place them.
    return jax.make_mesh(sizes, AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3, devices=list(devices))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis of a batch over every device that does not merely share channels."""
    return NamedSharding(mesh, P(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same value on every device."""
    return NamedSharding(mesh, P())


def batch_shards(mesh: Mesh) -> int:
    """Into how many pieces a global batch is cut."""
    return mesh.shape["data"] * mesh.shape["fsdp"]
