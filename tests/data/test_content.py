"""The identity of data: equal wherever it lies, another one after any change."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vision.data.annotations.cleaning import AnnotatedImage, Annotations
from vision.data.annotations.counts import Counts
from vision.data.content import content_of
from vision.data.detection import AnnotatedSource
from vision.data.folder import folder_source
from vision.data.scenes import RenderedSource
from vision.data.shapes.world import ShapesSource
from vision.data.source import ArraySource
from vision.data.subset import Subset


def folder(root):
    for name in ("cat/1", "cat/2", "dog/1"):
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    return root


def arrays(label=(0, 1, 1)):
    return ArraySource({"image": np.arange(48, dtype=np.uint8).reshape(3, 4, 4), "label": np.array(label, np.int32)})


def annotated(root, box=(0, 0, 2, 2)):
    image = AnnotatedImage(
        file=root / "a.png",
        width=4,
        height=4,
        boxes=np.array([box], np.float32),
        labels=np.array([0], np.int32),
        crowd=np.array([False]),
        area=np.array([4], np.float32),
        image_id=1,
    )
    return AnnotatedSource(
        Annotations((image,), ("cat",), (1,), Counts(images=1, boxes=1, crowd=0, background=0, classes=1)), 4, 2
    )


def test_a_folder_is_the_same_wherever_it_lies(tmp_path):
    one = folder_source(folder(tmp_path / "a"), resolution=4)
    other = folder_source(folder(tmp_path / "deep" / "b"), resolution=8)
    assert content_of(one) == content_of(other)
    assert content_of(one).count == 3


@pytest.mark.parametrize("change", ["more", "fewer", "renamed", "moved", "class renamed"])
def test_a_folder_that_changes_is_another(tmp_path, change):
    before = content_of(folder_source(folder(tmp_path), resolution=4))
    match change:
        case "more":
            Image.new("RGB", (4, 4)).save(tmp_path / "cat" / "3.png")
        case "fewer":
            (tmp_path / "cat" / "1.png").unlink()
        case "renamed":
            (tmp_path / "cat" / "1.png").rename(tmp_path / "cat" / "9.png")
        case "moved":
            (tmp_path / "cat" / "2.png").rename(tmp_path / "dog" / "2.png")
        case _:
            (tmp_path / "dog").rename(tmp_path / "wolf")
    assert content_of(folder_source(tmp_path, resolution=4)) != before


def test_parts_of_a_source(tmp_path):
    source = folder_source(folder(tmp_path), resolution=4)
    part = lambda *rows: content_of(Subset(source, np.array(rows), source.class_names))
    assert part(0, 1) == part(0, 1)
    assert len({part(0, 1), part(0, 2), part(0), part(1, 0)}) == 4
    assert part(0, 1, 2) == content_of(source)


def test_what_is_in_memory_counts_by_its_bytes():
    assert content_of(arrays()) == content_of(arrays())
    assert content_of(arrays()) != content_of(arrays(label=(0, 1, 0)))
    assert content_of(arrays()) != content_of(ArraySource(arrays().arrays, ("a", "b")))


def test_annotations_count_by_their_boxes(tmp_path):
    assert content_of(annotated(tmp_path / "x")) == content_of(annotated(tmp_path / "y"))
    assert content_of(annotated(tmp_path)) != content_of(annotated(tmp_path, box=(0, 0, 2, 3)))


def test_rendered_scenes_count_by_their_settings():
    scenes = ShapesSource(size=5)
    others = [
        replace(scenes, seed=1),
        replace(scenes, split="test"),
        replace(scenes, size=6),
        RenderedSource(scenes, scenes.config.resolution, 3),
    ]
    assert content_of(scenes) == content_of(ShapesSource(size=5))
    assert len({content_of(each) for each in (scenes, *others)}) == 5
