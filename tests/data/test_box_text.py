import numpy as np
import pytest
from PIL import Image

from vision.data.annotations.box_text import class_list, label_folder_of, read_box_text
from vision.data.annotations.cleaning import CleaningRules
from vision.errors import UserError


@pytest.fixture
def root(tmp_path):
    """Three images of 40x30 pixels, two with label files in a sibling folder."""
    for name in ("images/train/b.jpg", "images/train/deep/a.png", "images/train/c.v2.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(path)
    for name, text in (
        ("labels/train/b.txt", "1 0.5 0.5 1 1\n\n0 0.25 0.5 0.25 0.2\r\n"),
        ("labels/train/c.v2.txt", "\ufeff2 0.1 0.1 0.1 0.1"),
        ("classes.txt", "cat\ndog\ngreat emu\n\n"),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


@pytest.fixture
def read(root):
    return lambda **options: read_box_text(root / "images" / "train", root / "classes.txt", **options)


def test_what_is_read(read):
    found = read()
    assert found.class_names == ("cat", "dog", "great emu")
    assert found.category_ids == (0, 1, 2)
    assert [(picture.file.name, picture.image_id) for picture in found.images] == [
        ("b.jpg", 1),
        ("c.v2.jpg", 2),
        ("a.png", 3),
    ]
    first, second, third = found.images
    np.testing.assert_allclose(first.boxes, [[0, 0, 40, 30], [5, 12, 15, 18]], rtol=1e-6)
    np.testing.assert_array_equal(first.labels, [1, 0])
    np.testing.assert_allclose(first.area, [1200, 60], rtol=1e-6)
    assert (first.width, first.height) == (40, 30)
    np.testing.assert_allclose(second.boxes, [[2, 1.5, 6, 4.5]], rtol=1e-6)
    assert third.boxes.shape == (0, 4)
    assert (found.counts.boxes, found.counts.background, found.counts.missing) == (3, 1, 0)
    assert len(read(rules=CleaningRules(first=1)).images) == 1


def test_six_decimals_of_a_box_at_the_border_are_clipped_silently(root, read):
    (root / "labels" / "train" / "b.txt").write_text("0 0.166667 0.166667 0.333334 0.333334\n")
    found = read()
    assert found.counts.clipped == 0
    np.testing.assert_allclose(found.images[0].boxes, [[0, 0, 40 / 3, 10]], atol=1e-4)


def test_labels_in_the_folder_of_the_images(root):
    for file in (root / "labels" / "train").iterdir():
        file.rename(root / "images" / "train" / file.name)
    classes = (root / "classes.txt").rename(root / "images" / "train" / "classes.txt")
    (root / "labels" / "train").rmdir()
    (root / "labels").rmdir()
    counts = read_box_text(root / "images" / "train", classes).counts
    assert (counts.boxes, counts.missing) == (3, 0)


def test_where_label_files_are(root):
    assert label_folder_of(root / "images" / "train") == root / "labels" / "train"
    assert label_folder_of(root / "images" / "other") == root / "images" / "other"
    (root / "photos").mkdir()
    assert label_folder_of(root / "photos") == root / "labels"
    # The last part of that name counts
    (root / "images" / "v1" / "images").mkdir(parents=True)
    (root / "images" / "v1" / "labels").mkdir()
    assert label_folder_of(root / "images" / "v1" / "images") == root / "images" / "v1" / "labels"


def test_a_folder_of_labels_that_is_named(root, read):
    (root / "labels" / "train").rename(root / "elsewhere")
    assert read(label_folder=root / "elsewhere").counts.boxes == 3
    with pytest.raises(UserError, match=r"There is no folder .*nowhere of label files"):
        read(label_folder=root / "nowhere")


def test_rules_are_applied(root, read):
    lines = ["0 0.5 0.5 1.2 1", "0 0.5 0.5 1.3 1", "9 0.5 0.5 1 1", "-1 0.5 0.5 1 1", "0 nan 0 1 1", "0 0.5 0.5 0 0"]
    (root / "labels" / "train" / "b.txt").write_text("\n".join(lines))
    (root / "labels" / "train" / "gone.txt").write_text("0 0.5 0.5 1 1")
    (root / "labels" / "train" / ".hidden.txt").write_text("nonsense")
    counts = read().counts
    assert (counts.clipped, counts.duplicates, counts.unknown, counts.not_finite, counts.without_area) == (
        1,
        1,
        2,
        1,
        1,
    )
    assert counts.unknown_examples == ("class 9 in b.jpg", "class -1 in b.jpg")
    assert counts.missing_examples == ("gone",)


def test_damaged_images(root, read):
    (root / "images" / "train" / "b.jpg").write_text("no image")
    with pytest.raises(UserError, match=r"b.jpg cannot be used \(cannot identify"):
        read()
    assert read(rules=CleaningRules(skip_damaged=True)).counts.damaged == 1


@pytest.mark.parametrize(
    "line",
    ["0 0.5 0.5 1", "0 0.5 0.5 1 1 0.9", "cat 0.5 0.5 1 1", "0.5 0.5 0.5 1 1", "0 0.5 0,5 1 1", "0"],
)
def test_malformed_lines(root, read, line):
    (root / "labels" / "train" / "b.txt").write_text(f"0 0.5 0.5 1 1\n\n{line}\n")
    with pytest.raises(UserError, match=f"b.txt, line 3 is '{line}', but a line must be 'class cx cy w h'"):
        read()


def test_files_that_are_not_text(root, read):
    (root / "labels" / "train" / "b.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"b.txt cannot be read as text"):
        read()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n \n", "is empty; it needs one name per line"),
        ("cat\n\ndog\n", "has an empty line 2"),
        ("cat\ndog\u2028emu\n", r"names, line 2 has a class name with the character U\+2028"),
    ],
)
def test_malformed_lists_of_classes(tmp_path, text, message):
    (tmp_path / "names").write_text(text)
    with pytest.raises(UserError, match=message):
        class_list(tmp_path / "names")


def test_two_classes_of_one_name_get_two_names(tmp_path):
    (tmp_path / "names").write_text("cat\ndog\ncat\ncat (id 3)\ncat\n")
    assert class_list(tmp_path / "names") == ("cat", "dog", "cat (id 2)", "cat (id 3)", "cat (id 4)")


def test_files_that_are_not_there(root, read):
    for file in (root / "labels" / "train").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"None of the 3 images .* has a label file in .*labels/train, such as b.txt"):
        read()
    with pytest.raises(UserError, match=r"gone.txt cannot be read: No such file"):
        read_box_text(root / "images" / "train", root / "gone.txt")
    with pytest.raises(UserError, match=r"There is no folder .*nowhere"):
        read_box_text(root / "nowhere", root / "classes.txt")
