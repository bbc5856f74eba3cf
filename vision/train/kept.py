"""tokenizer.json of a run folder: the tokenizer that a run made when it began, and that all later starts read."""

from collections.abc import Callable
from pathlib import Path

from vision.atomic import write_atomically
from vision.errors import UserError

TOKENIZER = "tokenizer.json"


class KeptText:
    """A text that a new run makes from its data, and that a run which has begun reads from its folder."""

    def __init__(self, make: Callable[[], str]):
        self._make = make
        self._content: str | None = None

    def content(self) -> str:
        """What was restored; made now if nothing was."""
        if self._content is None:
            self._content = self._make()
        return self._content

    def restore(self, content: str) -> None:
        """Take what the run has kept in place of making it."""
        self._content = content


def keep(folder: Path, text: KeptText, *, begun: bool) -> None:
    """Write tokenizer.json of a run that begins here. The first process calls it.

    Raises ``UserError`` where the run has ``begun`` and its file is missing.
    """
    path = folder / TOKENIZER
    if path.exists():
        return
    if begun:
        raise UserError(
            f"the run in {folder} has no {TOKENIZER}, by which it reads texts: restore the file, or choose another "
            "--workdir"
        )
    write_atomically(path, text.content().encode())


def restore(folder: Path, text: KeptText) -> None:
    """Let ``text`` be what the run in ``folder`` has kept, where it has.

    Raises ``UserError`` where the file cannot be read.
    """
    path = folder / TOKENIZER
    try:
        text.restore(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): restore it") from error
