"""Division of a machine among trials that run at the same time."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from vision.errors import UserError

Item = TypeVar("Item")
Platform = Literal["cpu", "cuda", "rocm", "tpu", "other"]

_PROBE = """
import json, jax
device = jax.local_devices()[0]
print(json.dumps([device.platform, device.client.platform_version, jax.local_device_count()]))
"""


@dataclass(frozen=True)
class Share:
    """The resources of one trial."""

    cores: tuple[int, ...] = ()
    """CPU cores; empty for all that the runner has."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables set for the trial."""

    def __str__(self) -> str:
        parts = [f"cores {','.join(map(str, self.cores))}"] if self.cores else []
        parts += [f"{name}={value}" for name, value in self.environment.items()]
        return " ".join(parts)


def probe() -> tuple[Platform, int]:
    """The platform of trials on this machine, and the number of devices.

    Determined in a separate process, since initialising JAX occupies the devices: most of a GPU's memory, a complete
    TPU.

    Raises:
      UserError: JAX finds no device.
    """
    asked = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=False)
    if asked.returncode:
        last = (asked.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(f"JAX finds no device for the trials: {last}")
    platform, version, count = json.loads(asked.stdout.strip().splitlines()[-1])
    if platform in ("cpu", "tpu"):
        return platform, count
    lowered = f"{platform} {version}".lower()
    return ("rocm" if "rocm" in lowered else "cuda" if "gpu" in lowered or "cuda" in lowered else "other"), count


def shares(
    parallel: int,
    *,
    ask: Callable[[], tuple[Platform, int]],
    environment: Mapping[str, str],
    cores: Sequence[int] | None,
) -> tuple[Share, ...]:
    """Divide the machine into ``parallel`` parts that do not overlap.

    Args:
      parallel: how many trials at a time; 1 changes nothing and does not call ``ask``.
      ask: the platform and number of devices, as :func:`probe` finds them.
      environment: of the runner; its CUDA_VISIBLE_DEVICES is divided.
      cores: cores that the runner may use; None if the system cannot pin processes.

    Raises:
      UserError: there are fewer devices or cores than trials, or the devices cannot be divided.
    """
    if parallel < 1:
        raise UserError(f"--parallel is at least 1, not {parallel}")
    if parallel == 1:
        return (Share(),)
    platform, count = ask()
    if platform == "cpu":
        if cores is None:
            raise UserError("this system cannot give trials cores of their own: leave --parallel out")
        if len(cores) < parallel:
            raise UserError(f"--parallel {parallel} needs a core for each trial, and there are {len(cores)}")
        return tuple(Share(cores=tuple(part)) for part in _parts(sorted(cores), parallel))
    if platform != "cuda":
        name = "a TPU" if platform == "tpu" else f"devices of the platform {platform}"
        raise UserError(
            f"--parallel {parallel} cannot divide {name}: run one trial at a time, or start a runner on each of "
            "several machines with the same --workdir"
        )
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    devices = [name.strip() for name in visible.split(",")][:count] if visible else list(map(str, range(count)))
    if len(devices) < parallel:
        raise UserError(f"--parallel {parallel} needs a GPU for each trial, and {len(devices)} can be seen")
    return tuple(Share(environment={"CUDA_VISIBLE_DEVICES": ",".join(part)}) for part in _parts(devices, parallel))


def _parts(items: Sequence[Item], n: int) -> list[list[Item]]:
    """``n`` neighbouring parts of about equal size, the first ones larger."""
    size, more = divmod(len(items), n)
    starts = [i * size + min(i, more) for i in range(n + 1)]
    return [list(items[a:b]) for a, b in itertools.pairwise(starts)]


def usable_cores() -> list[int] | None:
    """The cores that this process may use; None if the system cannot tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
