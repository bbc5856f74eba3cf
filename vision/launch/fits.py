"""Which experiments fit one accelerator with their defaults: a file that ``benchmarks/slices.py`` writes.

The list of experiments reads it, so that nothing is compiled, or imported, to list them.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vision.errors import UserError

FILE = "fits.json"

CHIPS = {"v5e:1x1/1x1": "one v5e chip", "h100:1/1x1": "one H100"}
"""Slice -> what the list calls it."""


@dataclass(frozen=True)
class Fit:
    """The training step of an experiment on one accelerator, with its defaults."""

    fits: bool | None
    """None where it was not compiled."""
    needed: int
    """Bytes: arguments, outputs and temporaries; 0 where the compiler does not say."""
    problem: str | None
    """Why it does not compile."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of what compiled it, by package."""

    def words(self) -> str:
        """Whether it fits, and how much it takes or what is wrong: yes (1.2 GiB)."""
        known = {True: "yes", False: "no", None: "not known"}[self.fits]
        size = f"{self.needed / 2**30:.1f} GiB" if self.needed >= 2**30 else f"{self.needed / 2**20:.0f} MiB"
        details = size if self.needed else self.problem or ""
        return f"{known} ({details})" if details else known


def make_fits(rows: Iterable[Mapping[str, Any]], before: str = "{}") -> str:
    """The content of the file.

    Args:
      rows: of ``benchmarks/slices.py``; those of other slices or with options are left out.
      before: its content so far, whose other rows are kept.
    """
    content = json.loads(before)
    found: dict[str, dict[str, Any]] = {name: dict(fits) for name, fits in content.get("experiments", {}).items()}
    for row in rows:
        if row["slice"] in CHIPS and not row["options"]:
            needed = row.get("memory", {}).get("in all", 0)
            fit = {"fits": row.get("fits"), "needed": needed, "problem": row.get("problem")}
            found.setdefault(row["experiment"], {})[row["slice"]] = {**fit, "versions": row.get("versions", {})}
    return json.dumps({"experiments": dict(sorted(found.items()))}, indent=1) + "\n"


def read_fits(folder: Path) -> dict[str, dict[str, Fit]]:
    """Experiment -> slice -> what is known; {} where the folder has no such file.

    Raises ``UserError`` where the file cannot be read.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_text())["experiments"]
        return {name: {where: Fit(**fit) for where, fit in fits.items()} for name, fits in content.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({error}): make it anew with benchmarks/slices.py") from error
