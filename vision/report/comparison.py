"""A page on which images before and after are compared by a slider: one file, without a server and without links."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vision.atomic import write_atomically
from vision.report.document import document

_QUALITY = 92

_STYLE = """
:root { --ink: #1d2126; --soft: #5b6470; --paper: #fff; --line: #dfe3e8; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #a5adb8; --paper: #15181c; --line: #333941; } }
body { margin: 0 auto; max-width: 64rem; padding: 1.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; } h2 { font-size: 1rem; margin: 2rem 0 .5rem; overflow-wrap: anywhere; }
p { color: var(--soft); margin: .3rem 0; max-width: 44rem; overflow-wrap: anywhere; }
.pair { position: relative; --at: 50%; max-width: max-content; line-height: 0; }
.pair img { max-width: 100%; height: auto; image-rendering: pixelated; }
.pair .after { position: absolute; inset: 0; clip-path: inset(0 0 0 var(--at)); }
.pair .line { position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px; margin-left: -1px; background: #fff;
  box-shadow: 0 0 3px #000; pointer-events: none; }
input { width: 100%; margin: .6rem 0 0; } .names { display: flex; justify-content: space-between; line-height: 1.5;
  color: var(--soft); font-size: .84rem; }
"""

_SCRIPT = """
for (const pair of document.querySelectorAll(".pair")) {
  const slider = pair.parentElement.querySelector("input");
  const show = () => pair.style.setProperty("--at", slider.value + "%");
  slider.addEventListener("input", show);
  const follow = event => {
    const box = pair.getBoundingClientRect();
    slider.value = Math.min(100, Math.max(0, 100 * (event.clientX - box.left) / box.width));
    show();
  };
  pair.addEventListener("pointermove", event => { if (event.buttons) follow(event); });
  pair.addEventListener("pointerdown", event => { event.preventDefault(); follow(event); });
  show();
}
"""


@dataclass(frozen=True, eq=False)
class Compared:
    """Two versions of an image, or of a part of it, of equal size."""

    name: str
    before: UInt8[np.ndarray, "h w 3"]
    after: UInt8[np.ndarray, "h w 3"]
    note: str = ""
    """What is shown, in words."""


def write_comparison(
    path: Path, images: Sequence[Compared], *, title: str, description: str, labels: tuple[str, str]
) -> None:
    """Write the page, atomically. Images are inlined as JPEG of quality 92; the page loads nothing.

    Args:
      path: the HTML file.
      images: to compare.
      title: the heading.
      description: a paragraph.
      labels: what the versions before and after are called.
    """
    pairs = "\n".join(_pair(each, labels) for each in images)
    body = f"<h1>{html.escape(title)}</h1>\n<p>{html.escape(description)}</p>\n{pairs}"
    page = document(title, body, style=_STYLE, script=_SCRIPT)
    write_atomically(path, page.encode("utf-8", "surrogateescape"))


def _pair(compared: Compared, labels: tuple[str, str]) -> str:
    before, after = (html.escape(label) for label in labels)
    name = html.escape(compared.name)
    return f"""<section>
<h2>{name}</h2>
<p>{html.escape(compared.note)}</p>
<div class="pair"><img src="{_inlined(compared.before)}" alt="{before}: {name}">
<img class="after" src="{_inlined(compared.after)}" alt="{after}: {name}"><span class="line"></span></div>
<input type="range" min="0" max="100" value="50" step="0.1" aria-label="how much of each is shown">
<div class="names"><span>{before}</span><span>{after}</span></div>
</section>"""


def _inlined(image: np.ndarray) -> str:
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "JPEG", quality=_QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}"
