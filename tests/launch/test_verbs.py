"""``python -m vision VERB RUN``: the grammar of its command line, what each verb does, and hostile input."""

import contextlib
import json

import jax
import jax.export
import numpy as np
import pytest
from PIL import Image
from tiny_experiments import line, teacher

from vision.launch import actions, verbs
from vision.launch import run as launcher
from vision.launch.load_run import load_run

pytestmark = pytest.mark.usefixtures("on_one_device")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two steps that recognises, generates and can be exported."""
    folder = tmp_path_factory.mktemp("verbs") / "run"
    words = {"config": teacher.Config(), "quick": teacher.QUICK, "build": teacher.build, "description": ""}
    assert launcher.main("teacher", **words, arguments=["--quick", "--workdir", str(folder)]) == 0
    return folder


@pytest.fixture
def verb(capsys, tmp_path, monkeypatch):
    """Run the command in an empty folder; gives (exit code, what it said)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        capsys.readouterr()
        code = verbs.main([str(argument) for argument in arguments], package="tiny_experiments")
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


@pytest.fixture
def weights(tmp_path):
    """A file of starting weights."""
    path = tmp_path / "start.npz"
    np.savez(path, w=np.array([1, 2, 3], np.float32))
    return path


def image(path, size=(5, 4), mode="RGB"):
    Image.new(mode, size).save(path)
    return path


def test_words_before_the_options_and_after_two_dashes():
    words = ["run", "a", "--x", "1", "2", "--", "b", "--c"]
    assert verbs.divided(words) == (["run", "a"], ["--x", "1", "2"], ["b", "--c"])
    assert verbs.divided(["run"]) == (["run"], [], [])
    assert verbs.divided(["--x", "1"]) == ([], ["--x", "1"], [])
    assert verbs.divided(["run", "-1", "-h"]) == (["run", "-1"], ["-h"], [])
    assert verbs.divided(["run", "--", "--x"]) == (["run"], [], ["--x"])
    words = ["--a", "1", "--seed=3", "--b-c", "2", "--b_c", "4", "--b.c"]
    assert verbs.chosen(words, ["--seed", "--b-c"]) == (["--seed=3", "--b-c", "2", "--b_c", "4"], ["--a", "1", "--b.c"])


def test_without_a_verb_all_are_listed(verb):
    code, said = verb()
    assert code == 0
    for each in verbs.VERBS.values():
        assert f"\n  {each.name} RUN" in said
        code, own = verb(each.name, "--help")
        assert code == 0
        assert own.startswith(f"python -m vision {each.name} {each.operands}")
        assert len(own.splitlines()) <= 30
    assert verb("--help")[1] == said


def test_evaluate(verb, run):
    code, said = verb("evaluate", run)
    assert code == 0
    value = float(said.split()[1])
    assert said == f"error {value:.6g}  (of the sum)\n"
    assert float(verb("evaluate", run, "--shown", 2)[1].split()[1]) == pytest.approx(2 * value, rel=1e-4)


def test_predict(verb, run, tmp_path):
    files = [image(tmp_path / name) for name in ("a.png", "b.png", "--c.png")]
    expected = "".join(f"{file.name}: red\n" for file in files[:2])
    assert verb("predict", run, "a.png", "b.png") == (0, expected)
    assert verb("predict", run, "--shown", 2, "--", "a.png", "b.png") == (0, expected)
    assert verb("predict", run, "a.png", "--out", "x", "--", "b.png") == (0, expected)
    assert verb("predict", run, "--", "--c.png") == (0, "--c.png: red\n")
    code, said = verb("predict", run, "--shown", 2, "a.png")
    assert (code, "predict needs FILES, which come before the options or after --" in said) == (2, True)
    code, said = verb("predict", run, "a.png", "--shown", 2, "b.png")
    assert (code, "b.png belongs to no option" in said) == (2, True)
    assert verb("predict", run, "none.png") == (2, "error: none.png names no file\n")


def test_sample(verb, run, tmp_path):
    code, said = verb("sample", run)
    assert (code, "16 samples after 16 images" in said) == (0, True)
    folder = run / "samples" / "sampled-0000000016"
    assert len(list(folder.glob("0*.png"))) == 16
    assert verb("sample", run, "--count", 3, "--labels", "blue", 0, "--seed", 4)[0] == 0
    pixels = [np.asarray(Image.open(path)).max() for path in sorted(folder.glob("0*.png"))]
    assert pixels == [1, 0, 1]  # an earlier call leaves nothing behind
    assert verb("sample", run, "--count", 2, "--shown", 3, "--out", tmp_path / "out")[0] == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("00000.png", "00001.png", "grid.png", "samples.html"),
    ]


@pytest.mark.parametrize(
    ("purpose", "words"),
    [("the evaluation", ["evaluate"]), ("the samples", ["sample", "--count", "2"])],
)
def test_long_compilation_is_reported(verb, run, purpose, words, monkeypatch):
    said = []

    def compiling(name, say):
        said.append(name)
        say(f"compiling a program for {name}")
        return contextlib.nullcontext()

    monkeypatch.setattr(actions, "compiling_for", compiling)
    code, text = verb(words[0], run, *words[1:])
    assert (code, said) == (0, [purpose])
    assert f"compiling a program for {purpose}" in text.splitlines()


def test_requests_are_read_and_checked(run, tmp_path):
    from vision.launch.actions import sample_request

    loaded = load_run(run, package="tiny_experiments")
    files = [str(image(tmp_path / "a.png")), str(image(tmp_path / "b.png"))]
    mask = str(image(tmp_path / "mask.png", mode="L"))
    request = sample_request(loaded, count=2, images=files, masks=[mask], prompts=["a cat"], labels=["1", "red"])
    assert [each.shape for each in request.images] == [(4, 5, 3)] * 2
    assert [each.shape for each in request.masks] == [(4, 5, 1)]
    assert (request.labels, request.prompts) == ((1, 0), ("a cat",))


def test_export(verb, run, tmp_path):
    code, said = verb("export", run, tmp_path / "model.stablehlo")
    assert code == 0
    assert "images uint8 [b, 4, 4, 3] -> sum float32 [b]" in said
    model = jax.export.deserialize((tmp_path / "model.stablehlo").read_bytes())
    assert model.call(np.ones((2, 4, 4, 3), np.uint8))["sum"].shape == (2,)
    about = json.loads((tmp_path / "model.stablehlo.json").read_text())
    assert about["class_names"] == ["red", "blue"]
    assert (about["image"]["height"], about["image"]["channels"], about["image"]["order"]) == (4, 3, "RGB")


def test_describe_needs_no_checkpoint(verb, run, tmp_path):
    code, said = verb("describe", run)
    assert code == 0
    assert "* images = 16" in said
    assert "Parameters: 3" in said
    (tmp_path / "config.json").write_text((run / "config.json").read_text())
    assert verb("describe", tmp_path) == (0, said)


def test_an_experiment_without_training(verb, weights, tmp_path):
    code, said = verb("evaluate", "teacher", "--init-from", weights, "--rate", 3)
    assert (code, said) == (0, "error 3  (of the sum)\n")  # |1 + 2 + 3 - 3|
    image(tmp_path / "a.png")
    assert verb("predict", "teacher", "--init-from", weights, "--", "a.png") == (0, "a.png: red\n")
    assert verb("predict", "teacher", "a.png", "--quick", "--init-from", weights) == (0, "a.png: red\n")
    code, said = verb("export", "teacher", "model.stablehlo", "--init-from", weights)
    assert (code, (tmp_path / "model.stablehlo").exists()) == (0, True)
    # a folder with the name of an experiment is a run only if it is one
    (tmp_path / "teacher").mkdir()
    assert verb("evaluate", "teacher", "--init-from", weights)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evalaute", "RUN"], "there is no verb evalaute: did you mean evaluate?"),
        (
            ["zzz"],
            "there is no verb zzz: there are evaluate, predict, sample, edit, export, page, describe, download, verify",
        ),
        (["evaluate"], "evaluate needs RUN: python -m vision evaluate RUN"),
        (["evaluate", "--shown", "2"], "evaluate needs RUN"),
        (["evaluate", "RUN", "more"], "more is one word too many: python -m vision evaluate RUN"),
        (["export", "RUN"], "export needs FILE"),
        (["export", "RUN", "RUN/config.json/x"], "config.json/x cannot be written: "),
        (["sample", "RUN", "--out", "RUN/config.json"], "config.json cannot be written: File exists"),
        (["sample", "RUN", "--out", "RUN/config.json/x"], "config.json/x cannot be written: "),
        (["export", "RUN", "."], "is a folder: name the file to write"),
        (["export", "RUN", "w.safetensors"], "the network of teacher has no published names: export to another format"),
        (["evaluate", "nowhere"], "there is no run folder or experiment nowhere"),
        (["evaluate", "techer"], "there is no run folder or experiment techer: did you mean teacher?"),
        (["sample", "nowhere"], "there is no run folder or experiment nowhere"),
        (["evaluate", "."], "is no run folder: it has no config.json"),
        (["evaluate", "RUN", "--rate", "2"], "--rate is part of what the run in"),
        (["evaluate", "RUN", "--init-from", "x"], "--init-from is part of what the run in"),
        (["evaluate", "RUN", "--quick"], "there is no option --quick"),
        (["sample", "RUN", "--cuont", "2"], "there is no option --cuont: did you mean --count"),
        (["sample", "RUN", "--count", "0"], "count must be at least 1, not 0"),
        (["sample", "RUN", "--count", "many"], "many"),
        (["sample", "RUN", "--seed", "-1"], "seed must be at least 0"),
        (["sample", "RUN", "--labels", "rde"], "there is no class rde: did you mean red?"),
        (["sample", "RUN", "--labels", "2"], "--labels 2 is too large: the classes are numbered from 0 to 1"),
        (["sample", "RUN", "--labels", "-1"], "-1"),
        (["sample", "RUN", "--prompt", "a cat"], "no condition for --prompt: it takes --labels. Leave --prompt out"),
        (["sample", "RUN", "--image", "none.png"], "none.png names no file"),
        (["sample", "RUN", "--image", "RUN/config.json"], "cannot be decoded (cannot identify image file"),
        (["sample", "RUN", "--mask", "RUN/config.json"], "cannot be decoded (cannot identify image file"),
        (["sample", "teacher"], "teacher has random weights until it is trained"),
        (["evaluate", "teacher"], "teacher has random weights until it is trained: name a file of weights with"),
        (["evaluate", "teacher", "--workdir", "x"], "--workdir is an option of training"),
        (["evaluate", "teacher", "--init-from", "none"], "it has no weights"),
        (["evaluate", "line"], "line has random weights until it is trained"),
    ],
)
def test_mistakes_are_one_line(verb, run, arguments, words):
    code, said = verb(*(word.replace("RUN", str(run)) for word in arguments))
    assert code == 2
    assert words in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def test_an_experiment_without_the_action(verb, tmp_path):
    words = {"config": line.Config(), "quick": line.QUICK, "build": line.build, "description": ""}
    assert launcher.main("line", **words, arguments=["--quick", "--workdir", str(tmp_path / "run")]) == 0
    image(tmp_path / "a.png")
    said = "error: line does not recognise anything, so that it cannot predict\n"
    assert verb("predict", "run", "a.png") == (2, said)
    said = "error: line has no function of images, so that there is nothing to export\n"
    assert verb("export", "run", "x") == (2, said)
    code, said = verb("sample", "run", "--labels", 1)
    assert (code, said) == (2, "error: line generates images without classes here: leave --labels out\n")


def test_random_parameters_are_refused(verb, tmp_path, monkeypatch):
    """What a recogniser says with a head that no file has given values is nothing but chance."""
    from dataclasses import replace

    build = teacher.build
    monkeypatch.setattr(teacher, "build", lambda config: replace(build(config), initial_values=dict))
    code, said = verb("evaluate", "teacher", "--init-from", tmp_path)
    assert code == 2
    assert "gives no values for params/w, which would be random: train first" in said
