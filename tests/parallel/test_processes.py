"""When to start one process and when many, from options and from what launchers leave in the environment."""

import socket

import pytest

from vision.errors import UserError
from vision.parallel.processes import ProcessOptions, on_tpu_host, plan, start, wait_for

SLURM = {
    "SLURM_JOB_ID": "4242",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NODELIST": "node[01-02]",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
}
MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911",
}
AUTO = ProcessOptions()


def without(environment, *names):
    return {name: value for name, value in environment.items() if name not in names}


def test_a_plain_machine_has_one_process():
    assert plan(AUTO, {}).arguments is None
    assert plan(AUTO, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}).arguments is None  # any pod that is no part of a job
    assert plan(AUTO, {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "1"}).arguments is None


def test_explicit_options_win_over_every_launcher():
    options = ProcessOptions(coordinator="10.0.0.1:8476", count=3, index=2)
    expected = {"coordinator_address": "10.0.0.1:8476", "num_processes": 3, "process_id": 2}
    for environment in ({}, MPI, SLURM):
        assert plan(options, environment, tpu=True).arguments == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (ProcessOptions(count=2, index=0), "coordinator is missing"),
        (ProcessOptions(coordinator="a:1", index=0), "count is missing"),
        (ProcessOptions(coordinator="a:1"), "count and --processes.index are missing"),
        (ProcessOptions(coordinator="a", count=2, index=0), "HOST:PORT"),
        (ProcessOptions(coordinator="a:b", count=2, index=0), "HOST:PORT"),
        (ProcessOptions(coordinator="a:1", count=2, index=2), "from 0 to 1"),
        (ProcessOptions(coordinator="a:1", count=2, index=-1), "from 0 to 1"),
        (ProcessOptions(launcher="none", count=2), "none means one process"),
        (ProcessOptions(launcher="slurm"), "not started by srun"),
        (ProcessOptions(launcher="openmpi"), "not started by mpirun"),
        (ProcessOptions(launcher="kubernetes"), "not a Kubernetes pod"),
    ],
)
def test_half_a_description_is_an_error_that_names_the_other_half(options, words):
    with pytest.raises(UserError, match=words):
        plan(options, {})


def test_slurm():
    assert plan(AUTO, SLURM).arguments == {"cluster_detection_method": "slurm"}
    assert plan(ProcessOptions(launcher="none"), SLURM).arguments is None
    # the launcher gives the numbers where only the coordinator is named
    named = plan(ProcessOptions(coordinator="node01:9000"), SLURM).arguments
    assert named == {"coordinator_address": "node01:9000", "num_processes": 8, "process_id": 5}


def test_a_slurm_job_whose_program_was_not_started_by_srun():
    with pytest.raises(UserError, match=r"SLURM job of 8 tasks.*without srun.*srun python"):
        plan(AUTO, without(SLURM, "SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE"))
    with pytest.raises(UserError, match="SLURM_LOCALID is missing"):
        plan(AUTO, without(SLURM, "SLURM_LOCALID"))


@pytest.mark.parametrize(
    ("visible", "per_node", "local", "expected"),
    [
        ("0,1,2,3", "4(x2)", "1", [1]),  # one task for each GPU, all of which it sees
        ("2", "4(x2)", "1", [0]),  # --gpus-per-task=1: it sees its own, as number 0
        ("0,1,2,3", "1(x2)", "0", [0, 1, 2, 3]),  # one task for each node
        ("0,1,2,3", "2", "1", [2, 3]),
    ],
)
def test_the_gpus_of_a_task(visible, per_node, local, expected):
    environment = {
        **SLURM,
        "CUDA_VISIBLE_DEVICES": visible,
        "SLURM_STEP_TASKS_PER_NODE": per_node,
        "SLURM_LOCALID": local,
    }
    assert plan(AUTO, environment).arguments == {
        "cluster_detection_method": "slurm",
        "local_device_ids": expected,
    }


def test_gpus_that_cannot_be_shared():
    environment = {**SLURM, "CUDA_VISIBLE_DEVICES": "0,1,2", "SLURM_STEP_TASKS_PER_NODE": "2"}
    with pytest.raises(UserError, match=r"2 processes on this host cannot share 3 GPUs"):
        plan(AUTO, environment)


def test_open_mpi():
    assert plan(AUTO, MPI).arguments == {"cluster_detection_method": "ompi"}
    with pytest.raises(UserError, match=r"process 2 of 4 under Open MPI.*--processes\.coordinator"):
        plan(AUTO, without(MPI, "OMPI_MCA_orte_hnp_uri"))
    named = plan(ProcessOptions(coordinator="host:1"), without(MPI, "OMPI_MCA_orte_hnp_uri")).arguments
    assert named == {"coordinator_address": "host:1", "num_processes": 4, "process_id": 2}
    assert plan(AUTO, {**MPI, "OMPI_COMM_WORLD_SIZE": "1"}).arguments is None


def test_a_pod_of_an_indexed_job_needs_options_or_detection():
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}
    try:
        import kubernetes  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        with pytest.raises(UserError, match=r"indexed Kubernetes job.*JOB_COMPLETION_INDEX"):
            plan(AUTO, pod)
    else:
        assert plan(AUTO, pod).arguments == {"cluster_detection_method": "k8s"}
    assert plan(ProcessOptions(launcher="none"), pod).arguments is None
    # a TPU host of GKE is found as such
    assert plan(AUTO, pod, tpu=True).arguments == {}


def test_a_tpu_host_asks_its_platform(monkeypatch):
    assert plan(AUTO, {}, tpu=True).arguments == {}
    assert plan(ProcessOptions(launcher="tpu"), {}).arguments == {}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not on_tpu_host({"TPU_WORKER_ID": "0"})  # without the library there is no using it
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert on_tpu_host({"TPU_WORKER_ID": "0"})


def test_the_compiler_for_tpus_makes_no_tpu_host(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("vision.parallel.processes._has_tpu_chip", lambda: False)
    assert not on_tpu_host({"TPU_SKIP_MDS_QUERY": "1"})  # as JAX sets it


def test_a_coordinator_that_does_not_answer_is_named():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but not listening: nobody answers
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(UserError, match=rf"process 0 does not answer at {address} after 0\.1 seconds"):
            wait_for(address, seconds=0.1)
        unused.listen()
        wait_for(address, seconds=5)


def test_one_process_starts_nothing():
    assert start(AUTO, {}).startswith("one process")
