"""Experiments run on one device here, as do the processes that tests start.

What more devices change is tested in tests/parallel/, by one experiment of each kind; they take longer to compile for.
"""

import functools
import os
import re

import jax
import pytest

from vision.launch import run as launcher
from vision.parallel.mesh import make_mesh


@pytest.fixture(autouse=True, scope="package")
def on_one_device():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher, "make_mesh", functools.partial(make_mesh, devices=jax.devices()[:1]))
        patch.setenv("XLA_FLAGS", re.sub(r"(device_count)=\d+", r"\1=1", os.environ["XLA_FLAGS"]))
        yield
