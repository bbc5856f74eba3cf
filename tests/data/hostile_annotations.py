"""Mutated annotation files for the readers of COCO's, VOC's, text and COCO's panoptic form.

python tests/data/hostile_annotations.py --inputs 8000 --seed 0
"""

import copy
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vision.data.annotations.box_text import read_box_text
from vision.data.annotations.coco import read_coco, read_coco_numbers
from vision.data.annotations.panoptic import colours_of_ids, read_panoptic
from vision.data.annotations.voc import read_voc
from vision.ops import rle

SIZE = (40, 30)
KINDS = ("coco", "voc", "text", "classes", "panoptic")
_TEXTS = (
    *("", " ", "0", "1", "-1", "1.0", "nan", "inf", "1e400", "1_0", "true", "cat", "a.png", "../a.png", "/etc/passwd"),
    *(
        "a\nb",
        "a\u2028b",
        "a\u0085b",
        "\ud800",
        "\x00",
        "\u202e",
        "x" * 300,
        "x" * 5000,
        "9" * 400,
        "9" * 5000,
        "\u0661",
    ),
)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 2, 3, -1, -7, 0.0, 1.0, 1.5, -0.0, 1e300, 1e-300, 2**31, 2**53, 2**63, 2**64, 10**400),
    *(
        math.nan,
        math.inf,
        -math.inf,
        [],
        {},
        [[]],
        [1],
        [1, 2, 3, 4],
        ["1", "2", "3", "4"],
        {"a": 1},
        [[1, 2, 3, 4, 5, 6]],
    ),
    *({"size": [30, 40], "counts": [0, 1200]}, {"size": [30, 40], "counts": "ppp"}, {"size": [0, 0], "counts": "0"}),
    *_TEXTS,
)


def _coco(*, masks: bool) -> dict[str, Any]:
    last = {"size": [30, 40], "counts": rle.encode(np.eye(30, 40, dtype=bool)).counts.decode()} if masks else []
    segmentations: list[Any] = [[[1, 2, 9, 2, 9, 12]], {"size": [30, 40], "counts": [30, 60, 1110]}, last]
    return {
        "images": [
            {"id": n, "file_name": f"{name}.png", "width": 40, "height": 30} for n, name in ((3, "a"), (5, "b"))
        ],
        "annotations": [
            {
                **{"id": n, "image_id": 3 + 2 * (n % 2), "category_id": 1 + 6 * (n % 2), "bbox": [n, 2, 8.5, 9]},
                **{"area": 70, "iscrowd": 0, "segmentation": segmentations[n % 3]},
            }
            for n in range(4)
        ],
        "categories": [{"id": 1, "name": "cat", "supercategory": ""}, {"id": 7, "name": "dog"}],
    }


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in ((value, key), *_places(value[key]))]


def hostile_coco(rng: np.random.Generator, *, masks: bool) -> bytes:
    """COCO's JSON with other values, missing and repeated entries, or other bytes."""
    content = _coco(masks=masks)
    if rng.random() < 0.3:
        for entry in content["annotations"]:
            del entry["bbox"]
    return _mutated(content, rng)


def hostile_panoptic(rng: np.random.Generator) -> tuple[bytes, bytes]:
    """JSON in COCO's panoptic form likewise, and a PNG with the ids of its segments."""
    ids = np.zeros((30, 40), np.int32)
    ids[:9], ids[9:20, :9], ids[20:, 30:] = 5, 700, 70_000
    boxes = {5: [0, 0, 40, 9], 700: [0, 9, 9, 11], 70_000: [30, 20, 10, 10]}
    infos = [
        {"id": number, "category_id": category, "iscrowd": 0, "bbox": boxes[number], "area": 9}
        for number, category in ((5, 9), (700, 1), (70_000, 7))
    ]
    content = _coco(masks=False)
    content["annotations"] = [{"image_id": n, "file_name": "a.png", "segments_info": infos} for n in (3, 5)]
    kinds = ((1, "cat", 1), (7, "dog", 1), (9, "sky", 0))
    content["categories"] = [{"id": n, "name": name, "isthing": thing} for n, name, thing in kinds]
    if rng.random() < 0.2:
        ids[tuple(rng.integers((30, 40)))] = rng.choice([1, 0, 2**24 - 1, 700])
    size = SIZE if rng.random() < 0.9 else tuple(rng.integers(1, 60, 2))
    colours = Image.fromarray(colours_of_ids(ids)).resize(size, Image.Resampling.NEAREST)
    encoded = io.BytesIO()
    mode = "RGB" if rng.random() < 0.9 else str(rng.choice(["L", "P", "RGBA", "1", "I;16"]))
    (colours.convert(mode) if mode != "I;16" else Image.new(mode, SIZE)).save(encoded, format="PNG")
    pixels = encoded.getvalue()
    return _mutated(copy.deepcopy(content), rng), pixels if rng.random() < 0.7 else _bytes_changed(pixels, rng)


def _mutated(content: dict[str, Any], rng: np.random.Generator) -> bytes:
    for _ in range(rng.integers(0, 4)):
        container, key = (places := _places(content))[rng.integers(len(places))]
        match rng.integers(6):
            case 0:
                del container[key]
            case 1:
                container[key] = str(container[key])
            case 2 if isinstance(container, list):
                container.append(copy.deepcopy(container[key]))
            case 3 if rng.random() < 0.05:
                return _nested(json.dumps(content), "[" * 50_000 + "]" * 50_000, rng)
            case _:
                container[key] = copy.deepcopy(_VALUES[rng.integers(len(_VALUES))])
    return _bytes_changed(json.dumps(content).encode(), rng)


def _nested(text: str, inside: str, rng: np.random.Generator) -> bytes:
    place = text.index(":", rng.integers(len(text) // 2)) + 1
    return (text[:place] + inside + text[place:]).encode()


def hostile_voc(rng: np.random.Generator) -> bytes:
    """VOC's XML with other texts, elements, encodings and entities, or other bytes."""
    texts = ["cat", "0", "40", "30", *"5678"]
    for _ in range(rng.integers(0, 3)):
        texts[rng.integers(len(texts))] = _TEXTS[rng.integers(len(_TEXTS))].replace("\x00", "&#0;")
    name, difficult, width, height, x0, y0, x1, y1 = texts
    head = ""
    if rng.random() < 0.2:
        encodings = ("utf-8", "utf-16", "latin-1", "utf-32", "klingon", "shift_jis", "idna", "rot13", "hex", "x" * 200)
        head += f'<?xml version="1.0" encoding="{encodings[rng.integers(len(encodings))]}"?>'
    if rng.random() < 0.1:
        lines = [f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "lol" * 10}">' for n in range(rng.integers(1, 12))]
        head += f"<!DOCTYPE annotation [{''.join(lines)}]>"
        name = f"&e{len(lines) - 1};"
    if rng.random() < 0.03:
        head += '<!DOCTYPE annotation SYSTEM "file:///etc/passwd">'
    corners = f"<xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
    thing = f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object>"
    if rng.random() < 0.02:
        thing = "<object>" * 100_000 + thing + "</object>" * 100_000
    text = f"{head}<annotation><size><width>{width}</width><height>{height}</height></size>{thing * 2}</annotation>"
    return _bytes_changed(text.encode("utf-8", "surrogatepass"), rng)


def hostile_lines(rng: np.random.Generator, *, masks: bool) -> bytes:
    """Lines of boxes, or of polygons, with other words, or other bytes."""
    words = [["0", "0.5", "0.5", "0.2", "0.3"], ["1", "0.25", "0.5", "0.1", "0.1"]]
    if masks:
        words = [[*line, "0.7", "0.9"] for line in words]
    for _ in range(rng.integers(0, 4)):
        line = words[rng.integers(2)]
        match rng.integers(3):
            case 0:
                line[rng.integers(len(line)) :] = line[: rng.integers(3)]
            case _:
                line[min(rng.integers(5), len(line)) : 5] = [_TEXTS[rng.integers(len(_TEXTS))]]
                line += ["0.5"] * int(rng.integers(5))
        if not line:
            line.append("0")
    return _bytes_changed("\n".join(" ".join(line) for line in words).encode("utf-8", "surrogatepass"), rng)


def hostile_names(rng: np.random.Generator) -> bytes:
    """A list of classes with other names, or other bytes."""
    names = ["cat", "dog"]
    for _ in range(rng.integers(1, 4)):
        names.insert(rng.integers(len(names) + 1), _TEXTS[rng.integers(len(_TEXTS))])
    return _bytes_changed("\n".join(names).encode("utf-8", "surrogatepass"), rng)


def _bytes_changed(content: bytes, rng: np.random.Generator) -> bytes:
    """The content, in four of ten cases with bytes changed, cut, repeated or in another encoding."""
    if not content or rng.random() < 0.6:
        return content
    changed, place = bytearray(content), int(rng.integers(len(content)))
    match rng.integers(7):
        case 0:
            changed[place] = rng.integers(256)
        case 1:
            changed[place] ^= 1 << rng.integers(8)
        case 2:
            del changed[place:]
        case 3:
            changed[place:place] = rng.bytes(rng.integers(1, 9))
        case 4:
            del changed[place : place + rng.integers(1, 20)]
        case 5:
            changed[place:place] = changed[place : place + 30] * int(rng.integers(1, 9))
        case 6:
            encoding = ("utf-16", "utf-32", "utf-8-sig", "utf-7")[rng.integers(4)]
            return content.decode("utf-8", "replace").encode(encoding, "replace")
    return bytes(changed)


def read(seed: int, index: int, folder: Path) -> str:
    """Write an input into a data set of two images and read it, every other one with masks."""
    rng, masks = np.random.default_rng((seed, index)), index % 2 == 1
    kind = KINDS[rng.integers(len(KINDS))]
    images = folder / ("JPEGImages" if kind == "voc" else "images")
    images.mkdir()
    for name in "ab":
        Image.new("L", SIZE).save(images / f"{name}.png")
    if kind == "coco":
        (folder / "set.json").write_bytes(hostile_coco(rng, masks=masks))
        read_coco_numbers(folder / "set.json")
        found = read_coco(folder / "set.json", images, masks=masks)
    elif kind == "panoptic":
        content, pixels = hostile_panoptic(rng)
        (folder / "set").mkdir()
        (folder / "set" / "a.png").write_bytes(pixels)
        (folder / "set.json").write_bytes(content)
        found = read_panoptic(folder / "set.json", images)
        assert not set(found.category_ids) & set(found.stuff_ids)
        for picture in found.images:
            assert picture.stuff is not None
            total = sum((rle.decode(mask).astype(int) for mask in (*(picture.masks or ()), *picture.stuff.masks)), 0)
            assert np.max(total) <= 1
    elif kind == "voc":
        (folder / "Annotations").mkdir()
        (folder / "Annotations" / "a.xml").write_bytes(hostile_voc(rng))
        found = read_voc(folder, None)
    else:
        labels = folder / "labels"
        labels.mkdir()
        (labels / "a.txt").write_bytes(
            hostile_lines(rng, masks=masks) if kind == "text" else b"0 0.5 0.5 0.2 0.3 0.7 0.9\n"
        )
        (folder / "classes.txt").write_bytes(b"cat\ndog\n" if kind == "text" else hostile_names(rng))
        found = read_box_text(images, folder / "classes.txt", masks=masks)
    assert len(set(found.class_names)) == len(found.class_names)
    assert all(name.splitlines() == [name] and name.encode() for name in found.class_names)
    for picture in found.images:
        assert np.isfinite(picture.boxes).all()
        assert np.isfinite(picture.area).all()
        assert (picture.boxes >= 0).all()
        assert (picture.boxes <= [*(picture.width, picture.height) * 2]).all()
        assert images in picture.file.resolve().parents
        assert (picture.masks is not None) == (kind == "panoptic" or (masks and kind != "voc"))
        for mask in picture.masks or ():
            assert (mask.height, mask.width) == (picture.height, picture.width)
            assert rle.decode(mask).any()
    json.dumps({"classes": found.class_names, "ids": found.category_ids, "text": str(found.counts)}).encode()
    return kind


if __name__ == "__main__":
    from hostile_inputs import main

    main(read, "Read mutated annotation files.")
