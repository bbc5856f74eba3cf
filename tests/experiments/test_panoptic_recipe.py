"""The recipe of panoptic segmentation: a small run on files, what is written for files, exports, refusals."""

import json
from dataclasses import replace

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from experiments import panoptic_shapes
from vision.data.annotations.panoptic import colours_of_ids, read_panoptic
from vision.data.detection import detection_source, ground_truth
from vision.errors import UserError
from vision.evaluation.panoptic_merging import true_segments
from vision.launch import run as launcher
from vision.launch import verbs
from vision.models.instances.mask_rcnn import MaskRcnn
from vision.parallel.sharding import path_name
from vision.pretrained.mask_rcnn import mask_rcnn_rules
from vision.pretrained.rules import to_published
from vision.recipes.panoptic import panoptic
from vision.train.records import read_metrics

pytestmark = pytest.mark.usefixtures("on_one_device")

TINY = panoptic_shapes.TINY


def run(workdir, *options):
    return launcher.main(
        "panoptic_shapes",
        config=panoptic_shapes.Config(),
        quick=TINY,
        build=panoptic_shapes.build,
        description="",
        arguments=["--quick", "--workdir", str(workdir), *map(str, options)],
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Scenes of the shapes world as files in COCO's panoptic form, one for training and evaluation."""
    folder = tmp_path_factory.mktemp("coco")
    (folder / "images").mkdir()
    (folder / "set").mkdir()
    config = replace(TINY.data, shapes_count=8)
    source, truth = detection_source(config, "train", stuff=True), ground_truth(config, "train", stuff=True)
    names = (*truth.class_names, *truth.stuff_names)
    categories = [{"id": 10 + k, "name": name, "isthing": int(k < 2)} for k, name in enumerate(names)]
    content = {"images": [], "annotations": [], "categories": categories}
    for place, image in enumerate(truth.images):
        true = true_segments(image, things=2)
        Image.fromarray(source[place]["image"]).save(folder / "images" / f"{place}.jpg")
        Image.fromarray(colours_of_ids(true.map * 900)).save(folder / "set" / f"{place}.png")
        boxes = [*image.boxes.tolist(), [0, 0, 32, 32]]
        infos = [
            {"id": int(number) * 900, "category_id": 10 + int(label), "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0}
            for number, label, (x0, y0, x1, y1) in zip(true.ids, true.labels, boxes, strict=True)
        ]
        content["images"].append({"id": place, "file_name": f"{place}.jpg", "width": 32, "height": 32})
        content["annotations"].append({"image_id": place, "file_name": f"{place}.png", "segments_info": infos})
    (folder / "set.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    made = tmp_path_factory.mktemp("panoptic") / "run"
    data = {"name": "coco", "dir": folder, "train_json": "set.json", "test_json": "set.json"}
    data |= {"train_images": "images", "test_images": "images"}
    options = [word for name, value in data.items() for word in (f"--data.{name.replace('_', '-')}", value)]
    assert run(made, *options) == 0
    return made


def test_what_a_run_records_writes_and_exports(finished, tmp_path, capsys):
    """One run, so that each program is compiled once."""
    lines = read_metrics(finished / "metrics.jsonl")
    scalars = {field for line in lines for field in line}
    wanted = {"panoptic_quality", "things_panoptic_quality", "stuff_recognition_quality", "mask_average_precision"}
    wanted |= {"class_panoptic_quality/solid", "class_panoptic_quality/star", "best_confidence"}
    assert {f"eval/{field}" for field in wanted} <= scalars
    assert {"train/semantic", "train/mask", "train/dropped_boxes"} <= scalars
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    shown = {file.name.rpartition("-")[0] for file in (finished / "samples").iterdir()}
    assert {"panoptic", "panoptic_worst", "class_panoptic_quality", "found"} <= shown
    assert json.loads((finished / "class_names.json").read_text()) == ["circle", "star", "solid", "stripes"]

    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    (tmp_path / "images").mkdir()
    Image.fromarray(image).save(tmp_path / "images" / "a.png")
    options = ["--merging.confidence", "0.01", "--merging.least-stuff", "0", "--out", str(tmp_path / "out")]
    arguments = ["predict", str(finished), *options, "--", str(tmp_path / "images" / "a.png")]
    assert verbs.main(arguments) == 0, capsys.readouterr().err
    assert "overlays, the ids of segments, and panoptic.json" in capsys.readouterr().out
    read = read_panoptic(tmp_path / "out" / "panoptic.json", tmp_path / "images")
    assert (read.class_names, read.stuff_names) == (("circle", "star"), ("solid", "stripes"))
    (found,) = read.images
    assert (found.width, found.height) == (50, 40)
    segments = true_segments(found, things=2)
    assert len(segments.ids)

    file = tmp_path / "model.stablehlo"
    assert verbs.main(["export", str(finished), str(file)]) == 0
    model = jax.export.deserialize(file.read_bytes())
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    made = jax.device_get(model.call(images))
    assert (made["masks"].shape, made["masks"].dtype) == ((2, 4, 32, 32), bool)
    assert (made["semantic"].shape, made["semantic"].dtype) == ((2, 32, 32, 3), np.float32)
    assert made["valid"].any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--augment.mixup", 0.5], "mixup has no masks: leave augment.mixup 0"),
        (["--data.resolution", 48], "multiples of 32, not 48"),
        (["--model.stuff", 3], "the data has 2 classes of stuff and the model 3: set --model.stuff 2"),
        (["--model.instances.classes", 3], "the data has 2 classes and the model 3: set --model.instances.classes 2"),
        (["--data.name", "voc"], "data of the form voc has no stuff"),
    ],
)
def test_mistakes_are_one_line(options, words, tmp_path, capsys):
    assert run(tmp_path / "run", *options) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    assert words in said


def test_a_published_mask_rcnn_is_where_it_starts_from(tmp_path):
    """All but the semantic branch, and but the heads where the classes are others."""
    instances = replace(TINY.model.instances, pixels="imagenet")
    init = lambda key: MaskRcnn(instances).init(key, jnp.zeros((1, 32, 32, 3)), train=False)
    variables = jax.device_get(jax.jit(init)(jax.random.key(5)))
    tensors = to_published(variables, rules=mask_rcnn_rules(instances))
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, tmp_path / "a.safetensors")
    model = replace(TINY.model, instances=instances)
    values = panoptic(replace(TINY, model=model, init_from=tmp_path / "a.safetensors")).initial_values()
    kernel = variables["params"]["pyramid"]["output_0"]["kernel"]
    np.testing.assert_array_equal(values["params/pyramid/output_0/kernel"], kernel)
    leaves = {path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"])}
    assert {name.removeprefix("params/") for name in values if name.startswith("params/")} == leaves


def test_masks_are_needed():
    boxes_alone = replace(TINY.model, instances=replace(TINY.model.instances, mask=False))
    with pytest.raises(UserError, match=r"model.instances.mask"):
        panoptic(replace(TINY, model=boxes_alone))
