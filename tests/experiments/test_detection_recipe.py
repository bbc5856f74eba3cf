"""The recipe of the detection experiments: optimizer, sizes of several scales, classes, anchors, a whole small run."""

import json
import re
from dataclasses import replace

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import fit_anchors, yolo_folder
from vision.launch import run as launcher
from vision.launch import verbs
from vision.models.yolo import Yolo
from vision.ops.pixels import to_float
from vision.parallel.sharding import path_name
from vision.recipes import detection_data
from vision.recipes.detection import SgdConfig, sgd
from vision.recipes.detection_data import size_of_step
from vision.tasks.detection import DetectorConfig, detector
from vision.train.checkpoint import Checkpoints
from vision.train.records import read_metrics

pytestmark = pytest.mark.usefixtures("on_one_device")

OPTIONS = (
    "--quick --data.resolution 32 --data.shapes-count 16 --data.max_boxes 4 --data.shapes.max-objects 2 "
    "--data.shapes.min-size 0.4 --data.shapes.max-size 0.6 --model.width 0.125 --batch-size 8 --images 16 "
    "--intervals.log 8 --intervals.evaluate 16 --intervals.save 16"
)
SMALL = OPTIONS.split()
UNIT = ("--model.pixels", "unit")
MODEL = replace(yolo_folder.QUICK.model, width=0.125, pixels="unit")


def run(*options):
    return launcher.main(
        "yolo_folder",
        config=yolo_folder.Config(),
        quick=yolo_folder.QUICK,
        build=yolo_folder.build,
        description="",
        arguments=[str(word) for word in options],
    )


def test_a_test_split_without_boxes_is_refused_before_training(tmp_path, capsys):
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True)
        Image.new("RGB", (40, 30)).save(tmp_path / "images" / split / "a.png")
        (tmp_path / "labels" / split / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n" if split == "train" else "")
    (tmp_path / "classes.txt").write_text("cat\n")
    text = ["--data.name", "text", "--data.train-images", "images/train", "--data.test-images", "images/val"]
    options = ["--data.dir", tmp_path, "--data.resolution", "32", "--model.classes", "1", "--workdir", tmp_path / "run"]
    assert run("--quick", *text, *options, "--images", "16", "--batch-size", "8") == 2
    said = capsys.readouterr()
    assert "None of the 1 images of the test split has a box to evaluate on: the label files in " in said.err
    assert "labels/val are empty" in said.err
    assert "average_precision" not in said.out + said.err


def test_the_optimizer_is_that_of_a_loop():
    """Sutskever et al. 2013 with the warm-up of the published recipe, against plain numpy."""
    config = SgdConfig(
        lr=0.1, final=0.1, momentum=0.9, weight_decay=0.5, warmup=12, warmup_bias=0.3, warmup_momentum=0.5
    )
    steps, batch = 8, 4
    optimizer = sgd(config, steps=steps, batch_size=batch)
    params = {"conv": {"kernel": jnp.ones((1, 2)), "bias": jnp.ones(2)}, "norm": {"scale": jnp.ones(2)}}
    state = optimizer.init(params)
    expected = {"kernel": 1.0, "bias": 1.0, "scale": 1.0}
    trace = dict.fromkeys(expected, 0.0)
    update = jax.jit(optimizer.update)
    for step in range(steps):
        part = min(step / 3, 1)  # 12 images are three batches
        momentum = 0.5 + part * 0.4
        for name in expected:
            start = 0.3 if name == "bias" else 0.0
            rate = start + part * (0.1 - start) if step < 3 else 0.1 - 0.09 * (step - 3) / 5
            gradient = batch * 0.25 + (0.5 * batch / 64 * expected[name] if name == "kernel" else 0.0)
            trace[name] = momentum * trace[name] + gradient
            expected[name] -= rate * (gradient + momentum * trace[name])
        gradients = jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.25), params)
        updates, state = update(gradients, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        found = {"kernel": params["conv"]["kernel"], "bias": params["conv"]["bias"], "scale": params["norm"]["scale"]}
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=f"{name} after step {step}")


def test_sizes_stay_for_ten_steps_and_are_all_sampled():
    sides = (64, 96, 128)
    sampled = [size_of_step(sides, step, seed=0) for step in range(400)]
    assert all(len(set(sampled[start : start + 10])) == 1 for start in range(0, 400, 10))
    assert set(sampled) == set(sides)
    assert sampled != [size_of_step(sides, step, seed=1) for step in range(400)]


@pytest.fixture(scope="module")
def several_scales(tmp_path_factory):
    """A run of two steps whose batches may have either of two sides."""
    workdir = tmp_path_factory.mktemp("yolo") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detection_data, "size_of_step", lambda sizes, step, seed: sizes[step % 2])
        assert run(*SMALL, "--sizes", 32, 64, *UNIT, "--workdir", workdir) == 0
    return workdir


def test_training_at_several_scales(several_scales):
    lines = [line for line in read_metrics(several_scales / "metrics.jsonl") if "train/loss" in line]
    assert len(lines) == 2
    assert all(np.isfinite(line["train/loss"]) for line in lines)
    # the gain of the objectness goes with the area; cells of a box, whose loss is larger, are a smaller share
    assert 1.1 < lines[1]["train/objectness"] / lines[0]["train/objectness"] < 4
    assert json.loads((several_scales / "class_names.json").read_text()) == ["circle", "square", "star"]


def test_another_run_starts_from_it_with_new_classes(several_scales, tmp_path, capsys):
    more = ["--init-from", several_scales, "--workdir", tmp_path / "run", "--optimizer.frozen", "backbone"]
    classes = ["--data.shapes.shapes", "circle", "star", "--model.classes", 2, "--running-statistics", *UNIT]
    assert run(*SMALL, *more, *classes) == 0
    said = capsys.readouterr().err
    assert "params/detect_3/bias" in said
    assert "stay random, since there are no matching values" in said
    assert "backbone" not in said.split("stay random")[0].split("starting from")[1]


def test_what_is_found_in_files(several_scales, tmp_path, capsys):
    Image.new("RGB", (50, 40), (255, 0, 0)).save(tmp_path / "red.png")
    predict = ["predict", str(several_scales), str(tmp_path / "red.png")]
    assert verbs.main([*predict, "--predict.confidence", "0.0001"]) == 0, capsys.readouterr().err
    [listed] = (several_scales / "predictions").rglob("detections.json")
    for each in json.loads(listed.read_text()):
        x, y, w, h = each["bbox"]
        assert 0 <= x <= x + w <= 50.001
        assert 0 <= y <= y + h <= 40.001
    assert verbs.main([*predict, "--predict.only", "dog"]) == 2
    assert "there is no class 'dog' to look for" in capsys.readouterr().err


def test_weights_under_published_names_detect_the_same(several_scales, tmp_path, capsys):
    """Written by export, and read by --init-from."""
    image, weights = tmp_path / "grey.png", tmp_path / "weights.safetensors"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(image)
    assert verbs.main(["export", str(several_scales), str(weights)]) == 0, capsys.readouterr().err
    assert re.search(r"weights.safetensors: .* MB, 292 arrays under the names of publ", capsys.readouterr().out)
    untrained = ["yolo_folder", *SMALL, *UNIT, "--init-from", str(weights)]
    found = []
    for name, run in {"run": [str(several_scales)], "file": untrained}.items():
        options = ["--predict.confidence", "0.0001", "--out", str(tmp_path / name), "--", str(image)]
        assert verbs.main(["predict", *run, *options]) == 0, capsys.readouterr().err
        (listed,) = (tmp_path / name).rglob("detections.json")
        found.append(json.loads(listed.read_text()))
    assert found[0] == found[1]
    assert len(found[0]) > 10
    capsys.readouterr()
    assert verbs.main(["predict", "yolo_folder", *SMALL, "--init-from", str(weights), "--", str(image)]) == 2
    assert "expect images in [0, 1], and model.pixels is symmetric" in capsys.readouterr().err


def test_anchors_are_fitted(capsys):
    assert fit_anchors.main(["yolo_folder", *SMALL]) == 0
    said = capsys.readouterr().out
    assert said.count("9 anchors, ") == 2
    option = said.splitlines()[-1].split()
    assert option[0] == "--model.anchors"
    assert len([float(side) for side in option[1:]]) == 18
    assert fit_anchors.main(["finetune"]) == 2
    assert "there is no detection experiment finetune" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model.classes", 4], "the data has 3 classes and the model 4: set --model.classes 3"),
        (["--sizes", 32, 48], "a detector takes image sizes that are multiples of 32, not 48"),
        (["--sizes", 32, 64, "--dispatch", 2], "steps of one dispatch have one image size"),
        (["--batch-size", 0], "batch_size must be at least 1, not 0"),
        (["--ema", 1.0], "ema must be at least 0 and less than 1, not 1"),
        (["--data.name", "coco", "--data.dir", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_line(options, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(*SMALL, *options) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    assert words in said


def test_the_exported_file_finds_the_same(several_scales, tmp_path, capsys):
    """Without this code: by deserialising it, as its docstring says, with any number of images."""
    place, options = tmp_path / "detector.stablehlo", "--predict.confidence 0.0001 --predict.max_detections 5"
    assert verbs.main(["export", str(several_scales), str(place), *options.split()]) == 0
    assert "images uint8 [b, 32, 32, 3] -> boxes float32 [b, 5, 4]" in capsys.readouterr().out
    model = jax.export.deserialize(place.read_bytes())
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    found = jax.device_get(model.call(images))
    assert found["valid"].all()
    one = jax.device_get(model.call(images[1:2]))
    np.testing.assert_allclose(one["scores"][0], found["scores"][1], rtol=1e-5)

    # the network itself, without folding
    with Checkpoints(several_scales / "checkpoints", read_only=True) as checkpoints:
        stored = checkpoints.arrays()
    shapes = jax.eval_shape(
        lambda key: Yolo(MODEL).init(key, jnp.zeros((1, 32, 32, 3)), train=False), jax.random.key(0)
    )
    variables = jax.tree_util.tree_map_with_path(lambda path, _: stored[f"ema/ema/{path_name(path)}"], shapes)
    how = DetectorConfig(confidence=0.0001, iou=0.45, max_detections=5)
    plain = jax.jit(lambda v, x: detector(Yolo(MODEL), MODEL, how)(v, to_float(x)))(variables, images)
    np.testing.assert_allclose(found["scores"], plain.scores, rtol=1e-3)
    np.testing.assert_allclose(found["boxes"], plain.boxes, atol=0.05)
