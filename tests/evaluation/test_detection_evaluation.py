"""Evaluations of detectors that know the truth, more or less; what is written of files."""

import io
import json
from contextlib import redirect_stdout
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import ExifTags, Image
from pycocotools.coco import COCO

from vision.data.annotations.cleaning import AnnotatedImage, open_image
from vision.data.detection import AnnotatedSource, DetectionConfig, detection_source, ground_truth
from vision.data.letterbox import Letterbox, letterboxed
from vision.data.pipeline import evaluation_batches
from vision.data.shapes.world import ShapesConfig
from vision.errors import UserError
from vision.evaluation import detection as evaluation
from vision.evaluation.detection import DetectionSet, PredictionConfig
from vision.evaluation.detection_files import folder_names, unique_stems
from vision.evaluation.detection_images import sheets
from vision.metrics.detection.average_precision import ImageDetections, coco_scores
from vision.metrics.detection.matching import CONFIDENCES, confidence_curves, matching
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.tasks.detection import Detections, DetectorConfig
from vision.train.compile import Compiler

SIDE, SLOTS = 32, 8
WORLD = DetectionConfig(
    resolution=SIDE, max_boxes=SLOTS, overfit_images=13, shapes=ShapesConfig(max_objects=4, min_size=0.25, max_size=0.5)
)
SIZES = ((60, 40), (40, 60), (33, 90), (100, 100), (20, 15))


@pytest.fixture(scope="module")
def world():
    """(samples, truth) of the shapes world."""
    return detection_source(WORLD, "test"), ground_truth(WORLD, "test")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """(samples, truth) of files of several sizes, one without boxes and one with a crowd."""
    folder = tmp_path_factory.mktemp("set")
    generator = np.random.default_rng(0)
    made = []
    for number, (width, height) in enumerate(SIZES):
        file = folder / f"{number}.png"
        Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8)).save(file)
        boxes = np.array([[2, 3, 12, 14], [0, 5, width, height]], np.float32) if number != 3 else np.zeros((0, 4))
        count = len(boxes)
        made.append(
            AnnotatedImage(
                file=file,
                width=width,
                height=height,
                boxes=boxes.astype(np.float32),
                labels=np.array([number % 2, 2][:count], np.int32),
                crowd=np.array([False, number == 1][:count], bool),
                area=np.array([110, width * (height - 5)][:count], np.float32),
                image_id=100 - number,
            )
        )
    truth = replace(ground_truth(WORLD, "test"), images=tuple(made), class_names=("ant", "bee", "cat"))
    truth = replace(truth, category_ids=(3, 1, 2))
    return AnnotatedSource(truth, SIDE, SLOTS), truth


def known(source):
    """What `remembered` finds: the true boxes, by image."""
    samples = [source[place] for place in range(len(source))]
    columns = {name: np.stack([each[name] for each in samples]) for name in ("image", "boxes", "labels", "valid")}
    return {**columns, "scores": np.where(columns["valid"], 0.875, 0).astype(np.float32)}


def remembered(variables, images):
    """The detections that are stored for an image."""
    same = jnp.all(images[:, None] == variables["image"][None], axis=(2, 3, 4))
    return Detections(*(variables[name][jnp.argmax(same, 1)] for name in ("boxes", "scores", "labels", "valid")))


def noisy(source, seed=0):
    """Moved boxes, some taken for another class or left out, and some that are nowhere."""
    generator = np.random.default_rng(seed)
    values = known(source)
    shape = values["valid"].shape
    values["boxes"] = values["boxes"] + generator.normal(0, 1, (*shape, 4)).astype(np.float32)
    low = generator.uniform(0, SIDE - 8, (*shape, 2))
    elsewhere = np.concatenate([low, low + generator.uniform(4, 12, (*shape, 2))], axis=-1).astype(np.float32)
    values["boxes"] = np.where(values["valid"][..., None], values["boxes"], elsewhere)
    values["labels"] = np.where(generator.random(shape) < 0.2, 1, values["labels"]).astype(np.int32)
    values["valid"] = generator.random(shape) < 0.7
    scores = np.sort(generator.random(shape).astype(np.float32), axis=1)[:, ::-1]
    return {**values, "scores": np.where(values["valid"], scores, 0)}


def evaluated(source, truth, values, *, batch_size=8, mesh=None, detect=remembered, images=None):
    compiler = Compiler(make_mesh(MeshConfig()) if mesh is None else mesh)
    judge = evaluation.evaluator(compiler, detect, DetectorConfig())
    part = lambda: evaluation_batches(source, batch_size=batch_size)
    test = DetectionSet(part if images is None else images, lambda: truth, SIDE, "toys")
    return judge(compiler.replicate(values), test)


@pytest.mark.parametrize("which", ["world", "pictures"])
def test_the_truth_is_perfect_and_moved_boxes_are_worse(which, request):
    source, truth = request.getfixturevalue(which)
    values = known(source)
    right = evaluated(source, truth, values).scalars
    names = ("average_precision", "ap50", "ap75", "ar100", "precision", "recall", "f1")
    assert [right[name] for name in names] == [1.0] * 7
    moved = evaluated(source, truth, {**values, "boxes": values["boxes"] + np.float32(1.5)}).scalars
    assert 0 < moved["average_precision"] < 0.7
    assert moved["ap75"] < moved["ap50"]


@pytest.mark.parametrize("which", ["world", "pictures"])
def test_numbers_and_pictures_are_those_of_all_detections_at_once(which, request):
    source, truth = request.getfixturevalue(which)
    values = noisy(source)
    found = []
    for place, picture in enumerate(truth.images):
        box = Letterbox(picture.width, picture.height, SIDE)
        valid = values["valid"][place]
        boxes = np.clip(box.from_square(values["boxes"][place][valid]), 0, np.array([box.width, box.height] * 2))
        some = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) > 0
        scores, labels = (values[name][place][valid][some] for name in ("scores", "labels"))
        found.append(ImageDetections(boxes[some].astype(np.float32), scores, labels))
    scores, matches = coco_scores(truth, found), matching(truth, found)
    curves = confidence_curves(matches)
    square = [open_image(each.file, (each.width, each.height)) if each.file else None for each in truth.images]
    image = lambda place: np.asarray(square[place] if square[place] else source[place]["image"])
    confidence = float(CONFIDENCES[curves.best])
    drawn = sheets(truth, found, matches, confidence=confidence, read_images=lambda _: image)
    for batch_size in (8, 16):
        made = evaluated(source, truth, values, batch_size=batch_size)
        for name, value in scores.scalars().items():
            assert made.scalars[name] == value
        for name, value in zip(("precision", "recall", "f1"), curves.mean, strict=True):
            assert made.scalars[name] == value[curves.best]
        assert made.scalars["best_confidence"] == confidence
        for name, precision, ap50 in scores.per_class:
            assert made.scalars.get(f"class_average_precision/{name}", np.nan) == pytest.approx(precision, nan_ok=True)
            assert made.scalars.get(f"class_ap50/{name}", np.nan) == pytest.approx(ap50, nan_ok=True)
        assert made.protocol.keys() == made.scalars.keys()
        for words in made.protocol.values():
            assert "toys" in words
            assert "confidence 0.001 or more, non-maximum suppression at IoU 0.6, at most 300" in words
        assert made.images.keys() == {"precision_recall", "confidence", "confusion", "found", "mistakes"}
        for name, picture in drawn.items():
            np.testing.assert_array_equal(made.images[name], picture)
    assert 0.05 < made.scalars["ap50"] < 0.9


def test_what_lies_in_the_padding_is_no_detection(one_device, pictures):
    """Boxes are clipped to the image; those that have nothing of it are left out."""
    box = Letterbox(60, 40, SIDE)  # rows 5 to 26 of the square
    squares = np.array([[[0, 0, 32, 4], [0, 0, 32, 32], [-5, 10, 16, 16], [0, 0, 9, 9]]], np.float32)
    valid = np.array([[True, True, True, False]])
    row = Detections(squares, np.full((1, 4), 0.5, np.float32), np.zeros((1, 4), np.int32), valid)
    found = evaluation.original(row, 0, box)
    scale = 40 / 21
    expected = [[0, 0, 60, 40], [0, (10 - 5) * scale, 30, (16 - 5) * scale]]
    np.testing.assert_allclose(found.boxes, expected, rtol=1e-6)
    assert len(found.scores) == len(found.labels) == 2


def test_many_classes_have_no_numbers_of_their_own(one_device, world):
    source, truth = world
    wide = replace(truth, class_names=tuple(f"class {k}" for k in range(21)), category_ids=tuple(range(21)))
    made = evaluated(source, wide, known(source), mesh=one_device)
    assert made.scalars["average_precision"] == 1.0
    assert not [name for name in made.scalars if name.startswith("class_")]


def test_nothing_found_and_nothing_there(one_device, world):
    source, truth = world
    values = known(source)
    none = evaluated(source, truth, {**values, "valid": values["valid"] & False}, mesh=one_device)
    assert none.scalars["average_precision"] == none.scalars["f1"] == 0.0
    assert "precision" not in none.scalars
    assert none.images.keys() == {"precision_recall", "confidence", "confusion", "found", "mistakes"}
    bare = tuple(
        replace(each, boxes=each.boxes[:0], labels=each.labels[:0], crowd=each.crowd[:0], area=each.area[:0])
        for each in truth.images
    )
    made = evaluated(source, replace(truth, images=bare), values, mesh=one_device)
    assert made.scalars.keys() == made.protocol.keys() == {"best_confidence"}
    assert made.images.keys() == {"confusion", "found", "mistakes"}


def test_errors(one_device, world):
    source, truth = world
    values = known(source)
    broken = {**values, "boxes": values["boxes"] * np.float32(np.nan)}
    with pytest.raises(UserError, match="13 images have detections that are not finite"):
        evaluated(source, truth, broken, mesh=one_device)
    some = lambda: list(evaluation_batches(source, batch_size=8))[:1]
    with pytest.raises(ValueError, match="5 images of the truth were in no batch"):
        evaluated(source, truth, values, mesh=one_device, images=some)


def test_classes_to_look_for():
    names = ("red cell", "white cell", "platelet")
    assert PredictionConfig().choose(names) is None
    assert PredictionConfig(only=("platelet", "red cell")).choose(names) == [2, 0]
    with pytest.raises(UserError, match="no class 'plate' to look for: the classes are red cell, white cell, platelet"):
        PredictionConfig(only=("platelet", "plate")).choose(names)


KINDS = {
    "colour.jpg": lambda image: image,
    "grey.png": lambda image: image.convert("L"),
    "ink.jpeg": lambda image: image.convert("CMYK"),
    "deep.png": lambda image: Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257),
    "clear.png": lambda image: image.convert("RGBA"),
    "wide.webp": lambda image: image.resize((400, 30)),
    "colour.png": lambda image: image.resize((2, 3)),
}
NAMES = ("dark/ant", "bee")


def fixed(variables, images):
    """Two boxes in every square, one of them in half of the images alone."""
    bright = images.astype(jnp.float32).mean((1, 2, 3)) > variables["level"]
    count = len(images)
    boxes = jnp.broadcast_to(jnp.array([[4.0, 12.0, 28.0, 20.0], [0.0, 0.0, 16.0, 16.0], [0.0] * 4]), (count, 3, 4))
    scores = jnp.broadcast_to(jnp.array([0.75, 0.5, 0.0]), (count, 3))
    labels = jnp.broadcast_to(jnp.array([1, 0, 0]), (count, 3))
    valid = jnp.stack([jnp.ones(count, bool), bright, jnp.zeros(count, bool)], axis=1)
    return Detections(boxes, scores, labels, valid)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Images of many kinds between a damaged one and a text."""
    folder = tmp_path_factory.mktemp("files")
    ramp = Image.fromarray(np.linspace(0, 255, 60 * 90 * 3).reshape(60, 90, 3).astype(np.uint8))
    for name, change in KINDS.items():
        change(ramp).save(folder / name)
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    ramp.save(folder / "turned.jpg", exif=turned)
    (folder / "text.jpg").write_text("no image")
    (folder / "cut.jpg").write_bytes((folder / "colour.jpg").read_bytes()[:400])
    names = [*KINDS]
    return [folder / name for name in (*names[:3], "text.jpg", *names[3:], "turned.jpg", "cut.jpg")]


def predicted(files, folder, *, mesh=None, batch_size=8, **options):
    compiler = Compiler(make_mesh(MeshConfig()) if mesh is None else mesh)
    config = PredictionConfig(**options)
    names = {"class_names": NAMES, "resolution": SIDE, "batch_size": batch_size}
    predict = evaluation.predict_files(compiler, fixed, config, **names)
    return predict(compiler.replicate({"level": np.float32(118)}), files, folder)


def expected_of(file):
    """(size, boxes, labels, scores) of the detections in a file."""
    with Image.open(file) as image:
        size = (60, 90) if file.name == "turned.jpg" else image.size
    box = Letterbox(*size, SIDE)
    with Image.open(file) as image:
        upright = image.transpose(Image.Transpose.ROTATE_270) if file.name == "turned.jpg" else image
        bright = letterboxed(upright, SIDE).mean() > 118
    squares = np.array([[4, 12, 28, 20], [0, 0, 16, 16]][: 1 + bright], np.float32)
    boxes = np.clip(box.from_square(squares), 0, np.array(size * 2))
    some = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) > 0
    return size, boxes[some], np.array([1, 0])[: 1 + bright][some], np.array([0.75, 0.5])[: 1 + bright][some]


@pytest.mark.parametrize("batch_size", [8, 3])
def test_files_of_every_kind(files, tmp_path, batch_size):
    out = tmp_path / "out" / "deeper"
    lines = predicted(files, out, batch_size=batch_size, crops=True)
    assert len(lines) == len(files) + 1
    whole = [file for file in files if file.name not in ("text.jpg", "cut.jpg")]
    for file, line in zip(files, lines, strict=False):
        if file not in whole:
            assert line.startswith(f"{file}: skipped, it cannot be decoded (")
            continue
        labels = expected_of(file)[2].tolist()
        assert line == f"{file}: {'1 bee (0.75)' if labels == [1] else '1 dark/ant (0.50), 1 bee (0.75)'}"
    assert {len(expected_of(file)[2]) for file in whole} == {1, 2}
    assert lines[-1] == f"images with boxes, and detections.json: {out}"

    with redirect_stdout(io.StringIO()):
        coco = COCO(out / "images.json")
        results = coco.loadRes(str(out / "detections.json"))
    assert [each["name"] for each in coco.loadCats(coco.getCatIds())] == list(NAMES)
    assert [coco.imgs[number]["file_name"] for number in range(1, len(whole) + 1)] == [str(file) for file in whole]
    for number, file in enumerate(whole, start=1):
        size, boxes, labels, scores = expected_of(file)
        assert (coco.imgs[number]["width"], coco.imgs[number]["height"]) == size
        said = results.loadAnns(results.getAnnIds(imgIds=[number]))
        sized = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        np.testing.assert_allclose([each["bbox"] for each in said], sized, rtol=1e-5, atol=1e-4)
        assert [each["category_id"] for each in said] == (labels + 1).tolist()
        assert [each["score"] for each in said] == scores.tolist()
        # texts, and images, which are larger where they are small
        stem = unique_stems(files)[files.index(file)]
        rows = np.array([line.split() for line in (out / f"{stem}.txt").read_text().splitlines()], float)
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        np.testing.assert_allclose(rows[:, 1:3] * size, centres, atol=1e-3)
        np.testing.assert_allclose(rows[:, 3:5] * size, sized[:, 2:], atol=1e-3)
        np.testing.assert_array_equal(rows[:, [0, 5]], np.stack([labels, scores], axis=1))
        jpeg = file.suffix in (".jpg", ".jpeg")
        factor = max(1, -(-320 // max(size)))
        with Image.open(out / f"{stem}{'.jpg' if jpeg else '.png'}") as picture:
            assert picture.size == (size[0] * factor, size[1] * factor)
            assert picture.format == ("JPEG" if jpeg else "PNG")
        for place, (box, label) in enumerate(zip(boxes, labels, strict=True), start=1):
            folder = out / "crops" / ("bee" if label else "dark_ant")
            with Image.open(folder / f"{stem}-{place}{'.jpg' if jpeg else '.png'}") as crop:
                assert crop.size == tuple(np.ceil(box[2:]).astype(int) - np.floor(box[:2]).astype(int))
    assert {"colour.jpg", "colour-2.png", "ink.jpg", "turned.jpg"} <= {path.name for path in out.iterdir()}


def test_texts_and_crops_are_written_where_asked_for(files, tmp_path, one_device):
    predicted(files[:2], tmp_path, mesh=one_device, text=False)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["colour.jpg", "detections.json", "grey.png", "images.json"]


def test_results_are_numbered_as_a_coco_file_numbers(files, tmp_path, one_device):
    """As COCO's server takes them: ids of images by file name, of categories by name, gaps and order included."""
    listed = [
        {"id": 700 - place, "file_name": f"val/{file.name}", "width": 9, "height": 9}
        for place, file in enumerate(files)
    ]
    categories = [{"id": 90, "name": "bee"}, {"id": 7, "name": "dark/ant"}, {"id": 8, "name": "cow"}]
    path, some = tmp_path / "images.json", files[:2]
    path.write_text(json.dumps({"images": listed, "categories": categories}))
    predicted(some, tmp_path / "out", mesh=one_device, numbers=path)
    results = json.loads((tmp_path / "out" / "detections.json").read_text())
    want = [(700 - place, (7, 90)[label]) for place, file in enumerate(some) for label in expected_of(file)[2]]
    assert [(each["image_id"], each["category_id"]) for each in results] == want
    named = json.loads((tmp_path / "out" / "images.json").read_text())
    assert [each["id"] for each in named["images"]] == [700, 699]
    assert named["categories"] == [{"id": 7, "name": "dark/ant"}, {"id": 90, "name": "bee"}]


@pytest.mark.parametrize(
    ("images", "names", "words"),
    [
        (["other.png"], NAMES, "lists no image colour.jpg"),
        (["colour.jpg"], ["bee"], "has no category 'dark/ant', which the run has: its categories are 'bee'"),
        (["colour.jpg", "again/colour.jpg"], NAMES, "has two images of the same name"),
    ],
)
def test_results_that_cannot_be_numbered(files, images, names, words, tmp_path, one_device):
    listed = [{"id": place, "file_name": name, "width": 9, "height": 9} for place, name in enumerate(images)]
    path = tmp_path / "images.json"
    categories = [{"id": place, "name": name} for place, name in enumerate(names)]
    path.write_text(json.dumps({"images": listed, "categories": categories}))
    with pytest.raises(UserError, match=words):
        predicted(files[:1], tmp_path / "out", mesh=one_device, numbers=path)
    assert not (tmp_path / "out").exists()


def test_names_of_what_is_written(tmp_path):
    names = ("a.jpg", "b.jpg", "A.png", "other/a.jpg", "a-2.jpg", ".hidden")
    assert folder_names(["a/b", "a b", "a:b", "A_B", "..", "", "x" * 99, "x" * 98]) == [
        *("a_b", "a b", "a_b-2", "A_B-3", "__", "_", "x" * 60, "x" * 60 + "-2"),
    ]
    assert unique_stems([tmp_path / name for name in names]) == ["a", "b", "A-2", "a-3", "a-2-2", ".hidden"]


def test_files_of_which_none_is_an_image(tmp_path, one_device):
    files = [tmp_path / name for name in ("a.jpg", "b.txt")]
    for file in files:
        file.write_text("no image")
    with pytest.raises(UserError, match=r"nothing to predict: .*a\.jpg and 1 more cannot be decoded as images$"):
        predicted(files, tmp_path / "out", mesh=one_device)
    assert not (tmp_path / "out").exists()


def test_a_picture_without_detections(tmp_path, one_device):
    """Its text is empty, and so are the results."""
    Image.new("RGB", (40, 40)).save(tmp_path / "black.png")
    compiler = Compiler(one_device)
    nothing = lambda variables, images: fixed(variables, images)._replace(valid=jnp.zeros((len(images), 3), bool))
    predict = evaluation.predict_files(
        compiler, nothing, PredictionConfig(), class_names=NAMES, resolution=SIDE, batch_size=1
    )
    values = compiler.replicate({"level": np.float32(118)})
    lines = predict(values, [tmp_path / "black.png"], tmp_path / "out")
    assert lines[0] == f"{tmp_path / 'black.png'}: nothing found"
    assert (tmp_path / "out" / "black.txt").read_text() == ""
    assert json.loads((tmp_path / "out" / "detections.json").read_text()) == []
