"""--help of every experiment is short and names options that there are; the list of all experiments."""

import importlib
import re
import subprocess
import sys
from typing import get_args

import pytest

from vision.errors import UserError
from vision.launch import catalogue
from vision.launch.about import Task
from vision.launch.experiment_module import experiment_paths, find_experiment
from vision.launch.field_doc import field_doc
from vision.launch.options import RunOptions, choices, flatten, option_of
from vision.launch.run import main
from vision.launch.short_help import DAILY, RUN

NAMES = list(experiment_paths())


def run(name, *arguments):
    module = find_experiment(name)
    words = {"config": module.config, "quick": module.quick, "build": module.build, "description": module.description}
    return main(name, **words, arguments=arguments)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("quick", [[], ["--quick"]], ids=["default", "quick"])
def test_help_fits_on_a_page_and_names_real_options(name, quick, capsys):
    assert run(name, "--help", *quick) == 0
    said = capsys.readouterr().out
    assert len(said.splitlines()) <= 60
    assert max(map(len, said.splitlines())) <= 120
    module = find_experiment(name)
    known = {option_of(field) for field in (*flatten(module.config), *flatten(RunOptions()), *choices(module.config))}
    options = re.findall(r"^  (--\S+)", said, re.MULTILINE)
    assert 15 <= len(options) <= 40
    assert set(options) <= known
    config = module.quick if quick else module.config
    assert f"--batch-size {config.batch_size} " in said
    experiment = module.build(config)
    for verb, there in {
        "evaluate": True,
        "predict": experiment.prediction is not None,
        "sample": experiment.sampling is not None,
        "export": experiment.inference is not None,
        "describe": True,
    }.items():
        assert (f"python -m vision {verb} RUN" in said) == there


def test_the_rest_is_in_help_all(capsys):
    with pytest.raises(SystemExit) as stop:
        run("finetune", "--help-all")
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert "--augment.pad-crop" in said
    assert "--processes.coordinator" in said


def test_the_options_of_a_day_exist():
    known = {field for name in NAMES for field in flatten(find_experiment(name).config)}
    assert {field for fields in DAILY.values() for field in fields} <= known
    assert set(RUN) <= set(flatten(RunOptions()))


def test_what_the_source_says_of_a_field():
    config = find_experiment("finetune").config
    assert field_doc(config, "ema") == field_doc(find_experiment("resnet_cifar").config, "ema") != ""  # inherited
    assert field_doc(config, "optimizer.lr").startswith("Peak learning rate")
    assert field_doc(3, "real") == ""


def test_all_experiments_are_listed():
    listed, systems = catalogue.listing().split("several of them in turn\n")
    assert re.findall(r"^  (\w+) +\S", systems, re.MULTILINE) == ["unclip"]
    assert sorted(re.findall(r"^  (\w+) +\S", listed, re.MULTILINE)) == NAMES
    for name, path in experiment_paths().items():
        module = importlib.import_module(f"experiments.{name}")
        assert catalogue.about_of(path) == module.ABOUT
        assert module.ABOUT.quick
        assert module.ABOUT.task in get_args(Task)
        assert f"  {name:20} {module.__doc__.splitlines()[0]}\n" in listed


def test_the_list_is_read_without_importing_experiments():
    code = (
        "import sys\nfrom vision.launch.catalogue import main\nmain([])\n"
        "print([name for name in sys.modules if name.startswith('experiments.') or name == 'flax'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["finetnue"], "there is no experiment finetnue: did you mean finetune"),
        (["zzz"], "there is no experiment zzz: there are accuracy_score, "),
        (["finetune", "--quick"], "options follow the module of an experiment: python -m experiments.finetune --quick"),
    ],
)
def test_an_unknown_name_is_one_line(arguments, words, capsys):
    assert catalogue.main(arguments) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_one_experiment_says_what_it_is(capsys):
    assert catalogue.main(["finetune"]) == 0
    assert capsys.readouterr().out.startswith("Fine-tune a classifier")


@pytest.mark.parametrize(
    "text",
    [
        "X = 1",
        "ABOUT = About(task='cooking', paper='', quick='')",
        "ABOUT = About(task=TASK, paper='', quick='')",
        "ABOUT = About(taks='detection')",
    ],
)
def test_an_experiment_that_says_nothing_of_itself(tmp_path, text):
    path = tmp_path / "soup.py"
    path.write_text(text)
    with pytest.raises(UserError, match=r"soup\.py"):
        catalogue.about_of(path)
