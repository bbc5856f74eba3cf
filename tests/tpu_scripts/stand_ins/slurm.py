"""Stands in for SLURM in tests: `slurm.py sbatch ...`, `srun`, `scontrol`, `squeue`, `scancel`, kept in $SLURM_STATE.

A job really runs, on this machine: sbatch starts a keeper that runs the batch script as the node would, again after
each requeue. A file `timelimit-JOB` there stands for the approaching end of the job's time. As the real one does, srun
answers a SIGTERM by killing its tasks, `scancel --signal` and `--signal` without "B:" reach the tasks only, and a
requeue is refused after Requeue=0.
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

STATE = Path(os.environ["SLURM_STATE"])


@contextlib.contextmanager
def jobs():
    """The table of jobs, locked, and written back at the end."""
    with (STATE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = STATE / "jobs.json"
        table = json.loads(path.read_text()) if path.exists() else {}
        yield table
        path.write_text(json.dumps(table))


def options_of(words):
    """Options up to the first word that is none, and the rest."""
    options, rest = {}, list(words)
    while rest and rest[0].startswith("--"):
        name, _, value = rest.pop(0).partition("=")
        options[name] = value
    return options, rest


def sbatch(words):
    options, (script, *arguments) = options_of(words)
    first, last = 0, 0
    if "--array" in options:
        first, last = map(int, options["--array"].split("%")[0].split("-"))
    with jobs() as table:
        number = 100 + len(table)
        for index in range(first, last + 1):
            job = str(number + index - first)
            spool = STATE / f"spool-{job}"
            spool.write_text(Path(script).read_text())
            pattern = options["--output"].replace("%x", options["--job-name"]).replace("%j", job)
            output = pattern.replace("%A", str(number)).replace("%a", str(index))
            table[job] = {
                "options": options, "script": str(spool), "arguments": arguments, "output": output, "state": "PENDING",
                "restarts": 0, "may_requeue": "--requeue" in options, "requeue": False, "tasks": [], "batch": 0,
                "array": [number, index] if "--array" in options else None, "code": None,
            }  # fmt: skip
            keeper = [sys.executable, "-S", "-E", __file__, "keep", job]
            nowhere = subprocess.DEVNULL
            subprocess.Popen(keeper, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)
    print(number)


def keep(words):
    (job,) = words
    while True:
        with jobs() as table:
            mine = table[job]
        options = mine["options"]
        variables = {
            "SLURM_JOB_ID": job,
            "SLURM_NTASKS": str(int(options["--nodes"]) * int(options["--ntasks-per-node"])),
            "SLURM_NTASKS_PER_NODE": options["--ntasks-per-node"],
            "SLURM_CPUS_PER_TASK": options["--cpus-per-task"],
        }
        if mine["restarts"]:
            variables["SLURM_RESTART_COUNT"] = str(mine["restarts"])
        if mine["array"]:
            variables["SLURM_ARRAY_JOB_ID"], variables["SLURM_ARRAY_TASK_ID"] = map(str, mine["array"])
        with Path(mine["output"]).open("a" if options.get("--open-mode") == "append" else "w") as log:
            batch = subprocess.Popen(
                ["bash", mine["script"], *mine["arguments"]],
                cwd=options["--chdir"], env={**os.environ, **variables}, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        with jobs() as table:
            table[job].update(state="RUNNING", batch=batch.pid)
        while batch.poll() is None:
            time.sleep(0.02)
            if (STATE / f"timelimit-{job}").exists():
                (STATE / f"timelimit-{job}").unlink()
                which = options["--signal"].split("@")[0]
                with jobs() as table:
                    targets = [batch.pid] if which.startswith("B:") else table[job]["tasks"]
                tell(targets, signal.Signals[f"SIG{which.removeprefix('B:')}"])
        with jobs() as table:
            mine = table[job]
            again = mine["requeue"]
            if again:
                mine.update(requeue=False, restarts=mine["restarts"] + 1, state="PENDING", tasks=[])
            else:
                ended = "COMPLETED" if batch.returncode == 0 else "FAILED"
                mine.update(state="CANCELLED" if mine["state"] == "CANCELLED" else ended, code=batch.returncode)
        if not again:
            return


def tell(pids, number):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def srun(words):
    options, command = options_of(words)
    job = os.environ["SLURM_JOB_ID"]
    count, each = int(os.environ["SLURM_NTASKS"]), int(os.environ["SLURM_NTASKS_PER_NODE"])
    tasks = []
    for index in range(count):
        variables = {
            "SLURM_PROCID": str(index),
            "SLURM_LOCALID": str(index % each),
            "SLURM_STEP_NODELIST": f"node[1-{count // each}]",
        }
        tasks.append(subprocess.Popen(command, env={**os.environ, **variables}))

    def kill(*_):
        print("srun: forcing job termination", file=sys.stderr)
        tell([task.pid for task in tasks], signal.SIGKILL)

    signal.signal(signal.SIGTERM, kill)
    with jobs() as table:
        table[job]["tasks"] = [task.pid for task in tasks]
        table[job]["srun"] = options
    codes = [task.wait() for task in tasks]
    sys.exit(max(128 - code if code < 0 else code for code in codes))


def find(table, name):
    """A job by its number, or a trial by ARRAY_INDEX."""
    for job, mine in table.items():
        if name == job or (mine["array"] and name == "_".join(map(str, mine["array"]))):
            return job, mine
    sys.exit(f"slurm: error: Invalid job id specified: {name}")


def scontrol(words):
    with jobs() as table:
        if words[0] == "requeue":
            _, mine = find(table, words[1])
            if not mine["may_requeue"]:
                sys.exit("Requested operation is presently disabled for job")
            mine["requeue"] = True
        elif words[:2] == ["show", "job"]:
            job, mine = find(table, words[2])
            print(f"JobId={job} JobState={mine['state']}\n   StdErr={mine['output']}\n   StdOut={mine['output']}\n")
        elif words[0] == "update":
            fields = dict(word.split("=", 1) for word in words[1:])
            find(table, fields["JobId"])[1]["may_requeue"] = fields["Requeue"] == "1"
        else:
            sys.exit(f"scontrol: error: {words}")


def squeue(words):
    options, _ = options_of(words)
    with jobs() as table:
        job, mine = find(table, options["--jobs"])
    print(job, mine["state"])


def scancel(words):
    options, (name,) = options_of(words)
    with jobs() as table:
        _, mine = find(table, name)
        if "--signal" not in options:
            mine["state"] = "CANCELLED"
    number = signal.Signals[f"SIG{options.get('--signal', 'TERM')}"]
    tell(mine["tasks"], number)
    if "--signal" not in options:
        tell([mine["batch"]], number)


if __name__ == "__main__":
    clients = (sbatch, srun, scontrol, squeue, scancel, keep)
    {client.__name__: client for client in clients}[sys.argv[1]](sys.argv[2:])
