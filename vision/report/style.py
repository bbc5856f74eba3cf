"""Sheets of style transfer: photographs down, paintings across, and in each place the photograph in that style."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

_GAP, _APART = 4, 12

Picture = UInt8[np.ndarray, "_ _ 3"]


def style_sheet(
    contents: Sequence[Picture],
    styles: Sequence[Picture],
    results: Mapping[tuple[int, int], Picture],
    *,
    cell: int = 192,
) -> UInt8[np.ndarray, "h w 3"]:
    """Results at (number of the photograph, number of the painting), with paintings above and photographs on the left.

    Args:
      contents: photographs, one a row.
      styles: paintings, one a column.
      results: stylised images; places without one stay white.
      cell: sides of the squares in which pictures are fitted, in pixels.
    """
    places = lambda count: [0, *(cell + _APART + number * (cell + _GAP) for number in range(count))]
    rows, columns = places(len(contents)), places(len(styles))
    sheet = Image.new("RGB", (columns[-1] + cell, rows[-1] + cell), "white")
    tiles = {(0, number + 1): picture for number, picture in enumerate(styles)}
    tiles |= {(number + 1, 0): picture for number, picture in enumerate(contents)}
    tiles |= {(row + 1, column + 1): picture for (row, column), picture in results.items()}
    for (row, column), picture in tiles.items():
        factor = cell / max(picture.shape[:2])
        height, width = (max(1, round(side * factor)) for side in picture.shape[:2])
        tile = Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS)
        sheet.paste(tile, (columns[column] + (cell - width) // 2, rows[row] + (cell - height) // 2))
    return np.array(sheet)
