"""The interpretation of exit codes, logs and metrics, and estimates of the remaining time."""

import io
import json
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.ablation import outcomes
from vision.ablation.narration import Narrator, about, seconds_left
from vision.ablation.outcomes import Outcome, exit_outcome, final_numbers, images_seen, last_lines, problem_of
from vision.ablation.plan import Point
from vision.ablation.study import Trial
from vision.errors import UserError


def make_trial(name="p", seeds=(0,), budget=40):
    point = Point(name=name, arguments=(), changes={}, config={"a": {"b": 1}}, budget=budget)
    return Trial(point=point, seeds=seeds, arguments=(), module="m", unit=f"{name}/seed-{seeds[0]}")


def write_metrics(folder, trial, lines, seed=0):
    replica = trial.replica(folder, seed)
    replica.mkdir(parents=True, exist_ok=True)
    (replica / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": 1, "time": 0.0, **line}) + "\n" for line in lines)
    )


WHOLE = [{"images": 20, "eval/a": 0.1}, {"images": 40, "eval/a": 0.5, "eval/b": "nan"}, {"images": 40, "train/loss": 1}]


def exit_with(folder, code, trial=None, **given):
    given = {"before": None, "seconds": 2.0, "host": "h", "log_start": 0, **given}
    return exit_outcome(trial or make_trial(), folder, code, **given)


def test_final_numbers_are_those_at_the_budget():
    assert final_numbers([], 40) == {}
    assert final_numbers(WHOLE[:1], 40) == {}
    found = final_numbers(outcomes_of(WHOLE), 40)
    assert found["a"] == 0.5
    assert found["b"] != found["b"]
    # a budget that is no multiple of the batch is passed by the last one
    assert final_numbers([{"images": 44, "eval/a": 1.0}], 40) == {"a": 1.0}


def outcomes_of(lines):
    return [{name: float(x) if isinstance(x, str) else x for name, x in line.items()} for line in lines]


def test_a_finished_trial(tmp_path):
    trial = make_trial()
    write_metrics(tmp_path, trial, WHOLE)
    before = Outcome(ending="interrupted", code=75, seconds=3.0, starts=1, images=20, stuck=1)
    found = exit_with(tmp_path, 0, before=before)
    assert found == Outcome(ending="finished", code=0, seconds=5.0, starts=2, images=40, host="h")


def test_every_seed_of_a_program_must_have_finished(tmp_path):
    trial = make_trial(seeds=(3, 4))
    write_metrics(tmp_path, trial, WHOLE, seed=3)
    write_metrics(tmp_path, trial, WHOLE[:1], seed=4)
    found = exit_with(tmp_path, 0, trial)
    assert (found.ending, found.reason) == ("failed", "seed 4 has no evaluation after 40 images")


@pytest.mark.parametrize(
    ("code", "ending", "reason"),
    [
        (75, "interrupted", "stopped and saved"),
        (130, "interrupted", "stopped and saved"),
        (-signal.SIGKILL, "interrupted", "killed by SIGKILL"),
        (-signal.SIGTERM, "interrupted", "killed by SIGTERM"),
        (-signal.SIGABRT, "failed", "killed by SIGABRT: last words"),
        (1, "failed", "exit 1: last words"),
        (2, "failed", "exit 2: last words"),
        (3, "failed", "exit 3: last words"),
        (4, "failed", "exit 4: last words"),
    ],
)
def test_exit_codes(tmp_path, code, ending, reason):
    log = make_trial().beside(tmp_path, ".log")
    log.parent.mkdir(parents=True)
    log.write_text("first words\nlast words\n")
    found = exit_with(tmp_path, code)
    assert (found.ending, found.reason) == (ending, reason)
    assert found.tail == (("first words", "last words") if ending == "failed" else ())


def test_being_stopped_by_the_runner_is_never_held_against_a_trial(tmp_path):
    found = None
    for _ in range(10):
        found = exit_with(tmp_path, 75, before=found, stop_requested=True)
    assert (found.ending, found.stuck, found.starts) == ("interrupted", 0, 10)


def test_progress_forgives(tmp_path):
    trial, found = make_trial(), None
    for images in (10, 20, 30, 40):
        write_metrics(tmp_path, trial, [{"images": images}])
        found = exit_with(tmp_path, -9, before=found)
        assert found.ending == "interrupted"
    for _ in range(outcomes.STUCK - 1):
        found = exit_with(tmp_path, -9, before=found)
    assert found.ending == "failed"


def test_damaged_metrics_are_a_failure_not_a_crash(tmp_path):
    trial = make_trial()
    write_metrics(tmp_path, trial, WHOLE)
    path = trial.workdir(tmp_path) / "metrics.jsonl"
    path.write_text("broken\n" + path.read_text())
    assert "Line 1" in problem_of(trial, tmp_path, 0)
    assert exit_with(tmp_path, 0).ending == "failed"


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"a": {"b": 1}, "seed": 0}, ""),
        ({"a": {"b": 1}, "seed": 0, "mesh": {"fsdp": 4}, "intervals": {"log": 3}}, ""),
        ({"a": {"b": 2}, "seed": 0}, "it was trained with a.b = 2, and the point has 1"),
        ({"a": {"b": 1}, "seed": 1}, "it was trained with seed = 1, and the point has 0"),
        ({"seed": 0}, "it was trained with a.b = None, and the point has 1"),
    ],
)
def test_a_trial_must_be_of_its_point(tmp_path, config, problem):
    trial = make_trial()
    write_metrics(tmp_path, trial, WHOLE)
    (trial.workdir(tmp_path) / "config.json").write_text(json.dumps({"experiment": "tiny", "config": config}))
    assert problem_of(trial, tmp_path, 0) == problem


def test_images_seen_needs_the_end_of_the_file_only(tmp_path):
    trial = make_trial()
    assert images_seen(trial, tmp_path) == 0
    write_metrics(tmp_path, trial, [{"images": n, "x": "y" * 300} for n in range(1000)])
    assert images_seen(trial, tmp_path) == 999
    with (trial.workdir(tmp_path) / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1, "ima')
    assert images_seen(trial, tmp_path) == 999


@pytest.mark.parametrize(
    "line", ["5", "null", '{"images": Infinity}', '{"images": [1]}', '{"images": "x"}', "[" * 9999]
)
def test_images_seen_passes_over_lines_of_other_types(tmp_path, line):
    trial = make_trial()
    write_metrics(tmp_path, trial, [{"images": 7}])
    with (trial.workdir(tmp_path) / "metrics.jsonl").open("a") as file:
        file.write(f"{line}\n")
    assert images_seen(trial, tmp_path) == 7


def test_the_end_of_a_log_as_a_terminal_shows_it(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"old\n" + b"10%\r20%\r30%\n\x1b[31mred\x1b[0m\n\nword \xff\r\n")
    assert last_lines(log, 4) == ["30%", "red", "word \ufffd"]
    log.write_text("".join(f"{n}\n" for n in range(100_000)))
    assert last_lines(log) == [str(n) for n in range(99_980, 100_000)]
    assert last_lines(tmp_path / "none") == []


def test_the_line_that_tells(tmp_path):
    log = make_trial().beside(tmp_path, ".log")
    log.parent.mkdir(parents=True)
    log.write_text("error: the disk is full\nbye\n")
    assert exit_with(tmp_path, 4).reason == "exit 4: error: the disk is full"


def test_outcomes_are_read_back(tmp_path):
    path = tmp_path / "x.json"
    assert outcomes.read(path) is None
    found = Outcome(ending="failed", code=3, reason="é", tail=("a", "b"), seconds=1.5, starts=2, images=7, host="h")
    outcomes.write(path, found)
    assert outcomes.read(path) == found
    path.write_text("{")
    with pytest.raises(UserError, match="delete it"):
        outcomes.read(path)


def ended(seconds, ending="finished", images=40):
    return Outcome(ending=ending, code=0, seconds=seconds, starts=1, images=images)


def test_time_left():
    trials = [make_trial(name, (seed,)) for name in "ab" for seed in range(3)]
    units = [trial.unit for trial in trials]
    nothing = dict.fromkeys(units)
    assert seconds_left(trials, nothing, {}, parallel=1) is None
    assert seconds_left(trials, nothing, {units[0]: (5.0, 0.01)}, parallel=1) is None
    # one that is a quarter done after 5 s takes 20 s: 15 for itself, 20 for each other
    assert seconds_left(trials, nothing, {units[0]: (5.0, 0.25)}, parallel=1) == pytest.approx(15 + 5 * 20)
    # those of a point take as long as the point did, others as long as the mean
    done = {**nothing, units[0]: ended(10.0)}
    assert seconds_left(trials, done, {}, parallel=1) == pytest.approx(2 * 10 + 3 * 10)
    done[units[3]] = ended(40.0)
    assert seconds_left(trials, done, {}, parallel=1) == pytest.approx(2 * 10 + 2 * 40)
    assert seconds_left(trials, done, {}, parallel=2) == pytest.approx(50)
    # failed ones are over, interrupted ones have done a part
    done[units[1]] = ended(3.0, "failed")
    done[units[2]] = ended(3.0, "interrupted", images=30)
    assert seconds_left(trials, done, {}, parallel=1) == pytest.approx(0.25 * 10 + 2 * 40)
    # only the last one decides, however many could run
    assert seconds_left(trials, done, {}, parallel=8) == pytest.approx(40)
    assert seconds_left(trials[:1], done, {}, parallel=1) == 0.0
    assert about(None) == ""
    assert about(62.0) == "about 1m02s left"


@given(st.lists(st.floats(1, 100), min_size=6, max_size=6), st.integers(1, 6), st.integers(1, 5))
def test_time_left_is_never_negative_and_less_with_more_at_a_time(seconds, finished, parallel):
    trials = [make_trial("a", (seed,)) for seed in range(6)]
    known = {t.unit: ended(s) if i < finished else None for i, (t, s) in enumerate(zip(trials, seconds, strict=True))}
    one, more = (seconds_left(trials, known, {}, parallel=n) for n in (parallel, parallel + 1))
    assert 0 <= more <= one


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_live_line_is_replaced_on_a_terminal_and_not_written_elsewhere():
    stream = Terminal()
    narrator = Narrator(stream)
    narrator.live("a" * 200)
    narrator.live("b")
    narrator.live("b")
    narrator.say("done")
    assert stream.getvalue() == f"{'a' * 79}\r\x1b[Kb\r\x1b[Kdone\n"
    plain = io.StringIO()
    narrator = Narrator(plain)
    narrator.live("a")
    narrator.say("done")
    assert plain.getvalue() == "done\n"
