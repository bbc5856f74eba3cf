"""The page of a system of several runs: how long each took, the numbers of the whole, and what it generates."""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vision.atomic import write_atomically
from vision.report.document import document
from vision.units import count, duration, value

_STYLE = """
body { margin: 0 auto; max-width: 64rem; padding: 2rem 1rem; font: 16px/1.5 system-ui, sans-serif; color: #1d2126;
  background: #fff; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
pre { white-space: pre-wrap; background: #f5f6f8; padding: .8rem; border-radius: 6px; }
table { border-collapse: collapse; } th, td { text-align: left; padding: .3rem 1.2rem .3rem 0; vertical-align: top;
  border-bottom: 1px solid #dfe3e8; } td.number, th.number { text-align: right; }
td { overflow-wrap: anywhere; } td:first-child { min-width: 11rem; }
.protocol { color: #5b6470; font-size: .85rem; } img { max-width: 100%; }
"""


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """What a page says of one run."""

    name: str
    command: str
    images: int
    """Training images."""
    seconds: float
    """In training and evaluation."""


def write_system_page(
    path: Path,
    *,
    title: str,
    command: str,
    stages: Sequence[StageRow],
    numbers: Mapping[str, float],
    protocol: Mapping[str, str],
    figure: Path | None,
) -> None:
    """Write one HTML file that loads nothing, atomically.

    Args:
      path: of the page.
      title: one line.
      command: that made the system.
      stages: its runs.
      numbers: of the whole, by name.
      protocol: how they were measured, in words, by the same names.
      figure: a PNG of what the system generates; None for none.
    """
    rows = "\n".join(
        f"<tr><td>{html.escape(each.name)}</td><td class='number'>{count(each.images)}</td>"
        f"<td class='number'>{duration(each.seconds)}</td><td><code>{html.escape(each.command)}</code></td></tr>"
        for each in stages
    )
    found = "\n".join(
        f"<tr><td>{html.escape(name)}</td><td class='number'><b>{value(number)}</b></td>"
        f"<td class='protocol'>{html.escape(protocol.get(name, ''))}</td></tr>"
        for name, number in numbers.items()
    )
    shown = ""
    if figure is not None and figure.exists():
        data = base64.b64encode(figure.read_bytes()).decode()
        shown = f'<h2>Samples</h2>\n<img alt="samples" src="data:image/png;base64,{data}">'
    body = f"""<h1>{html.escape(title)}</h1>
<pre>{html.escape(command)}</pre>
<h2>The whole system</h2>
<table>{found}</table>
{shown}
<h2>Stages</h2>
<table><tr><th>stage</th><th class="number">images</th><th class="number">time</th><th>command</th></tr>
{rows}</table>"""
    write_atomically(path, document(title, body, style=_STYLE).encode())
