"""The compiler that reports and returns ones, and what is said of programs, on simulated devices."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vision.errors import UserError
from vision.launch.describe import describe_on
from vision.launch.program_report import ProgramReport, report_of
from vision.launch.prove import Proof, proof_text, prove
from vision.launch.recording import RecordingCompiler
from vision.launch.replicas import ReplicaOptions, vectorized
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.parallel.topology import parse_topology
from vision.train.experiment import Evaluation, Experiment
from vision.train.flops import Flops
from vision.train.state import create_state
from vision.train.step import gradient
from vision.types import Samples

ROOMY = 1 << 40


SHARED = MeshConfig(fsdp=4)


def recording(config=SHARED, *, available=ROOMY, **more):
    return RecordingCompiler(make_mesh(config), available=available, **more)


def test_functions_are_compiled_once_for_each_shape_and_return_ones():
    compiler = recording()
    call = compiler.function(lambda x, offset: (x.sum(0) + offset, x > 0))
    for count in (5, 5, 8, 20):  # 5 and 8 are both padded to 8
        sums, mask = jax.device_get(call(compiler.shard_padded(np.zeros((count, 3), np.float32)), np.float32(2)))
        assert sums.tolist() == [1, 1, 1]
        assert mask.dtype == bool
        assert len(mask) == -(-count // 8) * 8
    assert [each.name for each in compiler.programs] == [
        "test_recording.test_functions_are_compiled_once_for_each_shape_and_return_ones"
    ] * 2
    first = compiler.programs[0]
    assert first.fits
    assert first.problem is None
    assert first.exchange["all-reduce"]["count"] == 1
    assert first.sums.keys() == {"f32"}
    assert first.memory["in all"] == sum(
        size if name != "aliased" else -size for name, size in first.memory.items() if name != "in all"
    )


def test_results_go_into_other_functions_as_arrays_of_the_host_would():
    compiler = recording()
    first, second = compiler.function(lambda x: {"sum": x.sum()}), compiler.function(lambda sums, x: sums["sum"] * x)
    batch = compiler.shard({"x": np.zeros((8, 2), np.float32)})
    assert second(first(batch["x"]), batch["x"]).shape == (8, 2)
    keys = compiler.function(lambda key: jax.random.split(key))(compiler.replicate(jax.random.key(0)))
    assert keys.shape == (2,)
    assert jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)


def test_what_does_not_fit_is_said():
    compiler = recording(available=10)
    compiler.function(lambda x: x * 2)(compiler.shard_padded(np.zeros((8, 3), np.float32)))
    (found,) = compiler.programs
    assert found.fits is False


@pytest.mark.parametrize(
    ("message", "problem", "fits"),
    [
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 22.02G "
            "of 15.75G hbm. Exceeded hbm capacity by 6.27G.\n\nTotal hbm usage >= 22.28G:\n    reserved   258.00M",
            "the compiler needs 22.02G of memory and the device has 15.75G",
            False,
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (47.84G) "
            "exceeds available HBM (15.75G).",
            "the compiler needs 47.84G of memory and the device has 15.75G",
            False,
        ),
        ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate", "RESOURCE_EXHAUSTED: Out of memory", False),
        ("\nUNIMPLEMENTED: no such operation\nat line 3", "UNIMPLEMENTED: no such operation", None),
        ("", "no reason given", None),
    ],
)
def test_a_compilers_message_is_one_sentence(message, problem, fits):
    def fails():
        raise jax.errors.JaxRuntimeError(message)

    report = report_of("step", fails, available=1, least=lambda flops: {})
    assert report.problem.startswith(problem)
    assert "\n" not in report.problem
    assert report.fits is fits
    assert json.loads(json.dumps(report.as_json()))["problem"] == report.problem


@dataclasses.dataclass(frozen=True)
class Config:
    """A recipe."""

    seed: int = 0
    """Seed."""


def experiment(config=Config(), *, fail=None):
    optimizer = optax.adam(0.1)

    def init(key, initial=None):
        params = {"kernel": jax.random.normal(key, (256, 128)), "bias": jnp.zeros(128)}
        return create_state(params=params, optimizer=optimizer, key=key, ema={"ema": None})

    def loss(params, model_state, batch, *, key, step):
        return jnp.square(batch["x"] @ params["kernel"] + params["bias"]).mean(), (model_state, {})

    def evaluation(compiler):
        call = compiler.function(lambda params, x: (x @ params["kernel"]).sum())

        def evaluate(state):
            total = float(
                jax.device_get(call(state.ema["ema"], compiler.shard_padded(np.zeros((20, 256), np.float32))))
            )
            if fail is not None:
                raise fail
            return Evaluation({"total": total})

        return evaluate

    def sampling(compiler):
        call = compiler.function(lambda params, index: params["bias"][None] * index[:, None])

        def sample(state, request):
            index = compiler.shard_padded(np.arange(request.count, dtype=np.int32))
            return Samples(images=np.zeros((*jax.device_get(call(state.params, index)).shape[:1], 1, 1, 3), np.uint8))

        return sample

    return Experiment(
        init=init,
        step=gradient(loss, optimizer),
        batches=lambda **share: iter(()),
        batch={"x": jax.ShapeDtypeStruct((16, 256), jnp.float32)},
        images=1600,
        seed=config.seed,
        evaluation=evaluation,
        sampling=sampling,
    )


def test_step_evaluation_and_sampling_are_compiled():
    compiler = recording()
    proof = prove(experiment(), compiler)
    assert [each.name.split(":")[0] for each in proof.programs] == ["training step", "evaluation", "sampling"]
    assert proof.left_out == ()
    step = proof.programs[0]
    assert step.products == {"float32": 2 * 2 * 16 * 256 * 128}
    assert step.least.keys() == {"all-gather", "reduce-scatter", "all-reduce"}
    assert [each.name for each in prove(experiment(), recording(), only_step=True).programs] == ["training step"]


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (UserError("no images in /data"), r"evaluation: 1 program, then it stopped .*: no images in /data\)"),
        (ValueError("all\nones"), r"evaluation: 1 program, then it stopped .*: ValueError: all ones\)"),
    ],
)
def test_what_stops_an_evaluation_is_said_and_the_rest_is_compiled(problem, said):
    proof = prove(experiment(fail=problem), recording())
    assert [each.name.split(":")[0] for each in proof.programs] == ["training step", "evaluation", "sampling"]
    (left_out,) = proof.left_out
    assert re.match(said, left_out)


def test_missing_data_is_said():
    def evaluation(compiler):
        raise UserError("there is no cifar10 in /data")

    proof = prove(dataclasses.replace(experiment(), evaluation=evaluation, sampling=None), recording())
    assert proof.left_out == ("evaluation was not compiled: there is no cifar10 in /data",)


def test_replicas():
    made = vectorized(experiment, Config(), ReplicaOptions(seeds=2))
    compiler = RecordingCompiler(make_mesh(MeshConfig(), replicas=2), replicas=2, available=ROOMY)
    proof = prove(made, compiler)
    # the evaluation of one replica serves both
    assert [each.name.split(":")[0] for each in proof.programs] == ["training step", "evaluation", "sampling"]
    assert proof.left_out == ()


def test_functions_that_are_kept_for_a_compiler_report_to_it():
    assert recording() != recording()
    assert len({recording(), recording()}) == 2


def test_the_page(monkeypatch):
    monkeypatch.setattr("vision.launch.prove.versions", lambda topology: {"jax": "1.2.3", "libtpu": "4.5"})
    text = describe_on(experiment(), recording(), parse_topology("v5e:2x4"), config=Config(seed=3), default=Config())
    assert "* seed = 3" in text
    assert "Compiled for 8 x TPU v5 lite (v5e:2x4) by jax 1.2.3, libtpu 4.5" in text
    assert "Memory of a device: 16.0 GiB" in text
    assert "products in float32: 0.00 GFLOP, 100.0%, in one pass of bfloat16" in text
    assert "of theory's" in text
    assert "sums over devices: float32" in text
    assert text.count("fits") == 3


def test_the_page_of_what_does_not_work(monkeypatch):
    monkeypatch.setattr("vision.launch.prove.versions", lambda topology: {})
    took = {"seconds": 1.0, "processor_seconds": 1.0}
    memory = dict.fromkeys(("arguments", "outputs", "temporaries", "code", "aliased", "in all"), 2**37)
    bad = [
        ProgramReport(name="one", **took, problem="no such operation"),
        ProgramReport(name="two", **took, problem="the compiler needs 22G of 15G hbm", fits=False),
        ProgramReport(
            name="three",
            **took,
            fits=False,
            memory=memory,
            least={"all-gather": 2.0**20},
            exchange={"all-to-all": {"count": 2.0, "sent": 2.0**21, "exact": 0.0}},
            sums={"bf16": 2.0**20},
            products={"bfloat16": 3 * 10**9, "float32": 10**9},
        ),
    ]
    lines = proof_text(
        Proof(programs=tuple(bad), left_out=("evaluation was not compiled: no data",)),
        parse_topology("h100:8"),
        jax.devices(),
    )
    text = "\n".join(lines)
    assert "79.1 GiB, of which JAX takes 59.3" in text
    assert "DOES NOT COMPILE: no such operation" in text
    assert "DOES NOT FIT: the compiler needs 22G of 15G hbm" in text
    assert "161.8%  DOES NOT FIT" in text
    assert "all-to-all: 2 times, 2.000 MiB, none in theory or more: a loop's length is not known" in text
    assert "all-gather: none, where theory has 1.000 MiB" in text
    assert "sums over devices: bfloat16 1.000 MiB" in text
    assert "products in bfloat16: 3.00 GFLOP, 75.0%\n" in text
    assert "products in float32: 1.00 GFLOP, 25.0%, in TF32" in text
    assert lines[-1] == "evaluation was not compiled: no data"


def test_operations_are_of_one_step_of_a_dispatch():
    made = jax.jit(lambda x: x @ x).lower(jax.ShapeDtypeStruct((8, 8), jnp.float32)).compile()
    report = report_of("s", lambda: (made, Flops({"float32": 40})), available=1, dispatch=4, least=lambda flops: {})
    assert report.products == {"float32": 10}
