"""``python -m vision download NAME [FOLDER]``: published weights from their publisher's address."""

import sys
from collections.abc import Sequence

from vision.errors import UserError
from vision.home import expanded
from vision.launch.options import HELP, unknown_name
from vision.pretrained.download import FILES, download

USAGE = "python -m vision download NAME [FOLDER]"


def main(words: Sequence[str]) -> None:
    """Download a file and print its place, its SHA-256 and the option that uses it; without a name, list all."""
    if not words or HELP & set(words):
        listed = (f"  {name:24} {file.url}" for name, file in FILES.items())
        print("\n".join([USAGE, "FOLDER is weights/ by default. docs/weights.md says more of each.", "", *listed]))
        return
    name, *rest = words
    if name not in FILES:
        raise UserError(unknown_name("file of weights", name, list(FILES), f"there are {', '.join(FILES)}"))
    if len(rest) > 1:
        raise UserError(f"{rest[1]} is one word too many: {USAGE}")
    file, folder = FILES[name], expanded(rest[0] if rest else "weights")
    try:
        found = download(file, folder, report=lambda text: print(text, file=sys.stderr))
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}") from error
    checked = "begins as its name says" if file.sha256 else "its publisher states none to compare it with"
    options = f"{file.options} --init-from {folder / file.name}".strip()
    print(f"{folder / file.name}\nSHA-256 {found} ({checked})\n{options}")
