"""COCO's numbers against an AP written from the protocol with loops, and against pycocotools on files."""

import contextlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vision.data.annotations.cleaning import AnnotatedImage, Annotations
from vision.data.annotations.counts import Counts
from vision.errors import UserError
from vision.metrics.detection.average_precision import RECALLS, ImageDetections, coco_scores

NAMES = ("ant", "bee", "cat", "dog")
NUMBERS = (30, 2, 7, 11)
THRESHOLDS = np.linspace(0.5, 0.95, 10)
ALL, SMALL, MEDIUM, LARGE = (0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10)
STATISTICS = (
    *("average_precision", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)


def picture(boxes=(), labels=(), crowd=None, *, image_id=1, area=None, side=300):
    """An annotated image of ``side`` pixels."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    sides = boxes[:, 2:] - boxes[:, :2]
    return AnnotatedImage(
        file=None,
        width=side,
        height=side,
        boxes=boxes,
        labels=np.array(labels, np.int32),
        crowd=np.zeros(len(boxes), bool) if crowd is None else np.array(crowd, bool),
        area=sides[:, 0] * sides[:, 1] if area is None else np.array(area, np.float32),
        image_id=image_id,
    )


def detections(boxes=(), scores=(), labels=()):
    return ImageDetections(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(labels, np.int32)
    )


def annotations(pictures, names=NAMES, numbers=NUMBERS):
    return Annotations(tuple(pictures), names[:], numbers[:], Counts(len(pictures), 0, 0, 0, len(names)))


def whole_boxes(generator, count):
    """Boxes of whole pixels, of all three sizes."""
    low = generator.integers(0, 150, (count, 2))
    return np.concatenate([low, low + generator.choice([8, 10, 20, 40, 60, 120], (count, 2))], 1).astype(np.float32)


def random_set(seed, *, images=7):
    """Truth with crowds, empty images and a class without boxes; detections near it and elsewhere, with ties."""
    generator = np.random.default_rng(seed)
    made, found = [], []
    for number in generator.permutation(images):
        count = int(generator.integers(0, 9))
        boxes, labels = whole_boxes(generator, count), generator.integers(0, 3, count)
        area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) * generator.choice([0.5, 1.0], count)
        crowd = generator.random(count) < 0.2
        made.append(picture(boxes, labels, crowd, image_id=10 + int(number), area=area))
        near = np.repeat(boxes, 2, axis=0) + generator.integers(-4, 5, (2 * count, 4))
        far = whole_boxes(generator, int(generator.integers(0, 15)))
        every = np.concatenate([near, far])
        every[:, 2:] = np.maximum(every[:, 2:], every[:, :2] + 1)
        said = np.concatenate([np.repeat(labels, 2), generator.integers(0, 4, len(far))])
        said = np.where(generator.random(len(said)) < 0.1, (said + 1) % 4, said)
        # eighths tie within and across images
        found.append(detections(every, generator.integers(1, 9, len(every)) / 8, said))
    return annotations(made), found


def slow_iou(one, other, crowd):
    one, other = one.tolist(), other.tolist()  # float64, as COCO computes
    wide = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    high = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    own, theirs = ((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return wide * high / (own if crowd else own + theirs - wide * high)


def slow_curve(truth, found, label, *, threshold, area, most):
    """(precision at the 101 recalls, largest recall) of a class; None for a class without boxes."""
    scored, boxes = [], 0
    for place in sorted(range(len(found)), key=lambda i: truth.images[i].image_id):
        true, each = truth.images[place], found[place]
        own = [i for i in range(len(true.boxes)) if true.labels[i] == label]
        skip = {i: true.crowd[i] or not area[0] <= true.area[i] <= area[1] for i in own}
        boxes += sum(not skip[i] for i in own)
        taken = set()
        order = sorted((i for i in range(len(each.scores)) if each.labels[i] == label), key=lambda i: -each.scores[i])
        for i in order[:most]:
            match, best = None, threshold
            for ignored in (False, True):  # a box that counts goes before one that does not
                for j in own:
                    if bool(skip[j]) != ignored or (j in taken and not true.crowd[j]):
                        continue
                    shared = slow_iou(each.boxes[i], true.boxes[j], true.crowd[j])
                    if shared >= best:
                        match, best = j, shared
                if match is not None:
                    break
            x0, y0, x1, y1 = each.boxes[i].tolist()
            outside = not area[0] <= (x1 - x0) * (y1 - y0) <= area[1]
            if match is not None:
                taken.add(match)
            if outside if match is None else skip[match]:
                continue
            scored.append((float(each.scores[i]), match is not None))
    if not boxes:
        return None
    scored.sort(key=lambda pair: -pair[0])
    right = np.cumsum([hit for _, hit in scored])
    recall, precision = right / boxes, right / np.arange(1, len(scored) + 1)
    read = [max(precision[recall >= r], default=0.0) for r in np.linspace(0, 1, 101)]
    return np.array(read), max(recall, default=0.0)


def slow_statistics(truth, found):
    def mean(which, thresholds=THRESHOLDS, area=ALL, most=100):
        curves = [
            slow_curve(truth, found, label, threshold=threshold, area=area, most=most)
            for threshold in thresholds
            for label in range(len(truth.class_names))
        ]
        values = [np.mean(curve[which]) for curve in curves if curve is not None]
        return np.mean(values) if values else np.nan

    precisions = [mean(0), mean(0, [0.5]), mean(0, [0.75]), *(mean(0, area=area) for area in (SMALL, MEDIUM, LARGE))]
    recalls = [*(mean(1, most=most) for most in (1, 10, 100)), *(mean(1, area=area) for area in (SMALL, MEDIUM, LARGE))]
    return dict(zip(STATISTICS, [*precisions, *recalls], strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_numbers_are_those_of_the_protocol(seed):
    truth, found = random_set(seed)
    scores = coco_scores(truth, found)
    for name, value in slow_statistics(truth, found).items():
        assert getattr(scores, name) == pytest.approx(value, rel=1e-9, nan_ok=True), name
    assert scores.images == 7
    assert scores.class_names == NAMES
    for label, name in enumerate(NAMES):
        curves = [slow_curve(truth, found, label, threshold=t, area=ALL, most=100) for t in THRESHOLDS]
        assert [curve is None for curve in curves] == [label == 3] * 10  # of the last class there are no boxes
        assert scores.per_class[label][0] == name
        expected = np.nan if label == 3 else np.mean([curve[0] for curve in curves])
        assert scores.per_class[label][1] == pytest.approx(expected, rel=1e-9, nan_ok=True)
        row = np.full(101, np.nan) if label == 3 else curves[0][0]
        np.testing.assert_allclose(scores.precision[label], row, rtol=1e-9)
        assert scores.per_class[label][2] == pytest.approx(row.mean(), rel=1e-9, nan_ok=True)
    np.testing.assert_allclose(RECALLS, np.arange(101) / 100, atol=1e-15)


@pytest.mark.parametrize("seed", [0, 7])
def test_numbers_are_those_of_pycocotools_on_files(seed, tmp_path, capsys):
    truth, found = random_set(seed, images=12)
    sized = lambda boxes: [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in boxes.tolist()]
    boxes = [
        {"image_id": each.image_id, "category_id": NUMBERS[label], "bbox": box, "area": area, "iscrowd": int(crowd)}
        for each in truth.images
        for label, box, area, crowd in zip(each.labels, sized(each.boxes), each.area.tolist(), each.crowd, strict=True)
    ]
    content = {
        "images": [{"id": each.image_id, "width": 300, "height": 300} for each in truth.images],
        "categories": [{"id": number, "name": name} for number, name in zip(NUMBERS, NAMES, strict=True)],
        "annotations": [{"id": number, **box} for number, box in enumerate(boxes, start=1)],
    }
    results = [
        {"image_id": picture.image_id, "category_id": NUMBERS[label], "bbox": box, "score": score}
        for picture, each in zip(truth.images, found, strict=True)
        for label, box, score in zip(each.labels, sized(each.boxes), each.scores.tolist(), strict=True)
    ]
    (tmp_path / "truth.json").write_text(json.dumps(content))
    (tmp_path / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(tmp_path / "truth.json")
        judge = COCOeval(coco, coco.loadRes(str(tmp_path / "results.json")), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    scores = coco_scores(truth, found)
    ours = [getattr(scores, name) for name in STATISTICS]
    np.testing.assert_array_equal(ours, np.where(judge.stats < 0, np.nan, judge.stats))
    assert capsys.readouterr().out == ""


def test_the_truth_itself_is_perfect():
    truth, _ = random_set(3)
    found = [
        detections(each.boxes[~each.crowd], np.full((~each.crowd).sum(), 0.5), each.labels[~each.crowd])
        for each in truth.images
    ]
    scalars = coco_scores(truth, found).scalars()
    assert len(scalars) >= 10  # not of a size that does not occur
    assert {value for name, value in scalars.items() if name not in ("ar1", "ar10")} == {1.0}


def test_a_hand_counted_case():
    """Right, wrong, right of three boxes: precision 1 up to recall 1/3, 2/3 up to 2/3, then 0."""
    truth = annotations([picture([[0, 0, 40, 40], [50, 50, 90, 90], [100, 100, 140, 140]], [0, 0, 0])])
    found = [detections([[0, 0, 40, 40], [200, 200, 240, 240], [50, 50, 90, 90]], [0.9, 0.8, 0.7], [0, 0, 0])]
    scores = coco_scores(truth, found)
    assert scores.ap50 == scores.ap_medium == pytest.approx((34 + 33 * 2 / 3) / 101)
    assert scores.ar100 == pytest.approx(2 / 3)
    assert scores.ar1 == pytest.approx(1 / 3)
    np.testing.assert_allclose(scores.precision[0], [1] * 34 + [2 / 3] * 33 + [0] * 34)


def test_classes_of_one_name_keep_their_own_numbers():
    truth = annotations([picture([[0, 0, 40, 40], [50, 50, 90, 90]], [0, 1])])
    truth = replace(truth, class_names=("cat", "cat", *truth.class_names[2:]))
    scores = coco_scores(truth, [detections([[0, 0, 40, 40]], [0.9], [0])])
    (first, _, ap50), (second, _, none) = scores.per_class[:2]
    assert (first, second) == ("cat", "cat")
    assert (ap50, none) == (pytest.approx(1), 0)


def test_what_is_undefined_is_nan_and_left_out():
    truth = annotations([picture([[0, 0, 40, 40]], [1]), picture(image_id=2)])
    scores = coco_scores(truth, [detections(), detections()])
    assert scores.scalars() == dict.fromkeys(
        ("average_precision", "ap50", "ap75", "ap_medium", "ar1", "ar10", "ar100", "ar_medium"), 0.0
    )
    assert np.isnan([scores.ap_small, scores.ap_large, scores.ar_small, *scores.class_ap50[[0, 2, 3]]]).all()
    protocol = scores.protocol("toys", "at most 300 detections")
    assert protocol.keys() == scores.scalars().keys()
    assert protocol["ap50"].endswith(
        "AP@.50, 100 detections, on 2 images of toys, the 1 of 4 classes that have boxes; at most 300 detections"
    )
    nothing = coco_scores(annotations([picture()]), [detections([[0, 0, 9, 9]], [0.5], [0])])
    assert nothing.scalars() == nothing.protocol("toys", "") == {}


def test_errors():
    truth = annotations([picture([[0, 0, 40, 40]], [1]), picture(image_id=2)])
    with pytest.raises(UserError, match="no images"):
        coco_scores(annotations([]), [])
    with pytest.raises(ValueError, match="1 detections for 2 images"):
        coco_scores(truth, [detections()])
    with pytest.raises(UserError, match=r"labels outside \[0, 4\)"):
        coco_scores(truth, [detections(), detections([[0, 0, 1, 1]], [0.5], [4])])
    for boxes, score in (([[0, 0, np.nan, 1]], 0.5), ([[0, 0, 1, 1]], np.nan)):
        with pytest.raises(UserError, match="1 images have detections that are not finite"):
            coco_scores(truth, [detections(), detections(boxes, [score], [0])])
    twice = replace(truth, images=(truth.images[0], replace(truth.images[1], image_id=1)))
    with pytest.raises(UserError, match="same number"):
        coco_scores(twice, [detections(), detections()])
