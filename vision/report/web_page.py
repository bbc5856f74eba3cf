"""The web page of ``python -m vision page``: a form, and the images that were generated for what it said.

Plain HTML without scripts. A tab is a form of its own; one more is an entry of a table (``vision.launch.web``).
"""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vision.report.document import document

_STYLE = """
:root { --ink: #1d2126; --soft: #5b6470; --line: #dfe3e8; --wash: #f5f6f8; --accent: #0b62a4; --bad: #a4230b; }
* { box-sizing: border-box; }
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff; }
main { max-width: 64rem; margin: 0 auto; padding: 2rem 1rem; }
h1 { font-size: 1.4rem; margin: 0; } .run { color: var(--soft); margin: 0 0 1rem; overflow-wrap: anywhere; }
nav { display: flex; gap: 1.5rem; border-bottom: 1px solid var(--line); margin-bottom: 1.25rem; }
nav a { padding: .5rem 0; color: var(--soft); text-decoration: none; }
nav a.here { color: var(--ink); font-weight: 600; border-bottom: 3px solid var(--accent); }
form { display: grid; gap: 1rem; } label { display: grid; gap: .25rem; color: var(--soft); font-size: .88rem; }
textarea, input { font: inherit; color: var(--ink); border: 1px solid #b6bec8; border-radius: 6px; padding: .5rem; }
.numbers { display: flex; flex-wrap: wrap; gap: 1rem; } .numbers input { width: 8rem; }
button { justify-self: start; font: inherit; color: #fff; background: var(--accent); border: 0; border-radius: 6px;
  padding: .6rem 1.4rem; cursor: pointer; }
.error { color: var(--bad); border-left: 4px solid var(--bad); padding: .4rem .8rem; background: #fdf3f1; }
.images { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: 1rem; margin-top: 1.5rem; }
figure { margin: 0; } figure img { width: 100%; image-rendering: pixelated; border-radius: 4px; display: block; }
figcaption { font-size: .82rem; color: var(--soft); overflow-wrap: anywhere; }
"""


@dataclass(frozen=True, kw_only=True)
class Field:
    """An input of a form."""

    name: str
    label: str
    kind: str
    """"text" for several lines, "number", or "file"."""
    step: str = "1"
    """Of a number; "any" for one that is not whole."""


@dataclass(frozen=True, kw_only=True)
class TabForm:
    """A tab and its form."""

    name: str
    """In the address."""
    title: str
    fields: tuple[Field, ...]
    button: str = "Generate"


def web_page(
    run: str,
    tabs: Sequence[TabForm],
    here: TabForm,
    *,
    values: Mapping[str, str],
    images: Sequence[bytes] = (),
    captions: Sequence[str] = (),
    error: str = "",
) -> str:
    """The page as HTML.

    Args:
      run: what generates, in words.
      tabs: all of them.
      here: the one that is shown.
      values: of the fields, by name, as they were typed.
      images: PNG files.
      captions: one for each image, or none.
      error: why there are no images, one sentence; "" for none.
    """
    links = "".join(
        f'<a href="?tab={tab.name}"{" class=here" if tab is here else ""}>{html.escape(tab.title)}</a>' for tab in tabs
    )
    wide = "".join(_input(each, values.get(each.name, "")) for each in here.fields if each.kind != "number")
    numbers = "".join(_input(each, values.get(each.name, "")) for each in here.fields if each.kind == "number")
    said = f'<p class="error" role="alert">{html.escape(error)}</p>' if error else ""
    figures = []
    for index, image in enumerate(images):
        caption = html.escape(captions[index]) if index < len(captions) else ""
        data = base64.b64encode(image).decode()
        figures.append(
            f'<figure><img src="data:image/png;base64,{data}" alt="{caption or index}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    shown = f'<div class="images">{"".join(figures)}</div>' if figures else ""
    body = f"""<main><h1>Images for sentences</h1><p class="run">{html.escape(run)}</p>
<nav>{links}</nav>
<form method="post" action="?tab={here.name}" enctype="multipart/form-data">
{wide}<div class="numbers">{numbers}</div><button>{html.escape(here.button)}</button></form>
{said}{shown}</main>"""
    return document("Images for sentences", body, style=_STYLE)


def _input(field: Field, value: str) -> str:
    name, shown = f'name="{field.name}"', html.escape(value)
    if field.kind == "text":
        made = f'<textarea {name} rows="3">{shown}</textarea>'
    elif field.kind == "file":
        made = f'<input {name} type="file" accept="image/*">'
    else:
        made = f'<input {name} type="number" step="{field.step}" value="{shown}">'
    return f"<label>{html.escape(field.label)}{made}</label>"
