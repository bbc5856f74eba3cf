"""A run by its folder: found by name, parsed, built, restored; and every way in which that fails."""

import json

import numpy as np
import pytest
from tiny_experiments import line, teacher

from vision.errors import UserError
from vision.launch import run as launcher
from vision.launch.experiment_module import experiment_paths, find_experiment
from vision.launch.load_run import load_run, open_run
from vision.train.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures("on_one_device")

PACKAGE = "tiny_experiments"


def train(module, folder, *options):
    name = module.__name__.rsplit(".", 1)[-1]
    words = {"config": module.Config(), "quick": module.QUICK, "build": module.build, "description": ""}
    assert launcher.main(name, **words, arguments=["--quick", "--workdir", str(folder), *options]) == 0
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two steps."""
    return train(teacher, tmp_path_factory.mktemp("run") / "run", "--rate", "0.2")


def edited(run, tmp_path, change):
    """A folder whose config.json is that of ``run``, changed."""
    content = json.loads((run / "config.json").read_text())
    change(content)
    (tmp_path / "config.json").write_text(json.dumps(content))
    return tmp_path


def test_all_comes_from_the_folder(run, capsys):
    loaded = load_run(run, package=PACKAGE)
    assert (loaded.name, loaded.folder, loaded.class_names) == ("teacher", run, teacher.CLASSES)
    assert (loaded.config.rate, loaded.config.images, loaded.images) == (0.2, 16, 16)
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        np.testing.assert_array_equal(checkpoints.arrays()["params/w"], loaded.state.params["w"])
    assert capsys.readouterr().err == ""


def test_what_is_evaluated_otherwise_may_differ_and_nothing_else(run):
    loaded = load_run(run, overrides=["--shown", "3", "--mesh.data", "1", "--rate", "0.2"], package=PACKAGE)
    assert (loaded.config.shown, loaded.config.rate) == (3.0, 0.2)
    refused = r"^--rate is part of what the run in .* is \(rate = 0\.2\): only --shown, --mesh\.\* may differ from it"
    with pytest.raises(UserError, match=refused):
        load_run(run, overrides=["--rate", "0.3"], package=PACKAGE)
    with pytest.raises(UserError, match="there is no option --shwon: did you mean --shown"):
        load_run(run, overrides=["--shwon", "3"], package=PACKAGE)
    with pytest.raises(UserError, match="there is no option --workdir"):
        load_run(run, overrides=["--workdir", "x"], package=PACKAGE)


def test_replicas_come_back(tmp_path):
    run = train(line, tmp_path / "run", "--seeds", "2", "--sweep", "optimizer.lr", "0.1,0.2")
    loaded = load_run(run, package=PACKAGE)
    assert loaded.state.params["w"].shape == (4, 3)
    assert loaded.experiment.replicas[0].name == "optimizer.lr=0.1,seed-0"


def test_no_folder_no_config_no_checkpoint(run, tmp_path):
    with pytest.raises(UserError, match="nowhere is no run folder: there is none"):
        load_run(tmp_path / "nowhere", package=PACKAGE)
    with pytest.raises(UserError, match=r"is no run folder: it has no config\.json"):
        load_run(tmp_path, package=PACKAGE)
    folder = edited(run, tmp_path, lambda content: None)
    with pytest.raises(UserError, match="has no checkpoint yet: wait for the run to save one"):
        load_run(folder, package=PACKAGE)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="has no checkpoint yet: wait for the run to save one"):
        load_run(folder, package=PACKAGE)
    assert open_run(folder, package=PACKAGE).config.rate == 0.2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(experiment="taecher"), "no experiment taecher: did you mean teacher?"),
        (lambda c: c.update(experiment="os.path"), "no experiment os.path: there are line, teacher"),
        (lambda c: c.update(experiment=3), r"config.json cannot be read \(its experiment is no name\)"),
        (lambda c: c.pop("experiment"), "config.json cannot be read"),
        (lambda c: c.update(config=[1]), "config.json cannot be read"),
        (lambda c: c["config"].update(old=1), "does not fit teacher as it is now: .*no key old"),
        (lambda c: c["config"].update(rate="fast"), "does not fit teacher as it is now: .*fast"),
        (lambda c: c["config"]["mesh"].update(data=3), "a mesh of data=3, fsdp=1, tensor=1 does not fit 1 devices"),
    ],
)
def test_configurations_that_do_not_fit_are_one_sentence(run, tmp_path, change, words):
    folder = edited(run, tmp_path, change)
    with pytest.raises(UserError, match=words) as error:
        load_run(folder, package=PACKAGE)
    assert "\n" not in str(error.value)


def test_a_field_younger_than_the_run_is_reported(run, tmp_path, capsys):
    folder = edited(run, tmp_path, lambda content: content["config"].pop("shown"))
    assert open_run(folder, package=PACKAGE).config.shown == 1.0
    assert capsys.readouterr().err == f"{folder} was trained before teacher had shown: assuming the defaults\n"


def test_experiments_by_name():
    assert list(experiment_paths(PACKAGE)) == ["line", "teacher"]
    module = find_experiment("teacher", package=PACKAGE)
    assert (module.module, module.config, module.quick) == ("tiny_experiments.teacher", teacher.Config(), teacher.QUICK)
    assert module.parse(["--rate", "3"]).config.rate == 3.0
    with pytest.raises(UserError, match="there is no optical experiment teacher: choose one of line"):
        find_experiment("teacher", package=PACKAGE, among=["line"], kind="optical experiment")
    with pytest.raises(UserError, match=r"there is no experiment \.\./x: choose one of line, teacher"):
        find_experiment("../x", package=PACKAGE)
