"""Every shell script is clean under all of shellcheck's checks, and gives a reason where one is disabled."""

import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAND_INS = Path(__file__).parent / "stand_ins"
SCRIPTS = sorted([*(ROOT / "tpu_scripts").glob("*.sh"), *STAND_INS.glob("*.sh")])
PROGRAMS = [path for path in SCRIPTS if path.read_text().startswith("#!")]
SOURCED = [path for path in SCRIPTS if path not in PROGRAMS]


def test_scripts_are_found():
    assert {"tpu_pod.sh", "slurm.sh", "slurm_job.sh", "gke.sh"} <= {path.name for path in PROGRAMS}


def test_shellcheck():
    """With what they source; sourced files by themselves would lack the variables of those who source them."""
    shellcheck = Path(sysconfig.get_path("scripts")) / "shellcheck"
    options = ["--enable=all", "--severity=style", "--external-sources", "--check-sourced", "--shell=bash"]
    done = subprocess.run([str(shellcheck), *options, *map(str, PROGRAMS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_sourced_files_are_sourced():
    """So that none escapes the check."""
    text = "".join(path.read_text() for path in PROGRAMS)
    for path in SOURCED:
        assert f'source "${{here}}/{path.name}"' in text


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_form(path):
    """It parses, stops at errors, can be started, and each disabled check has a reason."""
    assert subprocess.run(["bash", "-n", str(path)], capture_output=True).returncode == 0
    text = path.read_text()
    if path in PROGRAMS:
        assert text.startswith("#!/usr/bin/env bash\n")
        assert "\nset -euo pipefail\n" in text
        assert path.stat().st_mode & 0o111
    for line in text.splitlines():
        if re.search(r"#\s*shellcheck disable=|#\s*shellcheck source=/dev/null", line):
            assert re.search(r"shellcheck \S+\s+# \w+", line), line
        assert len(line) <= 160, line
