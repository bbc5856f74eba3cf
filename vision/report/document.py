"""The frame of every page: one file that loads nothing."""

import base64
import hashlib
import html


def document(title: str, body: str, *, style: str, script: str = "") -> str:
    """A complete HTML page.

    Its policy forbids the browser to load anything, and to run anything but ``script``, in case some text is not
    escaped properly.

    Args:
      title: text, which is escaped here.
      body: HTML.
      style: CSS.
      script: JavaScript, at the end of the body.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed, run = (f"; script-src 'sha256-{digest}'", f"<script>{script}</script>\n") if script else ("", "")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'{allowed}">
<title>{html.escape(title)}</title>
<style>{style}</style>
</head>
<body>
{body}
{run}</body>
</html>
"""
