"""Files in COCO's panoptic form for tests."""

import json

import numpy as np
from PIL import Image

from vision.data.annotations.panoptic import colours_of_ids

CATEGORIES = (
    {"id": 1, "name": "cat", "isthing": 1},
    {"id": 92, "name": "sky", "isthing": 0},
    {"id": 3, "name": "dog", "isthing": 1},
    {"id": 187, "name": "grass", "isthing": 0},
)


def segment(ids, number, category, crowd=0):
    """The entry of a segment, as COCO has it."""
    rows, columns = np.nonzero(ids == number)
    x, y = (int(each.min()) if len(each) else 0 for each in (columns, rows))
    right, low = (int(each.max()) + 1 if len(each) else 0 for each in (columns, rows))
    box = [x, y, right - x, low - y]
    return {"id": number, "category_id": category, "iscrowd": crowd, "bbox": box, "area": len(rows)}


def write(folder, ids, segments, categories=CATEGORIES):
    """Write images with these maps of ids and lists of (id, category, crowd); returns the content of the JSON file."""
    (folder / "images").mkdir(exist_ok=True)
    (folder / "set").mkdir(exist_ok=True)
    content = {"images": [], "annotations": [], "categories": [dict(each) for each in categories]}
    for k, (each, listed) in enumerate(zip(ids, segments, strict=True)):
        height, width = each.shape
        Image.fromarray(np.full((height, width, 3), 9 * k, np.uint8)).save(folder / "images" / f"{k}.png")
        Image.fromarray(colours_of_ids(each)).save(folder / "set" / f"{k}.png")
        content["images"].append({"id": 7 + k, "file_name": f"{k}.png", "width": width, "height": height})
        infos = [segment(each, *of) for of in listed]
        content["annotations"].append({"image_id": 7 + k, "file_name": f"{k}.png", "segments_info": infos})
    save(folder, content)
    return content


def save(folder, content):
    """Write the JSON file anew."""
    (folder / "set.json").write_text(json.dumps(content))
