import dataclasses
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest

from vision.errors import UserError
from vision.launch.options import changes, config_of, flatten, nested, parse, unknown_name


@dataclass(frozen=True)
class Model:
    """A model."""

    width: int = 8
    """Width."""
    levels: tuple[int, ...] = (1, 2)
    """Levels."""
    kind: Literal["small", "large"] = "small"
    """Kind."""
    norm: bool = True
    """Norm."""


@dataclass(frozen=True)
class Config:
    """A recipe."""

    model: Model = Model()
    dir: Path = Path("data")
    """Folder."""
    rate: float = 1e-3
    """Rate."""
    shards: int = -1
    """Shards."""
    limit: int | None = None
    """Limit."""
    flip: bool = False
    """Flip."""


QUICK = Config(model=Model(width=4, levels=()))


def read(*arguments):
    return parse("prog", default=Config(), quick=QUICK, description="", arguments=list(map(str, arguments)))


def test_options_reach_nested_fields_and_later_ones_win():
    parsed = read("--model.width", 16, "--model.levels", 3, 4, "--flip", "--model.no-norm", "--model.width", 32)
    assert parsed.config == Config(model=Model(width=32, levels=(3, 4), norm=False), flip=True)
    assert parsed.default == Config()


def test_quick_is_another_start():
    assert read("--quick").config == QUICK
    parsed = read("--model.kind", "large", "--quick")
    assert parsed.config == replace(QUICK, model=replace(QUICK.model, kind="large"))
    assert parsed.default == QUICK
    assert parsed.run.quick


def test_run_options_are_apart():
    run = read("--workdir", "somewhere", "--seeds", 4, "--profile").run
    assert (run.workdir, run.seeds, run.profile, run.dry_run) == (Path("somewhere"), 4, True, False)


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        QUICK,
        Config(model=Model(norm=False, levels=(5,)), flip=True, limit=3, dir=Path("a b"), rate=1e-30, shards=-7),
    ],
)
def test_a_stored_configuration_comes_back(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps({"experiment": "x", "config": nested(config)}))
    assert read("--config", tmp_path / "config.json").config == config
    assert read(f"--config={tmp_path}").config == config
    assert read("--config", tmp_path, "--rate", 5.0).config == replace(config, rate=5.0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read"),
        ("[]", "no object named 'config'"),
        ('{"config": {"model": {"widht": 3}}}', "there is no key model.widht: did you mean model.width"),
        ('{"config": {"rate": "fast"}}', "fast"),
    ],
)
def test_a_wrong_configuration_is_one_sentence(tmp_path, content, words):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError) as error:
        read("--config", tmp_path)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model.widht", "3"], "there is no option --model.widht: did you mean --model.width"),
        (["--width", "3"], "there is no option --width: did you mean --model.width?"),
        (["--model.widht=3"], "did you mean --model.width"),
        (["--workdri", "x"], "--workdir"),
        (["--zzzzzz", "1"], "--help-all lists all options"),
        (["--model.width", "many"], "many"),
        (["--model.kind", "huge"], "huge"),
        (["--model.width"], "--model.width"),
        (["stray"], "stray"),
    ],
)
def test_mistakes_name_the_neighbours(arguments, words):
    with pytest.raises(UserError) as error:
        read(*arguments)
    assert words in str(error.value)
    assert error.value.code == 2


def test_help_names_every_field_and_leaves(capsys):
    with pytest.raises(SystemExit) as stop:
        read("--help")
    assert stop.value.code == 0
    said = capsys.readouterr().out
    for name in (*flatten(Config()), "workdir", "dry-run"):
        assert f"--{name}" in said


def test_the_shape_of_a_configuration():
    assert flatten(QUICK)["model.levels"] == ()
    assert nested(QUICK)["model"] == {"width": 4, "levels": [], "kind": "small", "norm": True}
    assert changes(QUICK, Config()) == {"model.width": 4, "model.levels": ()}
    assert changes(Config(), Config()) == {}


def test_neighbours_share_the_last_part():
    known = ["--optimizer.lr", "--samples", "--sample"]
    assert unknown_name("option", "--lr", known).endswith("did you mean --optimizer.lr?")


@dataclasses.dataclass(frozen=True)
class Wide:
    width: int = 3


@dataclasses.dataclass(frozen=True)
class Deep:
    depth: int = 4
    gain: float = 1.0


TABLE = {"wide": Wide(), "wider": Wide(9), "deep": Deep()}


@dataclasses.dataclass(frozen=True)
class Chosen:
    model: Wide | Deep = dataclasses.field(
        default=Wide(), metadata={"choices": TABLE, "quick_choices": {**TABLE, "deep": Deep(1)}}
    )
    seed: int = 0


def chosen(*arguments):
    return parse("prog", default=Chosen(), quick=Chosen(Wide(1)), description="", arguments=list(arguments))


def test_a_field_is_chosen_by_name_from_its_table():
    assert chosen("--model", "wider").config.model == Wide(9)
    found = chosen("--model", "deep", "--model.gain", "2", "--seed", "1")
    assert found.config == Chosen(Deep(gain=2.0), seed=1)
    assert found.default == Chosen()  # so that the choice is part of the run folder's name
    assert chosen("--quick", "--model.width", "5").config.model == Wide(5)
    assert chosen("--quick", "--model", "deep", "--model.gain", "2").config.model == Deep(1, gain=2.0)
    with pytest.raises(UserError, match="there is no model deeper: did you mean deep"):
        chosen("--model", "deeper")
    with pytest.raises(UserError, match=r"there is no option --model\.width"):
        chosen("--model", "deep", "--model.width", "5")


def test_a_stored_configuration_has_the_type_of_what_was_chosen(tmp_path):
    config = Chosen(Deep(depth=7), seed=2)
    stored = nested(config)
    assert stored["model"] == {"type": "Deep", "depth": 7, "gain": 1.0}
    assert config_of(stored, origin=tmp_path, default=Chosen()) == config
    (tmp_path / "config.json").write_text(json.dumps({"experiment": "x", "config": stored}))
    assert chosen("--config", str(tmp_path / "config.json"), "--model.depth", "8").config.model == Deep(depth=8)
    stored["model"]["type"] = "Tall"
    with pytest.raises(UserError, match="there is no type of model Tall"):
        config_of(stored, origin=tmp_path, default=Chosen())
