"""Whole runs of a tiny experiment through the command line's entrance, stopped and damaged in every way."""

import contextlib
import errno
import io
import json
import math
import os
import shutil
import signal
from dataclasses import replace

import jax
import numpy as np
import pytest
from line_experiment import SIZE, Config, Hooks, make_build
from PIL import Image

from vision.errors import UserError
from vision.launch import run as launcher
from vision.launch import verbs
from vision.launch.devices import abstract_state
from vision.launch.run_folder import claim
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.train.checkpoint import Checkpoints
from vision.train.compile import Compiler
from vision.train.records import read_metrics

pytestmark = pytest.mark.usefixtures("on_one_device")


@pytest.fixture
def hooks():
    return Hooks()


@pytest.fixture
def command(hooks, monkeypatch, capsys, tmp_path):
    """Run the experiment with a command line on one device; gives (exit code, what it said)."""
    monkeypatch.chdir(tmp_path)
    build = make_build(hooks)

    def call(*arguments):
        capsys.readouterr()
        quick = replace(Config(), images=2 * SIZE)
        code = launcher.main(
            "line",
            config=Config(),
            quick=quick,
            build=build,
            description="A line.",
            arguments=[str(argument) for argument in arguments],
        )
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


@pytest.fixture
def verb(capsys):
    """Run ``python -m vision`` with these words; gives (exit code, what it said)."""

    def call(*arguments):
        capsys.readouterr()
        code = verbs.main([str(argument) for argument in arguments], package="tiny_experiments")
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


def final_state(workdir, config=None):
    experiment = make_build(Hooks())(config or Config())
    compiler = Compiler(make_mesh(MeshConfig(), jax.devices()[:1]))
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.restore(abstract_state(experiment, compiler), report=print)


def assert_same_state(one, other):
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jax.dtypes.issubdtype(left.dtype, jax.dtypes.prng_key):
            left, right = jax.random.key_data(left), jax.random.key_data(right)
        np.testing.assert_array_equal(left, right)


def lines(workdir):
    """The metrics without what the clock decides."""
    found = [
        {name: value for name, value in line.items() if not name.startswith("time")}
        for line in read_metrics(workdir / "metrics.jsonl")
    ]
    return [line for line in found if line.keys() > {"step", "images"}]


def tree(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def steps_saved(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def interrupt(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


def test_a_run_leaves_what_it_promises(command, tmp_path):
    run = tmp_path / "run"
    code, said = command("--workdir", run)
    assert code == 0, said
    assert "finished: distance" in said
    assert steps_saved(run) == [2, 4, 6, 8]
    assert [line["step"] for line in lines(run) if "train/loss" in line] == list(range(1, 9))
    assert [line["step"] for line in lines(run) if "eval/distance" in line] == [4, 8]
    assert all(line["images"] == line["step"] * SIZE for line in lines(run))
    assert json.loads((run / "config.json").read_text())["config"]["optimizer"] == {"lr": 0.05}
    environment = json.loads((run / "environment.json").read_text())
    assert environment["packages"]["jax"] == jax.__version__
    assert len((run / "starts.jsonl").read_text().splitlines()) == 1
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    assert sorted(path.name for path in (run / "samples").iterdir()) == ["line-0000000032.png", "line-0000000064.png"]
    with Image.open(run / "samples" / "line-0000000064.png") as picture:
        assert np.asarray(picture).min() == np.asarray(picture).max() == 7
    with Image.open(run / "curves.png") as picture:
        assert picture.width > 100
    page = (run / "report.html").read_text()
    assert all(words in page for words in ("A line.", "Finished", "distance", "largest", "64"))


def test_a_finished_run_is_not_run_again(command, tmp_path):
    run = tmp_path / "run"
    command("--workdir", run)
    metrics, report = (run / "metrics.jsonl").read_bytes(), (run / "report.html").read_bytes()
    code, said = command("--workdir", run)
    assert code == 0
    assert "after step 8" in said
    assert "finished: distance" in said
    assert (run / "metrics.jsonl").read_bytes() == metrics
    assert (run / "report.html").read_bytes() == report
    assert steps_saved(run) == [2, 4, 6, 8]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("dispatch", [1, 2])
def test_resumed_equals_uninterrupted(command, hooks, tmp_path, number, dispatch):
    options = ("--dispatch", dispatch, "--intervals.log", dispatch * SIZE)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert command("--workdir", whole, *options)[0] == 0

    hooks.at_batch = lambda step: step == 4 and interrupt(number)
    code, said = command("--workdir", parts, *options)
    assert code == 75
    stopped = max(steps_saved(parts))
    assert 0 <= stopped < 8
    assert f"interrupted after step {stopped}; everything is saved. To continue, run the same command:" in said
    hooks.at_batch = lambda step: None
    code, said = command("--workdir", parts, *options)
    assert code == 0, said
    config = replace(Config(), dispatch=dispatch)
    assert_same_state(final_state(parts, config), final_state(whole, config))
    assert lines(parts) == lines(whole)


def test_an_interrupted_run_has_a_page_of_its_last_evaluation(command, hooks, tmp_path):
    """Renewed at the end, though the one before was seconds ago."""
    hooks.at_batch = lambda step: step == 6 and interrupt()
    assert command("--workdir", tmp_path / "run", "--intervals.evaluate", SIZE)[0] == 75
    kept = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert kept["step"] >= 4
    assert f"Running: step {kept['step']}," in (tmp_path / "run" / "report.html").read_text()
    assert (tmp_path / "run" / "curves.png").stat().st_mtime_ns > (
        tmp_path / "run" / "evaluation.json"
    ).stat().st_mtime_ns


def test_a_signal_is_forgotten_after_the_run(command, hooks, tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    hooks.at_batch = lambda step: step == 2 and interrupt()
    assert command("--workdir", tmp_path / "run")[0] == 75
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_an_evaluation_that_was_killed_is_made_up_for(command, hooks, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    command("--workdir", whole)

    class Killed(BaseException):
        pass

    def die(step):
        if step == 4:
            raise Killed

    hooks.at_evaluation = die
    with pytest.raises(Killed):
        command("--workdir", parts)
    assert 4 in steps_saved(parts)
    assert not [line for line in lines(parts) if "eval/distance" in line]
    hooks.at_evaluation = lambda step: None
    assert command("--workdir", parts)[0] == 0
    assert lines(parts) == lines(whole)
    assert sorted(p.name for p in (parts / "samples").iterdir()) == sorted(
        p.name for p in (whole / "samples").iterdir()
    )


@pytest.mark.parametrize("at", ["save_images", "Page._save_curves"])
def test_a_kill_between_the_record_of_an_evaluation_and_its_page_loses_nothing(command, tmp_path, monkeypatch, at):
    from vision.launch import page

    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert command("--workdir", whole, "--intervals.evaluate", 8 * SIZE)[0] == 0
    with monkeypatch.context() as patched:
        patched.setattr(f"{page.__name__}.{at}", die)
        with pytest.raises(Killed):
            command("--workdir", parts, "--intervals.evaluate", 8 * SIZE)
    assert "eval/distance" in lines(parts)[-1]
    assert not (parts / "report.html").exists()
    code, said = command("--workdir", parts, "--intervals.evaluate", 8 * SIZE)
    assert code == 0, said
    assert lines(parts) == lines(whole)
    parts_of = lambda run: {p.relative_to(run) for p in tree(run) if p.parent.name != "tensorboard" and p.suffix}
    assert parts_of(parts) == parts_of(whole)
    for name in ("curves.png", "report.html", "evaluation.json", "samples/line-0000000064.png"):
        assert (parts / name).exists(), name
    assert "largest" in (parts / "report.html").read_text()


@pytest.mark.parametrize("lost", ["report.html", "evaluation.json", "samples/line-0000000064.png"])
def test_what_is_missing_of_a_finished_run_is_made_again(command, hooks, tmp_path, lost):
    run, looked = tmp_path / "run", []
    command("--workdir", run)
    before = tree(run)
    (run / lost).unlink()
    hooks.at_evaluation = looked.append
    code, said = command("--workdir", run)
    assert code == 0, said
    after = tree(run)
    assert after.keys() - before.keys() == {p for p in after if p.parent.name == "tensorboard"} - before.keys()
    assert after[run / lost][:100] == before[run / lost][:100]
    assert after[run / "metrics.jsonl"] == before[run / "metrics.jsonl"]
    # evaluated once more only where that is needed
    assert looked == ([] if lost in ("report.html", "curves.png") else [8])


def test_a_start_that_failed_does_not_keep_the_corrected_command_out(command, hooks, tmp_path):
    run = tmp_path / "run"

    def missing(step):
        raise UserError("there is no data")

    hooks.at_batch = missing
    assert command("--workdir", run)[0] == 2
    hooks.at_batch = lambda step: None
    code, said = command("--workdir", run, "--optimizer.lr", 0.1)
    assert code == 0, said
    assert json.loads((run / "config.json").read_text())["config"]["optimizer"] == {"lr": 0.1}
    assert len((run / "starts.jsonl").read_text().splitlines()) == 1
    code, said = command("--workdir", run, "--optimizer.lr", 0.2)
    assert (code, "optimizer.lr is 0.1 there and 0.2 here" in said) == (2, True)


def test_a_loss_that_is_not_finite_stops_the_run(command, hooks, tmp_path, monkeypatch):
    run = tmp_path / "run"
    build = make_build(hooks)

    def poisoned(config):
        experiment = build(config)

        def batches(**share):
            for step, batch in enumerate(experiment.batches(**share), start=share["start_step"]):
                yield {**batch, "y": np.full_like(batch["y"], np.nan)} if step >= 5 else batch

        return replace(experiment, batches=batches)

    text = io.StringIO()
    with contextlib.redirect_stderr(text):
        code = launcher.main(
            "line",
            config=Config(),
            quick=Config(),
            build=poisoned,
            description="",
            arguments=["--workdir", str(run), "--intervals.log", str(4 * SIZE)],
        )
    said = text.getvalue()
    assert code == 3
    # step 6 is the first with bad data, seen when step 7 is at work or step 6 is to be saved
    assert "loss became nan in step 6 (images 40 to 48)" in said
    assert f"the last good checkpoint is {run / 'checkpoints' / '4'}" in said
    assert "Traceback" not in said
    assert steps_saved(run) == [2, 4]
    assert all(math.isfinite(value) for line in lines(run) for value in line.values())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(final_state(run).params))


def test_another_configuration_keeps_out(command, tmp_path):
    run = tmp_path / "run"
    command("--workdir", run)
    before = tree(run)
    code, said = command("--workdir", run, "--optimizer.lr", 0.1)
    assert code == 2
    assert "optimizer.lr is 0.05 there and 0.1 here" in said
    assert tree(run) == before
    # and the lock was let go
    assert command("--workdir", run)[0] == 0


def test_bookkeeping_may_change(command, hooks, tmp_path):
    run = tmp_path / "run"
    hooks.at_batch = lambda step: step == 4 and interrupt()
    command("--workdir", run)
    hooks.at_batch = lambda step: None
    assert command("--workdir", run, "--intervals.save", 3 * SIZE)[0] == 0
    assert json.loads((run / "config.json").read_text())["config"]["intervals"]["save"] == 3 * SIZE


def test_one_writer_at_a_time(command, hooks, tmp_path):
    run, seen = tmp_path / "run", []

    def second(step):
        if step == 4:
            try:
                claim(run, "line", Config())
            except UserError as error:
                seen.append(str(error))

    hooks.at_evaluation = second
    assert command("--workdir", run)[0] == 0
    assert len(seen) == 1
    assert "another process is training" in seen[0]


def test_dry_run_prints_the_table_and_writes_nothing(command, tmp_path):
    code, said = command("--dry-run", "--optimizer.lr", 0.2)
    assert code == 0
    for words in (
        "* optimizer.lr = 0.2",
        "  seed = 0",
        "w          3      float32  replicated",
        "Parameters: 3",
        "GFLOP",
    ):
        assert words in said, said
    assert list(tmp_path.iterdir()) == []


def test_the_default_work_directory_names_what_differs(command, tmp_path):
    code, said = command("--quick", "--seed", 3)
    assert code == 0, said
    assert (tmp_path / "runs" / "line" / "quick,seed=3" / "report.html").exists()
    assert steps_saved(tmp_path / "runs" / "line" / "quick,seed=3") == [2]


def test_the_configuration_of_another_run_is_loaded(command, tmp_path):
    command("--workdir", tmp_path / "one", "--optimizer.lr", 0.2)
    code, said = command("--config", tmp_path / "one" / "config.json", "--workdir", tmp_path / "two", "--seed", 4)
    assert code == 0, said
    config = json.loads((tmp_path / "two" / "config.json").read_text())["config"]
    assert config["optimizer"]["lr"] == 0.2
    assert config["seed"] == 4


def test_a_run_is_evaluated_and_sampled_from_while_it_trains_and_afterwards(command, verb, hooks, tmp_path):
    run = tmp_path / "run"
    assert verb("sample", run)[0] == 2
    results = []

    def at_evaluation(step):
        if step == 4:  # while it is training: another process would find the same files
            hooks.at_evaluation = lambda step: None
            # samples are written, and a checkpoint may just be finishing
            files = lambda: sorted(p for p in run.rglob("*") if not {"samples", "checkpoints"} & set(p.parts))
            before = files()
            results.append((verb("sample", run, "--count", 3), verb("evaluate", run)))
            assert files() == before

    hooks.at_evaluation = at_evaluation
    assert command("--workdir", run)[0] == 0
    results.append((verb("sample", run, "--count", 3), verb("evaluate", run)))
    for (sample_code, said), (evaluate_code, numbers) in results:
        assert (sample_code, evaluate_code) == (0, 0), said + numbers
        assert "3 samples after" in said
        assert "distance" in numbers
        assert "(largest)" in numbers
    assert sorted(p.name for p in (run / "samples" / "sampled-0000000064").iterdir()) == [
        "00000.png",
        "00001.png",
        "00002.png",
        "grid.png",
        "samples.html",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--optimizer.lrr", "0.1"], ["no option --optimizer.lrr", "--optimizer.lr"]),
        (["--lr", "0.1"], ["no option --lr", "--optimizer.lr"]),
        (["--seed", "many"], ["many", "seed"]),
        (["--mesh.fsdp", "3"], ["fsdp=3", "does not fit 1 devices"]),
        (["--config", "nowhere.json"], ["nowhere.json cannot be read"]),
        (["--evaluate"], ["no option --evaluate"]),
    ],
)
def test_mistakes_are_one_line(command, tmp_path, arguments, words):
    code, said = command(*arguments)
    assert code == 2
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert all(word in said for word in words), said
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line(command, hooks, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "report.html")

    monkeypatch.setattr("vision.report.curves.save_curves", full)
    code, said = command("--workdir", tmp_path / "run")
    assert code == 4
    assert "is full at report.html: free some space and run the same command again" in said
    assert "Traceback" not in said


def test_a_run_folder_that_is_deleted_meanwhile_is_one_line(command, hooks, tmp_path):
    run = tmp_path / "run"
    hooks.at_batch = lambda step: step == 5 and shutil.rmtree(run, ignore_errors=True)
    code, said = command("--workdir", run)
    assert code == 4
    assert f"error: the run folder {run} was deleted or unmounted while the run was writing to it" in said
    assert "Traceback" not in said


def test_the_data_fails_in_the_middle_of_a_run(command, hooks, tmp_path):
    def gone(step):
        if step == 5:
            raise UserError("sample 40 cannot be read: the file is truncated")

    hooks.at_batch = gone
    code, said = command("--workdir", tmp_path / "run")
    assert code == 2
    assert "error: sample 40 cannot be read" in said
    hooks.at_batch = lambda step: None
    assert command("--workdir", tmp_path / "run")[0] == 0
