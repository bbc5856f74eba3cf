"""One owner at a time, with processes that race for it, die, stand still, or have clocks that are wrong."""

import errno
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from vision.ablation import claims
from vision.ablation.claims import Claim, Held, Owner, acquire, holder, release, renew, this_process

ROOT = Path(__file__).resolve().parents[2]
LONG = 1000.0
ELSEWHERE = Owner("node17", 4711, "another boot", 5)

# Every process waits for the start, does its part, says what it has, and lives until its input is closed.
PROCESS = """
import errno, os, sys, time
from pathlib import Path
from vision.ablation import claims
from vision.ablation.claims import Claim, acquire, release
folder, what, links = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "links"
if not links:
    def link(*_):
        raise OSError(errno.EPERM, "no links here")
    os.link = link
print("ready", flush=True)
while not (folder / "start").exists():
    time.sleep(0.001)
if what == "race":
    print(*[i for i in range(60) if isinstance(acquire(folder / "claims", f"p/{i}", stale=60.0), Claim)], flush=True)
if what == "count":
    done = 0
    while done < 40:
        got = acquire(folder / "claims", "counter", stale=60.0)
        if isinstance(got, Claim):
            number = int((folder / "counter").read_text())
            time.sleep(0.0002)
            (folder / "counter").write_text(str(number + 1))
            release(got)
            done += 1
    print(done, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def processes(tmp_path):
    """Start n processes of the program above at the same moment; returns the output of each."""
    started = []

    def call(n, what, links="links"):
        for _ in range(n):
            started.append(
                subprocess.Popen(
                    [sys.executable, "-c", PROCESS, str(tmp_path), what, links],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**os.environ, "PYTHONPATH": str(ROOT)},
                )
            )
        assert [each.stdout.readline() for each in started] == ["ready\n"] * n
        (tmp_path / "start").touch()
        return [list(map(int, each.stdout.readline().split())) for each in started]

    yield call
    for each in started:
        each.stdin.close()
        each.stdout.close()
        each.wait()


def write_claim(folder, name, owner, *, age):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(asdict(owner)))
    os.utime(path, (time.time() - age,) * 2)


@pytest.mark.parametrize("links", ["links", "no links"])
def test_of_several_that_race_one_wins(processes, links):
    won = processes(4, "race", links)
    assert sorted(number for each in won for number in each) == list(range(60))


def test_of_several_that_take_over_one_wins(processes, tmp_path):
    """All see the same 60 stale claims; without exclusion some would be taken twice."""
    for i in range(60):
        write_claim(tmp_path / "claims" / "p", f"{i}.000000", ELSEWHERE, age=100)
    won = processes(4, "race")
    assert sorted(number for each in won for number in each) == list(range(60))
    assert all((tmp_path / "claims" / "p" / f"{i}.000001").exists() for i in range(60))


@pytest.mark.parametrize("links", ["links", "no links"])
def test_nobody_is_inside_at_the_same_time(processes, tmp_path, links):
    """A counter that is read and written without any other protection loses nothing."""
    (tmp_path / "counter").write_text("0")
    assert processes(3, "count", links) == [[40]] * 3
    assert (tmp_path / "counter").read_text() == "120"


def test_taking_holding_and_giving_back(tmp_path):
    got = acquire(tmp_path / "claims", "point/seed-0", stale=LONG)
    assert isinstance(got, Claim)
    again = acquire(tmp_path / "claims", "point/seed-0", stale=LONG)
    assert isinstance(again, Held)
    assert again.owner == this_process()
    assert str(again.owner) == f"process {os.getpid()} on {os.uname().nodename}"
    assert isinstance(acquire(tmp_path / "claims", "point/seed-1", stale=LONG), Claim)
    assert holder(tmp_path / "claims", "point/seed-0", stale=LONG).owner == this_process()
    assert renew(got)
    release(got)
    assert holder(tmp_path / "claims", "point/seed-0", stale=LONG) is None
    assert isinstance(acquire(tmp_path / "claims", "point/seed-0", stale=LONG), Claim)
    # what was written to take a claim is gone
    assert not [path for path in (tmp_path / "claims" / "point").iterdir() if path.name.startswith(".")]


def test_an_old_claim_is_taken_over_and_its_owner_learns_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "this_process", lambda: ELSEWHERE)
    first = acquire(tmp_path, "x", stale=LONG)
    monkeypatch.undo()
    assert isinstance(acquire(tmp_path, "x", stale=50), Held)
    os.utime(first.path, (time.time() - 49,) * 2)
    assert isinstance(acquire(tmp_path, "x", stale=50), Held)
    os.utime(first.path, (time.time() - 51,) * 2)
    second = acquire(tmp_path, "x", stale=50)
    assert isinstance(second, Claim)
    assert not renew(first)
    release(first)  # which frees nothing
    assert isinstance(acquire(tmp_path, "x", stale=50), Held)
    assert renew(second)


def test_renewing_keeps_a_claim(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "this_process", lambda: ELSEWHERE)
    got = acquire(tmp_path, "x", stale=LONG)
    os.utime(got.path, (time.time() - 100,) * 2)
    assert renew(got)
    found = acquire(tmp_path, "x", stale=50)
    assert isinstance(found, Held)
    assert found.age < 50


def test_clocks_of_machines_do_not_matter(tmp_path, monkeypatch):
    """A machine whose clock is an hour ahead sees a fresh claim as fresh: it asks the file system for the time."""
    monkeypatch.setattr(claims, "this_process", lambda: ELSEWHERE)
    acquire(tmp_path, "x", stale=LONG)
    wrong = time.time() + 3600
    monkeypatch.setattr(time, "time", lambda: wrong)
    assert isinstance(acquire(tmp_path, "x", stale=50), Held)


def test_a_dead_process_of_this_machine_holds_nothing(tmp_path):
    program = (
        "import sys; from pathlib import Path; from vision.ablation.claims import acquire; "
        "acquire(Path(sys.argv[1]), 'x', stale=9e9)"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert isinstance(acquire(tmp_path, "x", stale=LONG), Claim)


@pytest.mark.parametrize(
    ("change", "free"),
    [
        ({}, False),
        ({"started": 1}, True),  # the pid belongs to a younger process now
        ({"pid": 2**22 + 1}, True),  # above the largest pid of Linux
        ({"pid": 2**22 + 1, "machine": "another boot"}, False),
        ({"pid": 2**22 + 1, "machine": ""}, False),
    ],
)
def test_death_is_seen_only_where_it_can_be(tmp_path, change, free):
    write_claim(tmp_path, "x.000004", replace(this_process(), **change), age=0)
    assert isinstance(acquire(tmp_path, "x", stale=LONG), Claim) == free


def test_an_owner_that_cannot_be_read_yet_is_an_owner(tmp_path):
    (tmp_path / "x.000000").touch()
    assert isinstance(acquire(tmp_path, "x", stale=LONG), Held)


def test_a_listing_that_is_old_cannot_undo_a_claim(tmp_path, monkeypatch):
    """As on a network file system that shows a folder as it was a moment ago."""
    got = acquire(tmp_path, "x", stale=LONG)
    release(got)
    newer = acquire(tmp_path, "x", stale=LONG)
    latest, listings = claims._latest, [0, 0]
    monkeypatch.setattr(claims, "_latest", lambda path: listings.pop() if listings else latest(path))
    assert isinstance(acquire(tmp_path, "x", stale=LONG), Held)
    assert not listings
    assert renew(newer)


def test_other_failures_are_not_hidden(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OSError, match="No space"):
        acquire(tmp_path, "x", stale=LONG)


def test_a_deleted_claim_is_lost(tmp_path):
    got = acquire(tmp_path, "x", stale=LONG)
    got.path.unlink()
    assert not renew(got)
    release(got)
