"""A run's report: one self-contained HTML file, for reading, sending and printing."""

import base64
import html
import inspect
import io
import json
import math
import re
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from PIL import Image

from vision.atomic import write_atomically
from vision.report.document import document
from vision.units import count, duration, value

_NOT_SCALARS = ("step", "images", "time")
# Bytes of encoded images; base64 adds a third, and 3 MB in total can still be sent by mail.
_LATEST_BYTES = 1_300_000
_CURVES_BYTES = 300_000
_STRIP_BYTES = 45_000
_STRIP_LENGTH = 12
_STRIP_SIDE = 280

_STYLE = """
:root { --ink: #1d2126; --soft: #5b6470; --faint: #8a929c; --line: #dfe3e8; --wash: #f5f6f8; --paper: #fff;
  --accent: #0b62a4; --mark: #fff4d6; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #a5adb8; --faint: #7d8691;
  --line: #333941; --wash: #1e2329; --paper: #15181c; --accent: #74b6ea; --mark: #3a3214; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 64rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.75rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }
p { margin: .6rem 0; max-width: 44rem; }
code, pre, .key { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
code { font-size: .88em; }
pre { font-size: .84rem; line-height: 1.5; background: var(--wash); border-radius: 6px; padding: .8rem 1rem;
  margin: .75rem 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.status { color: var(--soft); margin: .35rem 0 0; }
.status b { color: var(--ink); font-weight: 600; }
.summary { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: 1rem 1.5rem;
  margin: 1.75rem 0; padding: 0; }
.summary div { border-top: 2px solid var(--accent); padding-top: .4rem; }
.summary dt { color: var(--soft); font-size: .82rem; }
.summary dd { margin: 0; font-size: 1.3rem; font-weight: 600; font-variant-numeric: tabular-nums;
  line-height: 1.3; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .38rem 1rem .38rem 0;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
thead th { color: var(--soft); font-size: .82rem; font-weight: 500; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.number b { font-weight: 650; }
.key { font-size: .84rem; font-weight: 400; }
.flag, .results .key { white-space: nowrap; }
.results wbr { display: none; }
.values td:first-child, .values th:first-child { width: 40%; }
.values td { overflow-wrap: anywhere; }
.protocol { color: var(--soft); min-width: 12rem; }
.range { color: var(--soft); }
tr.changed > * { background: var(--mark); }
tr.changed > :first-child { box-shadow: inset 3px 0 var(--accent); padding-left: .6rem; font-weight: 600; }
tr.changed em { color: var(--soft); font-size: .8rem; margin-left: .6rem; }
figure { margin: .75rem 0; }
figure img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
.curves { background: #fff; padding: .6rem; border-radius: 6px; overflow-x: auto; }
figcaption, .note { color: var(--soft); font-size: .84rem; margin-top: .4rem; overflow-wrap: anywhere; }
.strip { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .75rem; }
.strip figure { margin: 0; }
.strip img { width: 100%; }
.time { max-width: 44rem; }
.share { width: 50%; }
.share span { display: block; height: .8rem; margin-top: .3rem; background: var(--accent); border-radius: 2px; }
footer { margin-top: 3rem; color: var(--faint); font-size: .82rem; }
@media (max-width: 40rem) { main { padding: 1.5rem 1rem 3rem; } h1 { font-size: 1.4rem; }
  .values td:first-child, .values th:first-child { width: 50%; }
  .curves img { max-width: none; width: 52rem; } .wide thead, .range, .protocol:empty { display: none; }
  .results tr { display: grid; grid-template-columns: 1fr auto 4rem; border-bottom: 1px solid var(--line);
    padding: .3rem 0; }
  .results .key { white-space: normal; } .results wbr { display: inline; }
  .results tr > * { border: 0; padding: .1rem 0; }
  .results .protocol { grid-column: 1 / -1; } }
@media print { :root { --ink: #000; --soft: #444; --faint: #666; --line: #ccc; --wash: #f5f5f5;
  --paper: #fff; --accent: #0b62a4; --mark: #fff4d6; color-scheme: light; }
  main { max-width: none; padding: 0; } body { font-size: 10.5pt; }
  figure, tr, pre, .summary { break-inside: avoid; } h2 { break-after: avoid; } }
"""


def write_page(
    path: str | Path,
    *,
    title: str,
    command: str,
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    protocol: Mapping[str, str],
    sample_paths: Sequence[str | Path],
    curves_path: str | Path | None,
    summary: Mapping[str, float | str],
    description: str,
    replicas: Mapping[str, Mapping[str, float]] | None = None,
    status: str = "",
    changed: Collection[str] = (),
) -> None:
    """Writes ``report.html``, atomically: images are inlined, without links or scripts.

    The file stays below about 3 MB: an image that is too large is inlined as a smaller JPEG, and earlier
    samples as at most twelve thumbnails, evenly spaced over the run.

    Args:
        path: the HTML file to write.
        title: the heading, such as the experiment's name and its work directory.
        command: the exact command line of the run.
        config: the configuration, nested; shown with dotted keys.
        environment: versions, devices and similar, possibly nested.
        metrics: the records of the run in the order they were written, each with ``images`` and scalars. The
            last value of every scalar is tabulated, with the range of all its finite ones.
        protocol: how a number was measured, by the scalar's name; shown next to it.
        sample_paths: images of samples, the latest first.
        curves_path: the plot of the curves; None for none.
        summary: a few numbers to show first, by label.
        description: the experiment's docstring. Paragraphs become HTML paragraphs; indented ones are preformatted.
        replicas: for several runs trained as one program, the latest numbers of each by its name.
        status: one line on the state of the run, such as ``Finished after 1h02m``.
        changed: dotted keys of ``config`` whose values differ from the defaults, which are marked.

    Raises:
        ValueError: when ``changed`` names a key that ``config`` does not have.
        OSError: when the page cannot be written; an existing page is then unchanged. An image that cannot be read is
            not an error: the page has a note instead.
    """
    settings = dict(_flattened(config))
    if unknown := sorted(set(changed) - settings.keys()):
        raise ValueError(f"{unknown[0]!r} is marked as changed, but the configuration has no such key.")
    sections = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="status">{html.escape(status)}</p>' if status else "",
        _summary(summary),
        _description(description),
        f"<h2>Command</h2>\n<pre><code>{_command(command)}</code></pre>",
        _results(metrics, protocol),
        _replicas(replicas or {}),
        _curves(curves_path),
        _samples([Path(sample) for sample in sample_paths]),
        _time(metrics),
        _configuration(settings, changed),
        _environment(environment),
        f"<footer>Written {datetime.now().astimezone():%d %B %Y, %H:%M %Z}</footer>",
    ]
    body = "\n".join(section for section in sections if section)
    page = document(title, f"<main>\n{body}\n</main>", style=_STYLE)
    write_atomically(path, page.encode())


def _summary(summary: Mapping[str, float | str]) -> str:
    if not summary:
        return ""
    tiles = "\n".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(_number(x))}</dd></div>" for name, x in summary.items()
    )
    return f'<dl class="summary">\n{tiles}\n</dl>'


def _description(description: str) -> str:
    parts = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(description)):
        if not paragraph.strip():
            continue
        text = html.escape(paragraph.strip("\n"))
        if all(line.startswith("  ") for line in paragraph.splitlines() if line):
            parts.append(f"<pre>{textwrap.dedent(text)}</pre>")
        else:
            parts.append("<p>" + re.sub(r"``([^`]+)``", r"<code>\1</code>", text) + "</p>")
    return "\n".join(parts)


def _command(command: str) -> str:
    # A browser may break a line after any hyphen, also within "--workdir".
    return re.sub(r"(?<!\S)(--?\w[\w.-]*)", r'<span class="flag">\1</span>', html.escape(command))


def _results(metrics: Sequence[Mapping[str, Any]], protocol: Mapping[str, str]) -> str:
    last: dict[str, tuple[float, float]] = {}  # value and images by name
    finite: dict[str, list[float]] = {}
    for record in metrics:
        for name, x in record.items():
            if name not in _NOT_SCALARS and _activity(name) is None:
                last[name] = float(x), float(record["images"])
                finite.setdefault(name, []).extend([float(x)] if math.isfinite(float(x)) else [])
    if not last:
        return '<h2>Results</h2>\n<p class="note">No scalars have been logged yet.</p>'
    rows = []
    # Scalars with a protocol (results) come first, and those of evaluation before those of training.
    for name in sorted(last, key=lambda name: (name not in protocol, name.startswith("train/"))):
        x, images = last[name]
        spread = " to ".join(value(f(finite[name])) for f in (min, max)) if finite[name] else "none finite"
        rows.append(
            f'<tr><th class="key" scope="row">{_key(name)}</th>'
            f'<td class="number"><b>{value(x)}</b></td><td class="number">{count(images)}</td>'
            f'<td class="number range">{spread}</td>'
            f'<td class="protocol">{html.escape(protocol.get(name, ""))}</td></tr>'
        )
    head = (
        '<tr><th>scalar</th><th class="number">last</th><th class="number">at images</th>'
        '<th class="number range">lowest to highest</th><th>how it was measured</th></tr>'
    )
    body = "\n".join(rows)
    return (
        f'<h2>Results</h2>\n<div class="wide"><table class="results">\n<thead>{head}</thead>'
        f"\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _replicas(replicas: Mapping[str, Mapping[str, float]]) -> str:
    if not replicas:
        return ""
    names = list(dict.fromkeys(name for numbers in replicas.values() for name in numbers))
    head = "".join(f'<th class="number">{_key(name)}</th>' for name in names)
    rows = "\n".join(
        f'<tr><th class="key" scope="row">{_key(replica)}</th>'
        + "".join(f'<td class="number">{value(numbers[name]) if name in numbers else ""}</td>' for name in names)
        + "</tr>"
        for replica, numbers in replicas.items()
    )
    return (
        f'<h2>Replicas</h2>\n<div class="wide"><table><thead><tr><th>run</th>{head}</tr></thead>'
        f"\n<tbody>\n{rows}\n</tbody></table></div>"
    )


def _time(metrics: Sequence[Mapping[str, Any]]) -> str:
    """The time spent in each activity, over all starts of the run."""
    spent: dict[str, float] = {}
    for record in metrics:
        for name, seconds in record.items():
            if (activity := _activity(name)) is not None:
                spent[activity] = spent.get(activity, 0.0) + float(seconds)
    total = sum(spent.values())
    if total <= 0:
        return ""
    rows = "\n".join(
        f'<tr><th scope="row">{html.escape(activity)}</th><td class="number">{duration(seconds)}</td>'
        f'<td class="number">{100 * seconds / total:.1f} %</td>'
        f'<td class="share"><span style="width:{100 * seconds / total:.1f}%"></span></td></tr>'
        for activity, seconds in sorted(spent.items(), key=lambda item: -item[1])
    )
    return f'<h2>Time</h2>\n<table class="time"><tbody>\n{rows}\n</tbody></table>'


def _activity(name: str) -> str | None:
    """The activity of a scalar of seconds: that of time/input_seconds is input."""
    if name.startswith("time/") and name.endswith("_seconds"):
        return name.removeprefix("time/").removesuffix("_seconds")
    return None


def _curves(curves_path: str | Path | None) -> str:
    if curves_path is None:
        return ""
    image = _inlined(Path(curves_path), _CURVES_BYTES, "Every scalar over the images seen", 0)
    return f'<h2>Curves</h2>\n<figure class="curves">{image}</figure>'


def _samples(paths: Sequence[Path]) -> str:
    if not paths:
        return ""
    latest, *earlier = paths
    image = _inlined(latest, _LATEST_BYTES, f"Latest samples, {latest.stem}", 0)
    parts = [f"<h2>Samples</h2>\n<figure>{image}<figcaption>{html.escape(latest.stem)}</figcaption></figure>"]
    if earlier:
        # Evenly spaced, including the first and the last but one of the run.
        n = min(_STRIP_LENGTH, len(earlier))
        chosen = [earlier[round(i * (len(earlier) - 1) / max(1, n - 1))] for i in range(n)]
        thumbnails = "\n".join(
            f"<figure>{_inlined(sample, _STRIP_BYTES, f'Samples, {sample.stem}', _STRIP_SIDE)}"
            f"<figcaption>{html.escape(sample.stem)}</figcaption></figure>"
            for sample in chosen
        )
        parts.append(f'<p class="note">Earlier, the latest first:</p>\n<div class="strip">\n{thumbnails}\n</div>')
    return "\n".join(parts)


def _configuration(settings: Mapping[str, Any], changed: Collection[str]) -> str:
    if not settings:
        return ""
    note = f'<p class="note">{len(set(changed))} of {len(settings)} values differ from the defaults.</p>\n'
    return f"<h2>Configuration</h2>\n{note if changed else ''}{_table(settings, changed)}"


def _environment(environment: Mapping[str, Any]) -> str:
    return f"<h2>Environment</h2>\n{_table(dict(_flattened(environment)), ())}" if environment else ""


def _table(rows: Mapping[str, Any], changed: Collection[str]) -> str:
    lines = []
    for key, x in rows.items():
        mark, note = (' class="changed"', "<em>changed</em>") if key in changed else ("", "")
        lines.append(
            f'<tr{mark}><th class="key" scope="row">{_key(key)}</th>'
            f'<td class="key">{html.escape(_shown(x))}{note}</td></tr>'
        )
    body = "\n".join(lines)
    return f'<table class="values"><tbody>\n{body}\n</tbody></table>'


def _flattened(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, x in tree.items():
        if isinstance(x, Mapping) and x:
            yield from _flattened(x, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", x


def _shown(x: Any) -> str:
    """A readable setting: strings without quotes, sequences and mappings as JSON."""
    if isinstance(x, str):
        return x
    if isinstance(x, list | tuple | Mapping):
        return json.dumps(x, default=str, ensure_ascii=False)
    return str(x)


def _key(name: str) -> str:
    """A long name, escaped, with possible line breaks where its words end."""
    return re.sub(r"([/_.])", r"\1<wbr>", html.escape(name))


def _number(x: float | str) -> str:
    if isinstance(x, str):
        return x
    return count(x) if abs(x) >= 10_000 else value(x)


def _inlined(path: Path, max_bytes: int, description: str, side: int) -> str:
    """An ``img`` element with the image in it, at most ``max_bytes`` before base64.

    ``side`` is the maximum of both sides in pixels; with 0, an image that is small enough is unchanged.
    """
    try:
        raw = path.read_bytes()
        with Image.open(io.BytesIO(raw)) as opened:
            kind, image = opened.format, opened.convert("RGB")
    except (OSError, SyntaxError) as error:  # Pillow reports some damaged PNG files as a SyntaxError
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is damaged"
        return f'<p class="note">{html.escape(path.name)} could not be read: {html.escape(reason)}.</p>'
    if side and max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        raw = _encoded(image, "PNG")
        kind = "PNG"
    if len(raw) > max_bytes or kind != "PNG":
        kind, raw = "JPEG", _encoded(image, "JPEG")
    while len(raw) > max_bytes:
        # The size of a JPEG is about proportional to its number of pixels.
        shrink = min(0.9, math.sqrt(max_bytes / len(raw)))
        image = image.resize([max(1, int(edge * shrink)) for edge in image.size])
        raw = _encoded(image, "JPEG")
    width, height = image.size
    data = base64.b64encode(raw).decode()
    return (
        f'<img src="data:image/{kind.lower()};base64,{data}" width="{width}" height="{height}" '
        f'alt="{html.escape(description)}">'
    )


def _encoded(image: Image.Image, kind: str) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, kind, optimize=True, quality=88)
    return encoded.getvalue()
