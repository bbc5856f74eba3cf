import io
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.launch import run as launcher
from vision.train import compiling
from vision.train.compile import Compiler
from vision.train.compiling import Notice, compiling_for
from vision.train.progress import Progress


def slow(x):
    time.sleep(0.3)  # while it is traced, which is the beginning of compilation
    return x + 1


def test_a_program_that_compiles_for_long_is_reported_while_it_does(one_device, monkeypatch):
    monkeypatch.setattr(compiling, "PATIENCE", 0.05)
    stream, said = io.StringIO(), []
    progress = Progress(8, 0, stream)
    function = Compiler(one_device).function(lambda x: said.append(stream.getvalue()) or slow(x))
    monkeypatch.setattr(
        time, "sleep", lambda seconds, sleep=time.sleep: (sleep(seconds), said.append(stream.getvalue()))
    )
    with compiling_for("the evaluation", progress.message):
        np.testing.assert_array_equal(function(jnp.zeros(2)), np.ones(2))
    assert said[0] == ""
    assert said[1] == stream.getvalue() == "compiling a program for the evaluation\n"


def test_what_is_compiled_already_or_quickly_is_not(one_device, monkeypatch):
    monkeypatch.setattr(compiling, "PATIENCE", 30.0)
    said = []
    function = Compiler(one_device).function(slow)
    with compiling_for("the evaluation", said.append):
        function(jnp.zeros(2))
        monkeypatch.setattr(compiling, "PATIENCE", 0.0)
        function(jnp.zeros(2))
    time.sleep(0.05)
    assert said == []


def test_nobody_listens_outside():
    notice = Notice(0.0)
    notice.begin()
    notice.end()
    assert notice._timer is None


def test_an_error_while_tracing_ends_the_wait(one_device):
    said = []

    def wrong(x):
        raise ValueError("no")

    with compiling_for("the evaluation", said.append), pytest.raises(ValueError, match="no"):
        Compiler(one_device).function(wrong)(jnp.zeros(2))
    assert said == []


@pytest.mark.usefixtures("on_one_device")
def test_a_run_says_that_it_compiles_the_step_before_it_does(tmp_path, capfd):
    import experiments.speedrun_mnist as module

    traced = []

    def build(config):
        import dataclasses

        experiment = module.build(config)

        def step(state, batch):
            traced.append(capfd.readouterr().err)
            return experiment.step(state, batch)

        return dataclasses.replace(experiment, step=step)

    arguments = ["--quick", "--workdir", str(tmp_path / "run")]
    named = {"config": module.Config(), "quick": module.TINY, "build": build, "description": module.__doc__}
    assert launcher.main("speedrun_mnist", **named, arguments=arguments) == 0
    (before,) = traced
    assert before.endswith("compiling the step\n")
    assert re.search(r"^compiled the step in [0-9.]+ s$", capfd.readouterr().err, re.MULTILINE)
    assert jax.device_count() == 8
