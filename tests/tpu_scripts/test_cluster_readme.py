"""The scripts accept the commands of tpu_scripts/README.md and of the usage texts."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tpu_scripts"
README = (FOLDER / "README.md").read_text()
VALUES = {"MY_BUCKET": "my-bucket", '"$IMAGE"': "image", "DRY_RUN=1 ": ""}


def commands():
    """Every command of our scripts in the README, continued lines joined, comments dropped."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    for line in lines:
        for placeholder, value in VALUES.items():
            line = line.replace(placeholder, value)
        if line.startswith("tpu_scripts/"):
            yield re.sub(r"\s+#.*", "", line)


@pytest.mark.parametrize("command", list(commands()))
def test_commands_are_understood(command, tmp_path):
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "DRY_RUN": "1"}
    (tmp_path / "stages.txt").write_text("python -m experiments.clip_shapes --quick\n")
    command = command.replace("--stages stages.txt", f"--stages {tmp_path}/stages.txt")
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_readme_has_commands():
    assert len(list(commands())) >= 10


def test_links_lead_somewhere():
    headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)\s]+)\)", README):
        assert target.startswith("https://") or target.removeprefix("#") in anchors, target


def test_all_files_are_listed():
    for path in FOLDER.iterdir():
        if path.name not in ("README.md", "Dockerfile.dockerignore") and path.is_file():
            assert f"`{path.name}`" in README, path.name


@pytest.mark.parametrize("name", ["tpu_pod.sh", "slurm.sh", "gke.sh"])
def test_usage_names_all_options(name):
    """No option is secret, and none that is named is unknown."""
    text = (FOLDER / name).read_text()
    usage, program = text.split("\nset -euo pipefail\n")
    if name == "gke.sh":
        program += (FOLDER / "gke_render.py").read_text()
    told = set(re.findall(r"(?<![\w`])--[a-z][a-z-]+", usage))
    labels = re.findall(r"^ +(-[^)\n]*)\)", program, re.MULTILINE)  # of the case that reads the options
    known = {option for label in labels for option in re.findall(r"--[a-z][a-z-]+", label)}
    if name == "gke.sh":
        known |= set(re.findall(r"\"(--[a-z][a-z-]+)\"", program))
    assert known - told <= {"--help"}
    # examples of options of other programs
    assert told - known <= {"--list", "--index", "--network", "--internal-ip", "--mem", "--qos", "--filename"}
