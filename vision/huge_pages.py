"""Huge pages for the memory of programs, where Linux has them on request only.

A training step on a CPU allocates and frees hundreds of MiB. In pages of 4 KiB that is 180,000 page faults a step for a
ResNet-18 on batches of 64, a fifth of its time. glibc (from 2.35) asks for huge pages if GLIBC_TUNABLES says so when a
process starts, so the process starts itself anew, once, before anything else.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_TUNABLE = "glibc.malloc.hugetlb"


def tunables(environment: Mapping[str, str], *, setting: str, libc: str) -> str | None:
    """The GLIBC_TUNABLES to start anew with, or None where nothing is to be gained.

    Args:
      environment: of this process. A choice that is made there stays: ``glibc.malloc.hugetlb=0`` for none.
      setting: Linux's, such as "always [madvise] never"; "" elsewhere.
      libc: name and version of the C library, such as "glibc 2.36".
    """
    name, _, version = libc.partition(" ")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    before = environment.get("GLIBC_TUNABLES", "")
    if "[madvise]" not in setting or name != "glibc" or numbers < (2, 35) or _TUNABLE in before:
        return None
    return ":".join(filter(None, (before, f"{_TUNABLE}=1")))


def restart_with_huge_pages() -> None:
    """Start this process anew with huge pages, where they are to be had and not in use."""
    try:
        setting = _SETTING.read_text()
        libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (OSError, ValueError):  # another system
        return
    value = tunables(os.environ, setting=setting, libc=libc)
    if value is not None and sys.executable:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "GLIBC_TUNABLES": value})
