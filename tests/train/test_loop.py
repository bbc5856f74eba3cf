import io
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.errors import UserError
from vision.train.experiment import Replica
from vision.train.loop import Clock, Window, crosses
from vision.train.progress import Progress


@given(interval=st.integers(1, 50), before=st.integers(0, 500), more=st.integers(0, 100))
def test_crosses_is_a_multiple_on_the_way(interval, before, more):
    expected = any(image % interval == 0 for image in range(before + 1, before + more + 1))
    assert crosses(interval, before, before + more) == expected


@given(interval=st.integers(1, 500), size=st.integers(1, 64))
def test_what_is_due_every_so_many_images_happens_as_often_for_every_batch_size(interval, size):
    steps = 200
    times = sum(crosses(interval, step * size, (step + 1) * size) for step in range(steps))
    assert times == (steps * size // interval if interval >= size else steps)  # never skipped, at most once a step


def test_an_interval_of_zero_is_never():
    assert not crosses(0, 0, 1000)


def outputs(latest=None):
    return SimpleNamespace(checkpoints=SimpleNamespace(latest=latest), progress=Progress(800, 0, io.StringIO()))


@pytest.mark.usefixtures("unchecked")
def test_scalars_of_a_step_are_fetched_after_the_next_is_dispatched():
    window = Window(8, 0)
    window.settle((1, {"loss": jnp.float32(1)}), outputs())
    assert window.images == 0
    assert window.means() == {}
    window.settle((2, {"loss": jnp.float32(3)}), outputs())
    assert window.images == 8
    window.settle(None, outputs())
    assert window.images == 16
    assert window.means() == {"loss": 2.0}
    assert window.images == 0
    assert window.means() == {}


@pytest.mark.usefixtures("unchecked")
def test_means_are_exact_over_long_windows():
    window = Window(8, 0)
    for step in range(1, 1001):
        window.settle((step, {"loss": jnp.float32(1e4 + step % 2)}), outputs())
    window.settle(None, outputs())
    assert window.means()["loss"] == pytest.approx(1e4 + 0.5, abs=1e-9)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("step", "words"), [(4, "in step 4 (images 24 to 32)"), (6, "in steps 4 to 6 (images 24 to 48)")]
)
def test_a_value_that_is_not_finite_names_the_window_and_the_checkpoint(bad, step, words):
    window = Window(8, 3)
    window.settle((step, {"gradient_norm": jnp.float32(bad), "loss": jnp.float32(bad)}), outputs())
    with pytest.raises(UserError) as error:
        window.settle(None, outputs("checkpoints/2"))
    assert error.value.code == 3
    assert f"loss became {bad} {words}" in str(error.value)
    assert "the last good checkpoint is checkpoints/2" in str(error.value)


@pytest.mark.usefixtures("unchecked")
def test_before_the_first_checkpoint_there_is_none_to_name():
    window = Window(8, 0)
    window.settle((1, {"loss": jnp.float32(np.nan)}), outputs())
    with pytest.raises(UserError, match="checkpoint is none yet"):
        window.settle(None, outputs())


def test_the_clock_starts_again():
    clock = Clock()
    clock.add("input", clock._started)
    clock._started -= 100.0  # as if so long ago
    clock.compiled(100.0)
    elapsed, spent = clock.restart()
    assert spent.keys() == {"input_seconds", "step_seconds", "compilation_seconds"}
    assert spent["input_seconds"] + spent["step_seconds"] == pytest.approx(elapsed)  # compilation counts apart
    assert elapsed < 1
    assert spent["compilation_seconds"] == 100
    assert clock.restart()[1].keys() == {"step_seconds"}


REPLICAS = (Replica("seed-0", 0), Replica("seed-1", 1))


@pytest.mark.usefixtures("unchecked")
def test_a_replica_that_diverges_is_named_once_and_the_others_go_on():
    window, here = Window(8, 0, REPLICAS), outputs()
    for step, losses in enumerate(([1.0, 2.0], [1.0, np.nan], [3.0, np.nan]), start=1):
        window.settle((step, {"loss": jnp.asarray(losses)}), here)
    window.settle(None, here)
    said = here.progress._stream.getvalue()
    assert said.count("seed-1 diverged: loss became nan in step 2 (images 8 to 16)") == 1
    assert "seed-0" not in said
    means = window.means()["loss"]
    assert means[0] == pytest.approx(5 / 3)
    assert np.isnan(means[1])


@pytest.mark.usefixtures("unchecked")
def test_no_replica_left_is_an_error():
    window = Window(8, 0, REPLICAS)
    window.settle((1, {"loss": jnp.asarray([np.inf, np.nan])}), outputs())
    with pytest.raises(UserError, match="loss of all 2 replicas became inf"):
        window.settle(None, outputs())
