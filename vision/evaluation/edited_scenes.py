"""Whether an edit of the shapes world happened, and whether the rest stayed: one edited image against its truth.

What an image shows is read by `vision.evaluation.caption_facts.Reader`, which has seen no edited image. An edit
succeeds when what was asked for is there, whatever else changed:

- recolour, replace: a figure of the asked shape and colour lies where the figure was, and the figure itself is gone;
- remove: no figure lies where it was;
- add: there is one figure more, of the asked shape and colour, in the asked ninth of the image;
- move: the figure lies in the asked third of the image;
- background: it is dark or light, and plain or patterned, as asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from vision.data.shapes.edits import SIDES, Edits
from vision.evaluation.caption_facts import Shown
from vision.evaluation.figures_in_images import CHROMA
from vision.metrics.editing.preservation import seam, unmasked_psnr
from vision.ops.boxes import iou

KEPT = 0.7
"""Least intersection over union of an untouched figure's box with that of a figure of its shape and colour."""
TOLERANCE = 0.07
"""How far beyond its ninth or third of the image the centre of a figure may lie, as a share of the side."""
DARK = 128
"""Median brightness below which a background is dark, in levels."""
PATTERNED = 6
"""Least difference of the 90th and the 10th percentile of a background's brightness, in levels, that is a pattern."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EditScores:
    """What was found of n edited images."""

    success: Bool[np.ndarray, " n"]
    kept: Float[np.ndarray, " n"]
    """Share of the untouched figures that are still there; NaN where there are none."""
    psnr: Float[np.ndarray, " n"]
    """Of the pixels outside of the mask against those of the true image, in decibels."""
    background: Float[np.ndarray, " n"]
    """Difference of the median colour of the background from that of the true image, in levels."""
    seam: Float[np.ndarray, " n"]
    """Across the border of the mask, in levels; see `vision.metrics.editing.preservation.seam`."""


def edit_scores(edits: Edits, images: UInt8[np.ndarray, "n h w 3"], shown: Sequence[Sequence[Shown]]) -> EditScores:
    """The scores of ``images`` that show ``shown``, in place of the true images of ``edits`` (which have images)."""
    masks, truth = edits.mask > 0, edits.after["image"]
    return EditScores(
        success=np.array([_succeeded(edits, row, images[row], shown[row]) for row in range(len(images))]),
        kept=_kept(edits, shown),
        psnr=np.array([unmasked_psnr(*each) for each in zip(images, truth, masks, strict=True)]),
        background=np.array(
            [
                np.abs(background_colour(image) - background_colour(true)).mean()
                for image, true in zip(images, truth, strict=True)
            ]
        ),
        seam=np.array([seam(image, mask) for image, mask in zip(images, masks, strict=True)]),
    )


def background_colour(image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, " 3"]:
    """The median of the pixels that belong to no figure, in levels; of all pixels where there are no others."""
    return np.median(_background(image), axis=0)


def background_words(image: UInt8[np.ndarray, "h w 3"]) -> tuple[bool, bool]:
    """Whether the background is dark, and whether it is patterned."""
    brightness = _background(image).mean(-1)
    low, high = np.percentile(brightness, (10, 90))
    return bool(np.median(brightness) < DARK), bool(high - low >= PATTERNED)


def _background(image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "k 3"]:
    levels = image.astype(np.int32)
    strong = levels.max(-1) - levels.min(-1) > CHROMA
    # figures have soft edges and shadows
    reach = max(1, len(image) // 12)
    near: np.ndarray = ndimage.binary_dilation(strong, np.ones((3, 3)), iterations=reach)
    for away in (~near, ~strong, np.ones_like(strong)):
        if away.any():
            return levels[away].astype(np.float64)
    raise AssertionError("an image has pixels")


def _succeeded(edits: Edits, row: int, image: np.ndarray, shown: Sequence[Shown]) -> bool:
    config, kind, subject = edits.config, edits.kinds()[row], int(edits.subject[row])
    if kind == "background":
        name = config.backgrounds[int(edits.after["background"][row])]
        return background_words(image) == (bool(edits.after["dark"][row]), name != "solid")
    of = lambda scene: (config.shapes[scene["shape"][row, subject]], config.colours[scene["colour"][row, subject]])
    box = lambda scene: scene["boxes"][row, subject] / config.resolution
    there = [each for each in shown if _inside(each.centre, box(edits.before))]
    match kind:
        case "remove":
            return not there
        case "recolour" | "replace":
            found = [(each.shape, each.colour) for each in there]
            return of(edits.after) in found and of(edits.before) not in found
        case "add":
            more = len(shown) == edits.before["valid"][row].sum() + 1
            centre = _centre(box(edits.after))
            cell = np.minimum((centre * 3).astype(int), 2) / 3
            place = np.concatenate([cell - TOLERANCE, cell + 1 / 3 + TOLERANCE])
            return bool(more) and of(edits.after) in [(e.shape, e.colour) for e in shown if _inside(e.centre, place)]
        case "move":
            side = SIDES[int(edits.side[row])]
            axis, far = (0 if side in ("left", "right") else 1), side in ("right", "bottom")
            at = [e.centre[axis] for e in shown if (e.shape, e.colour) == of(edits.after)]
            return any(c > 2 / 3 - TOLERANCE if far else c < 1 / 3 + TOLERANCE for c in at)


def _centre(box: np.ndarray) -> np.ndarray:
    return (box[:2] + box[2:]) / 2


def _inside(centre: tuple[float, float], box: np.ndarray) -> bool:
    return bool(box[0] <= centre[0] <= box[2] and box[1] <= centre[1] <= box[3])


def _kept(edits: Edits, shown: Sequence[Sequence[Shown]]) -> Float[np.ndarray, " n"]:
    config = edits.config
    count, slots = edits.before["valid"].shape
    whole = np.array([kind == "background" for kind in edits.kinds()])
    untouched = edits.before["valid"] & edits.after["valid"]
    untouched &= whole[:, None] | (np.arange(slots) != edits.subject[:, None])
    places, true, found = [], [], []
    for row in range(count):
        for slot in np.flatnonzero(untouched[row]):
            kind = config.shapes[edits.after["shape"][row, slot]], config.colours[edits.after["colour"][row, slot]]
            for each in shown[row]:
                if (each.shape, each.colour) == kind:
                    places.append((row, slot))
                    true.append(edits.after["boxes"][row, slot] / config.resolution)
                    found.append(each.box)
    kept = np.zeros((count, slots), bool)
    if places:
        overlap = iou(jnp.asarray(true, jnp.float32), jnp.asarray(found, jnp.float32))
        for place, value in zip(places, overlap.tolist(), strict=True):
            kept[place] |= value > KEPT
    number = untouched.sum(1)
    return np.where(number > 0, (kept & untouched).sum(1) / np.maximum(number, 1), np.nan)
