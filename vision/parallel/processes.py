"""Starting a program on many hosts: ``jax.distributed``, configured by options, else by the launcher's variables.

JAX can detect the processes of a TPU pod, a SLURM step, an Open MPI job and a Kubernetes job. It leaves to its callers
the decision whether there is a cluster at all, and partial clusters: a SLURM job whose program was started without
``srun`` trains the same run once, silently, on one node of many. Here that is an error with instructions.
"""

import importlib.util
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vision.errors import UserError
from vision.ranges import NonNegativeInt, PositiveInt

Launcher = Literal["auto", "none", "slurm", "openmpi", "kubernetes", "tpu"]

CLUSTER_NAMES = {"slurm": "slurm", "openmpi": "ompi", "kubernetes": "k8s"}
"""JAX's names of the launchers."""


@dataclass(frozen=True)
class ProcessOptions:
    """How this process connects to the others of the same run."""

    coordinator: str | None = None
    """HOST:PORT at which process 0 can be reached; any free port."""
    count: PositiveInt | None = None
    """The number of processes of the run."""
    index: NonNegativeInt | None = None
    """The index of this process, from 0."""
    timeout: PositiveInt = 300
    """Seconds to wait for the others at the start."""
    launcher: Launcher = "auto"
    """The launcher that started the processes and defines count and index; "none" for an independent process inside a
    cluster."""


@dataclass(frozen=True)
class Plan:
    """Arguments of ``jax.distributed.initialize``; nothing is started if ``arguments`` is None."""

    reason: str
    """The reason for one process or many, in words."""
    arguments: Mapping[str, Any] | None = None


def plan(options: ProcessOptions, environment: Mapping[str, str], *, tpu: bool = False) -> Plan:
    """Decide how to start: explicit options, then SLURM, Open MPI, Kubernetes, TPU, else one process.

    Args:
      options: the user's options; count and index may be left to SLURM and Open MPI if the coordinator is given.
      environment: the environment variables of the process.
      tpu: whether this machine is a host of a Cloud TPU, see :func:`on_tpu_host`.

    Raises:
      UserError: options that contradict each other, or a partially configured cluster.
    """
    given = {"coordinator": options.coordinator, "count": options.count, "index": options.index}
    if options.launcher == "none":
        if any(value is not None for value in given.values()):
            raise UserError("--processes.launcher none means one process: leave coordinator, count and index out")
        return Plan("one process, as requested")
    ranked = _ranked(options.launcher, environment)
    if any(value is not None for value in given.values()):
        return _explicit(options, ranked, environment)
    if ranked is not None:
        return _from_launcher(ranked, environment)
    if options.launcher in ("slurm", "openmpi"):
        raise UserError(
            f"--processes.launcher {options.launcher}, but this process was not started by "
            f"{'srun' if options.launcher == 'slurm' else 'mpirun'}: its variables are missing from the environment"
        )
    if options.launcher == "kubernetes" or (options.launcher == "auto" and not tpu):
        found = _kubernetes(environment, sure=options.launcher == "kubernetes")
        if found is not None:
            return found
    if options.launcher == "tpu" or tpu:
        return Plan("a TPU host: JAX asks the platform for the others", {})
    return Plan("one process: no launcher was found")


@dataclass(frozen=True)
class _Rank:
    """A launcher's description of a process."""

    launcher: str
    count: int
    index: int
    local_index: int
    local_count: int | None
    addressable: bool
    """Whether JAX can derive the coordinator's address."""


def _ranked(launcher: Launcher, environment: Mapping[str, str]) -> _Rank | None:
    """SLURM's or Open MPI's numbers, when more than one process was started."""
    if launcher in ("auto", "slurm") and "SLURM_JOB_ID" in environment:
        tasks = _number(environment, "SLURM_NTASKS", 1)
        in_step = "SLURM_STEP_NODELIST" in environment and "SLURM_PROCID" in environment
        if tasks > 1 and not in_step:
            raise UserError(
                f"this is a SLURM job of {tasks} tasks, but the program was started once, without srun: start it "
                "as 'srun python -m ...', or set --processes.launcher none to run a single process"
            )
        if in_step and (tasks > 1 or launcher == "slurm"):
            per_node = environment.get("SLURM_STEP_TASKS_PER_NODE", "")
            local_count = int(per_node.split("(")[0]) if per_node.split("(")[0].isdigit() else None
            return _Rank(
                "slurm",
                tasks,
                _number(environment, "SLURM_PROCID"),
                _number(environment, "SLURM_LOCALID"),
                local_count,
                addressable=True,
            )
    if launcher in ("auto", "openmpi") and "OMPI_COMM_WORLD_SIZE" in environment:
        size = _number(environment, "OMPI_COMM_WORLD_SIZE")
        if size > 1 or launcher == "openmpi":
            return _Rank(
                "openmpi",
                size,
                _number(environment, "OMPI_COMM_WORLD_RANK"),
                _number(environment, "OMPI_COMM_WORLD_LOCAL_RANK"),
                _number(environment, "OMPI_COMM_WORLD_LOCAL_SIZE", 0) or None,
                addressable="OMPI_MCA_orte_hnp_uri" in environment,
            )
    return None


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isdigit():
        raise UserError(
            f"the launcher's variable {name} is {'missing' if text is None else repr(text)}: start the program by "
            "srun or mpirun, or give --processes.coordinator, --processes.count and --processes.index"
        )
    return int(text)


def _explicit(options: ProcessOptions, ranked: _Rank | None, environment: Mapping[str, str]) -> Plan:
    count = options.count if options.count is not None or ranked is None else ranked.count
    index = options.index if options.index is not None or ranked is None else ranked.index
    missing = [
        f"--processes.{name}"
        for name, value in (("coordinator", options.coordinator), ("count", count), ("index", index))
        if value is None
    ]
    if missing:
        raise UserError(
            f"the cluster is only partially described: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} "
            "missing "
            "(a coordinator HOST:PORT, the count of processes, and the index of this one, from 0)"
        )
    assert options.coordinator is not None
    assert count is not None
    assert index is not None
    host, _, port = options.coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--processes.coordinator is HOST:PORT, such as 10.0.0.1:8476, not {options.coordinator}")
    if count < 1 or not 0 <= index < count:
        raise UserError(f"--processes.index {index} must be from 0 to {count - 1}: there are {count} processes")
    arguments = {"coordinator_address": options.coordinator, "num_processes": count, "process_id": index}
    return Plan(f"process {index} of {count}, as requested", {**arguments, **_local_devices(ranked, environment)})


def _from_launcher(rank: _Rank, environment: Mapping[str, str]) -> Plan:
    if not rank.addressable:
        raise UserError(
            f"this is process {rank.index} of {rank.count} under Open MPI, which does not provide the address of "
            "process 0: "
            "add --processes.coordinator HOST:PORT (the first host and any free port, the same for all)"
        )
    arguments = {"cluster_detection_method": CLUSTER_NAMES[rank.launcher]}
    reason = f"process {rank.index} of {rank.count}, started by {rank.launcher}"
    return Plan(reason, {**arguments, **_local_devices(rank, environment)})


def _local_devices(rank: _Rank | None, environment: Mapping[str, str]) -> dict[str, Any]:
    """Which of the visible GPUs belong to this process; JAX would take the one with the task's number.

    That number does not exist if the launcher shows each task only its own GPU (``--gpus-per-task``), and is one of
    many if there is one task per node.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    if rank is None or not visible:
        return {}
    gpus = len(visible.split(","))
    if gpus == 1:
        return {"local_device_ids": [0]}
    if rank.local_count is None:
        return {}
    if gpus % rank.local_count:
        raise UserError(
            f"{rank.local_count} processes on this host cannot share {gpus} GPUs (CUDA_VISIBLE_DEVICES={visible}) "
            "equally: start one process for each GPU, or one for all"
        )
    each = gpus // rank.local_count
    return {"local_device_ids": list(range(rank.local_index * each, (rank.local_index + 1) * each))}


def _kubernetes(environment: Mapping[str, str], *, sure: bool) -> Plan | None:
    """Pods of an indexed job (and so of a JobSet) are one run; any other pod is an independent process."""
    if "KUBERNETES_SERVICE_HOST" not in environment:
        if sure:
            raise UserError("--processes.launcher kubernetes, but this is not a Kubernetes pod")
        return None
    if "JOB_COMPLETION_INDEX" not in environment and not sure:
        return None
    if importlib.util.find_spec("kubernetes") is None:
        raise UserError(
            "this pod belongs to an indexed Kubernetes job: give --processes.coordinator, --processes.count and "
            "--processes.index (JOB_COMPLETION_INDEX), or pip install 'jax[k8s]' for detection, or set "
            "--processes.launcher none if every pod is an independent run"
        )
    return Plan("a pod of an indexed Kubernetes job", {"cluster_detection_method": CLUSTER_NAMES["kubernetes"]})


def on_tpu_host(environment: Mapping[str, str]) -> bool:
    """Whether this machine belongs to a Cloud TPU: it has the TPU library and access to TPU chips."""
    if importlib.util.find_spec("libtpu") is None:
        return False
    # not TPU_SKIP_MDS_QUERY: JAX sets it itself where the library is installed and there are no chips
    cloud = {"TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID", "MEGASCALE_COORDINATOR_ADDRESS"}
    return bool(cloud & environment.keys()) or _has_tpu_chip()


def _has_tpu_chip() -> bool:
    from pathlib import Path

    vendors = Path("/sys/bus/pci/devices").glob("*/vendor")
    google = "0x1ae0"  # PCI vendor of TPU chips; network cards of Google's hosts share it but are of another class
    chips = [path for path in vendors if path.read_text().strip() == google]
    return any((path.parent / "class").read_text().startswith("0x12") for path in chips)


def start(options: ProcessOptions, environment: Mapping[str, str]) -> str:
    """Join the other processes of the run, if there are any; call before anything touches devices.

    Returns:
      The decision, in words.

    Raises:
      UserError: see :func:`plan`; or the others could not be reached in time.
    """
    import jax

    decided = plan(options, environment, tpu=on_tpu_host(environment))
    if decided.arguments is None:
        return decided.reason
    arguments = decided.arguments
    if arguments.get("process_id", 0) > 0:
        wait_for(arguments["coordinator_address"], seconds=options.timeout)
    try:
        jax.distributed.initialize(**arguments, initialization_timeout=options.timeout)
    except (RuntimeError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"this is {decided.reason}, but the processes could not join: {first[:300]}. Check that all were started, "
            "with the same options, and that the coordinator's port is free and open to the others",
        ) from error
    if jax.default_backend() == "cpu":
        # programs that jaxlib 0.10.2 reads from the cache run their collectives in orders that differ by process
        jax.config.update("jax_enable_compilation_cache", False)
    return decided.reason


def wait_for(coordinator: str, *, seconds: float) -> None:
    """Wait until something listens at ``coordinator``; raise ``UserError`` after ``seconds``.

    JAX's own client aborts the process with a stack trace instead.
    """
    host, _, port = coordinator.rpartition(":")
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                raise UserError(
                    f"process 0 does not answer at {coordinator} after {seconds:g} seconds "
                    f"({error.strerror or error}): check that it was started, with the same options, "
                    "and that the port is free and open"
                ) from error
        time.sleep(0.5)
