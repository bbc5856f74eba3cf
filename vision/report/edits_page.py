"""A page of edits: the sheet of each image, what was asked, and how it was done."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vision.atomic import write_atomically
from vision.report.document import document

_STYLE = """
:root { --ink: #1d2126; --soft: #5b6470; --paper: #fff; --line: #f5f6f8; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #a5adb8; --paper: #15181c; --line: #22272d; } }
body { margin: 0 auto; max-width: 80rem; padding: 2rem 1rem; font: 16px/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--paper); }
h1 { font-size: 1.4rem; } h2 { font-size: 1rem; margin: 2rem 0 .3rem; overflow-wrap: anywhere; }
p { color: var(--soft); margin: .2rem 0; } pre { white-space: pre-wrap; background: var(--line); padding: .8rem; }
img { max-width: 100%; image-rendering: pixelated; }
"""


@dataclass(frozen=True, kw_only=True)
class ShownEdit:
    """An image with its edits."""

    folder: str
    """Next to the page, with sheet.png and perhaps strengths.png."""
    file: str
    words: str
    """What was asked."""
    method: str
    notes: tuple[str, ...]


def write_edits_page(path: Path, *, title: str, command: str, edits: Sequence[ShownEdit]) -> None:
    """Write a page that holds all sheets, atomically.

    Args:
      path: of the page.
      title: one line.
      command: that made the edits.
      edits: in the order to be shown.
    """
    parts = [f"<h1>{html.escape(title)}</h1>", f"<pre>{html.escape(command)}</pre>"]
    for each in edits:
        parts.append(f"<h2>{html.escape(each.file)}: {html.escape(each.words)}</h2>")
        parts += [f"<p>{html.escape(note)}</p>" for note in (f"method: {each.method}", *each.notes)]
        for name in ("sheet.png", "strengths.png"):
            file = path.parent / each.folder / name
            if file.exists():
                data = base64.b64encode(file.read_bytes()).decode()
                parts.append(f'<img alt="{html.escape(each.words)}" src="data:image/png;base64,{data}">')
    write_atomically(path, document(title, "\n".join(parts), style=_STYLE).encode())
