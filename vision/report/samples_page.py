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
figure { margin: 0; } img { width: 100%; image-rendering: pixelated; border-radius: 4px; }
figcaption { font-size: .85rem; color: #5b6470; overflow-wrap: anywhere; }
"""


def write_samples_page(path: Path, *, title: str, command: str, captions: Sequence[str], count: int) -> None:
    """Write a page that shows the files 00000.png, 00001.png, ... next to it, atomically.

    Args:
      path: of the page.
      title: one line.
      command: that made the images.
      captions: one for each image, or none.
      count: of images.
    """
    figures = []
    for index in range(count):
        caption = html.escape(captions[index]) if captions else ""
        text = f"<figcaption>{caption}</figcaption>" if caption else ""
        figures.append(f'<figure><img src="{index:05d}.png" alt="{caption or index}">{text}</figure>')
    body = "\n".join(figures)
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>\n"
        f"<pre>{html.escape(command)}</pre>\n<main>\n{body}\n</main></body></html>\n"
    )
    write_atomically(path, page.encode())
