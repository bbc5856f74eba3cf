"""A page of generated images: all of them with their captions, and how they were made."""

import html
from collections.abc import Sequence
from pathlib import Path

from vision.atomic import write_atomically

_STYLE = """
body { margin: 0 auto; max-width: 80rem; padding: 2rem 1rem; font: 16px/1.5 system-ui, sans-serif; color: #1d2126;
  background: #fff; }
h1 { font-size: 1.4rem; } pre { white-space: pre-wrap; background: #f5f6f8; padding: .8rem; border-radius: 6px; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: 1rem; }
figure { margin: 0; } .pair { display: flex; gap: 2px; } .pair img { width: 50%; }
img { width: 100%; image-rendering: pixelated; border-radius: 4px; }
figcaption { font-size: .85rem; color: #5b6470; overflow-wrap: anywhere; }
"""


BASELINE = "baseline-"
"""With which the names of the files of another generator begin."""


def write_samples_page(
    path: Path, *, title: str, command: str, captions: Sequence[str], count: int, baseline: str = ""
) -> None:
    """Write a page that shows the files 00000.png, 00001.png, ... next to it, atomically.

    Args:
      path: of the page.
      title: one line.
      command: that made the images.
      captions: one for each image, or none.
      count: of images.
      baseline: another generator in words, whose files baseline-00000.png, ... are shown to the right of the others.
    """
    figures = []
    for index in range(count):
        caption = html.escape(captions[index]) if captions else ""
        text = f"<figcaption>{caption}</figcaption>" if caption else ""
        image = f'<img src="{index:05d}.png" alt="{caption or index}">'
        if baseline:
            other = f'<img src="{BASELINE}{index:05d}.png" alt="{caption or index}, by the baseline">'
            image = f'<div class="pair">{image}{other}</div>'
        figures.append(f"<figure>{image}{text}</figure>")
    body = "\n".join(figures)
    note = f"<p>Left: these samples. Right: {html.escape(baseline)}, for the same request.</p>\n" if baseline else ""
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>\n"
        f"<pre>{html.escape(command)}</pre>\n{note}<main>\n{body}\n</main></body></html>\n"
    )
    write_atomically(path, page.encode())
