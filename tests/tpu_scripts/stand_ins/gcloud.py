"""Stands in for gcloud in tests: keeps a cloud in the folder $CLOUD, and runs "remote" commands in a folder per worker.

The test steers it by files in $CLOUD: `workers` (how many a TPU has), `queue` (states before ACTIVE), `preempt` (take
all TPUs away at the next call), `preempt_after_exit` (once an exit code was read), `suspend` (a user does it, at the
next call of ssh), `lag` (this many descriptions still have ACTIVE), `ssh_failures` and `scp_failures` (this many calls
fail as on a lost connection), `lost_answers` (this many launches are carried out, and the connection is lost then),
`flat` (the bucket has no folders). Every call is a line of `calls`.
"""
# pathlib, subprocess and shutil take longer to import than a call takes, and a test makes dozens of calls.
# ruff: noqa: PTH100, PTH103, PTH104, PTH107, PTH110, PTH120, PTH123, PTH211

import fcntl
import json
import os
import sys

CLOUD = os.environ["CLOUD"]
TYPES = ("v4-8", "v4-16", "v5litepod-8")
CREATE = {
    "--zone", "--project", "--accelerator-type", "--runtime-version", "--node-id", "--node-count", "--node-prefix",
    "--spot", "--reserved", "--async", "--quiet", "--network",
}  # fmt: skip


def stop(text, code=1):
    print(f"ERROR: (gcloud) {text}", file=sys.stderr)
    sys.exit(code)


def read(name, default):
    """The content of a file in the cloud's folder."""
    if not os.path.exists(f"{CLOUD}/{name}"):
        return default
    with open(f"{CLOUD}/{name}") as file:
        return file.read()


def write(name, text):
    with open(f"{CLOUD}/{name}", "w") as file:
        file.write(text)


def count_down(name):
    left = int(read(name, "0"))
    if left > 0:
        write(name, str(left - 1))
    return left > 0


def worker_folder(node, index):
    return f"{CLOUD}/machines/{node}/w-{index}"


def take_away(requests, initiator="SERVICE"):
    """Preemption: processes die at once, disks are gone, the request is suspended a little later."""
    for request in requests.values():
        if request["state"] == "ACTIVE":
            for node in request["nodes"]:
                wipe(node)
                request["nodes"][node] = "PREEMPTED"
            request.update(state="SUSPENDING", initiator=initiator)


def wipe(node):
    import contextlib
    import shutil
    import signal

    for worker in workers():
        holder = read(f"machines/{node}/w-{worker}/vision-run/holder", "")
        if holder:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(holder), signal.SIGKILL)
    shutil.rmtree(f"{CLOUD}/machines/{node}", ignore_errors=True)


def queued_resources(verb, words, flags, requests):
    name = words[0]
    if verb == "create":
        if set(flags) - CREATE:
            stop(f"unrecognized arguments: {set(flags) - CREATE}", 2)
        if not {"--zone", "--accelerator-type", "--runtime-version"} <= set(flags):
            stop("argument missing", 2)
        if ("--node-id" in flags) == ("--node-count" in flags):
            stop("exactly one of --node-id, --node-count", 2)
        if flags["--accelerator-type"] not in TYPES:
            stop(f"INVALID_ARGUMENT: accelerator type {flags['--accelerator-type']} is not known")
        if name in requests:
            stop(f"ALREADY_EXISTS: {name}")
        if "--node-id" in flags:
            nodes = [flags["--node-id"]]
        else:
            nodes = [f"{flags.get('--node-prefix', name)}-{i}" for i in range(int(flags["--node-count"]))]
        queue = read("queue", "ACCEPTED").split()
        requests[name] = {"state": queue[0], "queue": queue[1:], "nodes": dict.fromkeys(nodes, "CREATING")}
        return
    if name not in requests:
        stop(f"NOT_FOUND: Resource 'queuedResources/{name}' was not found")
    request = requests[name]
    if verb == "delete":
        if "--force" not in flags and request["state"] == "ACTIVE":
            stop("FAILED_PRECONDITION: nodes exist")
        for node in request["nodes"]:
            wipe(node)
        request.update(state="DELETING", initiator="USER", nodes={})
    elif verb == "describe":
        if request["state"] == "SUSPENDING" and count_down("lag"):
            print("ACTIVE\tSERVICE")
            return
        short = flags["--format"] == "value(state.state,state.stateInitiator)"
        by = request.get("initiator", "SERVICE")
        print(f"{request['state']}\t{by}" if short else f"state={request['state']};no capacity")
        if request["state"] == "DELETING":
            del requests[name]
            return
        if request["state"] == "SUSPENDING":
            request["state"] = "SUSPENDED"
        elif request["state"] not in ("ACTIVE", "SUSPENDED", "FAILED"):
            request["state"] = request["queue"].pop(0) if request["queue"] else "ACTIVE"
            if request["state"] == "ACTIVE":
                for node in request["nodes"]:
                    request["nodes"][node] = "READY"
                    for index in workers():
                        new_worker(node, index)
    else:
        stop(f"invalid choice: {verb}", 2)


def new_worker(node, index):
    """A home folder, and the programs that such a machine has."""
    home = worker_folder(node, index)
    os.makedirs(f"{home}/bin")
    here = os.path.dirname(os.path.abspath(__file__))
    for program in ("sudo", "apt-get", "curl", "lsb_release", "mountpoint", "tee", "hostname", "python3"):
        os.symlink(f"{here}/tpu_worker_program.sh", f"{home}/bin/{program}")


def on_worker(node, index, command):
    import contextlib
    import signal
    import subprocess

    home = worker_folder(node, index)
    ended = os.path.exists(f"{home}/vision-run/exit")
    environment = {
        "HOME": home,
        "PATH": f"{home}/bin:/usr/bin:/bin",
        "CLOUD": CLOUD,
        "WORKER": f"{node}-w-{index}",
    }
    # gcloud splits at spaces and ssh joins again, and then the login shell reads the line
    line = " ".join(command.split(" "))
    words = ["bash", "-c", line]
    shell = subprocess.Popen(words, cwd=home, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
    code = shell.wait()
    # the connection ends, and with it all that belongs to it
    with contextlib.suppress(ProcessLookupError):
        os.killpg(shell.pid, signal.SIGHUP)
    if ended and os.path.exists(f"{CLOUD}/preempt_after_exit"):
        os.rename(f"{CLOUD}/preempt_after_exit", f"{CLOUD}/preempt")
    return code


def workers():
    return range(int(read("workers", "1")))


def workers_of(flags):
    return workers() if flags.get("--worker", "0") == "all" else [int(flags.get("--worker", "0"))]


def tpu_vm(verb, words, flags, requests):
    """Returns what to do once the lock is given back."""
    node = (words[-1] if verb == "scp" else words[0]).rstrip(":")
    states = {node: state for request in requests.values() for node, state in request["nodes"].items()}
    if node not in states:
        stop(f"NOT_FOUND: Resource 'nodes/{node}' was not found")
    if verb == "describe":
        print(f"{states[node]}\tHEALTHY")
        return None
    if states[node] != "READY":
        stop(f"TPU is in state {states[node]}")
    if count_down("ssh_failures"):
        stop("[/usr/bin/ssh] exited with return code [255].", 255)
    if verb == "scp":
        if count_down("scp_failures"):
            stop("[/usr/bin/scp] exited with return code [255].", 255)
        import shutil

        for index in workers_of(flags):
            for source in words[:-1]:
                shutil.copy(source, worker_folder(node, index))
        return None
    lost = " launch " in flags["--command"] and count_down("lost_answers")

    def run():
        codes = [on_worker(node, index, flags["--command"]) for index in workers_of(flags)]
        return 255 if lost else next((code for code in codes if code), 0)

    return run


def main(arguments):
    with open(f"{CLOUD}/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(f"{CLOUD}/calls", "a") as file:
            file.write(json.dumps(arguments) + "\n")
        words = [word for word in arguments if not word.startswith("-")]
        flags = dict(word.split("=", 1) if "=" in word else (word, "") for word in arguments if word.startswith("-"))
        requests = json.loads(read("requests.json", "{}"))
        for name, initiator in (("preempt", "SERVICE"), ("suspend", "USER")):
            if os.path.exists(f"{CLOUD}/{name}") and (name == "preempt" or "ssh" in words):
                os.remove(f"{CLOUD}/{name}")
                take_away(requests, initiator)
                write("requests.json", json.dumps(requests))
        later = None
        if words[:3] == ["compute", "tpus", "queued-resources"]:
            queued_resources(words[3], words[4:], flags, requests)
        elif words[:3] == ["compute", "tpus", "tpu-vm"]:
            later = tpu_vm(words[3], words[4:], flags, requests)
        elif words[:3] == ["storage", "buckets", "describe"]:
            print("" if os.path.exists(f"{CLOUD}/flat") else "True")
        elif words[:2] == ["storage", "rsync"]:
            import shutil

            shutil.copytree(f"{CLOUD}/bucket/{words[2].split('/', 3)[3]}", words[3], dirs_exist_ok=True)
        else:
            stop(f"Invalid choice: {words}", 2)
        write("requests.json", json.dumps(requests))
    return later() if later else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
