import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.train.experiment import Experiment


def experiment(images, batch_size, dispatch):
    batch = {name: jax.ShapeDtypeStruct((batch_size, 3), jnp.float32) for name in ("image", "label")}
    nothing = lambda *_, **__: None
    return Experiment(
        init=nothing,
        step=nothing,
        batches=nothing,
        batch=batch,
        images=images,
        seed=0,
        evaluation=nothing,
        dispatch=dispatch,
    )


@given(images=st.integers(1, 10_000), batch_size=st.integers(1, 100), dispatch=st.integers(1, 10))
def test_a_run_ends_with_the_first_dispatch_that_reaches_the_budget(images, batch_size, dispatch):
    made = experiment(images, batch_size, dispatch)
    assert made.batch_size == batch_size
    assert made.total_steps % dispatch == 0
    assert made.total_steps * batch_size >= images
    assert (made.total_steps - dispatch) * batch_size < images


def test_an_experiment_does_not_change():
    with pytest.raises(AttributeError):
        experiment(1, 1, 1).images = 2
