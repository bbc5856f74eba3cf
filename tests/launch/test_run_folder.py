import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from vision.errors import UserError
from vision.launch.run_folder import check_same, claim, default_workdir, identity, write_environment
from vision.train import class_names
from vision.train.experiment import Intervals


@dataclass(frozen=True)
class Config:
    """A recipe."""

    intervals: Intervals = Intervals()
    rate: float = 0.1
    """Rate."""
    levels: tuple[int, ...] = (1, 2)
    """Levels."""
    title: str = ""
    """Title."""


@pytest.mark.parametrize(
    ("config", "quick", "folder"),
    [
        (Config(), False, "default"),
        (Config(), True, "quick"),
        (Config(rate=0.5, levels=(3, 4)), True, "quick,levels=3x4,rate=0.5"),
        (Config(title="a/b c"), False, "title=a-b-c"),
        (Config(intervals=Intervals(save=3)), False, "default"),
    ],
)
def test_the_default_folder_names_the_differences(config, quick, folder):
    assert default_workdir("x", quick=quick, config=config, default=Config()) == Path("runs") / "x" / folder


def test_long_names_are_cut_and_stay_apart():
    names = [
        default_workdir("x", quick=False, config=Config(title="t" * 200 + end), default=Config()).name for end in "ab"
    ]
    assert len(set(names)) == 2
    assert max(map(len, names)) <= 120


def test_bookkeeping_is_no_identity():
    assert identity(Config(intervals=Intervals(save=3), rate=0.2), Config()) == {"rate": 0.2}


def test_a_folder_is_claimed_once_at_a_time_and_again_later(tmp_path):
    run = tmp_path / "a" / "b"
    lock = claim(run, "x", Config())
    with pytest.raises(UserError, match="another process is training in"):
        claim(run, "x", Config())
    os.close(lock)
    os.close(claim(run, "x", Config(intervals=Intervals(save=3))))
    stored = json.loads((run / "config.json").read_text())
    assert stored["experiment"] == "x"
    assert stored["config"]["intervals"]["save"] == 3


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("y", Config(), "belongs to the experiment x, not y"),
        ("x", Config(rate=0.2), "rate is 0.1 there and 0.2 here: choose another"),
        ("x", Config(rate=0.2, levels=(), title="t"), "levels is [1, 2] there and [] here; rate is"),
    ],
)
def test_a_folder_of_another_run_is_left_as_it_is(tmp_path, name, config, words):
    os.close(claim(tmp_path / "run", "x", Config()))
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1}\n')
    before = (tmp_path / "run" / "config.json").read_bytes()
    for _ in range(2):  # the lock is let go after the refusal, too
        with pytest.raises(UserError) as error:
            claim(tmp_path / "run", name, config)
        assert words in str(error.value)
    assert (tmp_path / "run" / "config.json").read_bytes() == before
    os.close(claim(tmp_path / "run", "x", Config()))


@pytest.mark.parametrize("begun", ["", "checkpoints/2", "snapshots"])
def test_a_folder_is_taken_over_until_its_run_has_begun(tmp_path, begun):
    os.close(claim(tmp_path, "x", Config()))
    (tmp_path / "frozen.json").write_text("{}")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "metrics.jsonl").touch()
    if begun:
        (tmp_path / begun).mkdir()
        with pytest.raises(UserError, match="belongs to the experiment x, not y"):
            claim(tmp_path, "y", Config())
        assert (tmp_path / "frozen.json").exists()
    else:
        os.close(claim(tmp_path, "y", Config()))
        assert not (tmp_path / "frozen.json").exists()
        check_same(tmp_path, "y", Config())


def test_of_a_path_the_default_folder_names_the_last_part():
    @dataclass(frozen=True)
    class WithPath:
        dir: Path | None = None

    folders = [
        default_workdir("x", quick=False, config=WithPath(Path(path)), default=WithPath()).name
        for path in ("/data/flowers", "/scratch/job-3/flowers", "flowers")
    ]
    assert folders == ["dir=flowers"] * 3


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"has files in it but no config\.json"):
        claim(tmp_path, "x", Config())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_killed_before_its_first_file_can_be_started_again(tmp_path):
    for name in (".lock", ".config.json.tmp"):
        (tmp_path / name).write_text("{")
    os.close(claim(tmp_path, "x", Config()))
    check_same(tmp_path, "x", Config())


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        claim(tmp_path / "run", "x", Config())


@pytest.mark.parametrize("content", ["", "{", "[]", '{"experiment": "x"}', '{"experiment": "x", "config": 3}'])
def test_a_damaged_config_is_one_sentence(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        claim(tmp_path, "x", Config())


def test_fields_added_since_are_named(tmp_path):
    os.close(claim(tmp_path, "x", Config()))
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["config"]["title"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match="title is absent there and  here"):
        check_same(tmp_path, "x", replace(Config()))


def test_every_start_is_on_record(tmp_path):
    first = write_environment(tmp_path)
    write_environment(tmp_path)
    starts = [json.loads(line) for line in (tmp_path / "starts.jsonl").read_text().splitlines()]
    assert starts == [first, first]
    assert json.loads((tmp_path / "environment.json").read_text()) == first
    assert first["devices"].startswith("8 x cpu")
    assert {"jax", "flax", "optax"} <= first["packages"].keys()


def test_class_names_are_kept_and_must_stay(tmp_path):
    assert class_names.class_names(tmp_path) is None
    class_names.keep_class_names(tmp_path, ("Hund", "Käfer"))
    assert class_names.class_names(tmp_path) == ("Hund", "Käfer")
    class_names.keep_class_names(tmp_path, ("Hund", "Käfer"))
    for names, said in ((("Hund",), "class 1 was 'Käfer' and is missing now"), (("a", "b"), "class 0 was 'Hund'")):
        with pytest.raises(UserError, match=said):
            class_names.keep_class_names(tmp_path, names)
    (tmp_path / "class_names.json").write_text("[")
    with pytest.raises(UserError, match="cannot be read"):
        class_names.class_names(tmp_path)
