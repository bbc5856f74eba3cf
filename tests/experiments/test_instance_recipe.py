"""The recipe of instance segmentation: a small run of each method, what is written for files, exports, refusals."""

import json
from dataclasses import replace

import jax
import jax.export
import numpy as np
import pytest
from PIL import Image

from experiments import fit_anchors, instances_folder
from tests.models.tiny_mask_rcnn import TINY as TINY_RCNN
from vision.errors import UserError
from vision.launch import run as launcher
from vision.launch import verbs
from vision.ops import rle
from vision.recipes.instance_methods import Regions, methods
from vision.recipes.instances import instances
from vision.tasks.instances import InstanceDetectorConfig, InstanceLossConfig
from vision.tasks.region_proposals import ProposalConfig
from vision.train.records import read_metrics

pytestmark = pytest.mark.usefixtures("on_one_device")

TINY = instances_folder.TINY
FEW = ProposalConfig(before=20, after=10)
REGIONS = Regions(
    replace(TINY_RCNN, classes=2, pixels="symmetric"),
    InstanceLossConfig(proposals=FEW, anchors=16, regions=8),
    InstanceDetectorConfig(proposals=FEW, confidence=0.0, max_detections=4),
)
METHODS = {"prototypes": TINY.method, "mask_rcnn": REGIONS}
CONFIDENCE = ["--predict.confidence", "0.0001"]


def run(config, workdir, *options):
    return launcher.main(
        "instances_folder",
        config=instances_folder.Config(),
        quick=config,
        build=instances_folder.build,
        description="",
        arguments=["--quick", "--workdir", str(workdir), *map(str, options)],
    )


@pytest.fixture(scope="module", params=METHODS)
def finished(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "run"
    assert run(replace(TINY, method=METHODS[request.param]), folder) == 0
    return request.param, folder


def test_what_a_run_records_writes_and_exports(finished, tmp_path, capsys):
    """One run a method, so that each program is compiled once."""
    name, folder = finished
    scalars = {field for line in read_metrics(folder / "metrics.jsonl") for field in line}
    wanted = {"mask_average_precision", "boundary_ap50", "average_precision", "best_confidence"}
    assert {f"eval/{field}" for field in wanted} <= scalars
    assert {"train/mask", "train/box", "train/class", "train/objectness", "train/dropped_boxes"} <= scalars
    losses = [line["train/loss"] for line in read_metrics(folder / "metrics.jsonl") if "train/loss" in line]
    assert len(losses) == 2
    assert np.isfinite(losses).all()

    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(tmp_path / "a.png")
    options = [*CONFIDENCE, "--predict.max-detections", "3", "--predict.only", "star", "--out", str(tmp_path / "out")]
    assert verbs.main(["predict", str(folder), *options, "--", str(tmp_path / "a.png")]) == 0, capsys.readouterr().err
    assert "images with masks, and detections.json" in capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert len(results) == 3
    assert {each["category_id"] for each in results} == {2}
    assert {tuple(each["segmentation"]["size"]) for each in results} == {(40, 50)}
    assert np.asarray(Image.open(tmp_path / "out" / "masks" / "a.png")).shape == (40, 50)

    file = tmp_path / "model.stablehlo"
    assert verbs.main(["export", str(folder), str(file), *CONFIDENCE]) == 0
    model = jax.export.deserialize(file.read_bytes())
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    found = jax.device_get(model.call(images))
    count = {"prototypes": 300, "mask_rcnn": 300}[name]
    assert found["masks"].shape == (2, count, 32, 32)
    assert found["masks"].dtype == bool
    # a mask lies in its box
    for boxes, masks, valid in zip(found["boxes"], found["masks"], found["valid"], strict=True):
        assert valid.any()
        for (x0, y0, x1, y1), mask in zip(boxes[valid], masks[valid], strict=True):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            if len(rows):
                assert y0 - 1 <= rows[0]
                assert rows[-1] <= y1 + 1
                assert x0 - 1 <= columns[0]
                assert columns[-1] <= x1 + 1


def test_masks_of_files_are_those_of_the_exported_program(finished, tmp_path, capsys):
    """Two ways to the same masks: on the host at the size of the image, and in the program."""
    folder = finished[1]
    image = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    options = [*CONFIDENCE, "--predict.max-detections", "4"]
    arguments = ["predict", str(folder), *options, "--out", str(tmp_path / "out"), "--", str(tmp_path / "a.png")]
    assert verbs.main(arguments) == 0, capsys.readouterr().err
    results = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert verbs.main(["export", str(folder), str(tmp_path / "m.stablehlo"), *options]) == 0
    found = jax.device_get(jax.export.deserialize((tmp_path / "m.stablehlo").read_bytes()).call(image[None]))
    np.testing.assert_allclose([each["score"] for each in results], found["scores"][0][: len(results)], rtol=1e-4)
    for each, mask in zip(results, found["masks"][0], strict=False):
        written = rle.decode(rle.Rle(32, 32, each["segmentation"]["counts"].encode()))
        assert (written != mask).mean() <= 0.002


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--augment.mixup", 0.5], "mixup has no masks: leave augment.mixup 0"),
        (["--data.resolution", 48], "multiples of 32, not 48"),
        (["--method", "cascade"], "there is no method cascade"),
        (["--data.max-boxes", 70_000], "at most 65,535 instances with masks"),
    ],
)
def test_mistakes_are_one_line(options, words, tmp_path, capsys):
    assert run(TINY, tmp_path / "run", *options) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    assert words in said


def test_settings_that_contradict_each_other():
    boxes_alone = replace(REGIONS, model=replace(REGIONS.model, mask=False))
    with pytest.raises(UserError, match=r"method.model.mask"):
        instances(replace(TINY, method=boxes_alone))
    other = replace(REGIONS, model=replace(REGIONS.model, classes=5))
    with pytest.raises(UserError, match=r"the data has 2 classes and the model 5: set --method.model.classes 2"):
        next(instances(replace(TINY, method=other)).batches(seed=0, start_step=0, process_index=0, process_count=1))


def test_methods_by_name_have_the_classes_and_sizes_of_the_recipe():
    table = methods(classes=7, side=320)
    assert table["prototypes_n"].model.yolo.classes == table["mask_rcnn"].model.classes == 7
    assert table["prototypes"].model.yolo.anchors[:2] == (5.0, 6.5)
    assert table["mask_rcnn_frozen"].model.norm == "frozen"
    assert table["mask_rcnn_resnet18"].model.backbone.depths == (2, 2, 2, 2)


def test_anchors_are_fitted(capsys):
    small = ["--data.shapes-count", "64", "--data.resolution", "64", "--data.shapes.min-size", "0.4"]
    assert fit_anchors.main(["instances_folder", "--quick", *small, "--data.shapes.max-objects", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("--method.model.yolo.anchors ")
