"""A cloud that is kept in a folder, for tests of tpu_pod.sh: a gcloud that is a program here, and what it was asked."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tpu_scripts" / "tpu_pod.sh"
STAND_INS = Path(__file__).parent / "stand_ins"
WHERE = ("--name", "demo", "--zone", "us-central2-b")
QUICK = ("--poll-seconds", "0", "--settle-seconds", "0")


def git(folder, *words):
    done = subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True, text=True)
    return done.stdout.strip("\n")


class Cloud:
    """The folder of the stand-in gcloud, and a checkout to put on its machines."""

    def __init__(self, folder, checkout):
        self.processes = []
        self.folder = folder / "cloud"
        self.programs = folder / "programs"
        self.checkout = folder / "checkout"
        shutil.copytree(checkout, self.checkout)
        for made in (self.folder / "plan", self.programs):
            made.mkdir(parents=True)
        gcloud = self.programs / "gcloud"
        gcloud.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {STAND_INS / "gcloud.py"} "$@"\n')
        gcloud.chmod(0o755)

    def plan(self, *starts, worker=None):
        """What the stand-in experiment does at its first, second, ... start (on one worker)."""
        for index, script in enumerate(starts, 1):
            (self.folder / "plan" / (f"{index}-{worker}" if worker else str(index))).write_text(script)

    def set(self, name, value=""):
        (self.folder / name).write_text(str(value))

    def start(self, *words, **environment):
        # of the machine's programs none but the shell's own; and a gcloud of the machine is never called
        path = {"PATH": f"{self.programs}:/usr/bin:/bin", "HOME": str(self.folder), "CLOUD": str(self.folder)}
        path["TMPDIR"] = str(self.folder.parent)
        process = subprocess.Popen(
            [str(SCRIPT), *words],
            env={**path, **environment},
            cwd=self.folder.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def call(self, *words, **environment):
        process = self.start(*words, **environment)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def run_words(self, *options, command=("python", "-m", "experiments.demo")):
        wanted = ("--type", "v4-8", "--bucket", "results", "--checkout", str(self.checkout))
        return ("run", *WHERE, *wanted, *QUICK, *options, "--", *command)

    def run(self, *options, command=("python", "-m", "experiments.demo")):
        return self.call(*self.run_words(*options, command=command))

    def calls(self, *words):
        """Calls of gcloud that contain all of ``words``."""
        path = self.folder / "calls"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in lines if set(words) <= set(line)]

    def starts(self, worker="demo-w-0"):
        """The arguments of each start of the experiment on a worker."""
        files = sorted((self.folder / "starts").glob(f"{worker}.*"), key=lambda path: int(path.suffix[1:]))
        return [path.read_text().split("\0")[:-1] for path in files]

    def home(self, worker="demo/w-0"):
        return self.folder / "machines" / worker

    def until(self, condition):
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.02)
