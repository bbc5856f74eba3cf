"""A machine divided among trials: every core and device is used once, and indivisible machines are rejected."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.ablation.devices import Share, probe, shares, usable_cores
from vision.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def divided(parallel, platform, count, *, environment=None, cores=(0, 1, 2, 3)):
    return shares(parallel, ask=lambda: (platform, count), environment=environment or {}, cores=cores)


def test_one_at_a_time_has_everything_and_asks_nothing():
    def never():
        raise AssertionError("asked")

    assert shares(1, ask=never, environment={}, cores=None) == (Share(),)


def test_cores():
    assert divided(2, "cpu", 1) == (Share(cores=(0, 1)), Share(cores=(2, 3)))
    assert divided(2, "cpu", 1, cores=[5, 3]) == (Share(cores=(3,)), Share(cores=(5,)))
    assert str(divided(2, "cpu", 1)[1]) == "cores 2,3"


@given(st.sets(st.integers(0, 200), min_size=1, max_size=40), st.integers(2, 9))
def test_every_core_is_used_once_and_fairly(cores, parallel):
    if len(cores) < parallel:
        with pytest.raises(UserError, match="needs a core for each"):
            divided(parallel, "cpu", 1, cores=sorted(cores))
        return
    found = [share.cores for share in divided(parallel, "cpu", 1, cores=sorted(cores))]
    assert [core for part in found for core in part] == sorted(cores)
    assert max(map(len, found)) - min(map(len, found)) <= 1


@pytest.mark.parametrize(
    ("visible", "count", "expected"),
    [
        ("", 4, ["0,1", "2,3"]),
        ("", 3, ["0,1", "2"]),
        ("4,6", 2, ["4", "6"]),
        ("GPU-aa, GPU-bb,GPU-cc", 3, ["GPU-aa,GPU-bb", "GPU-cc"]),
    ],
)
def test_gpus(visible, count, expected):
    environment = {"CUDA_VISIBLE_DEVICES": visible} if visible else {}
    found = divided(2, "cuda", count, environment=environment)
    assert [share.environment for share in found] == [{"CUDA_VISIBLE_DEVICES": part} for part in expected]
    assert all(share.cores == () for share in found)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, "cpu", 1), "--parallel is at least 1, not 0"),
        ((5, "cpu", 1), "--parallel 5 needs a core for each trial, and there are 4"),
        ((2, "cuda", 1), "--parallel 2 needs a GPU for each trial, and 1 can be seen"),
        ((2, "tpu", 8), "cannot divide a TPU: run one trial at a time"),
        ((2, "rocm", 8), "cannot divide devices of the platform rocm"),
    ],
)
def test_what_cannot_be_divided_is_refused(arguments, words):
    with pytest.raises(UserError, match=words):
        divided(*arguments)


def test_a_system_without_pinning():
    with pytest.raises(UserError, match="cores of their own"):
        divided(2, "cpu", 1, cores=None)


def test_asking_jax():
    """The device is determined in another process, which also has the simulated devices of the tests."""
    assert probe() == ("cpu", jax.local_device_count())


def test_no_device_is_one_line(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "abacus")
    with pytest.raises(UserError, match=r"JAX finds no device for the trials: .*abacus"):
        probe()


def test_usable_cores():
    assert usable_cores() == sorted(os.sched_getaffinity(0))


def test_jax_keeps_to_its_cores():
    """XLA's threads inherit the cores that ``attached`` sets before Python starts."""
    program = (
        "import os, jax, jax.numpy as jnp; x = jnp.ones((300, 300)); (x @ x).block_until_ready(); "
        "print({frozenset(os.sched_getaffinity(int(task))) for task in os.listdir('/proc/self/task')})"
    )
    core = usable_cores()[-1]
    command = [sys.executable, "-m", "vision.ablation.attached", str(os.getpid()), str(core)]
    said = subprocess.run(
        [*command, sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ).stdout
    assert said.strip() == f"{{frozenset({{{core}}})}}"


def test_a_parent_that_is_gone_already():
    command = [sys.executable, "-m", "vision.ablation.attached", "1", "", "sh", "-c", "echo alive"]
    found = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (found.returncode, found.stdout) == (75, "")
