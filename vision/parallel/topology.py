"""Devices that are not there: a slice of TPUs or hosts of GPUs, to compile for with the compilers alone.

The extras ``tpu`` and ``cuda12`` install the compilers, which work on a machine without the devices.
"""

import importlib.util
import math
import os
import re
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies

from vision.errors import UserError
from vision.parallel.chips import CHIPS, Chip, target_text

EXTRAS = {"tpu": ("libtpu", "tpu"), "gpu": ("jax_cuda12_plugin", "cuda12")}
"""Platform -> (module that the extra installs, extra)."""

MOST_CHIPS = 16_384
"""Larger slices do not exist."""

_TPU_ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is used, so that no other process is in the way
    "TPU_SKIP_MDS_QUERY": "1",  # no metadata server is asked which slice this is
    # libtpu asks for these, and warns where they are missing
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}
_GPU_FLAGS = {"xla_gpu_autotune_level": "0", "xla_gpu_enable_triton_gemm": "false"}
"""Autotuning runs candidates on a GPU; Triton's matrix products have no default tiling without it."""


@dataclass(frozen=True)
class Topology:
    """Accelerators and how they are wired."""

    name: str
    """As ``--topology`` takes it, "v5e:4x4" or "h100:4x8"."""
    chip: Chip
    shape: tuple[int, ...]
    """Sides of a slice of TPUs; (hosts, GPUs of each)."""

    @property
    def size(self) -> int:
        """Number of devices."""
        return math.prod(self.shape)

    @property
    def links(self) -> float:
        """Bytes a second that a device can send to all others: of several hosts of GPUs, through the network."""
        return self.chip.network if self.chip.platform == "gpu" and self.shape[0] > 1 else self.chip.links


def parse_topology(text: str) -> Topology:
    """A topology from its name.

    Raises:
      UserError: there is no such chip, or its devices cannot have this shape.
    """
    name, _, sides = text.partition(":")
    if name not in CHIPS:
        raise UserError(f"--topology {text}: there is no chip {name or 'without a name'}, only {', '.join(CHIPS)}")
    chip = CHIPS[name]
    shape = tuple(int(side) for side in sides.split("x")) if re.fullmatch(r"[0-9]{1,5}(x[0-9]{1,5})*", sides) else ()
    shape = (1, *shape) if chip.platform == "gpu" and len(shape) == 1 else shape
    expected = {
        "gpu": f"{name}:8 for eight, or {name}:4x8 for four hosts of eight",
        "tpu": f"{name}:4x4, even sides or 1x1" if chip.sides == 2 else f"{name}:2x2x1, the first two sides even",
    }[chip.platform]
    if not _possible(chip, shape):
        raise UserError(f"--topology {text}: there is no such shape of {chip.device_kind}: write {expected}")
    return Topology(text, chip, shape)


def _possible(chip: Chip, shape: tuple[int, ...]) -> bool:
    if not shape or min(shape) < 1 or math.prod(shape) > MOST_CHIPS:
        return False
    if chip.platform == "gpu":
        return len(shape) == 2
    return len(shape) == chip.sides and (math.prod(shape) == 1 or not (shape[0] % 2 or shape[1] % 2))


def prepare(topology: Topology) -> None:
    """Set what the compiler of ``topology`` needs in this process; call it before JAX is in use.

    Raises:
      UserError: the extra that has the compiler is not installed.
    """
    module, extra = EXTRAS[topology.chip.platform]
    if importlib.util.find_spec(module) is None:
        raise UserError(
            f"--topology {topology.name} needs the compiler for {topology.chip.device_kind}, which "
            f'pip install -e ".[{extra}]" installs, on a machine without the device too'
        )
    if topology.chip.platform == "tpu":
        os.environ.update({name: os.environ.get(name, value) for name, value in _TPU_ENVIRONMENT.items()})
    else:
        flags = os.environ.get("XLA_FLAGS", "")
        missing = [f"--{name}={value}" for name, value in _GPU_FLAGS.items() if name not in flags]
        os.environ["XLA_FLAGS"] = " ".join(filter(None, [flags, *missing]))
    jax.config.update("jax_platforms", "cpu")  # arrays of this process; an accelerator that is there is left alone
    jax.config.update("jax_enable_compilation_cache", False)  # how long compiling takes is reported


def devices_of(topology: Topology) -> list[Any]:
    """The devices of ``topology``, for ``make_mesh``; :func:`prepare` must have been called.

    Raises:
      UserError: the compiler does not know the topology.
    """
    chip = topology.chip
    arguments: dict[str, Any] = dict(chip.options)
    if chip.platform == "gpu":
        platform, name = "cuda", topology.name.replace(":", "_")
        hosts, each = topology.shape
        arguments |= {"topology": f"1x{hosts}x{each}", "target_config": target_text(chip)}
    else:
        platform, name = "tpu", topology.name
        if topology.size == 1:
            arguments["chips_per_host_bounds"] = (1, 1, 1)
    try:
        found = topologies.get_topology_desc(name, platform, **arguments).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--topology {topology.name} is refused by the compiler: {reason}") from error
    return list(found)
