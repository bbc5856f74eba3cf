"""Huge pages: when a program starts itself anew, and that it does so once with the same arguments."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vision.huge_pages import tunables

ON_REQUEST = "always [madvise] never"


@pytest.mark.parametrize(
    ("environment", "setting", "libc", "expected"),
    [
        ({}, ON_REQUEST, "glibc 2.36", "glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": "a=2"}, ON_REQUEST, "glibc 2.35", "a=2:glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, ON_REQUEST, "glibc 2.36", None),
        ({}, "[always] madvise never", "glibc 2.36", None),
        ({}, "always madvise [never]", "glibc 2.36", None),
        ({}, ON_REQUEST, "glibc 2.31", None),
        ({}, ON_REQUEST, "", None),
        ({}, "", "glibc 2.36", None),
    ],
)
def test_when_a_program_starts_anew(environment, setting, libc, expected):
    assert tunables(environment, setting=setting, libc=libc) == expected


def test_it_starts_anew_once_with_its_arguments():
    """As ``python -m`` imports a package, with "-m" for the program's name."""
    code = "import os, sys; sys.argv[0] = '-m'; import vision; print(os.environ.get('GLIBC_TUNABLES'), *sys.argv[1:])"
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    ran = subprocess.run(
        [sys.executable, "-c", code, "--quick", "a b"], env=environment, capture_output=True, text=True, check=True
    )
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    here = setting.read_text() if setting.exists() else ""
    libc = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", ()) else ""
    assert ran.stdout == f"{tunables(environment, setting=here, libc=libc or '')} --quick a b\n"
