"""slurm.sh and the batch script against a SLURM that is kept in a folder: requeues, failures, arrays, stopping."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tpu_scripts" / "slurm.sh"
STAND_INS = Path(__file__).parent / "stand_ins"
COMMAND = ("--", "python", "-m", "experiments.demo")


class Cluster:
    """The folder of the stand-in SLURM, a virtual environment and a checkout."""

    def __init__(self, folder):
        self.folder = folder
        self.programs, self.state, self.venv = folder / "programs", folder / "state", folder / "venv"
        for made in (self.programs, self.state / "plan", self.state / "starts", self.venv / "bin", folder / "checkout"):
            made.mkdir(parents=True)
        for name in ("sbatch", "srun", "scontrol", "squeue", "scancel"):
            program = self.programs / name
            program.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {STAND_INS / "slurm.py"} {name} "$@"\n')
            program.chmod(0o755)
        (self.venv / "bin" / "python").symlink_to(STAND_INS / "slurm_experiment.sh")

    def plan(self, *starts):
        for index, script in enumerate(starts, 1):
            (self.state / "plan" / str(index)).write_text(script)

    def call(self, *words, **environment):
        path = {"PATH": f"{self.programs}:/usr/bin:/bin", "HOME": str(self.folder), "SLURM_STATE": str(self.state)}
        return subprocess.run(
            [str(SCRIPT), *words], env={**path, **environment}, capture_output=True, text=True, timeout=30
        )

    def submit(self, *options, verb="submit", command=COMMAND):
        words = ("--venv", str(self.venv), "--checkout", str(self.folder / "checkout"))
        done = self.call(verb, *words, *options, *command)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def jobs(self):
        while True:
            with contextlib.suppress(ValueError, FileNotFoundError):  # just being written
                return json.loads((self.state / "jobs.json").read_text())

    def ended(self, job):
        """The job once it has ended."""
        self.until(lambda: self.jobs()[job]["code"] is not None)
        return self.jobs()[job]

    def starts(self, job):
        return sorted(path.name.removeprefix(f"{job}.") for path in (self.state / "starts").glob(f"{job}.*"))

    def log(self, job):
        return Path(self.jobs()[job]["output"]).read_text()

    def until(self, condition):
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.02)


@pytest.fixture
def cluster(tmp_path):
    made = Cluster(tmp_path)
    yield made
    for job in made.jobs().values() if (made.state / "jobs.json").exists() else ():
        for pid in (*job["tasks"], *([job["batch"]] if job["batch"] else [])):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_a_run_goes_on_over_several_jobs(cluster):
    """Near the end of its time every process is asked to save; the job is queued again and resumes; one log."""
    cluster.plan("until_asked near_the_end", "until_asked near_the_end", "exit 0")
    job = cluster.submit("--nodes", "2", "--gpus-per-node", "2", "--time", "4:00:00")
    ended = cluster.ended(job)
    assert (ended["state"], ended["restarts"]) == ("COMPLETED", 2)
    assert cluster.starts(job) == [f"{start}.{process}" for start in (1, 2, 3) for process in range(4)]
    assert all((cluster.state / f"saved-{process}").exists() for process in range(4))
    log = cluster.log(job)
    assert "forcing job termination" not in log
    assert [f"start {start} of process 0" in log for start in (1, 2, 3)] == [True] * 3
    assert log.count("saved; queued again") == 2


def test_what_sbatch_and_srun_are_reported(cluster):
    """One process a GPU, each of which sees all GPUs of its node; requeue, signal, one log."""
    cluster.plan("exit 0")
    job = cluster.submit("--nodes", "2", "--gpus-per-node", "4", "--partition", "big", "--sbatch-option", "--mem=9G")
    ended = cluster.ended(job)
    options = ended["options"]
    assert options["--nodes"] == "2"
    assert options["--gpus-per-node"] == options["--ntasks-per-node"] == "4"
    assert options["--signal"] == "TERM@120"
    assert options["--open-mode"] == "append"
    assert options["--partition"] == "big"
    assert options["--mem"] == "9G"
    assert options["--job-name"] == "demo"
    assert "--requeue" in options
    assert not {"--gpus-per-task", "--gpus"} & set(options)
    # a process that has saved must not cut off the saving of another
    assert ended["srun"] == {"--kill-on-bad-exit": "0", "--wait": "300", "--cpus-per-task": "4"}


@pytest.mark.parametrize("code", [1, 3, 137])
def test_a_failure_is_not_repeated(cluster, code):
    cluster.plan(f"exit {code}")
    job = cluster.submit()
    ended = cluster.ended(job)
    assert (ended["state"], ended["code"], ended["restarts"]) == ("FAILED", code, 0)
    assert f"the command ended with {code}" in cluster.log(job)


def test_requeues_are_limited(cluster):
    cluster.plan("exit 75", "exit 75", "exit 75", "exit 75")
    job = cluster.submit("--max-requeues", "2")
    ended = cluster.ended(job)
    assert (ended["state"], ended["code"], ended["restarts"]) == ("FAILED", 75, 2)
    assert "not queued again after 2 requeues" in cluster.log(job)


@pytest.mark.parametrize("how", ["stop", "cancel"])
def test_ending_a_job(cluster, how):
    """Stopping lets it save in peace; neither it nor cancelling lets it come back."""
    cluster.plan("until_asked", "exit 0")
    job = cluster.submit("--gpus-per-node", "2")
    cluster.until(lambda: len(list(cluster.state.glob("listening-*"))) == 2)
    cluster.until(lambda: len(cluster.jobs()[job]["tasks"]) == 2)
    assert cluster.call(how, job).returncode == 0
    ended = cluster.ended(job)
    assert ended["restarts"] == 0
    assert ended["state"] == ("CANCELLED" if how == "cancel" else "FAILED")
    assert (cluster.state / "saved-1").exists()
    assert "not queued again" in cluster.log(job)


def test_an_array_runs_one_trial_each(cluster):
    """Each trial gets its number, where the runner looks for it, and one process; each is continued by itself."""
    cluster.plan('if [[ "${SLURM_ARRAY_TASK_ID}" == 2 ]]; then exit 75; fi; exit 0', "exit 0")
    command = ("--", "python", "-m", "experiments.ablate", "demo", "--seeds", "3", "--", "--lr", "1e-3")
    options = ("--trials", "3", "--at-once", "2", "--gpus-per-node", "2")
    first = cluster.submit(*options, verb="array", command=command)
    trials = [str(int(first) + index) for index in range(3)]
    assert [cluster.ended(job)["state"] for job in trials] == ["COMPLETED"] * 3
    assert [cluster.jobs()[job]["restarts"] for job in trials] == [0, 1, 0]
    assert cluster.jobs()[first]["options"]["--array"] == "1-3%2"
    told = cluster.jobs()[first]["options"]
    assert (told["--ntasks-per-node"], told["--gpus-per-node"], told["--cpus-per-task"]) == ("1", "2", "8")
    for index, job in enumerate(trials, 1):
        words = (cluster.state / "starts" / f"{job}.1.0").read_text().split("\0")[:-1]
        assert words == ["-m", "experiments.ablate", "--index", str(index), *command[4:]]
    assert f"{first}_3.log" in cluster.jobs()[trials[2]]["output"]
    assert "COMPLETED" in cluster.call("status", f"{first}_3").stdout


def test_words_reach_the_experiment_as_they_were_typed(cluster):
    words = ["two  words", "it's", '"', "$HOME `id`", "\\", "*", "", "a\nb"]
    cluster.plan("exit 0")
    job = cluster.submit(command=(*COMMAND, *words))
    cluster.ended(job)
    assert (cluster.state / "starts" / f"{job}.1.0").read_text().split("\0")[:-1] == ["-m", "experiments.demo", *words]


def test_follow(cluster):
    cluster.plan("echo 'loss 0.5'; exit 0")
    job = cluster.submit()
    cluster.ended(job)
    path = {"PATH": f"{cluster.programs}:/usr/bin:/bin", "SLURM_STATE": str(cluster.state)}
    words = [str(SCRIPT), "follow", job]
    with subprocess.Popen(words, env=path, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert "loss 0.5" in [process.stdout.readline().strip() for _ in range(2)]
        os.killpg(process.pid, signal.SIGTERM)


DRY = {
    "submit": ("--venv", "/venv", "--nodes", "2", *COMMAND, "it's"),
    "array": ("--venv", "/venv", "--trials", "3", "--", "python", "-m", "experiments.ablate", "it's"),
    "status": (),
    "follow": (),
    "stop": (),
    "cancel": (),
}


@pytest.mark.parametrize("step", DRY)
def test_dry_run_calls_nothing_and_prints_all(cluster, step):
    job = () if DRY[step] else ("12_3",)
    done = cluster.call(step, *job, *DRY[step], DRY_RUN="1")
    assert done.returncode == 0, done.stderr
    printed = [shlex.split(line) for line in done.stdout.splitlines()]
    assert printed
    assert all(words[0] in ("mkdir", "sbatch", "squeue", "scontrol", "scancel", "tail") for words in printed)
    assert not (cluster.state / "lock").exists()
    if DRY[step]:
        assert printed[-1][-4:] == [*DRY[step][-4:]]


def test_usage(cluster):
    for words in ((), ("--help",), ("submit", "-h")):
        done = cluster.call(*words)
        assert done.returncode == 0
        assert "slurm.sh submit --nodes 2" in done.stdout


WRONG = [
    (("sumbit",), "there is no command sumbit"),
    (("submit", *COMMAND), "--venv is missing"),
    (("submit", "--venv", "/nowhere", *COMMAND), "no virtual environment"),
    (("submit", "--venv", "/v", "--nodes", "two", *COMMAND), "--nodes takes a whole number from 1, not 'two'"),
    (("submit", "--venv", "/v", "--trials", "2", *COMMAND), "belong to the command array"),
    (("array", "--venv", "/v", *COMMAND), "--trials is missing"),
    (("array", "--venv", "/v", "--trials", "2", *COMMAND), "trials of experiments.ablate, not experiments.demo"),
    (("array", "--venv", "/v", "--trials", "2", "--nodes", "2", *COMMAND[:3], "experiments.ablate"), "on one node"),
    (("submit", "--venv", "/v"), "python -m experiments.NAME"),
    (("submit", "--nods", "2"), "there is no option --nods"),
    (("follow",), "takes the number of a job"),
    (("stop", "demo"), "takes the number of a job"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_mistakes_are_one_sentence(cluster, words, message):
    venv = cluster.venv if "/v" in words else None
    done = cluster.call(*(str(venv) if word == "/v" else word for word in words))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (cluster.state / "lock").exists()


def test_without_slurm(cluster):
    done = cluster.call("status", "12", PATH="/usr/bin:/bin")
    assert done.returncode == 2
    assert done.stderr.startswith("error: sbatch is not installed")
