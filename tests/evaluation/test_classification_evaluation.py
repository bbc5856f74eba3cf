"""Evaluations of classifiers against numpy on all logits at once; what is said of files; predictions of a tiny run."""

import csv
import json
from functools import cache, partial

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from PIL import Image

from experiments import finetune
from vision.data import labelled
from vision.data.folder import square
from vision.data.labelled import LabelledConfig
from vision.data.pipeline import evaluation_batches
from vision.data.source import ArraySource
from vision.errors import UserError
from vision.evaluation import classification as evaluation
from vision.launch import run as launcher
from vision.launch import verbs
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.report.mistakes import mistakes_sheet, worst_mistakes
from vision.train.class_names import class_names
from vision.train.compile import Compiler

pytestmark = pytest.mark.usefixtures("on_one_device")

NAMES = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu")
SIDE, COUNT = 6, 83


def classify(variables, images):
    """Logits that are linear in the pixels."""
    return (images.astype(jnp.float32) / 127.5 - 1).reshape(len(images), -1) @ variables["w"]


@cache
def images_and_logits():
    """(images, labels, weights, logits in numpy); labels are right for about half, and none is the last class."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (COUNT, SIDE, SIDE, 3), np.uint8)
    weights = (generator.normal(size=(SIDE * SIDE * 3, len(NAMES))) / 5).astype(np.float32)
    logits = (images / 127.5 - 1).reshape(COUNT, -1) @ weights.astype(np.float64)
    labels = np.where(generator.random(COUNT) < 0.5, logits.argmax(1), generator.integers(0, 6, COUNT)) % 6
    return images, labels.astype(np.int32), weights, logits


def expected():
    """The numbers by loops over images, classes and bins."""
    _, labels, _, logits = images_and_logits()
    order = np.argsort(-logits, axis=1)
    probabilities = scipy.special.softmax(logits, axis=1)
    guess, sure = order[:, 0], probabilities.max(1)
    own = [np.mean(guess[labels == k] == k) for k in range(6)]
    f1 = []
    for k in range(7):
        hits, either = np.sum((guess == k) & (labels == k)), np.sum(guess == k) + np.sum(labels == k)
        f1 += [2 * hits / either] if either else []
    bins = np.ceil(sure * 15).astype(int)
    gaps = {b: abs(np.mean(guess[bins == b] == labels[bins == b]) - sure[bins == b].mean()) for b in set(bins)}
    return {
        "top1_accuracy": np.mean(guess == labels),
        "top5_accuracy": np.mean([label in five for label, five in zip(labels, order[:, :5], strict=True)]),
        "cross_entropy": -np.mean(scipy.special.log_softmax(logits, axis=1)[np.arange(COUNT), labels]),
        "macro_accuracy": np.mean(own),
        "macro_f1": np.mean(f1),
        "expected_calibration_error": sum(np.mean(bins == b) * gap for b, gap in gaps.items()),
        "maximum_calibration_error": max(gaps.values()),
        "brier_score": np.mean(((probabilities - np.eye(7)[labels]) ** 2).sum(1)),
        **{f"class_accuracy/{name}": value for name, value in zip(NAMES[:6], own, strict=True)},
    }


def evaluated(batch_size, *, mesh=None, names=NAMES, images=None, classes=7):
    """The evaluation on all devices, or on those of ``mesh``."""
    pictures, labels, weights, _ = images_and_logits()
    compiler = Compiler(make_mesh(MeshConfig()) if mesh is None else mesh)
    source = ArraySource({"image": pictures[:images], "label": labels[:images]}, names)
    test = evaluation.ClassificationSet(lambda: evaluation_batches(source, batch_size=batch_size), names, "toys")
    variables = compiler.replicate({"w": np.pad(weights, ((0, 0), (0, classes - 7)), constant_values=-0.01)})
    return evaluation.evaluator(compiler, classify, classes=classes)(variables, test)


@pytest.mark.parametrize("batch_size", [8, 40, 104])
def test_numbers_are_those_of_numpy_whatever_the_batches(batch_size):
    found = evaluated(batch_size)
    numbers = expected()
    assert found.scalars.keys() == found.protocol.keys() == numbers.keys()  # of the last class there are no images
    for name, value in numbers.items():
        assert found.scalars[name] == pytest.approx(value, rel=1e-5), name
    for name, words in found.protocol.items():
        assert "toys" in words, name
    assert "83 images" in found.protocol["top1_accuracy"]
    assert found.protocol["class_accuracy/bee"] == "share of the images of bee that are recognised, toys"


def test_images_exist_and_the_sheet_shows_the_most_confident_mistakes():
    _, labels, _, logits = images_and_logits()
    images = images_and_logits()[0]
    sure, guess = scipy.special.softmax(logits, axis=1).max(1).astype(np.float32), logits.argmax(1)
    shown = worst_mistakes(labels, guess, sure, evaluation.MAX_MISTAKES)
    assert len(shown) == 32 < np.sum(guess != labels)  # more mistakes than are shown
    judged = labels[shown], guess[shown], sure[shown]
    counts = {"mistakes": int(np.sum(guess != labels)), "total": COUNT}
    sheet = mistakes_sheet([images[i] for i in shown], *judged, NAMES, **counts)
    for batch_size in (8, 40):
        found = evaluated(batch_size).images
        assert found.keys() == {"confusion", "reliability", "mistakes"}
        np.testing.assert_array_equal(found["mistakes"], sheet)
        for name in ("confusion", "reliability"):
            assert found[name].dtype == np.uint8
            assert min(found[name].shape[:2]) > 100


def test_many_classes_have_no_numbers_of_their_own(one_device):
    found = evaluated(16, mesh=one_device, names=tuple(f"class {k}" for k in range(21)), images=16, classes=21)
    assert not [name for name in found.scalars if name.startswith("class_accuracy")]
    assert found.scalars.keys() == found.protocol.keys()


def test_logits_that_are_not_finite_are_an_error(one_device):
    compiler = Compiler(one_device)
    source = ArraySource({"image": np.zeros((4, 2, 2, 3), np.uint8), "label": np.zeros(4, np.int32)}, ("ant", "bee"))
    test = evaluation.ClassificationSet(lambda: evaluation_batches(source, batch_size=4), source.class_names, "toys")
    broken = evaluation.evaluator(compiler, lambda v, x: jnp.full((len(x), 2), jnp.nan), classes=2)
    with pytest.raises(UserError, match="4 images have logits that are not finite"):
        broken({}, test)


KINDS = {
    "colour.jpg": lambda image: image,
    "grey.png": lambda image: image.convert("L"),
    "ink.jpg": lambda image: image.convert("CMYK"),
    "deep.png": lambda image: Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257),
    "palette.gif": lambda image: image.quantize(16),
    "clear.png": lambda image: image.convert("RGBA"),
    "wide.webp": lambda image: image.resize((90, 30)),
    "small.bmp": lambda image: image.resize((2, 3)),
}


@pytest.fixture
def files(tmp_path):
    """Images of many kinds between a damaged one and a text, in no order."""
    folder = tmp_path / "images"
    folder.mkdir()
    ramp = np.linspace(0, 255, 40 * 30 * 3).reshape(40, 30, 3).astype(np.uint8)
    for name, change in KINDS.items():
        change(Image.fromarray(ramp)).save(folder / name)
    (folder / "text.jpg").write_text("no image")
    whole = (folder / "colour.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    names = [*KINDS]
    return [folder / name for name in (*names[:3], "text.jpg", *names[3:], "cut.jpg")]


TABLES = "; tables: predictions.json and predictions.csv in the same folder"


def predicting(compiler, *, side=SIDE, channels=3, **options):
    fitted = partial(labelled.fitted, config=LabelledConfig(resolution=side))
    return evaluation.predict_files(compiler, classify, fitted=fitted, class_names=NAMES, channels=channels, **options)


@pytest.mark.parametrize("channels", [3, 1])
def test_files_of_every_kind_in_their_order(files, tmp_path, channels):
    weights = images_and_logits()[2][: SIDE * SIDE * channels]
    compiler = Compiler(make_mesh(MeshConfig()))
    predict = predicting(compiler, channels=channels, batch_size=4, max_classes=3)
    lines = predict(compiler.replicate({"w": weights}), files, tmp_path / "out" / "deeper")
    assert len(lines) == len(files) + 1
    for file, line in zip(files, lines, strict=False):
        assert line.startswith(f"{file}: ")
        said = line.removeprefix(f"{file}: ")
        if file.name in ("text.jpg", "cut.jpg"):
            assert said.startswith("skipped, it cannot be decoded (")
            continue
        with Image.open(file) as image:
            pixels = Image.fromarray(square(image, SIDE))
        pixels = np.asarray(pixels if channels == 3 else pixels.convert("L"))[None]
        logits = (pixels / 127.5 - 1).reshape(-1) @ weights.astype(np.float64)
        probabilities = scipy.special.softmax(logits)
        names, values = zip(*(part.rsplit(" ", 1) for part in said.split(", ")), strict=True)
        assert names == tuple(NAMES[k] for k in np.argsort(-probabilities)[:3])
        np.testing.assert_allclose([float(value) for value in values], np.sort(probabilities)[::-1][:3], atol=6e-4)
    sheet = tmp_path / "out" / "deeper" / "predictions.png"
    assert lines[-1] == f"sheet: {sheet}{TABLES}"
    entries = json.loads((sheet.parent / "predictions.json").read_text())
    rows = list(csv.DictReader((sheet.parent / "predictions.csv").read_text().splitlines()))
    assert [entry["file"] for entry in entries] == [row["file"] for row in rows] == list(map(str, files))
    for entry, row, line in zip(entries, rows, lines, strict=False):
        said = line.removeprefix(f"{entry['file']}: ")
        if "skipped" in entry:
            assert said == f"skipped, it cannot be decoded ({entry['skipped']})"
            assert (row["skipped"], row["class_1"]) == (entry["skipped"], "")
            continue
        assert said == ", ".join(f"{each['name']} {each['probability']:.3f}" for each in entry["classes"])
        found = [(row[f"class_{rank}"], float(row[f"probability_{rank}"])) for rank in (1, 2, 3)]
        assert found == [(each["name"], each["probability"]) for each in entry["classes"]]
        assert row["skipped"] == ""
    with Image.open(sheet) as picture:
        assert picture.width > 300


def test_a_sheet_of_many_images_has_the_first(files, tmp_path, monkeypatch, one_device):
    monkeypatch.setattr(evaluation, "MAX_SHOWN", 3)
    compiler = Compiler(one_device)
    variables = compiler.replicate({"w": images_and_logits()[2]})
    lines = predicting(compiler, batch_size=2)(variables, [*files, files[0]], tmp_path)
    assert lines[-1] == f"sheet: {tmp_path / 'predictions.png'}, the first 3 of 9 images{TABLES}"
    assert lines[-2] == lines[0]  # a file that is named twice has two lines
    assert len(lines) == len(files) + 2


def test_files_of_which_none_is_an_image(tmp_path, one_device):
    files = [tmp_path / name for name in ("a.jpg", "b.txt", "c")]
    for file in files:
        file.write_text("no image")
    compiler = Compiler(one_device)
    predict = predicting(compiler)
    variables = compiler.replicate({"w": images_and_logits()[2]})
    with pytest.raises(UserError, match=r"nothing to predict: .*a\.jpg and 2 more cannot be decoded as images$"):
        predict(variables, files, tmp_path / "out")
    with pytest.raises(UserError, match=r"nothing to predict: .*b\.txt cannot be decoded as images$"):
        predict(variables, files[1:2], tmp_path / "out")
    assert not (tmp_path / "out").exists()


SMALL = (
    "--quick --data.resolution 16 --data.shapes-count 64 --data.shapes.shapes circle star --data.shapes.colours red "
    "blue --data.shapes.min-size 0.4 --model.width 8 --model.depths 1 --model.classes 4 --batch-size 8 --images 8"
)
CLASSES = ("red circle", "blue circle", "red star", "blue star")


def finetuning(workdir, *arguments):
    """The exit code of the experiment on one device."""
    return launcher.main(
        "finetune",
        config=finetune.Config(),
        quick=finetune.QUICK,
        build=finetune.build,
        description="A tiny one.",
        arguments=[*SMALL.split(), "--workdir", str(workdir), *map(str, arguments)],
    )


def predict(run, *patterns):
    """The exit code of ``python -m vision predict``."""
    return verbs.main(["predict", str(run), *map(str, patterns)])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one step."""
    workdir = tmp_path_factory.mktemp("finetune") / "run"
    assert finetuning(workdir) == 0
    return workdir


def test_what_a_run_leaves_of_its_evaluation(run, capsys):
    names = sorted(path.name for path in (run / "samples").iterdir())
    assert names == [f"{name}-0000000008.png" for name in ("confusion", "mistakes", "reliability")]
    capsys.readouterr()
    assert verbs.main(["evaluate", str(run)]) == 0
    said = capsys.readouterr().out
    for words in ("top1_accuracy ", "2,000 images of the shapes world (test), 16x16, EMA 0.99", *CLASSES):
        assert words in said
    # flipping in evaluation may differ from the run's own configuration
    assert verbs.main(["evaluate", str(run), "--flip-tta"]) == 0
    assert "EMA 0.99, flip TTA" in capsys.readouterr().out


def test_predictions_of_files_folders_and_patterns(run, files, capsys, monkeypatch):
    folder = files[0].parent
    monkeypatch.chdir(folder)
    bracketed = folder / "scan[1].png"
    bracketed.write_bytes((folder / "grey.png").read_bytes())
    (folder / ".hidden.png").write_bytes((folder / "grey.png").read_bytes())
    capsys.readouterr()
    for patterns, names in (
        (["grey.png", "colour.jpg"], ["grey.png", "colour.jpg"]),
        (["scan[1].png"], ["scan[1].png"]),
        ([".hidden.png"], [".hidden.png"]),
        (["*.png", "grey.png"], ["clear.png", "deep.png", "grey.png", "scan[1].png"]),
        ([folder], [str(path) for path in sorted({*files, bracketed})]),
    ):
        assert predict(run, *patterns) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split(": ")[0] for line in lines[:-1]] == names
        for line in lines[:-1]:
            known = sorted(CLASSES) == sorted(p.rsplit(" ", 1)[0] for p in line.split(": ")[1].split(", "))
            assert known != line.split(": ")[1].startswith("skipped, it cannot be decoded (")
        assert lines[-1] == f"sheet: {run / 'predictions' / '0000000008' / 'predictions.png'}{TABLES}"
        assert (run / "predictions" / "0000000008" / "predictions.png").exists()


def test_predictions_need_no_data(run, files, capsys, monkeypatch):
    """The names of the classes are those that the run kept."""
    monkeypatch.setattr(labelled, "labelled_source", lambda *_, **__: pytest.fail("data was read"))
    assert predict(run, files[0]) == 0
    names = [part.rsplit(" ", 1)[0] for part in capsys.readouterr().out.splitlines()[0].split(": ")[1].split(", ")]
    assert sorted(names) == sorted(class_names(run) or ())


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        (["*.jpeg"], "*.jpeg names no file"),
        (["grey.png", "gray.png"], "gray.png names no file"),
        (["empty"], "empty names no file"),
        (["text.jpg"], "there is nothing to predict: text.jpg cannot be decoded as images"),
    ],
)
def test_predictions_of_nothing_are_one_line(run, files, capsys, monkeypatch, patterns, words):
    monkeypatch.chdir(files[0].parent)
    (files[0].parent / "empty").mkdir()
    capsys.readouterr()
    assert predict(run, *patterns) == 2
    said = capsys.readouterr()
    assert said.err == f"error: {words}\n"
    assert said.out == ""


def test_predictions_before_there_is_a_run(tmp_path, files, capsys):
    assert predict(tmp_path / "none", files[0]) == 2
    said = capsys.readouterr().err
    assert said == f"error: there is no run folder or experiment {tmp_path / 'none'}: train first\n"
