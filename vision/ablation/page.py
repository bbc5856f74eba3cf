"""HTML for the report of a study, in the style of a run's: one self-contained page."""

import base64
import html
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from PIL import Image

from vision.report.document import document
from vision.report.page import _STYLE as STYLE

_MORE_STYLE = """
h3 { font-size: .95rem; margin: 1.5rem 0 .5rem; }
.scroll { overflow-x: auto; }
.scroll td, .scroll th { padding-right: 1.1rem; }
.scroll td:first-child, .scroll th:first-child { min-width: 9rem; overflow-wrap: anywhere; }
table.samples { width: auto; } table.samples img { display: block; border-radius: 4px; max-width: none; width: 15rem;
  height: auto; }
details { margin: .4rem 0; } summary { cursor: pointer; overflow-wrap: anywhere; }
@media (max-width: 40rem) { table.samples img { width: 11rem; }
  .scroll td:first-child, .scroll th:first-child { min-width: 6.5rem; } }
@media print { details > pre { display: block; } .scroll { overflow: visible; } }
"""


@dataclass(frozen=True)
class EncodedImage:
    """An encoded image and what it shows."""

    data: bytes
    """PNG or JPEG."""
    description: str


def embedded(image: EncodedImage) -> str:
    """An ``img`` element with the image in it."""
    with Image.open(io.BytesIO(image.data)) as opened:
        kind, (width, height) = str(opened.format).lower(), opened.size
    data = base64.b64encode(image.data).decode()
    return (
        f'<img src="data:image/{kind};base64,{data}" width="{width}" height="{height}" '
        f'alt="{html.escape(image.description)}">'
    )


def table(head: Sequence[str], body: Sequence[Sequence[str]], *, numbers: Collection[int] = (), kind: str = "") -> str:
    """A table that scrolls sideways by itself where the page is narrow.

    Args:
      head: plain texts.
      body: HTML, by row and column.
      numbers: columns that are set flush right.
      kind: a class for the table.
    """
    name = lambda column: ' class="number"' if column in numbers else ""
    row = lambda line, tag: "".join(f"<{tag}{name(column)}>{cell}</{tag}>" for column, cell in enumerate(line))
    lines = "\n".join(f"<tr>{row(line, 'td')}</tr>" for line in body)
    return (
        f'<div class="scroll"><table{f" class={chr(34)}{kind}{chr(34)}" if kind else ""}>\n'
        f"<thead><tr>{row(map(html.escape, head), 'th')}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table></div>"
    )


def page(title: str, body: str) -> str:
    """A complete page in the style of studies."""
    return document(title, f"<main>\n{body}\n</main>", style=STYLE + _MORE_STYLE)
