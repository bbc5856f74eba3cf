"""Eight simulated devices, programs compiled quickly and kept between runs, annotations of shapes checked."""
# ruff: noqa: E402 - the environment is set before JAX is imported

import functools
import os
import signal
import sys
import types
from pathlib import Path

# All of this must be set before JAX is imported; processes that tests start inherit it.
# Tests compile much and compute little: without LLVM's optimisation and XLA's newer code for fusions a program is ready
# in a third of the time.
_FLAGS = {
    "xla_force_host_platform_device_count": "8",
    "xla_backend_optimization_level": "0",
    "xla_cpu_use_fusion_emitters": "false",
}
for _flag, _value in _FLAGS.items():
    if _flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --{_flag}={_value}".strip()
os.environ["JAX_PLATFORMS"] = "cpu"
# A shell starts jobs of the background with SIGINT ignored, which every process inherits that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vision-jax-tests"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

from beartype import BeartypeConf, beartype
from hypothesis import settings
from jaxtyping import install_import_hook

# The hook wants its checker by name. Integers pass for floats, as PEP 484 has it.
_checker = types.ModuleType("annotation_checker")
_checker.check = beartype(conf=BeartypeConf(is_pep484_tower=True))
sys.modules[_checker.__name__] = _checker
install_import_hook("vision", "annotation_checker.check")
settings.register_profile("vision", deadline=None)
settings.load_profile("vision")

import jax
import jaxtyping
import pytest

from vision.launch import devices
from vision.parallel.mesh import MeshConfig, make_mesh


def pytest_addoption(parser):
    """Tests on real images are skipped without this option."""
    parser.addoption(
        "--real-data",
        type=Path,
        metavar="DIR",
        help="folder with tfds/ (cifar10 and mnist, prepared), bccd/, superres/ and others, for tests on real images",
    )


def pytest_configure(config):
    """Two workers may write the same compiled program at once; the one that reads half of it compiles anew."""
    config.addinivalue_line("filterwarnings", "ignore:Error reading persistent compilation cache entry")
    # Orbax makes the coroutine of a save's folders ahead and drops it where the save never comes to that.
    config.addinivalue_line("filterwarnings", "ignore:coroutine '_create_paths' was never awaited:RuntimeWarning")
    # beartype looks at a random element of each container, which hypothesis notices.
    config.addinivalue_line("filterwarnings", "ignore:Do not use the `random` module inside strategies")


@pytest.fixture
def unchecked():
    """Annotations are not checked: for tests of what a function itself says of a wrong argument."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def real_data(request):
    """The folder of ``--real-data``; the test is skipped without one."""
    folder = request.config.getoption("--real-data")
    if folder is None:
        pytest.skip("needs --real-data DIR")
    return folder.resolve()


@pytest.fixture(scope="session")
def one_device():
    """A mesh of the first device alone: most tests need no more, and eight cost eight times the compilation."""
    return make_mesh(MeshConfig(), jax.devices()[:1])


@pytest.fixture(scope="module")
def on_one_device():
    """Runs that a test starts in this process see one device, which takes less time to compile for.

    Not for tests that compare with a process of its own: how XLA divides work among threads, and so the last bit of a
    sum, depends on how many devices are simulated.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "make_mesh", functools.partial(make_mesh, devices=jax.devices()[:1]))
        yield
