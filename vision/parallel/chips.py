"""Accelerators that programs can be compiled for on a machine without them: memory, links, and XLA's description.

Sources. TPUs: Google Cloud's pages on each version ("HBM capacity", "interchip interconnect bandwidth", which those of
v5p and v6e print for both directions together); v4: Jouppi et al. 2023, "TPU v4: an optically reconfigurable
supercomputer", six links of 50 GB/s. NVIDIA: datasheets of the A100 (2021), H100 (2023), H200 (2024) and the Blackwell
architecture brief (2024), whose NVLink rates are of both directions together; a network card for each GPU as in DGX
A100 (200 Gb/s), DGX H100, H200 and B200 (400 Gb/s). The numbers of GPUs that XLA asks for are those of openxla/xla,
``xla/backends/gpu/target_config/specs``. Peaks in FLOP/s are those of ``vision.train.peaks``, by the kind of device.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class GpuTarget:
    """What XLA's compiler for NVIDIA GPUs asks of a GPU, its ``GpuTargetConfigProto``, where GPUs differ."""

    cores: int
    """Streaming multiprocessors."""
    units: int
    """Float32 units of each."""
    shared_memory: tuple[int, int]
    """Bytes of shared memory of each: in all, and the most that a block may have."""
    cache: int
    """Bytes of the second-level cache."""
    clock: float
    """GHz."""
    bandwidth: float
    """Bytes a second of the memory."""
    capability: int
    """Major number of the compute capability."""
    accelerated: bool
    """Whether code may use instructions of this capability alone (sm_90a, sm_100a)."""


@dataclass(frozen=True, kw_only=True)
class Chip:
    """An accelerator, as JAX counts devices."""

    platform: Literal["tpu", "gpu"]
    device_kind: str
    """What JAX calls it, and ``vision.train.peaks`` finds its peak by."""
    memory: int
    """Bytes."""
    share: float
    """Of the memory, what a program may have: of GPUs, what JAX takes by default (XLA_PYTHON_CLIENT_MEM_FRACTION)."""
    links: float
    """Bytes a second that a device can send in all to the others of its slice (TPUs) or host (GPUs)."""
    network: float
    """Bytes a second that a device can send to other hosts; of TPUs, whose slices are wired across hosts, the same."""
    sides: int = 1
    """Numbers in the shape of a topology: 2 for a square of TPUs, 3 for a cuboid, 1 or 2 for GPUs."""
    target: GpuTarget | None = None
    """Of GPUs."""
    options: tuple[tuple[str, str], ...] = ()
    """What libtpu must know besides the name."""

    @property
    def available(self) -> int:
        """Bytes that a program may have."""
        return int(self.memory * self.share)


def _tpu(kind: str, *, memory: float, links: float, sides: int, options: tuple[tuple[str, str], ...] = ()) -> Chip:
    return Chip(
        platform="tpu",
        device_kind=kind,
        memory=int(memory * GIB),
        share=1.0,
        links=links,
        network=links,
        sides=sides,
        options=options,
    )


def _gpu(kind: str, *, memory: int, links: float, network: float, target: GpuTarget) -> Chip:
    return Chip(
        platform="gpu", device_kind=kind, memory=memory, share=0.75, links=links, network=network, target=target
    )


_HOPPER = {
    "cores": 132,
    "units": 128,
    "shared_memory": (233_472, 232_448),
    "cache": 52_428_800,
    "clock": 1.98,
    "capability": 9,
    "accelerated": True,
}

CHIPS: Mapping[str, Chip] = {
    "v4": _tpu("TPU v4", memory=32, links=300e9, sides=3, options=(("chip_config_name", "megacore"),)),
    "v5e": _tpu("TPU v5 lite", memory=16, links=200e9, sides=2),
    "v5p": _tpu("TPU v5", memory=95, links=600e9, sides=3),
    "v6e": _tpu("TPU v6 lite", memory=32, links=400e9, sides=2),
    "a100": _gpu(
        "NVIDIA A100-SXM4-80GB",
        memory=85_100_068_864,
        links=300e9,
        network=25e9,
        target=GpuTarget(
            cores=108,
            units=64,
            shared_memory=(167_936, 166_912),
            cache=41_943_040,
            clock=1.41,
            bandwidth=2.03904e12,
            capability=8,
            accelerated=False,
        ),
    ),
    "h100": _gpu(
        "NVIDIA H100 80GB HBM3",
        memory=84_942_979_072,
        links=450e9,
        network=50e9,
        target=GpuTarget(bandwidth=3.35232e12, **_HOPPER),
    ),
    "h200": _gpu(
        "NVIDIA H200",
        memory=151_397_597_184,
        links=450e9,
        network=50e9,
        target=GpuTarget(bandwidth=4.8e12, **_HOPPER),
    ),
    "b200": _gpu(
        "NVIDIA B200",
        memory=191_514_411_008,
        links=900e9,
        network=50e9,
        target=GpuTarget(
            cores=148,
            units=128,
            shared_memory=(233_472, 232_448),
            cache=132_644_864,
            clock=1.965,
            bandwidth=7.67232e12,
            capability=10,
            accelerated=True,
        ),
    ),
}
"""By the names that ``--topology`` takes."""


def target_text(chip: Chip) -> str:
    """The text of XLA's ``GpuTargetConfigProto`` of a GPU. Raises ``ValueError`` for a TPU."""
    target = chip.target
    if target is None:
        raise ValueError(f"{chip.device_kind} is no GPU")
    info = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 49_152,
        "shared_memory_per_core": target.shared_memory[0],
        "shared_memory_per_block_optin": target.shared_memory[1],
        "threads_per_core_limit": 2048,
        "core_count": target.cores,
        "fpus_per_core": target.units,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65_535,
        "block_dim_limit_z": 65_535,
        "memory_bandwidth": int(target.bandwidth),
        "l2_cache_size": target.cache,
        "clock_rate_ghz": target.clock,
        "device_memory_size": chip.memory,
        "registers_per_core_limit": 65_536,
        "registers_per_block_limit": 65_536,
    }
    extension = "ACCELERATED_FEATURES" if target.accelerated else "NONE"
    lines = [f"  {name}: {value}" for name, value in info.items()]
    return "\n".join(
        [
            "gpu_device_info {",
            *lines,
            f"  cuda_compute_capability {{ major: {target.capability} feature_extension: {extension} }}",
            "}",
            'platform_name: "CUDA"',
            # what the extra cuda12 installs at least
            "dnn_version_info { major: 9 minor: 8 }",
            "runtime_version { major: 12 minor: 8 }",
            f'device_description_str: "{chip.device_kind}"',
        ]
    )
