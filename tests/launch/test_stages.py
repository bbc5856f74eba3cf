"""Experiments in turn: options, what is finished, what resumes, exit codes and signals."""

import json

import pytest

from vision.errors import UserError
from vision.launch import run as launcher
from vision.launch.experiment_module import find_experiment
from vision.launch.stages import Stage, divided, process, run_stages, stage_runs

PACKAGE = "tiny_experiments"
STAGES = (
    Stage(name="first", experiment="line", options=("--optimizer.lr", "0.01")),
    Stage(name="second", experiment="line", needs={"init_from": "first"}),
)


def in_this_process(started, codes=()):
    """What starts a stage here; the first ones end with ``codes`` in place of training."""
    left = list(codes)

    def start(words):
        assert words[0] == "-m"
        started.append(words[1:])
        if left and (code := left.pop(0)):
            return code
        module = find_experiment(words[1].split(".")[-1], package=PACKAGE)
        of = {"config": module.config, "quick": module.quick, "build": module.build, "description": ""}
        return launcher.main(module.name, arguments=words[2:], **of)

    return start


def chain(root, *words):
    stages = (STAGES[0], Stage(name="second", experiment="line"))
    return stage_runs(stages, words, root=root, quick=True, package=PACKAGE)


def test_options_go_to_their_stages():
    shared, own = divided(
        ["--first.a", "1", "2", "--data.dir", "x", "--second-one.b.c=3", "--mesh.fsdp", "2", "--no-data", "y"][:-2],
        ["first", "second_one"],
    )
    assert shared == ["--data.dir", "x", "--mesh.fsdp", "2"]
    assert own == {"first": ["--a", "1", "2"], "second_one": ["--b.c=3"]}
    for words, said in (
        (["x"], "x belongs to no option"),
        (["--images", "3"], "there is no option --images"),
        (["--frist.images", "3"], "--first."),
    ):
        with pytest.raises(UserError, match=said):
            divided(words, ["first", "second_one"])


def test_a_stage_gets_the_folders_that_it_needs(tmp_path):
    one, two = stage_runs(STAGES, ["--second.images", "16"], root=tmp_path, quick=True)
    folder = str(tmp_path / "first")
    assert one.arguments == ("--quick", "--optimizer.lr", "0.01", "--workdir", folder)
    second = ("--quick", "--init-from", folder, "--images", "16", "--workdir", str(tmp_path / "second"))
    assert two.arguments == second
    assert two.command == ("python", "-m", "experiments.line", *second)


def test_what_has_finished_is_not_trained_again(tmp_path, capsys):
    """A failure ends the chain with its code; the same call goes on with what is left, and then nothing is left."""
    started, said = [], []
    with pytest.raises(UserError, match="stage 2 of 2, second ended with exit code 3") as error:
        run_stages(chain(tmp_path), say=said.append, start=in_this_process(started, (0, 3)))
    assert error.value.code == 3
    with pytest.raises(UserError, match="was stopped, and all is saved") as error:
        run_stages(chain(tmp_path), say=said.append, start=in_this_process(started, (75,)))
    assert error.value.code == 75
    run_stages(chain(tmp_path), say=said.append, start=in_this_process(started))
    assert [words[-1].rsplit("/")[-1] for words in started] == ["first", "second", "second", "second"]
    run_stages(chain(tmp_path), say=said.append, start=in_this_process(started))
    assert len(started) == 4
    assert said[-1] == f"stage 2 of 2, second: finished in {tmp_path / 'second'}"
    assert chain(tmp_path)[0].is_finished()


def test_an_unfinished_run_and_another_one(tmp_path):
    started = []
    run_stages(chain(tmp_path), say=lambda text: None, start=in_this_process(started))
    (tmp_path / "first" / "report.html").unlink()  # killed before the page was written
    assert not chain(tmp_path)[0].is_finished()
    kept = json.loads((tmp_path / "second" / "evaluation.json").read_text())
    (tmp_path / "second" / "evaluation.json").write_text(json.dumps({**kept, "images": 8}))
    assert not chain(tmp_path)[1].is_finished()
    with pytest.raises(UserError, match="belongs to another configuration"):
        chain(tmp_path, "--first.seed", "1")[0].is_finished()


def test_wrong_options_are_an_error_before_the_first_stage(tmp_path):
    started = []
    with pytest.raises(UserError, match="stage second: there is no option --sede"):
        run_stages(chain(tmp_path, "--second.sede", "1"), say=print, start=in_this_process(started))
    assert not started


def test_processes_end_with_their_code_and_get_signals():
    assert process(("-c", "raise SystemExit(4)")) == 4
    assert process(("-c", "import os; os.kill(os.getpid(), 9)")) == 128 + 9
    at_its_end = "signal.signal(15, lambda *_: sys.exit(0)); os.kill(os.getppid(), 15); time.sleep(30)"
    assert process(("-c", f"import os, signal, sys, time; {at_its_end}")) == 75  # no further stage begins
    waits = "signal.signal(15, lambda *_: sys.exit(75)); os.kill(os.getppid(), 15); time.sleep(30)"
    assert process(("-c", f"import os, signal, sys, time; {waits}")) == 75
