"""Runs of experiments on one device, for tests of what does not depend on how many there are."""

import functools

import jax
import pytest

from vision.launch import run as launcher
from vision.parallel.mesh import make_mesh


@pytest.fixture(scope="module")
def on_one_device():
    """Runs in this process see one device, which takes less time to compile for.

    Not for tests that compare with a process of its own: how XLA divides work among threads, and so the last bit of a
    sum, depends on how many devices are simulated.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher, "make_mesh", functools.partial(make_mesh, devices=jax.devices()[:1]))
        yield
