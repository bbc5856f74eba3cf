"""tpu_pod.sh against a cloud that is kept in a folder: preemption, failures, lost connections, quoting, dry runs."""

import contextlib
import json
import os
import shlex
import shutil
import signal
import time

import pytest
from pretended_cloud import QUICK, ROOT, WHERE, Cloud, git


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A git checkout of three files."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "pyproject.toml").write_text("[project]\n")
    (folder / "removed.txt").write_text("committed\n")
    (folder / ".gitignore").write_text("/ignored\n")
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "first"]):
        git(folder, "-c", "user.name=a", "-c", "user.email=a@example.org", *words)
    return folder


@pytest.fixture
def cloud(tmp_path, checkout):
    made = Cloud(tmp_path, checkout)
    yield made
    for process in made.processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    shutil.rmtree(made.folder / "plan")  # so that what is being launched just now ends at once
    for holder in (made.folder / "machines").glob("*/*/vision-run/holder"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(holder.read_text()), signal.SIGKILL)


def test_a_run_survives_preemption(cloud):
    """Preempted midway: deleted, created again, set up, and the same command continues to its end."""
    cloud.set("queue", "ACCEPTED WAITING_FOR_RESOURCES PROVISIONING")
    cloud.plan("save 10; preempt", "save 20; exit 0")
    done = cloud.run("--spot", command=("python", "-m", "experiments.demo", "--lr", "1e-3"))
    assert done.returncode == 0, done.stderr
    assert len(cloud.calls("create", "--spot", "--node-id=demo")) == 2
    assert len(cloud.calls("delete", "--force")) == 1
    assert cloud.starts() == [["-m", "experiments.demo", "--lr", "1e-3"]] * 2
    assert {path.name for path in (cloud.folder / "bucket/runs/demo/checkpoints").iterdir()} == {"10", "20"}
    assert "taken away" in done.stderr
    assert "STILL EXISTS AND IS BILLED: demo" in done.stderr
    assert "gcloud compute tpus queued-resources delete demo --zone=us-central2-b --force --quiet" in done.stderr
    assert (cloud.folder / "bucket/logs/demo").is_dir()


def test_a_failure_on_a_healthy_machine_ends_with_its_code(cloud):
    """Exit code 3, once: nothing is created again, and the end of the log is shown."""
    cloud.plan("save 10; echo 'the loss became nan'; exit 3")
    done = cloud.run()
    assert done.returncode == 3
    assert len(cloud.calls("create")) == 1
    assert not cloud.calls("delete")
    assert len(cloud.starts()) == 1
    assert "the loss became nan" in done.stderr
    assert "error: the command failed with exit code 3 on demo-w-0" in done.stderr
    assert "STILL EXISTS AND IS BILLED" in done.stderr


def test_a_killed_command_is_a_failure(cloud):
    """One that the machine's memory killer ends, and one whose keeper is gone too."""
    cloud.plan("kill -KILL $$")
    assert cloud.run().returncode == 137
    cloud.plan("", 'kill -KILL "$(cat ~/vision-run/holder)" $$')
    done = cloud.run()
    assert done.returncode == 1
    assert len(cloud.calls("create")) == 1


def test_an_interrupted_command_is_run_again_on_the_same_machine(cloud):
    """Exit code 75 of a healthy machine."""
    cloud.plan("save 10; exit 75", "exit 0")
    done = cloud.run("--delete-on-success")
    assert done.returncode == 0, done.stderr
    assert len(cloud.calls("create")) == 1
    assert len(cloud.starts()) == 2
    assert len(cloud.calls("delete")) == 1
    assert "STILL EXISTS" not in done.stderr


@pytest.mark.parametrize("when", ["preempt", "preempt_after_exit"])
def test_a_failure_of_a_dying_machine_is_no_failure(cloud, when):
    """The command breaks since the machine is being taken away, which shows before or after its code was read."""
    cloud.set("lag", 2)
    cloud.plan(f"save 10; touch ${{CLOUD}}/{when}; exit 134", "exit 0")
    done = cloud.run()
    assert done.returncode == 0, done.stderr
    assert len(cloud.calls("create")) == 2
    assert len(cloud.starts()) == 2


def test_lost_connections_are_tried_again(cloud):
    """While the TPU exists, a failing ssh is neither a preemption nor a failure; without end it is an error."""
    cloud.plan("for i in {1..100}; do [[ -e ${CLOUD}/go ]] && exit 0; sleep 0.1; done")
    process = cloud.start(*cloud.run_words())
    cloud.until(lambda: (cloud.folder / "starts/demo-w-0.1").exists())
    cloud.set("ssh_failures", 3)
    cloud.until(lambda: (cloud.folder / "ssh_failures").read_text() == "0")
    cloud.set("go")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert err.count("the workers cannot be reached") == 3
    assert len(cloud.starts()) == 1
    assert len(cloud.calls("create")) == 1
    cloud.set("ssh_failures", 1000)
    done = cloud.run("--max-failures", "2")
    assert done.returncode == 1
    assert "3 times in a row; the TPU is ACTIVE" in done.stderr
    assert len(cloud.calls("create")) == 1
    assert "STILL EXISTS AND IS BILLED" in done.stderr


def test_restarts_without_a_checkpoint_are_limited(cloud):
    """Restarts in a row with a new checkpoint each go on; without one they end."""
    cloud.plan(*(f"save {step}; exit 75" for step in (1, 2, 3)), "exit 75")
    done = cloud.run("--max-restarts", "1")
    assert done.returncode == 1
    assert len(cloud.starts()) == 4, done.stderr
    assert "without a new checkpoint" in done.stderr


def test_words_reach_the_experiment_as_they_were_typed(cloud):
    """Through this shell, gcloud, ssh, the login shell and the worker's script."""
    words = ["--a", "two  words", "it's", '"', "$HOME `id` $(id)", "\\", "*", "", "a\nb", "-x=~", ";|&<>", "#", "ä"]
    cloud.plan("exit 0")
    done = cloud.run(command=("python", "-m", "experiments.demo", *words))
    assert done.returncode == 0, done.stderr
    assert cloud.starts() == [["-m", "experiments.demo", *words]]


def test_code_is_the_checkout_with_its_changes(cloud):
    """Uncommitted changes are carried, what git ignores is not, and the commit is known on the worker."""
    (cloud.checkout / "new file.txt").write_text("new\n")
    (cloud.checkout / "pyproject.toml").write_text("[project]\nchanged = true\n")
    (cloud.checkout / "removed.txt").unlink()
    (cloud.checkout / "ignored").write_text("large\n")
    cloud.plan("exit 0")
    assert cloud.run().returncode == 0
    code = cloud.home() / "vision"
    assert git(code, "rev-parse", "HEAD") == git(cloud.checkout, "rev-parse", "HEAD")
    assert (code / "pyproject.toml").read_text() == "[project]\nchanged = true\n"
    assert (code / "runs").is_symlink()
    changes = {line.strip() for line in git(code, "status", "--porcelain").splitlines()}
    assert changes == {"M pyproject.toml", "D removed.txt", '?? "new file.txt"', "?? runs"}
    installed = (cloud.folder / "installed").read_text()
    assert "install --yes gcsfuse" in installed
    assert "-m uv venv --quiet --seed --python 3.12" in installed
    assert "-m pip install --quiet -e .[tpu]" in installed
    mounts = (cloud.folder / "mounts").read_text()
    assert "--metadata-cache-ttl-secs=0" in mounts
    assert "--enable-streaming-writes=false" in mounts


def test_code_from_a_repository(cloud):
    """--git and --commit: the worker clones."""
    cloud.plan("exit 0")
    done = cloud.run("--git", f"file://{cloud.checkout}", "--commit", git(cloud.checkout, "rev-parse", "HEAD"))
    assert done.returncode == 0, done.stderr
    assert (cloud.home() / "vision" / "removed.txt").exists()
    assert not (cloud.home() / "checkout.tar.gz").exists()


def test_slices(cloud):
    """Two TPUs of two hosts: one request, all four workers start the same attempt; the first failure is the cause.

    One worker does not notice the failure of the others, and is ended.
    """
    cloud.set("workers", 2)
    cloud.plan("until [[ -e ${CLOUD}/failed ]]; do sleep 0.1; done; sleep 0.6; echo 'a peer is gone'; exit 134")
    cloud.plan("touch ${CLOUD}/failed; echo 'the disk is full'; exit 4", worker="demo-1-w-1")
    cloud.plan("exec sleep 60", worker="demo-0-w-1")
    done = cloud.run("--slices", "2", "--settle-seconds", "1")
    assert done.returncode == 4, done.stderr
    assert "exit code 4 on demo-1-w-1" in done.stderr
    assert "the disk is full" in done.stderr
    assert "a peer is gone" not in done.stderr
    assert len(cloud.calls("create", "--node-count=2", "--node-prefix=demo")) == 1
    attempts = {path.read_text() for path in cloud.folder.glob("machines/*/*/vision-run/attempt")}
    homes = [f"demo-{node}-w-{worker}" for node in (0, 1) for worker in (0, 1)]
    assert len(attempts) == 1
    assert [len(cloud.starts(worker)) for worker in homes] == [1, 1, 1, 1]
    assert (cloud.home("demo-0/w-1") / "vision-run/exit").read_text().startswith("143 ")


def test_a_launch_with_a_lost_response_is_not_repeated(cloud):
    """One slice has started the command when its connection breaks: the launch is repeated, the command is not."""
    cloud.set("lost_answers", 1)
    cloud.plan("sleep 0.3; exit 0")
    done = cloud.run("--slices", "2")
    assert done.returncode == 0, done.stderr
    launches = [call for call in cloud.calls("ssh") if any(" launch " in word for word in call)]
    assert len(launches) == 4
    assert [len(cloud.starts(worker)) for worker in ("demo-0-w-0", "demo-1-w-0")] == [1, 1]


def test_a_shutdown_that_asks_everybody_to_end(cloud):
    """The SIGTERM of a machine that shuts down also reaches the command's keeper, which waits for the code."""
    cloud.plan(
        "trap 'sleep 0.3; save 3; exit 75' TERM; touch ${CLOUD}/ready; while true; do sleep 0.05; done", "exit 0"
    )
    process = cloud.start(*cloud.run_words())
    cloud.until(lambda: (cloud.folder / "ready").exists())
    os.killpg(int((cloud.home() / "vision-run/holder").read_text()), signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "interrupted and has saved" in err
    assert len(cloud.starts()) == 2


def test_control_c_says_what_exists_and_the_command_goes_on(cloud):
    """After it, the same call watches the same command; nothing is started twice."""
    cloud.plan("save 1; touch ${CLOUD}/saved; until_asked 5")
    process = cloud.start(*cloud.run_words("--poll-seconds", "0"))
    cloud.until(lambda: (cloud.folder / "saved").exists())
    while "newest checkpoint" not in process.stderr.readline():
        pass
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "STILL EXISTS AND IS BILLED: demo" in err
    assert "goes on running" in err
    assert "delete demo --zone=us-central2-b --force --quiet" in err
    assert not cloud.calls("delete")

    other = cloud.run(command=("python", "-m", "experiments.demo", "--other"))
    assert other.returncode == 1
    assert "runs another command" in other.stderr

    again = cloud.start(*cloud.run_words())
    cloud.until(lambda: len(cloud.calls("ssh")) >= 6)
    stopped = cloud.call("stop", *WHERE)
    assert stopped.returncode == 0, stopped.stderr
    _, err = again.communicate(timeout=30)
    assert again.returncode == 75
    assert "watching it" in err
    assert "stopped as asked" in err
    assert len(cloud.starts()) == 1
    assert (cloud.folder / "bucket/runs/demo/checkpoints/5").exists()


def test_control_c_in_the_queue(cloud):
    """A request that waits would be granted and billed later: it is named, or deleted when that was requested."""
    cloud.set("queue", "WAITING_FOR_RESOURCES " * 50)
    for option, poll, remains in (("--spot", "60", True), ("--delete-on-exit", "1", False)):
        process = cloud.start(*cloud.run_words(option, "--poll-seconds", poll))
        count = len(cloud.calls("queued-resources", "describe"))
        cloud.until(lambda count=count: len(cloud.calls("queued-resources", "describe")) > count)
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130
        assert ("if it is granted it is billed" in err) == remains
        assert ("demo" in json.loads((cloud.folder / "requests.json").read_text())) == remains


@pytest.mark.parametrize("how", ["delete", "suspend"])
def test_a_tpu_deleted_by_hand_is_not_created_again(cloud, how):
    """What a user does looks like a preemption, but for the initiator that the cloud names."""
    cloud.plan("until_asked 1")
    process = cloud.start(*cloud.run_words())
    cloud.until(lambda: (cloud.folder / "starts/demo-w-0.1").exists())
    if how == "delete":
        assert cloud.call("delete", *WHERE, "--poll-seconds", "0").returncode == 0
    else:
        cloud.set("suspend")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "deleted by somebody else" in err
    assert len(cloud.calls("create")) == 1


def test_a_restarted_host_runs_the_command_again(cloud):
    """The boot id is another one: the process died with the host, and the mount with it."""
    cloud.plan("until_asked 1", "exit 0")
    process = cloud.start(*cloud.run_words())
    cloud.until(
        lambda: (cloud.folder / "starts/demo-w-0.1").exists() and (cloud.home() / "vision-run/attempt").exists()
    )
    home = cloud.home()
    (home / "vision-run/boot").write_text("another\n")
    os.killpg(int((home / "vision-run/holder").read_text()), signal.SIGKILL)
    (home / "bucket").unlink()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "was restarted" in err
    assert len(cloud.calls("create")) == 1
    assert len(cloud.starts()) == 2


def test_a_failed_request_is_not_repeated(cloud):
    """The cloud's messages are passed on; the failed request is named, since it must be deleted."""
    cloud.set("queue", "ACCEPTED FAILED")
    done = cloud.run()
    assert done.returncode == 1
    assert "no capacity" in done.stderr
    assert len(cloud.calls("create")) == 1
    assert "STILL LISTED, AS FAILED: demo" in done.stderr


def test_setting_up_that_fails_is_an_error(cloud):
    """On a machine that is there, three times in a row; but not for lost connections."""
    cloud.set("scp_failures", 5)
    done = cloud.run("--git", f"file://{cloud.folder}/nowhere", "--commit", "abc")
    assert done.returncode == 1
    assert "could not be set up or started" in done.stderr
    assert "nowhere" in done.stderr, done.stderr
    assert done.stderr.count("return code [255]") == 5


def test_single_steps(cloud, tmp_path):
    """create, setup, launch, status, fetch, delete, each by itself."""
    cloud.plan("save 7; echo hello > runs/demo/report.html; exit 0")
    bucket = ("--bucket", "results")
    steps = (
        ("create", *WHERE, "--type", "v4-8", *QUICK),
        ("setup", *WHERE, *bucket, "--checkout", str(cloud.checkout)),
        ("launch", *WHERE, *bucket, "--", "python", "-m", "experiments.demo"),
    )
    for words in steps:
        done = cloud.call(*words)
        assert done.returncode == 0, done.stderr
    cloud.until(lambda: (cloud.home() / "vision-run/exit").exists())
    shown = cloud.call("status", *WHERE).stdout
    assert "demo: ACTIVE" in shown
    assert "demo-w-0: exited, exit code 0, newest checkpoint 7" in shown
    assert cloud.call("fetch", *bucket, "--to", str(tmp_path / "here")).returncode == 0
    assert (tmp_path / "here/demo/report.html").read_text() == "hello\n"
    assert cloud.call("delete", *WHERE, "--poll-seconds", "0").returncode == 0
    assert "ABSENT" in cloud.call("status", *WHERE).stdout


DRY = {
    "create": ("--type", "v5litepod-8", "--reserved", "--slices", "2"),
    "setup": ("--bucket", "results"),
    "launch": ("--bucket", "results", "--", "python", "-m", "experiments.demo", "it's"),
    "status": (),
    "follow": (),
    "stop": (),
    "delete": (),
    "fetch": ("--bucket", "results", "--without-checkpoints"),
    "run": ("--type", "v4-8", "--bucket", "results", "--", "python", "-m", "experiments.demo", "it's"),
}


@pytest.mark.parametrize("step", DRY)
def test_dry_run_calls_nothing_and_prints_all(cloud, step):
    """Every line is a comment or a command that a shell reads back."""
    before = sorted(cloud.folder.parent.rglob("*"))
    done = cloud.call(step, *WHERE, *DRY[step], DRY_RUN="1")
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert not cloud.calls()
    assert sorted(cloud.folder.parent.rglob("*")) == before
    printed = [shlex.split(line) for line in done.stdout.splitlines() if not line.startswith("#")]
    assert printed
    assert all(words[0] in ("gcloud", "git", "tar", "mkdir") for words in printed)
    if step in ("launch", "run"):
        remote = [
            word for words in printed for word in words if word.startswith("--command=bash tpu_vm_worker.sh launch")
        ]
        assert shlex.split(remote[0])[-4:] == ["python", "-m", "experiments.demo", "it's"]


def test_usage(cloud):
    for words in ((), ("-h",), ("run", "--help")):
        done = cloud.call(*words)
        assert done.returncode == 0
        assert "tpu_pod.sh run --name NAME" in done.stdout
        assert "shellcheck" not in done.stdout


WRONG = [
    (("rnu",), "there is no command rnu"),
    (("create", *WHERE), "--type is missing"),
    (("create", *WHERE, "--type", "v4"), "accelerator type such as v4-8"),
    (("create", *WHERE, "--type", "v5e-8"), "v5litepod-8"),
    (("create", *WHERE, "--type", "v9-8"), "--runtime-version"),
    (("create", "--name", "Demo", "--zone", "us-central2-b", "--type", "v4-8"), "--name takes"),
    (("create", "--name", "demo", "--zone", "us-central2", "--type", "v4-8"), "--zone takes"),
    (("create", *WHERE, "--type", "v4-8", "--spot", "--reserved"), "exclude each other"),
    (("create", *WHERE, "--type", "v4-8", "--slices", "0"), "--slices takes a whole number from 1"),
    (("create", *WHERE, "--tpye", "v4-8"), "there is no option --tpye"),
    (("create", *WHERE, "--type"), "--type needs a value"),
    (("status", *WHERE, "more"), "comes after --"),
    (("status", *WHERE, "--", "python"), "takes no command"),
    (("launch", *WHERE, "--bucket", "gs://results", "--", "python", "-m", "a"), "without gs://"),
    (("launch", *WHERE, "--bucket", "results"), "python -m experiments.NAME"),
    (("launch", *WHERE, "--bucket", "results", "--", "ls"), "python -m experiments.NAME"),
    (("setup", *WHERE, "--bucket", "results", "--git", "https://x"), "--commit is missing"),
    (("setup", *WHERE, "--bucket", "results", "--checkout", "/nowhere"), "no git checkout"),
    (("fetch",), "--bucket is missing"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_mistakes_are_one_sentence(cloud, words, message):
    done = cloud.call(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not cloud.calls()


def test_mistakes_that_the_cloud_tells(cloud):
    """A type that the zone has not, a bucket without folders, and no gcloud."""
    done = cloud.call("create", *WHERE, "--type", "v4-4096", *QUICK)
    assert done.returncode == 1
    assert "INVALID_ARGUMENT" in done.stderr
    assert "accelerator-types list --zone=us-central2-b" in done.stderr
    assert "STILL" not in done.stderr
    cloud.set("flat")
    done = cloud.run()
    assert done.returncode == 1
    assert "hierarchical namespace" in done.stderr
    assert len(cloud.calls("create")) == 1
    (cloud.programs / "gcloud").unlink()
    (cloud.programs / "bash").symlink_to("/bin/bash")
    for program in ("dirname", "sed"):
        (cloud.programs / program).symlink_to(f"/usr/bin/{program}")
    done = cloud.call("status", *WHERE, PATH=str(cloud.programs))
    assert done.returncode == 2
    assert done.stderr.startswith("error: gcloud is not installed")


def test_progress_is_read_from_the_line_that_a_run_prints():
    """tpu_vm_worker.sh finds the run directory, and so the newest checkpoint, by this line of the log."""
    assert '(f"{name} in {folder}"' in (ROOT / "vision/launch/fit.py").read_text()
