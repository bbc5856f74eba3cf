"""Matching against loops, shapely and COCO's average precision; counts against matching again at each confidence."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.data.annotations.cleaning import AnnotatedImage, Annotations
from vision.data.annotations.counts import Counts
from vision.errors import UserError
from vision.metrics.detection.average_precision import RECALLS, ImageDetections, coco_scores
from vision.metrics.detection.matching import (
    CONFIDENCES,
    ON_CROWD,
    UNMATCHED,
    FalsePositive,
    Miss,
    confidence_curves,
    detection_confusion,
    matched,
    matching,
    overlaps,
    worst_false_positives,
    worst_misses,
)


def image(boxes=(), labels=(), crowd=None, image_id=1):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    crowd = np.zeros(len(boxes), bool) if crowd is None else np.array(crowd, bool)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return AnnotatedImage(None, 100, 100, boxes, np.array(labels, np.int32), crowd, area, image_id)


def detections(boxes=(), scores=(), labels=()):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return ImageDetections(boxes, np.array(scores, np.float32), np.array(labels, np.int32))


def annotations(*pictures, classes=3):
    names = tuple("abcdef"[:classes])
    return Annotations(pictures, names, tuple(range(1, classes + 1)), Counts(len(pictures), 0, 0, 0, classes))


def random_boxes(generator, count):
    low = generator.integers(0, 12, (count, 2))
    return np.concatenate([low, low + generator.integers(1, 8, (count, 2))], axis=1).astype(np.float32)


def random_set(seed, images=5, classes=3):
    generator = np.random.default_rng(seed)
    made, found = [], []
    for number in range(images):
        count, more = generator.integers(0, 8), generator.integers(0, 16)
        crowd = generator.random(count) < 0.25
        made.append(image(random_boxes(generator, count), generator.integers(0, classes, count), crowd, number + 1))
        scores = generator.integers(0, 21, more) / 20
        found.append(detections(random_boxes(generator, more), scores, generator.integers(0, classes, more)))
    return annotations(*made, classes=classes), found


def slow_match(found, scores, true, crowd):
    shapes = lambda boxes: [shapely.box(*box) for box in boxes.tolist()]
    found, true = shapes(found), shapes(true)
    result, taken = [UNMATCHED] * len(found), set()
    for i in sorted(range(len(found)), key=lambda i: (-scores[i], i)):
        best = 0.5
        for j in range(len(true)):
            shared = found[i].intersection(true[j]).area / found[i].union(true[j]).area
            if not crowd[j] and j not in taken and shared >= best:
                result[i], best = j, shared
        if result[i] != UNMATCHED:
            taken.add(result[i])
        elif any(crowd[j] and found[i].intersection(true[j]).area >= 0.5 * found[i].area for j in range(len(true))):
            result[i] = ON_CROWD
    return result


@settings(max_examples=60)
@given(seed=st.integers(0, 9999))
def test_overlaps_and_matches_are_those_of_shapely_and_loops(seed):
    generator = np.random.default_rng(seed)
    found, true = random_boxes(generator, generator.integers(0, 12)), random_boxes(generator, generator.integers(0, 7))
    crowd = generator.random(len(true)) < 0.25
    scores = (generator.integers(0, 5, len(found)) / 4).astype(np.float32)
    shared = overlaps(found, true, crowd)
    assert shared.shape == (len(found), len(true))
    for i, one in enumerate(found.tolist()):
        for j, other in enumerate(true.tolist()):
            a, b = shapely.box(*one), shapely.box(*other)
            whole = a.area if crowd[j] else a.union(b).area
            assert shared[i, j] == pytest.approx(a.intersection(b).area / whole, abs=1e-12)
    assert matched(shared, scores, crowd).tolist() == slow_match(found, scores, true, crowd)


def test_boxes_without_area_overlap_nothing():
    point = np.array([[3, 3, 3, 3]], np.float32)
    assert overlaps(point, point, np.array([False])).tolist() == [[0.0]]
    assert overlaps(point, point, np.array([True])).tolist() == [[0.0]]


def test_ties_and_crowds_by_hand():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 90, 90]], np.float32)
    crowd = np.array([False, False, True])
    found = np.array([[0, 0, 10, 10]] * 3 + [[60, 60, 70, 70], [45, 50, 55, 60], [44, 50, 54, 60]], np.float32)
    scores = np.array([0.5, 0.9, 0.5, 0.1, 0.1, 0.1], np.float32)
    # the most confident takes the last of equal boxes, of equally confident ones the first takes the remaining box;
    # half on a crowd is
    # on it
    shared = overlaps(found, boxes, crowd)
    assert matched(shared, scores, crowd).tolist() == [0, 1, UNMATCHED, ON_CROWD, ON_CROWD, UNMATCHED]
    assert matched(shared[:0], scores[:0], crowd).tolist() == []
    assert matched(shared[:, :0], scores, crowd[:0]).tolist() == [UNMATCHED] * 6


@pytest.mark.parametrize("seed", range(4))
def test_what_is_right_gives_the_average_precision_of_coco(seed):
    truth, found = random_set(seed, images=9)
    matches = matching(truth, found)
    expected = coco_scores(truth, found).class_ap50
    for label in range(3):
        rows = np.flatnonzero((matches.labels == label) & ~matches.ignored)
        rows = rows[np.argsort(-matches.scores[rows], kind="stable")]
        right = np.cumsum(matches.right[rows])
        recall, precision = right / matches.boxes[label], right / np.arange(1, len(rows) + 1)
        value = np.mean([max(precision[recall >= r], default=0.0) for r in RECALLS])
        assert value == pytest.approx(expected[label], rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_counts_are_those_of_matching_anew_at_each_confidence(seed):
    truth, found = random_set(seed)
    curves = confidence_curves(matching(truth, found))
    assert curves.right.shape == curves.wrong.shape == (3, 1001)
    for place in (0, 50, 51, 333, 500, 900, 950, 951, 1000):
        confidence = np.float32(CONFIDENCES[place])
        right, wrong, boxes = np.zeros(3, int), np.zeros(3, int), np.zeros(3, int)
        for true, each in zip(truth.images, found, strict=True):
            for label in range(3):
                own, sure = true.labels == label, (each.labels == label) & (each.scores >= confidence)
                boxes[label] += np.sum(own & ~true.crowd)
                finds = slow_match(each.boxes[sure], each.scores[sure], true.boxes[own], true.crowd[own])
                right[label] += sum(match >= 0 for match in finds)
                wrong[label] += finds.count(UNMATCHED)
        assert curves.right[:, place].tolist() == right.tolist()
        assert curves.wrong[:, place].tolist() == wrong.tolist()
        assert curves.boxes.tolist() == boxes.tolist()
        for label in range(3):
            precision, recall = curves.precision[label, place], curves.recall[label, place]
            either = right[label] + wrong[label]
            assert precision == pytest.approx(right[label] / either if either else np.nan, nan_ok=True)
            assert recall == pytest.approx(right[label] / boxes[label])
            harmonic = 2 * precision * recall / (precision + recall) if right[label] else 0.0
            assert curves.f1[label, place] == pytest.approx(harmonic)
        together = [values[place] for values in curves.overall]
        share, caught = right.sum() / max(right.sum() + wrong.sum(), 1), right.sum() / boxes.sum()
        assert together[1] == pytest.approx(caught)
        assert together[2] == pytest.approx(2 * right.sum() / (right.sum() + wrong.sum() + boxes.sum()))
        if right.sum() + wrong.sum():
            assert together[0] == pytest.approx(share)
    f1 = np.mean(curves.f1, axis=0)
    np.testing.assert_allclose(curves.mean[2], f1)
    assert f1[curves.best] == pytest.approx(f1.max())


def test_the_best_confidence_is_the_middle_of_equals():
    truth = annotations(image([[0, 0, 10, 10]], [0]), classes=2)
    curves = confidence_curves(matching(truth, [detections([[0, 0, 10, 10], [50, 50, 60, 60]], [0.9, 0.4], [0, 0])]))
    # from 0.401 to 0.9, which a score of 0.9 reaches
    assert CONFIDENCES[curves.best] == pytest.approx(0.65)
    assert curves.mean[2][curves.best] == 1.0
    # a class without boxes is in no mean
    assert curves.f1[1, 0] != curves.f1[1, 0]
    assert [values[0] for values in curves.mean] == pytest.approx([0.5, 1.0, 2 / 3])
    nothing = confidence_curves(matching(annotations(image()), [detections()]))
    assert CONFIDENCES[nothing.best] == 0.5
    assert all(np.isnan(values).all() for values in nothing.mean)


@pytest.mark.parametrize("seed", range(3))
def test_confusions_against_loops(seed):
    truth, found = random_set(seed)
    expected = np.zeros((4, 4), int)
    for true, each in zip(truth.images, found, strict=True):
        sure = each.scores >= np.float32(0.3)
        finds = slow_match(each.boxes[sure], each.scores[sure], true.boxes, true.crowd)
        for match, label in zip(finds, each.labels[sure], strict=True):
            if match != ON_CROWD:
                expected[true.labels[match] if match >= 0 else 3, label] += 1
        for j in range(len(true.boxes)):
            if not true.crowd[j] and j not in finds:
                expected[true.labels[j], 3] += 1
    matrix = detection_confusion(truth, found, matching(truth, found), confidence=0.3)
    np.testing.assert_array_equal(matrix, expected)
    np.testing.assert_array_equal(matrix[:3].sum(1), matching(truth, found).boxes)


def test_worst_errors_by_hand():
    truth = annotations(
        image([[0, 0, 20, 20], [40, 40, 60, 60], [70, 70, 75, 75]], [0, 1, 0], image_id=1),
        image(image_id=2),
        image([[0, 0, 50, 50], [50, 50, 90, 90]], [2, 2], [False, True], image_id=3),
    )
    found = [
        detections(
            [[0, 0, 20, 20], [0, 0, 20, 20], [40, 40, 60, 60], [0, 0, 20, 12], [70, 70, 75, 75]],
            [0.9, 0.8, 0.7, 0.1, 0.2],
            [0, 0, 0, 1, 0],
        ),
        detections([[1, 1, 9, 9]], [0.95], [2]),
        detections([[50, 50, 90, 90], [0, 0, 50, 24]], [0.99, 0.8], [2, 2]),
    ]
    matches = matching(truth, found)
    false = worst_false_positives(truth, found, matches, confidence=0.5, max_errors=10)
    assert false == [
        FalsePositive(image=1, place=0, nearest=-1, iou=0.0),  # where nothing is
        FalsePositive(image=0, place=1, nearest=0, iou=1.0),  # a second time; the first of equals
        FalsePositive(image=2, place=1, nearest=0, iou=0.48),  # poorly localised
        FalsePositive(image=0, place=2, nearest=1, iou=1.0),  # another class
    ]
    assert worst_false_positives(truth, found, matches, confidence=0.5, max_errors=2) == false[:2]
    lower = worst_false_positives(truth, found, matches, confidence=0.1, max_errors=9)
    assert lower == [*false, FalsePositive(image=0, place=3, nearest=0, iou=0.6)]
    missed = [
        Miss(image=2, box=0, instead=-1, score=0.0),
        Miss(image=0, box=1, instead=2, score=0.0),
        Miss(image=0, box=2, instead=-1, score=float(np.float32(0.2))),
    ]
    assert worst_misses(truth, found, matches, confidence=0.5, max_errors=9) == missed
    assert worst_misses(truth, found, matches, confidence=0.5, max_errors=1) == missed[:1]
    assert worst_misses(truth, found, matches, confidence=0.2, max_errors=9) == missed[:2]
    assert worst_misses(truth, found, matches, confidence=0.75, max_errors=9)[1].instead == -1


def test_detections_must_fit_the_truth():
    with pytest.raises(UserError, match="labels outside"):
        matching(annotations(image()), [detections([[0, 0, 1, 1]], [0.5], [3])])
