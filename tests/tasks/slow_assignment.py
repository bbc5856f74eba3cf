"""The assignment written from its description, box by box and cell by cell, in double precision."""

import math

import numpy as np


def answers(boxes, valid, *, anchors, stride, grid):
    """(image, row, column, anchor, box) of every answer that a level gives."""
    found = set()
    rows, columns = grid
    for image, slot in np.argwhere(valid):
        x0, y0, x1, y1 = (float(v) for v in boxes[image, slot])
        for number, (aw, ah) in enumerate(anchors):
            w, h = x1 - x0, y1 - y0
            if w <= 0 or h <= 0 or max(w / aw, aw / w, h / ah, ah / h) >= 4:
                continue
            x, y = (x0 + x1) / 2 / stride, (y0 + y1) / 2 / stride
            column, row = min(math.floor(x), columns - 1), min(math.floor(y), rows - 1)
            beside = column - 1 if x - column < 0.5 else column + 1
            above = row - 1 if y - row < 0.5 else row + 1
            for r, c in ((row, column), (row, beside), (above, column)):
                if 0 <= r < rows and 0 <= c < columns:
                    found.add((int(image), r, c, number, int(slot)))
    return found
