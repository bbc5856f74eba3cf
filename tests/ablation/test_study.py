"""The plan on disk: read back as it was, grown, and refused where it would change."""

import dataclasses
import json
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.ablation import study
from vision.ablation.plan import Point, plan, read_axis
from vision.ablation.study import Study, divided, grown, spelled, trials
from vision.errors import UserError


@pytest.fixture
def make(recipe):
    def call(vary="model.width 8", arguments=(), programs=((0,), (1,))):
        axes = [read_axis(*vary.split(" ", 1), option="--vary")] if vary else []
        points, _ = plan(recipe, arguments, vary=axes)
        return Study(
            experiment="tiny",
            module="standins.tiny",
            arguments=tuple(arguments),
            points=points,
            programs=programs,
        )

    return call


def listed(kept):
    return trials(kept, [point.name for point in kept.points], kept.seeds)


def test_what_is_written_is_read_back(make, tmp_path):
    kept = make("model.levels 3 4,()", ["--quick", "--label", "two words"], ((0, 1, 2), (7,)))
    assert study.read(tmp_path) is None
    study.write(tmp_path, kept)
    assert study.read(tmp_path) == kept
    assert kept.seeds == (0, 1, 2, 7)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: text[:40], "cannot be read"),
        (lambda text: text.replace('"points"', '"pints"'), "cannot be read"),
        (lambda text: text.replace('"format": 1', '"format": 99'), "has format 99"),
        (lambda text: "[]", "cannot be read"),
    ],
)
def test_a_damaged_plan_is_one_line(make, tmp_path, damage, words):
    study.write(tmp_path, make())
    path = tmp_path / study.FILE
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError, match=words):
        study.read(tmp_path)


def test_trials_with_their_commands(make):
    kept = make(arguments=["--quick"], programs=((0,), (5, 6)))
    found = listed(kept)
    assert [trial.unit for trial in found] == [
        "baseline/seed-0",
        "model.width=8/seed-0",
        "baseline/seeds-5-6",
        "model.width=8/seeds-5-6",
    ]
    folder = Path("a study")
    assert found[1].typed(folder) == (
        "python -m standins.tiny --quick --model.width 8 --seed 0 --workdir 'a study/trials/model.width=8/seed-0'"
    )
    assert shlex.split(found[3].typed(folder))[-6:] == [
        "--seed", "5", "--seeds", "2", "--workdir", "a study/trials/model.width=8/seeds-5-6",
    ]  # fmt: skip
    assert found[1].replica(folder, 0) == folder / "trials/model.width=8/seed-0"
    assert found[3].replica(folder, 6) == folder / "trials/model.width=8/seeds-5-6/replicas/seed-6"
    # next to the work directory, also if a name has dots
    assert found[1].beside(folder, ".log") == folder / "trials/model.width=8/seed-0.log"


def test_only_the_points_and_seeds_that_are_requested(make):
    kept = make("model.width 8,12", programs=((0,), (1, 2)))
    found = trials(kept, ["baseline", "model.width=12"], [2])
    assert [trial.unit for trial in found] == ["baseline/seeds-1-2", "model.width=12/seeds-1-2"]


def test_what_is_new_is_added_at_the_end(make):
    stored, more = make("model.width 8"), make("model.width 12,8,4")
    found, names = grown(stored, more.points, Path("x"))
    assert [point.name for point in found.points] == ["baseline", "model.width=8", "model.width=12"]
    assert names == ["baseline", "model.width=12", "model.width=8"]
    assert found.points[:2] == stored.points
    assert grown(stored, stored.points, Path("x")) == (stored, ["baseline", "model.width=8"])


def test_a_configuration_keeps_the_name_that_it_has(make):
    stored = make("model.width 8")
    renamed = dataclasses.replace(stored.points[1], name="wide")
    assert grown(stored, [stored.points[0], renamed], Path("x")) == (stored, ["baseline", "model.width=8"])


def test_another_plan_is_refused_with_the_difference(make):
    stored = make()
    with pytest.raises(UserError, match=r"x holds a study with another baseline: rate is 0.1 there and 0.5 here"):
        grown(stored, make(arguments=["--rate", "0.5"]).points, Path("x"))
    point = stored.points[1]
    config = json.loads(json.dumps(point.config))
    config["model"]["levels"], config["extra"] = [3], 1
    del config["label"]
    other = dataclasses.replace(point, config=config)
    with pytest.raises(UserError) as caught:
        grown(stored, [stored.points[0], other], Path("x"))
    assert (
        "x has another point model.width=8: extra is absent there and 1 here; label is plain there and absent here; "
        "model.levels is 1x2 there and 3 here: choose another --workdir"
    ) in str(caught.value)


SEEDS = st.lists(st.integers(0, 9), unique=True, min_size=1)


@given(SEEDS, SEEDS)
def test_every_seed_has_one_program(first, second):
    programs = divided(first, vectorized=False)
    assert sorted(seed for program in programs for seed in program) == sorted(first)
    more = divided(second, vectorized=False, existing=programs)
    assert more[: len(programs)] == programs
    assert sorted(seed for program in more for seed in program) == sorted({*first, *second})


def test_seeds_as_one_program():
    assert divided([0, 1, 2], vectorized=True) == ((0, 1, 2),)
    assert divided([6, 5], vectorized=True) == ((5, 6),)
    assert divided([0, 1, 2, 3, 4], vectorized=True, existing=((0, 1, 2),)) == ((0, 1, 2), (3, 4))
    assert divided([0, 1], vectorized=True, existing=((0,), (1,))) == ((0,), (1,))
    with pytest.raises(UserError, match="follow each other, and 0, 2 do not"):
        divided([0, 2], vectorized=True)
    with pytest.raises(UserError, match="0, 2 do not"):
        divided([0, 1, 2], vectorized=True, existing=((1,),))


@pytest.mark.parametrize(
    ("seeds", "text"), [((0,), "0"), ((0, 1), "0, 1"), ((0, 1, 2), "0-2"), ((5, 7, 8), "5, 7, 8"), ((3, 4, 5), "3-5")]
)
def test_seeds_for_people(seeds, text):
    assert spelled(seeds) == text


def test_points_are_json(make):
    for point in make("model.levels (),1 2 3").points:
        assert Point(**json.loads(json.dumps(dataclasses.asdict(point))) | {"arguments": point.arguments}) == point
