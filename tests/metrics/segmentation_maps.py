"""Random maps, segments and masks by seed, for golden values and tests."""

import numpy as np

CLASSES, VOID = 5, 255


def blocks(generator, values, shape, size=4):
    """Blocks of about ``size`` pixels, so that regions have an inside, with some noise at their borders."""
    height, width = (-(-side // size) for side in shape)
    grown = np.kron(generator.choice(values, (height, width)), np.ones((size, size), int))[: shape[0], : shape[1]]
    moved = np.roll(grown, tuple(generator.integers(-1, 2, 2)), (0, 1))
    return np.where(generator.random(shape) < 0.5, grown, moved)


def semantic_maps(seed, *, images=6, shape=(20, 23)):
    """Predicted and true classes int32 [n h w]: the last class is nowhere, the one before is only predicted.

    The truth has void; predictions there are any number, and the last image is all void.
    """
    generator = np.random.default_rng(seed)
    truth = np.stack([blocks(generator, [0, 0, 0, 1, 2, VOID], shape) for _ in range(images)])
    truth[-1] = VOID
    other = np.stack([blocks(generator, [0, 1, 2, 3], shape) for _ in range(images)])
    predicted = np.where(generator.random(truth.shape) < 0.3, other, np.where(truth == VOID, other, truth))
    return predicted.astype(np.int32), truth.astype(np.int32)


def segments(generator, shape):
    """A map of segments with void, their ids, classes and crowds."""
    number = int(generator.integers(1, 9))
    ids = generator.choice(np.arange(1, 1000), number, replace=False)
    region = blocks(generator, [0, *ids], shape, size=6)
    ids = np.setdiff1d(region, [0])
    crowd = generator.random(len(ids)) < 0.25
    labels = generator.integers(0, CLASSES - 1, len(ids))
    # one crowd of a class in an image, as in COCO
    for label in range(CLASSES):
        crowd[np.flatnonzero(crowd & (labels == label))[1:]] = False
    return {"map": region, "ids": ids, "labels": labels, "crowd": crowd}


def panoptic_pair(seed, *, shape=(24, 30)):
    """(predicted, true) segments of an image: the truth with moved borders, other classes, and segments joined."""
    generator = np.random.default_rng(seed)
    true = segments(generator, shape)
    found = np.roll(true["map"], tuple(generator.integers(-2, 3, 2)), (0, 1))
    noise = segments(generator, shape)
    found = np.where(generator.random(shape) < 0.15, noise["map"] + 1000 * (noise["map"] > 0), found)
    # some of what is void or a crowd in the truth is predicted
    found = np.where((true["map"] == 0) & (generator.random() < 0.5), 5000, found)
    ids = np.setdiff1d(found, [0])
    classes = dict(zip(true["ids"].tolist(), true["labels"].tolist(), strict=True))
    labels = np.array([classes.get(int(each), int(generator.integers(0, CLASSES - 1))) for each in ids], int)
    changed = generator.random(len(ids)) < 0.15
    labels = np.where(changed, generator.integers(0, CLASSES - 1, len(ids)), labels)
    return {"map": found, "ids": ids, "labels": labels, "crowd": np.zeros(len(ids), bool)}, true


def masks(seed, *, count=8, shape=(37, 61)):
    """Masks bool [n h w]: blocks, one full, one empty, one of a pixel, one that touches every border."""
    generator = np.random.default_rng(seed)
    made = np.stack([blocks(generator, [0, 0, 1], shape, size=9) == 1 for _ in range(count)])
    made[0], made[1], made[2] = True, False, False
    made[2, shape[0] // 2, shape[1] // 3] = True
    made[3] = False
    made[3, 3:] = made[3, :, 5:] = True
    return made


def instance_set(seed, *, images=6, side=64):
    """(annotation, results) in COCO's JSON: polygons, run lengths, crowds, near and far predictions."""
    generator = np.random.default_rng(seed)
    annotations, results = [], []
    for image in range(1, images + 1):
        for _ in range(int(generator.integers(1, 6))):
            x, y = generator.uniform(0, side - 20, 2)
            wide, high = generator.uniform(4, 30, 2)
            outline = lambda x, y, w, h: [x, y, x + w, y + h / 4, x + w, y + h, x + w / 3, y + h * 0.8, x, y + h]
            polygon = outline(x, y, wide, high)
            category, crowd = int(generator.choice([2, 5, 9])), bool(generator.random() < 0.25)
            area = wide * high * 0.8
            segmentation = rectangle_counts(int(x), int(y), int(wide), int(high), side) if crowd else [polygon]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": category,
                    "segmentation": segmentation,
                    "bbox": [x, y, wide, high],
                    "area": area,
                    "iscrowd": int(crowd),
                }
            )
            for _ in range(2):
                dx, dy, dw, dh = generator.normal(0, 1.2, 4)
                said = category if generator.random() < 0.9 else 5
                moved = outline(x + dx, y + dy, max(wide + dw, 2.0), max(high + dh, 2.0))
                results.append(
                    {
                        "image_id": image,
                        "category_id": said,
                        "polygon": moved,
                        "score": float(generator.integers(1, 9) / 8),
                    }
                )
    dataset = {
        "images": [{"id": image, "width": side, "height": side} for image in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": number, "name": f"class {number}"} for number in (2, 5, 9)],
    }
    return dataset, [_packed(each, side) for each in results]


def rectangle_counts(left, top, wide, high, side):
    """The plain run lengths of a rectangle that is cut off at the image's border."""
    mask = np.zeros((side, side), int)
    mask[top : top + high, left : left + wide] = 1
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    return {"size": [side, side], "counts": np.diff(np.concatenate([[0], edges])).tolist()}


def _packed(result, side):
    from pycocotools import mask

    (packed,) = mask.frPyObjects([result["polygon"]], side, side)
    segmentation = {"size": packed["size"], "counts": packed["counts"].decode()}
    return {**{name: result[name] for name in ("image_id", "category_id", "score")}, "segmentation": segmentation}
