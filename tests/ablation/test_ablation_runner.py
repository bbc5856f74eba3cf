"""Trials in separate processes that finish, fail, are killed or hang, under one runner or several."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vision.ablation import claims, outcomes, study
from vision.ablation.devices import Share
from vision.ablation.narration import Narrator
from vision.ablation.plan import plan, read_axis
from vision.ablation.runner import DONE, FAILED, KILLED, UNFINISHED, Runner
from vision.ablation.study import Study, divided, trials

SECONDS = 60  # far more than anything here takes


@pytest.fixture
def prepared(recipe, here):
    """A study in ``study/``: gives its trials."""

    def make(vary=(), arguments=(), seeds=1, vectorized=False):
        axes = [read_axis(field, text, option="--vary") for field, text in vary]
        points, _ = plan(recipe, arguments, vary=axes)
        kept = Study(
            experiment="tiny",
            module="standins.tiny",
            arguments=tuple(arguments),
            points=points,
            programs=divided(range(seeds), vectorized=vectorized),
        )
        (here / "study").mkdir(exist_ok=True)
        study.write(here / "study", kept)
        return trials(kept, [point.name for point in points], kept.seeds)

    return make


@pytest.fixture
def run(here, monkeypatch):
    """Run trials; returns (exit code, messages)."""
    monkeypatch.setattr("vision.ablation.runner._RESUME_AFTER", 0.05)

    def call(listed, *, parallel=1, retry_failed=False, stale=30.0, shares=None, report=lambda tend: None):
        said = io.StringIO()
        runner = Runner(
            listed,
            Path("study"),
            shares=shares or [Share()] * parallel,
            stale=stale,
            retry_failed=retry_failed,
            report=report,
            narrator=Narrator(said),
            poll=0.02,
        )
        return runner.run(), said.getvalue()

    return call


def workdir(trial):
    return trial.workdir(Path("study"))


def outcome(trial):
    return outcomes.read(trial.beside(Path("study"), ".json"))


def starts(trial):
    path = workdir(trial) / "starts"
    return path.read_text().splitlines() if path.exists() else []


def steps(trial):
    return list(map(int, (workdir(trial) / "steps").read_text().split()))


def violations():
    return list(Path("study").rglob("*.twice"))


def when(condition, action):
    """Do something from another thread as soon as a condition holds."""

    def wait():
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            if condition():
                action()
                return
            time.sleep(0.01)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_all_trials_run_once(prepared, run):
    listed = prepared(vary=[("model.width", "8")], seeds=2)
    code, said = run(listed)
    assert code == DONE
    assert [steps(trial) for trial in listed] == [[1, 2, 3, 4]] * 4
    assert [outcome(trial).ending for trial in listed] == ["finished"] * 4
    assert "trial 1 of 4 (baseline, seed 0): started" in said
    assert "trial 4 of 4 (model.width=8, seed 1): finished in " in said
    assert "3 of 4 done, about " in said
    assert said.endswith("4 of 4 trials finished\n")
    config = json.loads((workdir(listed[3]) / "config.json").read_text())["config"]
    assert (config["model"]["width"], config["seed"]) == (8, 1)
    assert "tiny from step 0 of 4" in listed[0].beside(Path("study"), ".log").read_text()
    # and a second time nothing is started
    code, said = run(listed)
    assert code == DONE
    assert [len(starts(trial)) for trial in listed] == [1] * 4
    assert "4 trials, 4 of them done before" in said


def test_what_was_killed_or_stopped_is_resumed(prepared, run):
    listed = prepared(vary=[("behave", "killed:1,stopped:2")])
    code, said = run(listed)
    assert code == DONE
    assert [len(starts(trial)) for trial in listed] == [1, 2, 3]
    assert [steps(trial) for trial in listed] == [[1, 2, 3, 4]] * 3  # no step was taken twice
    assert "killed by SIGKILL" in said
    assert "resumed after 10 images" in said
    assert [outcome(trial).starts for trial in listed] == [1, 2, 3]


def test_what_is_killed_again_and_again_fails(prepared, run):
    listed = prepared(vary=[("behave", "killed")])
    code, said = run(listed)
    assert code == FAILED
    assert len(starts(listed[1])) == outcomes.STUCK
    assert outcome(listed[1]).ending == "failed"
    assert "killed by SIGKILL, 3 times at the same place (out of memory?)" in said
    assert outcome(listed[0]).ending == "finished"


@pytest.mark.parametrize(
    ("behave", "code", "reason"),
    [
        ("nan", 3, "exit 3: error: loss became nan in step 2"),
        ("raise", 1, "exit 1: RuntimeError: a bug of its own"),
        ("segfault", -signal.SIGSEGV, "killed by SIGSEGV: "),
        ("short", 0, "seed 0 has no evaluation after 40 images"),
    ],
)
def test_failures_of_its_own_are_kept_and_the_others_go_on(prepared, run, behave, code, reason):
    listed = prepared(vary=[("behave", behave), ("model.width", "8")])
    exit_code, said = run(listed)
    assert exit_code == FAILED
    found = outcome(listed[1])
    assert (found.ending, found.code, found.starts) == ("failed", code, 1)
    assert found.reason.startswith(reason)
    assert found.tail
    assert f"failed: {reason}" in said
    assert [outcome(trial).ending for trial in (listed[0], listed[2])] == ["finished"] * 2
    assert "2 of 3 trials finished, 1 failed" in said
    # the same command does not try again, unless requested; then once
    assert run(listed)[0] == FAILED
    assert len(starts(listed[1])) == 1
    assert run(listed, retry_failed=True)[0] == FAILED
    assert len(starts(listed[1])) == 2
    assert [len(starts(trial)) for trial in (listed[0], listed[2])] == [1, 1]


def test_a_past_failure_is_recovered(prepared, run):
    listed = prepared(vary=[("behave", "raise:1")])
    assert run(listed)[0] == FAILED
    code, said = run(listed, retry_failed=True)
    assert code == DONE
    assert "tried again" in said
    assert outcome(listed[1]).tail == ()


def test_a_work_directory_of_another_configuration_is_no_result(prepared, run):
    listed = prepared()
    run(listed)
    path = workdir(listed[0]) / "config.json"
    path.write_text(path.read_text().replace('"rate": 0.1', '"rate": 0.2'))
    assert outcomes.problem_of(listed[0], Path("study"), 0) == "it was trained with rate = 0.2, and the point has 0.1"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_runner_lets_its_trials_save(prepared, run, number):
    listed = prepared(vary=[("model.width", "8,12")], arguments=("--pause", "0.3"))
    before = signal.getsignal(number)
    when(
        lambda: len(starts(listed[1])) == 1 and (workdir(listed[1]) / "steps").exists(),
        lambda: os.kill(os.getpid(), number),
    )
    code, said = run(listed, parallel=2)
    assert code == UNFINISHED
    assert signal.getsignal(number) == before
    assert "trial 2 of 3 (model.width=8, seed 0): asked to save and stop" in said
    assert "trial 2 of 3 (model.width=8, seed 0): stopped and saved" in said
    assert "to go" in said
    assert outcome(listed[1]).ending == "interrupted"
    assert outcome(listed[1]).stuck == 0
    assert not starts(listed[2])
    # nobody holds anything, and the same command goes on where it was
    assert all(claims.holder(Path("study/claims"), trial.unit, stale=30) is None for trial in listed)
    code, said = run(listed, parallel=2)
    assert code == DONE
    assert [steps(trial) for trial in listed] == [[1, 2, 3, 4]] * 3


def test_ctrl_c_twice_does_not_wait(prepared, run):
    listed = prepared(arguments=("--behave", "hang"))
    press = lambda: os.kill(os.getpid(), signal.SIGINT)
    first = when(lambda: (workdir(listed[0]) / "hangs").exists(), press)
    when(lambda: not first.is_alive(), lambda: (time.sleep(0.3), press()))
    started = time.monotonic()
    code, said = run(listed)
    assert code == KILLED
    assert time.monotonic() - started < 20
    assert "killed by SIGKILL" in said
    assert outcome(listed[0]).ending == "interrupted"


def test_several_at_a_time_on_separate_cores(prepared, run):
    cores = sorted(os.sched_getaffinity(0))
    shares = [Share(cores=(cores[0],)), Share(cores=(cores[-1],), environment={"CUDA_VISIBLE_DEVICES": "5"})]
    listed = prepared(vary=[("model.width", "8,12,16")], arguments=("--pause", "0.15"))
    started = []
    when(lambda: sum(bool(starts(t)) and outcome(t) is None for t in listed) == 2, lambda: started.append(2))
    assert run(listed, shares=shares)[0] == DONE
    assert started == [2]  # two at the same time
    used = {start.split(" ", 1)[1] for trial in listed for start in starts(trial)}
    assert used == {f"[{cores[0]}] None", f"[{cores[-1]}] 5"}
    assert not violations()


def test_seeds_that_are_one_program(prepared, run):
    listed = prepared(vary=[("model.width", "8")], seeds=3, vectorized=True)
    assert [trial.title for trial in listed] == ["baseline, seeds 0-2", "model.width=8, seeds 0-2"]
    assert run(listed)[0] == DONE
    for trial in listed:
        assert steps(trial) == [1, 2, 3, 4]
        for seed in range(3):
            lines = outcomes.metrics(trial.replica(Path("study"), seed))
            assert outcomes.final_numbers(lines, 40).keys() == {"score", "error"}


def test_a_trial_of_somebody_else_is_kept(prepared, run):
    """Its owner shows life, so that this runner has nothing to wait for."""
    listed = prepared(vary=[("model.width", "8")])
    held = claims.acquire(Path("study/claims"), listed[0].unit, stale=30)
    beating = threading.Event()

    def beat():
        while not beating.wait(0.05):
            claims.renew(held)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        code, said = run(listed)
    finally:
        beating.set()
        thread.join()
    assert code == UNFINISHED
    assert "1 of 2 trials finished, 1 running elsewhere" in said
    assert not starts(listed[0])
    claims.release(held)
    assert run(listed)[0] == DONE


def test_a_silent_owner_is_replaced(prepared, run, monkeypatch):
    listed = prepared()
    elsewhere = claims.Owner("node17", 4711, "another boot", 5)
    with monkeypatch.context() as patched:
        patched.setattr(claims, "this_process", lambda: elsewhere)
        claims.acquire(Path("study/claims"), listed[0].unit, stale=1)
    started = time.monotonic()
    assert run(listed, stale=1.0)[0] == DONE
    assert time.monotonic() - started > 0.5  # it waited
    assert len(starts(listed[0])) == 1


def test_a_runner_that_lost_its_claim_stops_the_trial_and_writes_nothing(prepared, run, here):
    listed = prepared(arguments=("--behave", "hang:1"))
    unit = listed[0].unit

    def take_over():
        mine = here / "study" / "claims" / f"{unit}.000000"
        mine.with_name(mine.name.replace("000000", "000001")).write_text(json.dumps({"host": "node17", "pid": 1}))

    when(lambda: (workdir(listed[0]) / "hangs").exists(), take_over)
    when(
        lambda: not _alive(int(starts(listed[0])[0].split()[0])) if starts(listed[0]) else False,
        lambda: os.utime(here / "study" / "claims" / f"{unit}.000001", (0, 0)),
    )
    code, said = run(listed, stale=1.0)
    assert "taken over by another runner" in said
    # afterwards the other one gave it back, and this one went on
    assert code == DONE
    assert outcome(listed[0]).starts == 1
    assert len(starts(listed[0])) == 2


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


RUNNER = """
import sys
from pathlib import Path
from vision.ablation import study
from vision.ablation.devices import Share
from vision.ablation.narration import Narrator
from vision.ablation.runner import Runner
kept = study.read(Path("study"))
listed = study.trials(kept, [point.name for point in kept.points], kept.seeds)
runner = Runner(listed, Path("study"), shares=[Share()], stale=30.0, retry_failed=False,
                report=lambda tend: None, narrator=Narrator(), poll=0.02)
sys.exit(runner.run())
"""


def another_runner():
    return subprocess.Popen([sys.executable, "-c", RUNNER], stderr=subprocess.PIPE, text=True)


def test_runners_that_share_a_directory_share_the_work(prepared, here):
    listed = prepared(vary=[("model.width", "8,12,16,20")], arguments=("--pause", "0.03"), seeds=2)
    runners = [another_runner() for _ in range(3)]
    said = [runner.communicate(timeout=SECONDS)[1] for runner in runners]
    assert all(runner.returncode in (DONE, UNFINISHED) for runner in runners), said
    assert [steps(trial) for trial in listed] == [[1, 2, 3, 4]] * 10
    assert [len(starts(trial)) for trial in listed] == [1] * 10
    assert not violations()
    # more than one took part
    assert sum("started" in text for text in said) > 1


def test_a_runner_that_is_killed_takes_its_trial_along(prepared, run, here):
    """The kernel stops the trial, which saves; the next runner needs not wait for the claim."""
    listed = prepared(arguments=("--pause", "0.2"))
    first = another_runner()
    until = time.monotonic() + SECONDS
    while not (workdir(listed[0]) / "steps").exists() and time.monotonic() < until:
        time.sleep(0.01)
    first.kill()
    first.communicate()
    pid = int(starts(listed[0])[0].split()[0])
    while _alive(pid) and time.monotonic() < until:
        time.sleep(0.01)
    assert steps(listed[0]) != [1, 2, 3, 4]
    assert outcome(listed[0]) is None
    started = time.monotonic()
    code, said = run(listed, stale=1000.0)
    assert code == DONE, said
    assert time.monotonic() - started < 30
    assert "resumed after" in said
    assert steps(listed[0]) == [1, 2, 3, 4]
    assert not violations()


def test_the_report_is_renewed_meanwhile_and_at_the_end(prepared, run):
    listed = prepared(vary=[("model.width", "8")])
    seen = []

    def report(tend):
        tend()
        seen.append(sum(outcome(trial) is not None for trial in listed))

    assert run(listed, report=report)[0] == DONE
    assert seen[0] in (1, 2)
    assert seen[-1] == 2
    assert len(seen) >= 2


def test_an_error_of_the_runner_leaves_nothing_running(prepared, run):
    listed = prepared(vary=[("behave", "hang")])

    def report(tend):
        raise RuntimeError("no disk")

    with pytest.raises(RuntimeError, match="no disk"):
        run(list(reversed(listed)), report=report, parallel=2)
    pid = int(starts(listed[1])[0].split()[0]) if starts(listed[1]) else None
    assert pid is None or not _alive(pid)
    assert claims.holder(Path("study/claims"), listed[1].unit, stale=30) is None
