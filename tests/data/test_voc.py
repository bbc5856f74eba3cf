import numpy as np
import pytest
from PIL import Image

from vision.data.annotations.voc import read_voc
from vision.errors import UserError


def thing(name, corners, difficult=None, parts=""):
    sides = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    mark = "" if difficult is None else f"<difficult>{difficult}</difficult>"
    return f"<object><name>{name}</name>{mark}{parts}<bndbox>{box}</bndbox></object>"


@pytest.fixture
def write(tmp_path):
    """Write one image of 40x30 pixels and its XML; `write.split` writes a list."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)

    def to_file(name, *objects, size="<size><width>40</width><height>30</height><depth>3</depth></size>", suffix="jpg"):
        Image.new("RGB", (40, 30)).save(tmp_path / "JPEGImages" / f"{name}.{suffix}")
        xml = f"<annotation><filename>other.jpg</filename>{size}{''.join(objects)}</annotation>"
        (tmp_path / "Annotations" / f"{name}.xml").write_text(xml)

    return to_file


def split(root, *lines, name="train"):
    (root / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(lines) + "\n")


def test_indices_of_pixels_become_corners(write, tmp_path):
    write("a", thing("cat", (1, 1, 40, 30)), thing("dog", (3, 5, 3, 5)), thing("cat", (2.5, 3, 7, 8.25)))
    (picture,) = read_voc(tmp_path, None).images
    # The whole image, a single pixel, and fractions as VOC 2012 has some
    np.testing.assert_array_equal(picture.boxes, [[0, 0, 40, 30], [2, 4, 3, 5], [1.5, 2, 7, 8.25]])
    np.testing.assert_array_equal(picture.labels, [0, 1, 0])
    np.testing.assert_array_equal(picture.area, [1200, 1, 5.5 * 6.25])
    assert not picture.crowd.any()


def test_difficult_objects_are_crowds(write, tmp_path):
    write("a", *(thing("cat", (n, 1, 40, 30), difficult) for n, difficult in enumerate((0, 1, None), start=1)))
    found = read_voc(tmp_path, None)
    np.testing.assert_array_equal(found.images[0].crowd, [False, True, False])
    assert (found.counts.boxes, found.counts.crowd) == (2, 1)


def test_parts_of_an_object_are_not_its_box(write, tmp_path):
    part = "<part><name>head</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>"
    write("a", thing("person", (2, 2, 20, 20), parts=part))
    found = read_voc(tmp_path, None)
    np.testing.assert_array_equal(found.images[0].boxes, [[1, 1, 20, 20]])
    assert found.class_names == ("person",)


def test_splits_and_classes(write, tmp_path):
    write("b", thing("dog", (1, 1, 9, 9)))
    write("a", thing("cat", (1, 1, 9, 9)), suffix="PNG")
    write("c", thing("emu", (1, 1, 9, 9)), thing("cat", (1, 1, 9, 9)))
    split(tmp_path, "c", "", "  a ")
    found = read_voc(tmp_path, "train")
    assert [picture.file.name for picture in found.images] == ["c.jpg", "a.PNG"]
    assert [picture.image_id for picture in found.images] == [1, 2]
    # Classes are those of the full data set, so that other splits number them equally.
    assert found.class_names == ("cat", "dog", "emu")
    assert found.category_ids == (1, 2, 3)
    assert found.counts.empty_classes == ("dog",)
    assert [picture.file.name for picture in read_voc(tmp_path, None).images] == ["a.PNG", "b.jpg", "c.jpg"]
    chosen = read_voc(tmp_path, "train", class_names=("emu", "dog"))
    np.testing.assert_array_equal(chosen.images[0].labels, [0])
    assert chosen.counts.unknown_examples == ("cat in c.jpg", "cat in a.PNG")


def test_rules_are_applied(write, tmp_path):
    write("a", thing("cat", (0, 1, 41, 30)), thing("cat", (9, 9, 8, 9)), thing("cat", (1, 1, 40, 30)))
    write("b", thing("cat", (1, 1, 9, 9)))
    (tmp_path / "JPEGImages" / "b.jpg").unlink()
    counts = read_voc(tmp_path, None).counts
    assert (counts.clipped, counts.without_area, counts.duplicates, counts.missing) == (1, 1, 1, 1)
    assert counts.missing_examples == ("b.jpg",)


@pytest.mark.parametrize(
    "size",
    ["", "<size><width>0</width><height>0</height></size>", "<size><width>nan</width><height>30</height></size>"],
)
def test_a_size_that_is_missing_is_read_from_the_image(write, tmp_path, size):
    write("a", thing("cat", (1, 1, 40, 30)), size=size)
    (picture,) = read_voc(tmp_path, None).images
    assert (picture.width, picture.height) == (40, 30)


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ("<object>", "a.xml cannot be read as XML: mismatched tag"),
        ("<object><name>cat</name></object>", "object 1 of the annotation .*a.xml has no bndbox/xmin"),
        ("<object><bndbox/></object>", "object 1 of the annotation .*a.xml has no name"),
        (thing("cat", (1, 1, 9, "many")), "object 1 of the annotation .*a.xml has 'many' instead of a number"),
        (
            thing("cat", (1, 1, 9, 9)) + thing("cat", (1, 1, "", 9)),
            "object 2 of the annotation .*a.xml has no bndbox/xm",
        ),
        ("", "No XML file in .*Annotations has an object"),
    ],
)
def test_malformed(write, tmp_path, objects, message):
    write("a", objects)
    with pytest.raises(UserError, match=message):
        read_voc(tmp_path, None)


def test_files_that_are_not_there(write, tmp_path):
    with pytest.raises(UserError, match=r"There are no XML files in .*Annotations"):
        read_voc(tmp_path, None)
    write("a", thing("cat", (1, 1, 9, 9)))
    with pytest.raises(UserError, match=r"The split .*val.txt cannot be read: .*No such file"):
        read_voc(tmp_path, "val")
    split(tmp_path, "a", "z")
    with pytest.raises(UserError, match=r"train.txt, line 2 names 'z', which has no XML file in Annotations"):
        read_voc(tmp_path, "train")
    split(tmp_path, "a", "a")
    with pytest.raises(UserError, match="names 'a' twice"):
        read_voc(tmp_path, "train")
    split(tmp_path, "")
    with pytest.raises(UserError, match="lists no images"):
        read_voc(tmp_path, "train")
    with pytest.raises(UserError, match=r"There is no folder .*nowhere/Annotations"):
        read_voc(tmp_path / "nowhere", None)
