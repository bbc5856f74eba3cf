"""Names of classes as data sets have them: printable, and each once."""

import unicodedata
from collections.abc import Sequence

from vision.data.notices import notice
from vision.errors import UserError

LONGEST = 255
"""Characters of a name."""
# Control characters, halves of surrogate pairs (bytes that are not UTF-8), and separators of lines and paragraphs.
_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})


def check_name(name: str, where: str) -> None:
    """Raise ``UserError`` for a name that no table, file or web page can have.

    Args:
        name: of a class.
        where: the file and the entry in it, to begin a sentence with.
    """
    if not name.strip():
        raise UserError(f"{where} has a class name without a character: name the class.")
    if len(name) > LONGEST:
        raise UserError(f"{where} has a class name of {len(name)} characters ({name[:20]}...): use at most {LONGEST}.")
    odd = next((each for each in name if unicodedata.category(each) in _UNPRINTABLE), None)
    if odd is not None:
        raise UserError(
            f"{where} has a class name with the character U+{ord(odd):04X} ({name[:80]!a}), which is not "
            "printable text in UTF-8: rename the class."
        )


def unique_names(names: Sequence[str], numbers: Sequence[int], where: str) -> tuple[str, ...]:
    """The names, with the number of its class behind each that an earlier class has: "person (id 7)".

    Results are kept by the names of classes, so that two classes must not share one; a change is reported on stderr.

    Args:
        names: in the order of the classes.
        numbers: of the classes in the file.
        where: the file, for the report.
    """
    taken = set(names)
    found: list[str] = []
    seen: set[str] = set()
    changed = []
    for name, number in zip(names, numbers, strict=True):
        own = name
        if name in seen:
            while own in taken:
                own = f"{own} (id {number})"
            changed.append(own)
            taken.add(own)
        seen.add(name)
        found.append(own)
    if changed:
        shown = ", ".join(changed[:5]) + (", ..." if len(changed) > 5 else "")
        notice(f"{where} has several classes of one name; the later ones are called {shown}.")
    return tuple(found)
