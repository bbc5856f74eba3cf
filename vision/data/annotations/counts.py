"""Counts of annotations: what was read, and what the rules of `vision.data.annotations.cleaning` changed, in words."""

from collections.abc import Sequence
from dataclasses import dataclass

MIN_SIDE = 0.5
"""Shortest side of a box, in pixels of its image; boxes with a shorter one are dropped."""
ROUNDING_TOLERANCE = 0.02
"""A box that reaches outside by at most this many pixels is clipped silently: coordinates are often rounded."""
EXAMPLES = 3
"""How many examples are named with a count."""


@dataclass(frozen=True)
class Counts:
    """How much was read, what cleaning changed, and a few examples of it."""

    images: int
    """Images that exist."""
    boxes: int
    """Boxes to train on, or instances where masks were read: all that are kept except crowds."""
    crowd: int
    """Boxes around crowds."""
    background: int
    """Images without a box to train on."""
    classes: int
    """Classes in the list."""
    empty_classes: tuple[str, ...] = ()
    """Names of classes without a box to train on."""
    clipped: int = 0
    """Boxes that were clipped to their image by more than `ROUNDING_TOLERANCE` and kept."""
    unknown: int = 0
    """Boxes dropped because their class is not in the list."""
    not_finite: int = 0
    """Boxes dropped because a corner is infinite or not a number."""
    without_area: int = 0
    """Boxes dropped because a side within the image is shorter than `MIN_SIDE`."""
    without_pixels: int = 0
    """Instances dropped because their mask has no pixel in the image."""
    duplicates: int = 0
    """Boxes dropped because an equal one precedes them."""
    orphans: int = 0
    """Boxes dropped because the annotation does not list their image."""
    missing: int = 0
    """Images left out because they are not in their folder."""
    damaged: int = 0
    """Images left out because they cannot be decoded or their size differs from the annotation."""
    beyond_max_boxes: int = 0
    """Boxes that are not trained on because their image has more than the maximum."""
    unknown_examples: tuple[str, ...] = ()
    """The first few, each with its class and file."""
    missing_examples: tuple[str, ...] = ()
    """The first few, by name."""
    damaged_examples: tuple[str, ...] = ()
    """The first few, each with the reason."""
    masks: bool = False
    """Whether masks were read."""
    stuff: int = 0
    """Regions of stuff, one for each class of it in an image."""

    @property
    def dropped(self) -> int:
        """How many boxes of existing images were dropped."""
        return self.unknown + self.not_finite + self.without_area + self.without_pixels + self.duplicates

    def __str__(self) -> str:
        """A readable summary: one line, and another for each kind of problem."""
        one, more = ("instance", "instances") if self.masks else ("box", "boxes")
        crowd = f" and {_number(self.crowd, 'crowd', 'crowds')} (not trained on)" if self.crowd else ""
        empty = f"; {self.background} of the images have none and serve as background" if self.background else ""
        boxes = f"{_number(self.boxes, one, more)} of {_number(self.classes, 'class', 'classes')}"
        boxes += f", {_number(self.stuff, 'region', 'regions')} of stuff" if self.stuff else ""
        lines = [f"{_number(self.images, 'image', 'images')} with {boxes}{crowd}{empty}."]
        if self.clipped:
            lines.append(f"Clipped to their image: {_number(self.clipped, 'box', 'boxes')}.")
        reasons = (
            (self.unknown, f"of an unknown class ({examples(self.unknown_examples, self.unknown)})"),
            (self.not_finite, "with corners that are not finite"),
            (self.without_area, f"with a side of less than {MIN_SIDE} pixels in their image"),
            (self.without_pixels, "with a mask without pixels in their image"),
            (self.duplicates, "that are exact duplicates"),
            (self.orphans, "of images that are not listed"),
        )
        if self.dropped + self.orphans:
            listed = ", ".join(f"{count} {why}" for count, why in reasons if count)
            lines.append(f"{more.capitalize()} dropped: {listed}.")
        reasons = (
            (self.missing, f"not in their folder ({examples(self.missing_examples, self.missing)})"),
            (self.damaged, f"damaged ({examples(self.damaged_examples, self.damaged)})"),
        )
        if self.missing + self.damaged:
            lines.append(f"Images left out: {', '.join(f'{count} {why}' for count, why in reasons if count)}.")
        if self.beyond_max_boxes:
            lines.append(f"Beyond the maximum per image (the smallest): {self.beyond_max_boxes} {more}.")
        if self.empty_classes:
            lines.append(f"Classes without {more}: {', '.join(self.empty_classes)}.")
        return "\n".join(lines)


def _number(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"


def examples(shown: Sequence[str], count: int, most: int = EXAMPLES) -> str:
    """The first few of ``count`` items."""
    return ", ".join(shown[:most]) + (", ..." if count > len(shown[:most]) else "")
