"""class_names.json of a run folder: the classes that a run tells apart, so that predictions need no data."""

import json
from collections.abc import Sequence
from pathlib import Path

from vision.atomic import write_atomically
from vision.errors import UserError

CLASS_NAMES = "class_names.json"


def keep_class_names(folder: Path, names: Sequence[str]) -> None:
    """Write class_names.json, or check that the one there, of an earlier start of the run, is the same.

    Raises ``UserError`` where the data has other classes now, or in another order.
    """
    before = class_names(folder)
    if before is None:
        write_atomically(folder / CLASS_NAMES, (json.dumps(list(names), ensure_ascii=False) + "\n").encode())
    elif before != tuple(names):
        pairs = zip(before, names, strict=False)
        at = next((i for i, (old, new) in enumerate(pairs) if old != new), min(len(before), len(names)))
        old, new = (repr(of[at]) if at < len(of) else "missing" for of in (before, names))
        raise UserError(
            f"the classes of the data are not those that the run in {folder} began with: class {at} was {old} and is "
            f"{new} now: put the data back, or choose another --workdir"
        )


def class_names(folder: Path) -> tuple[str, ...] | None:
    """The names of the classes that the run in ``folder`` is trained on; None where it has kept none.

    Raises ``UserError`` where the file cannot be read.
    """
    path = folder / CLASS_NAMES
    try:
        return tuple(map(str, json.loads(path.read_text())))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): restore it, a list of names") from error
