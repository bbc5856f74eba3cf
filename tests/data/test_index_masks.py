"""Masks of files: palettes, indices and colours, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vision.data.annotations.index_masks import VOID, MaskRules, class_table, mask_values, palette, read_mask, save_mask
from vision.errors import UserError

RULES = MaskRules(classes=3)
VALUES = np.array([[0, 1, 2], [2, 255, 0]], np.uint8)


def saved(folder, array, mode=None, name="mask.png"):
    image = Image.fromarray(array)
    if mode == "P":
        image.putpalette([9, 9, 9] * 256)
    image.save(folder / name)
    return folder / name


def read(file, rules=RULES, size=(3, 2)):
    return read_mask(file, rules, size=size, image=Path("a.jpg"))


@pytest.mark.parametrize("kind", ["P", "L", "I;16"])
def test_indices(kind, tmp_path):
    array = VALUES.astype(np.uint16) if kind == "I;16" else VALUES
    np.testing.assert_array_equal(read(saved(tmp_path, array, kind)), VALUES)


def test_colours_become_classes(tmp_path):
    colours = ((10, 20, 30), (0, 0, 0), (255, 0, 1))
    image = np.array([[colours[0], colours[1]], [colours[2], (1, 2, 3)]], np.uint8)
    rules = MaskRules(classes=3, colours=colours, void_colours=((0, 0, 0), (1, 2, 3)))
    # black is a class here
    np.testing.assert_array_equal(read(saved(tmp_path, image), rules, (2, 2)), [[0, 1], [2, VOID]])


def test_other_numbers_become_classes(tmp_path):
    rules = MaskRules(classes=2, void=(0,), renumbered={7: 0, 9: 1})
    found = read(saved(tmp_path, np.array([[7, 9, 0]], np.uint8)), rules, (3, 1))
    np.testing.assert_array_equal(found, [[0, 1, VOID]])


@pytest.mark.parametrize(
    ("array", "rules", "size", "said"),
    [
        (VALUES, RULES, (2, 3), "has 3x2 pixels and its image a.jpg 2x3: a mask has the size of its image"),
        (VALUES, MaskRules(classes=2), (3, 2), r"has the value 2 at row 0, column 2 \(2 unknown pixels\): classes are"),
        (VALUES, MaskRules(classes=1, renumbered={1: 0}), (3, 2), "has the value 0 at row 0, column 0 .* known values"),
        (np.zeros((2, 3, 3), np.uint8), RULES, (3, 2), "is in RGB, and no colours of the classes are known"),
        (
            np.full((2, 3, 3), 5, np.uint8),
            MaskRules(classes=1, colours=((1, 1, 1),)),
            (3, 2),
            r"has the colour 5 5 5 at row 0, column 0 \(6 unknown pixels\)",
        ),
        (np.full((2, 3), 300, np.uint16), RULES, (3, 2), "has the value 300"),
    ],
)
def test_what_is_refused(array, rules, size, said, tmp_path):
    with pytest.raises(UserError, match=said) as error:
        read(saved(tmp_path, array), rules, size)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_damaged_files_are_one_sentence(content, tmp_path):
    (tmp_path / "mask.png").write_bytes(content)
    with pytest.raises(UserError, match=r"mask\.png cannot be decoded"):
        read(tmp_path / "mask.png")


def test_modes_without_indices_are_refused(tmp_path):
    Image.new("LA", (3, 2)).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match="its mode LA has neither indices nor colours"):
        mask_values(tmp_path / "mask.png")


def test_masks_are_written_for_other_programs(tmp_path):
    save_mask(tmp_path / "a.png", VALUES, palette(3))
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        flat = image.getpalette()
    assert tuple(flat[:3]) == tuple(palette(3)[0])
    assert tuple(flat[-3:]) == (0, 0, 0)
    np.testing.assert_array_equal(read(tmp_path / "a.png"), VALUES)


def test_the_palette_is_that_of_pascal_voc():
    """Without its first colour, black: aeroplane, bicycle, bird, ..., tvmonitor."""
    expected = [(128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]
    assert [tuple(colour) for colour in palette(4).tolist()] == expected
    assert tuple(palette(20)[-1]) == (0, 64, 128)
    assert len({tuple(colour) for colour in palette(254).tolist()}) == 254


def table(tmp_path, text):
    (tmp_path / "classes.txt").write_text(text)
    return class_table(tmp_path / "classes.txt")


def test_lists_of_classes(tmp_path):
    assert table(tmp_path, "# names\nroad\n\ntraffic light\n") == (("road", "traffic light"), ())
    names, colours = table(tmp_path, "road 128 64 128\r\ntraffic light 1 2 3\n")
    assert (names, colours) == (("road", "traffic light"), ((128, 64, 128), (1, 2, 3)))
    assert table(tmp_path, "route 1 2\n")[0] == ("route 1 2",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n# nothing\n", "has no class"),
        ("a\nb\na\n", "two classes in .* have the name a"),
        ("a 1 2 3\nb 1 2 3\n", "have the colour 1 2 3"),
        ("a 1 2 3\nb\n", "has colours for 1 of 2 classes, and none for b"),
        ("a 1 2 300\n", r"line 1 has the colour 1 2 300: each number is from 0 to 255"),
        ("\n".join(f"c{i}" for i in range(256)), "has 256 classes: masks have at most 255"),
    ],
)
def test_lists_that_are_refused(text, said, tmp_path):
    with pytest.raises(UserError, match=said):
        table(tmp_path, text)


@given(st.binary(max_size=200))
def test_any_list_is_read_or_refused(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "any-classes.txt"
    file.write_bytes(content)
    try:
        names, colours = class_table(file)
    except UserError as error:
        refused = str(error)
    else:
        refused = "one sentence"
        assert len(names) == len(set(names)) > 0
        assert len(colours) in (0, len(names))
    assert "\n" not in refused
