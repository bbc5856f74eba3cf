"""Peak rates of accelerators: the published ones by name, a CPU's by measurement; and the share of a peak in use.

Peaks are those of dense matrix products with float32 accumulation, in the arithmetic that JAX uses by default: for
float32 operands that is TF32 on GPUs that have it, and one pass of bfloat16 on TPUs. Datasheets that print numbers
"with sparsity" print twice the dense ones.
"""

import functools
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike


@dataclass(frozen=True, kw_only=True)
class Peak:
    """Published TFLOP/s of one JAX device, by the type of the operands; None where there is no number."""

    kind: str
    """Regular expression that the whole ``device_kind`` matches. A slice of a GPU (MIG) matches none."""
    bfloat16: float | None = None
    float16: float | None = None
    float32: float | None = None


def _gpu(kind: str, half: float, float32: float) -> Peak:
    return Peak(kind=kind, bfloat16=half, float16=half, float32=float32)


def _tpu(kind: str, bfloat16: float) -> Peak:
    return Peak(kind=kind, bfloat16=bfloat16, float32=bfloat16)


PEAKS: tuple[Peak, ...] = (
    # NVIDIA Tesla V100 datasheet (2018). No bfloat16, no TF32.
    Peak(kind=r"Tesla V100-SXM2-\d+GB.*", float16=125.0, float32=15.7),
    Peak(kind=r"Tesla V100-PCIE-\d+GB", float16=112.0, float32=14.0),
    # NVIDIA T4 datasheet (2019). No bfloat16, no TF32.
    Peak(kind=r"(NVIDIA |Tesla )?T4", float16=65.0, float32=8.1),
    # NVIDIA A100 datasheet (2021), SXM and PCIe alike; A30, A40 and A10 datasheets (2021).
    _gpu(r"(NVIDIA )?A100-(SXM4|PCIE)-\d+GB|NVIDIA A100 80GB PCIe", 312.0, 156.0),
    _gpu(r"(NVIDIA )?A30", 165.0, 82.0),
    _gpu(r"(NVIDIA )?A40", 149.7, 74.8),
    _gpu(r"(NVIDIA )?A10", 125.0, 62.5),
    # NVIDIA A10G datasheet for AWS (2022): slower than the A10.
    _gpu(r"(NVIDIA )?A10G", 70.0, 35.0),
    # NVIDIA L4, L40 and L40S datasheets (2023).
    _gpu(r"NVIDIA L4", 121.0, 60.0),
    _gpu(r"NVIDIA L40", 181.05, 90.5),
    _gpu(r"NVIDIA L40S", 362.05, 183.0),
    # NVIDIA H100 datasheet (2023): SXM, PCIe, NVL. GH200 datasheet (2023).
    _gpu(r"NVIDIA H100 \d+GB HBM[23]e?|NVIDIA GH200 \d+GB", 989.4, 494.7),
    _gpu(r"NVIDIA H100 PCIe", 756.5, 378.0),
    _gpu(r"NVIDIA H100 NVL", 835.5, 417.5),
    # NVIDIA H200 datasheet (2024): SXM, NVL.
    _gpu(r"NVIDIA H200", 989.4, 494.7),
    _gpu(r"NVIDIA H200 NVL", 835.5, 417.5),
    # NVIDIA Blackwell architecture brief (2024): HGX B200 at 1,000 W; GB200 at 1,200 W.
    _gpu(r"NVIDIA B200", 2250.0, 1125.0),
    _gpu(r"NVIDIA GB200", 2500.0, 1250.0),
    # NVIDIA whitepapers on GA102 (2020), Ada (2022) and RTX Blackwell (2025), tensor cores with FP32 accumulation.
    _gpu(r"(NVIDIA )?GeForce RTX 3090", 71.0, 35.6),
    _gpu(r"NVIDIA GeForce RTX 4090", 165.2, 82.6),
    _gpu(r"NVIDIA GeForce RTX 5090", 209.5, 104.8),
    _gpu(r"(NVIDIA )?RTX A6000", 154.8, 77.4),
    # Jouppi et al. 2020, "A domain-specific supercomputer for training deep neural networks", table 3: 46 and 123 a
    # chip. A chip has two cores, and each is a JAX device.
    _tpu(r"TPU v2", 46.0 / 2),
    _tpu(r"TPU v3", 123.0 / 2),
    # Google Cloud's pages on TPU v4, v5e, v5p and v6e, each "peak compute per chip"; a chip is a JAX device.
    _tpu(r"TPU v4", 275.0),
    _tpu(r"TPU v5 lite|TPU v5e", 197.0),
    _tpu(r"TPU v5|TPU v5p", 459.0),
    _tpu(r"TPU v6 lite|TPU v6e", 918.0),
    # Google Cloud's page on TPU7x (Ironwood): 2,307 a chip of two chiplets, and each is a JAX device.
    _tpu(r"TPU7x", 2307.0 / 2),
)


def peak_flops(device: Any, dtype: DTypeLike) -> float | None:
    """The peak of one device in FLOP/s.

    Args:
      device: a ``jax.Device``.
      dtype: type of the operands.

    Returns:
      The published number, see :data:`PEAKS`. None for a device or type without one. Of a CPU, what
      :func:`measured_peak` measures, divided by the number of devices that the CPU is split into.
    """
    if device.platform == "cpu":
        return _peak_of_a_cpu(device, jnp.dtype(dtype)) / len(jax.local_devices(backend="cpu"))
    for peak in PEAKS:
        if re.fullmatch(peak.kind, device.device_kind):
            found = getattr(peak, jnp.dtype(dtype).name, None)
            return None if found is None else found * 1e12
    return None


@functools.cache
def _peak_of_a_cpu(device: Any, dtype: jnp.dtype) -> float:
    return measured_peak(device, dtype)  # once for all runs of a process, which are one study


def measured_peak(
    device: Any, dtype: DTypeLike, *, repeats: int = 5, clock: Callable[[], float] = time.perf_counter
) -> float:
    """FLOP/s of a square matrix product, the median of several: what a device without a datasheet can be held against.

    Square matrices of 512 and more: the side doubles until a product takes 20 ms, so that starting threads weighs
    little. Takes up to half a second besides compilation. Other work on the machine makes it less, and a program that
    does nothing but larger products may reach a few percent more.

    Args:
      device: a ``jax.Device``.
      dtype: type of the matrices.
      repeats: how many products the median is of; fewer where they take long.
      clock: time in seconds.
    """
    multiply = jax.jit(lambda a: a @ a)

    def timed(a: jax.Array) -> float:
        started = clock()
        multiply(a).block_until_ready()
        return clock() - started

    side, seconds = 256, 0.0
    while seconds < 0.02 and side < 8192:
        side *= 2
        matrix = jax.device_put(np.ones((side, side), jnp.dtype(dtype)), device)
        timed(matrix)  # compiles
        seconds = timed(matrix)
    times = [seconds]
    while len(times) < repeats and sum(times) < 0.4:
        times.append(timed(matrix))
    return 2.0 * side**3 / statistics.median(times)


def utilisation(flops_per_step: float, seconds_per_step: float, peak: float, devices: int) -> float:
    """The share of the devices' peak that a step reaches: flops / (seconds * devices * peak).

    Chowdhery et al. 2022 ("PaLM"), appendix B. With the operations of ``vision.train.flops`` this is model FLOPs
    utilisation, or, where rematerialisation computes things again, hardware FLOPs utilisation.

    Args:
      flops_per_step: operations of a step, over all devices.
      seconds_per_step: how long it took.
      peak: of one device, FLOP/s.
      devices: how many.

    Raises:
      ValueError: unless time, peak and devices are positive.
    """
    if seconds_per_step <= 0 or peak <= 0 or devices < 1:
        raise ValueError(f"utilisation of {devices} devices with a peak of {peak} in {seconds_per_step} s")
    return flops_per_step / (seconds_per_step * devices * peak)
