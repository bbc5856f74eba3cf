"""Networks with fixed weights: known by content, outside checkpoints, wherever they are now."""

import json
import os
import signal
from dataclasses import replace

import jax
import numpy as np
import pytest
from tiny_experiments import teacher
from tiny_experiments.teacher import Config, TeacherConfig

from vision.errors import UserError
from vision.launch import run as launcher
from vision.launch import verbs
from vision.launch.frozen import load_frozen
from vision.launch.load_run import load_run
from vision.launch.run_folder import default_workdir
from vision.train.checkpoint import Checkpoints
from vision.train.compile import Compiler
from vision.train.content_hash import content_hash
from vision.train.experiment import FrozenPart
from vision.train.records import read_metrics

MESHES = {
    "divided": [],
    "vmap": ["--mesh.seeds", "1", "--mesh.data", "8"],
    "sequential": ["--mesh.seeds", "1", "--mesh.data", "8", "--replicas-by", "sequential"],
    "divided and sequential": ["--mesh.seeds", "2", "--replicas-by", "sequential"],
}


def write(path, values=(1.0, -2.0, 0.5)):
    np.savez(path, w=np.array(values, np.float32))
    return path


@pytest.fixture
def weights(tmp_path):
    return write(tmp_path / "teacher.npz")


@pytest.fixture
def command(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*arguments, build=teacher.build):
        capsys.readouterr()
        code = launcher.main(
            "teacher",
            config=Config(),
            quick=teacher.QUICK,
            build=build,
            description="A teacher.",
            arguments=[str(argument) for argument in arguments],
        )
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


@pytest.fixture
def verb(capsys):
    def call(*arguments):
        capsys.readouterr()
        code = verbs.main([str(argument) for argument in arguments], package="tiny_experiments")
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


def stored(run):
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.arrays()


def measured(run):
    return [
        {name: value for name, value in line.items() if not name.startswith("time")}
        for line in read_metrics(run / "metrics.jsonl")
    ]


def stopping(config):
    """The experiment, which asks to be stopped at its fifth step."""
    experiment = teacher.build(config)

    def batches(**share):
        for step, batch in enumerate(experiment.batches(**share), start=share["start_step"]):
            if step == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    return replace(experiment, batches=batches)


def test_the_step_learns_from_it_and_checkpoints_do_not_hold_it(command, tmp_path, weights):
    run = tmp_path / "run"
    code, said = command("--workdir", run, "--teacher.weights", weights)
    assert code == 0, said
    arrays = stored(run)
    assert not [name for name in arrays if "frozen" in name or "teacher" in name]
    records = json.loads((run / "frozen.json").read_text())
    assert records == {
        "teacher": {
            "sha256": content_hash({"w": np.array([1.0, -2.0, 0.5], np.float32)}),
            "path": str(weights),
            "option": "teacher.weights",
        }
    }
    assert command("--workdir", tmp_path / "without")[0] == 0
    assert not np.array_equal(stored(tmp_path / "without")["params/w"], arrays["params/w"])
    assert not (tmp_path / "without" / "frozen.json").exists()


def test_one_that_only_makes_data_is_checked_and_not_given_to_the_step(command, tmp_path, weights):
    run = ["--workdir", tmp_path / "run", "--teacher.weights", weights, "--teacher.no-in-step"]
    assert command(*run)[0] == 0
    assert "teacher" in json.loads((tmp_path / "run" / "frozen.json").read_text())
    assert "frozen" not in load_run(tmp_path / "run", package="tiny_experiments").state.model_state
    write(weights, (0, 0, 0))
    code, said = command(*run)
    assert (code, "is not what is in" in said) == (2, True)


@pytest.mark.parametrize("move", [False, True])
def test_resumed_equals_uninterrupted(command, tmp_path, weights, move):
    """Also when the file has moved, and the option says where."""
    assert command("--workdir", tmp_path / "full", "--teacher.weights", weights)[0] == 0
    run = tmp_path / "parts"
    assert command("--workdir", run, "--teacher.weights", weights, build=stopping)[0] == 75
    place = weights.rename(tmp_path / "moved.npz") if move else weights
    code, said = command("--workdir", run, "--teacher.weights", place)
    assert code == 0, said
    full, parts = stored(tmp_path / "full"), stored(run)
    assert full.keys() == parts.keys()
    for name, array in full.items():
        np.testing.assert_array_equal(array, parts[name], err_msg=name)
    losses = lambda run: [line["train/loss"] for line in measured(run) if "train/loss" in line]
    assert losses(run) == losses(tmp_path / "full")
    assert len(losses(run)) == 8
    # from now on the run knows the new place by itself
    assert json.loads((run / "config.json").read_text())["config"]["teacher"]["weights"] == str(place)
    assert load_run(run, package="tiny_experiments").state.model_state["frozen"]["teacher"]["w"].shape == (3,)


def test_a_missing_or_changed_file_is_one_sentence(command, verb, tmp_path, weights):
    run = tmp_path / "run"
    assert command("--workdir", run, "--teacher.weights", weights, build=stopping)[0] == 75
    config = (run / "config.json").read_bytes()
    digest = json.loads((run / "frozen.json").read_text())["teacher"]["sha256"][:12]
    moved = weights.rename(tmp_path / "moved.npz")
    gone = (
        f"error: the teacher network of {run} (sha256 {digest}...) was read from {weights}, where there is nothing "
        "now: name its new place with --teacher.weights\n"
    )
    for call in (verb("evaluate", run), command("--workdir", run, "--teacher.weights", weights)):
        assert call[0] == 2
        assert call[1].endswith(gone)
    code, said = verb("evaluate", run, "--teacher.weights", tmp_path / "none.npz")
    assert code == 2
    assert f"was read from {weights} and is not in {tmp_path / 'none.npz'}: name its new place" in said
    assert verb("evaluate", run, "--teacher.weights", moved)[0] == 0

    other = write(tmp_path / "other.npz", (1, 1, 1))
    for call in (
        verb("sample", run, "--teacher.weights", other),
        command("--workdir", run, "--teacher.weights", other),
    ):
        assert call[0] == 2
        assert f"(sha256 {digest}...) is not what is in {other} now (sha256 " in call[1]
        assert "put it back, name its new place with --teacher.weights, or choose another --workdir" in call[1]
    assert (run / "config.json").read_bytes() == config  # a wrong place is not remembered

    text = tmp_path / "text.npz"
    text.write_text("no weights")
    code, said = verb("evaluate", run, "--teacher.weights", text)
    assert code == 2
    assert f"the teacher network cannot be read from {text}: it has no weights" in said


def test_at_the_start_a_missing_file_is_named_with_its_option(command, tmp_path):
    code, said = command("--workdir", tmp_path / "run", "--teacher.weights", "nowhere.npz")
    assert code == 2
    assert "there is no nowhere.npz, where --teacher.weights says that the teacher network is" in said


def test_a_run_neither_gains_nor_loses_a_network(command, tmp_path, weights):
    assert command("--workdir", tmp_path / "with", "--teacher.weights", weights)[0] == 0
    assert command("--workdir", tmp_path / "without")[0] == 0
    code, said = command("--workdir", tmp_path / "with")
    assert (code, f"teacher.weights is {weights} there and None here" in said) == (2, True)
    code, said = command("--workdir", tmp_path / "without", "--teacher.weights", weights)
    assert (code, f"teacher.weights is None there and {weights} here" in said) == (2, True)
    (tmp_path / "with" / "frozen.json").unlink()
    code, said = command("--workdir", tmp_path / "with", "--teacher.weights", weights)
    assert (code, "has no frozen.json, which says with what the frozen teacher network it began" in said) == (2, True)
    (tmp_path / "with" / "frozen.json").write_text("{")
    code, said = command("--workdir", tmp_path / "with", "--teacher.weights", weights)
    assert (code, "frozen.json cannot be read" in said) == (2, True)


def test_the_place_is_no_part_of_the_name(weights):
    config = Config(teacher=TeacherConfig(weights=weights), rate=0.2)
    folder = default_workdir("x", quick=False, config=config, default=Config(), places=["teacher.weights"])
    assert folder.name == "rate=0.2"


def test_dry_runs_need_no_file(command, verb, tmp_path, weights):
    code, said = command("--dry-run", "--teacher.weights", "nowhere.npz")
    assert code == 0, said
    assert "frozen networks" in said
    assert "frozen" not in command("--dry-run")[1]
    assert command("--quick", "--workdir", tmp_path / "run", "--teacher.weights", weights, "--seeds", 2)[0] == 0
    weights.unlink()
    code, said = verb("describe", tmp_path / "run")
    assert code == 0, said
    assert "frozen networks" in said


@pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES)
def test_replicas_learn_from_it_as_single_runs_do(command, verb, tmp_path, weights, mesh):
    common = ["--teacher.weights", weights]
    code, said = command("--seeds", 2, "--workdir", tmp_path / "both", *common, *mesh)
    assert code == 0, said
    both = stored(tmp_path / "both")
    assert not [name for name in both if "frozen" in name]
    for seed in (0, 1):
        single = tmp_path / f"seed-{seed}"
        assert command("--seed", seed, "--workdir", single, *common)[0] == 0
        np.testing.assert_allclose(both["params/w"][seed], stored(single)["params/w"], rtol=1e-5, atol=1e-6)
        errors = [
            [line["eval/error"] for line in measured(folder) if "eval/error" in line]
            for folder in (single, tmp_path / "both" / "replicas" / f"seed-{seed}")
        ]
        assert errors[0] == pytest.approx(errors[1], rel=1e-4, abs=1e-5)
    code, said = verb("evaluate", tmp_path / "both")
    assert (code, "error_ci95" in said) == (0, True)
    assert "4 samples" in verb("sample", tmp_path / "both", "--count", 2)[1]
    sweep = ["--sweep", "rate", "0.1,0.2", "--workdir", tmp_path / "sweep", *common, *mesh]
    assert command(*sweep)[0] == 0
    np.testing.assert_allclose(stored(tmp_path / "sweep")["params/w"][0], both["params/w"][0], rtol=1e-5, atol=1e-6)


def test_stopped_replicas_go_on(command, tmp_path, weights):
    common = ["--teacher.weights", weights, "--seeds", 2, "--replicas-by", "sequential"]
    assert command("--workdir", tmp_path / "full", *common)[0] == 0
    assert command("--workdir", tmp_path / "parts", *common, build=stopping)[0] == 75
    assert command("--workdir", tmp_path / "parts", *common)[0] == 0
    full, parts = stored(tmp_path / "full"), stored(tmp_path / "parts")
    for name, array in full.items():
        np.testing.assert_array_equal(array, parts[name], err_msg=name)


def test_the_hash_is_of_paths_dtypes_shapes_and_bytes():
    tree = {"b": np.arange(6, dtype=np.float32), "a": {"c": np.ones((2, 3), np.float16)}}
    digest = content_hash(tree)
    assert len(digest) == 64
    assert digest == content_hash({"a": dict(tree["a"]), "b": jax.numpy.asarray(tree["b"])})
    different = (
        {**tree, "b": tree["b"] + 1},
        {**tree, "b": tree["b"].reshape(2, 3)},
        {**tree, "b": tree["b"].view(np.int32)},
        {"x": tree["b"], "a": tree["a"]},
        {"b": tree["b"]},
    )
    assert len({digest, *map(content_hash, different)}) == 6


def test_the_step_changes_with_the_network(command, tmp_path):
    """What is compiled does not have the weights in it: another file gives another run."""
    for name, values in (("one", (1, 0, 0)), ("two", (0, 1, 0))):
        assert (
            command("--workdir", tmp_path / name, "--teacher.weights", write(tmp_path / f"{name}.npz", values))[0] == 0
        )
    one, two = (stored(tmp_path / name)["ema/ema/w"] for name in ("one", "two"))
    assert not np.array_equal(one, two)
    with pytest.raises(UserError, match="is not what is in"):
        load_run(
            tmp_path / "one", overrides=["--teacher.weights", str(tmp_path / "two.npz")], package="tiny_experiments"
        )


def test_what_only_sampling_uses_may_change(tmp_path, one_device):
    """A guide may be added to a run, left out, and replaced; in its old place it is the one the run began with."""
    compiler = Compiler(one_device)

    def part(name, value, *, optional=True):
        path = tmp_path / name
        path.write_text("weights")
        shapes = {"w": jax.ShapeDtypeStruct((2,), np.float32)}
        load = lambda: {"w": np.full(2, value, np.float32)}
        return FrozenPart(option="sampling.guide", path=path, shapes=shapes, load=load, optional=optional)

    run = tmp_path / "run"
    run.mkdir()
    load = lambda begun, **parts: load_frozen(parts, run, compiler, begun=begun)
    found = load(False, teacher=part("teacher", 1.0, optional=False), guide=part("guide", 2.0))
    assert {name: float(tree["w"][0]) for name, tree in found.items()} == {"teacher": 1.0, "guide": 2.0}
    assert set(load(True, teacher=part("teacher", 1.0, optional=False))) == {"teacher"}
    other = load(True, teacher=part("teacher", 1.0, optional=False), guide=part("other", 3.0))
    assert float(other["guide"]["w"][0]) == 3.0
    with pytest.raises(UserError, match="is not what is in"):
        load(True, teacher=part("teacher", 1.0, optional=False), guide=part("guide", 4.0))
    with pytest.raises(UserError, match="uses the frozen teacher network and the experiment no frozen networks"):
        load(True, guide=part("guide", 2.0))
    # a run that began without any
    bare = tmp_path / "bare"
    bare.mkdir()
    assert set(load_frozen({"guide": part("guide", 2.0)}, bare, compiler, begun=True, read_only=True)) == {"guide"}
