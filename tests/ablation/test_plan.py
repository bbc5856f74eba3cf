"""Points against brute force over the fields, and every way of being wrong."""

import dataclasses
import itertools
import shlex

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vision.ablation.plan import Axis, plan, planned_again, read_axis, written, written_option
from vision.errors import UserError
from vision.launch.experiment_module import find_experiment
from vision.launch.options import flatten, nested


def axis(field, text):
    return read_axis(field, text, option="--vary")


def stored(config):
    """A configuration as JSON has it, without the seed."""
    found = nested(config)
    found.pop("seed")
    return found


def replaced(config, dotted, value):
    first, _, rest = dotted.partition(".")
    return dataclasses.replace(config, **{first: replaced(getattr(config, first), rest, value) if rest else value})


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,2,4", (("1",), ("2",), ("4",))),
        (" -1, 2", (("-1",), ("2",))),
        ("16 8,8,()", (("16", "8"), ("8",), ())),
        ("1e-3", (("1e-3",),)),
        ("()", ((),)),
    ],
)
def test_values_of_a_field(text, values):
    assert axis("--model.big-width", text) == Axis(field="model.big_width", values=values)


@pytest.mark.parametrize("text", ["", "1,,2", "1,", ","])
def test_empty_values_are_refused(text):
    with pytest.raises(UserError, match="empty value"):
        axis("rate", text)


def test_one_factor_at_a_time(recipe):
    points, left_out = plan(recipe, [], vary=[axis("model.width", "4,8,16"), axis("rate", "0.1,0.5")])
    base = recipe.config
    expected = [base, *(replaced(base, "model.width", w) for w in (8, 16)), replaced(base, "rate", 0.5)]
    assert [point.config for point in points] == [stored(config) for config in expected]
    assert [point.name for point in points] == ["baseline", "model.width=8", "model.width=16", "rate=0.5"]
    assert [point.changes for point in points] == [{}, {"model.width": 8}, {"model.width": 16}, {"rate": 0.5}]
    assert [point.budget for point in points] == [40] * 4
    assert left_out == []


CHOICES = {
    "model.width": (4, 8, 12),
    "model.levels": ((1, 2), (), (3,)),
    "model.norm": (True, False),
    "rate": (0.1, 0.25),
    "label": ("plain", "a-b", "a b"),
}


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(list(CHOICES)), st.integers(1, 3), min_size=1, max_size=3))
def test_a_grid_is_every_combination_once(recipe, chosen):
    values = {field: CHOICES[field][:n] for field, n in chosen.items() if field != "label"}
    if not values:
        return
    words = lambda v: " ".join(map(str, v)) or "()" if isinstance(v, tuple) else str(v)
    axes = [axis(field, ",".join(map(words, options))) for field, options in values.items()]
    points, _ = plan(recipe, [], grid=axes)
    expected = []
    for combination in itertools.product(*values.values()):
        config = recipe.config
        for field, value in zip(values, combination, strict=True):
            config = replaced(config, field, value)
        if stored(config) not in expected:
            expected.append(stored(config))
    if stored(recipe.config) not in expected:
        expected.append(stored(recipe.config))
    found = [point.config for point in points]
    assert found[0] == stored(recipe.config)
    assert len(found) == len(expected)
    assert all(config in found for config in expected)
    assert len({point.name.casefold() for point in points}) == len(points)
    # every point is what its options say
    for point in points:
        assert stored(recipe.parse(point.arguments).config) == point.config


def test_named_ablations(recipe):
    points, left_out = plan(recipe, [], named=["all"])
    assert [point.name for point in points] == ["baseline", "wide", "no_norm", "flat"]
    assert left_out == ["same equals the baseline"]
    assert points[2].arguments == ("--model.no-norm",)
    assert points[3].arguments == ("--model.levels",)
    assert points[3].changes == {"model.levels": []}
    points, _ = plan(recipe, [], named=["flat", "wide"])
    assert [point.name for point in points] == ["baseline", "flat", "wide"]


def test_all_kinds_together_hold_each_configuration_once(recipe):
    points, left_out = plan(
        recipe,
        [],
        named=["wide"],
        vary=[axis("model.width", "8,16"), axis("rate", "0.10,2e-1,0.2")],
        grid=[axis("model.width", "4,8"), axis("rate", "0.1,0.2")],
    )
    assert [point.name for point in points] == [
        "baseline",
        "wide",
        "model.width=16",
        "rate=0.2",
        "model.width=8,rate=0.2",
    ]
    assert "model.width=8 equals wide" in left_out


def test_options_for_all_points(recipe):
    points, _ = plan(recipe, ["--quick", "--rate", "0.5", "--model.width=12"], vary=[axis("model.width", "4,12")])
    assert [point.config["rate"] for point in points] == [0.5, 0.5]
    assert [point.config["model"]["width"] for point in points] == [12, 4]
    assert [point.config["steps"] for point in points] == [2, 2]
    assert [point.budget for point in points] == [20, 20]
    assert points[1].arguments == ("--model.width", "4")


def test_a_point_may_have_another_budget(recipe):
    points, _ = plan(recipe, [], vary=[axis("steps", "7")])
    assert [point.budget for point in points] == [40, 70]


def test_names_are_folders_and_differ(recipe):
    points, _ = plan(recipe, [], vary=[axis("label", "a/b,a:b,A-B,.., x y"), axis("model.levels", f"(),{'7 ' * 60}")])
    names = [point.name for point in points]
    assert len({name.casefold() for name in names}) == len(points) == 8, names
    for name in names:
        assert "/" not in name
        assert not name.startswith((".", "-"))
        assert len(name) <= 120
    assert names[1] == "label=a-b"
    assert names[2].startswith("label=a-b,")
    assert names[5] == "label=x-y"
    assert "model.levels=empty" in names


def test_names_do_not_depend_on_how_a_value_was_typed(recipe):
    one, other = (plan(recipe, [], vary=[axis("rate", text)])[0][1] for text in ("2e-3", "0.0020"))
    assert one.name == other.name == "rate=0.002"
    assert one.config == other.config


def test_stored_points_are_the_same_again(recipe):
    points, _ = plan(recipe, ["--quick"], named=["all"], vary=[axis("label", "a b")])
    assert planned_again(recipe, ["--quick"], points) == points


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ([], {"vary": [axis("model.widht", "8")]}, ["--vary", "no field model.widht", "model.width"]),
        ([], {"grid": [axis("width", "8")]}, ["no field width", "model.width"]),
        ([], {"vary": [axis("seed", "1,2")]}, ["--vary seed", "--seeds"]),
        ([], {"vary": [axis("model.width", "8,eight")]}, ["model.width=eight: ", "eight"]),
        ([], {"vary": [axis("model.width", "8,9")]}, ["model.width=9: model.width is a multiple of 4, not 9"]),
        ([], {"vary": [axis("rate", "0.5,11")]}, ["rate=11 cannot be built: ValueError: a rate like that"]),
        ([], {"vary": [axis("model.width", "8 16")]}, ["model.width=8x16: ", "8 16"]),
        ([], {"vary": [axis("rate", "()")]}, ["rate=(): ", "()"]),
        ([], {"vary": [axis("model.norm", "yes")]}, ["true and false, not yes"]),
        ([], {"grid": [axis("rate", "1"), axis("rate", "2")]}, ["--grid rate is given twice"]),
        ([], {"named": ["wid"]}, ["no ablation wid", "wide"]),
        ([], {"named": ["xyz"]}, ["no ablation xyz", "there are wide, no_norm, flat, same"]),
        (["--model.width", "6"], {"named": ["all"]}, ["baseline: model.width is a multiple of 4"]),
        (["--rat", "6"], {"named": ["all"]}, ["baseline: there is no option --rat", "--rate"]),
        (["--seed", "6"], {"named": ["all"]}, ["--seed cannot", "--seeds"]),
        (["--seed=6"], {"named": ["all"]}, ["--seed=6 cannot", "--seeds"]),
        (["--workdir", "x"], {"named": ["all"]}, ["--workdir cannot"]),
        (["--dry-run"], {"named": ["all"]}, ["--dry-run cannot"]),
        (["--seeds", "2"], {"named": ["all"]}, ["--seeds cannot"]),
        (["--help"], {"named": ["all"]}, ["--help cannot"]),
    ],
)
def test_mistakes_name_the_point(recipe, arguments, options, words):
    with pytest.raises(UserError) as caught:
        plan(recipe, arguments, **options)
    assert all(word in str(caught.value) for word in words), caught.value


def test_ablations_of_the_experiment_are_checked(recipe):
    wrong = dataclasses.replace(recipe, ablations={"thin": {"model.widht": 1}})
    with pytest.raises(UserError, match=r"thin: .*no field model.widht.*model.width"):
        plan(wrong, [], named=["all"])
    wrong = dataclasses.replace(recipe, ablations={"baseline": {"model.width": 8}})
    with pytest.raises(UserError, match="first row"):
        plan(wrong, [], named=["all"])
    with pytest.raises(UserError, match="names no ablations"):
        plan(dataclasses.replace(recipe, ablations={}), [], named=["all"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model.width", 8),
        ("rate", -0.5),
        ("model.norm", False),
        ("model.norm", True),
        ("model.levels", (3, -1)),
        ("model.levels", ()),
        ("label", "two words"),
    ],
)
def test_an_option_gives_the_value_back(recipe, field, value):
    parsed = recipe.parse([*written_option(field, value), "--seed", "3"])
    assert flatten(parsed.config)[field] == value
    assert parsed.config.seed == 3
    assert recipe.parse(shlex.split(shlex.join(written_option(field, value)))).config == dataclasses.replace(
        parsed.config, seed=0
    )


def test_values_as_they_are_shown():
    assert [written(v) for v in (8, (), (1, 2), [[1, 2], "a"], None, True)] == [
        "8",
        "()",
        "1x2",
        "1x2xa",
        "None",
        "True",
    ]


def test_parts_that_are_chosen_by_name():
    """``--vary decoder unet,fcn`` and changes in ABLATIONS, as ``--decoder unet`` on the command line."""
    segmenter = find_experiment("segment_folder")
    points, _ = plan(segmenter, ["--quick"], named=["fcn"], vary=[axis("decoder", "pyramid")])
    assert [point.name for point in points] == ["baseline", "fcn", "decoder=pyramid"]
    assert [point.arguments for point in points[1:]] == [("--decoder", "fcn"), ("--decoder", "pyramid")]
    assert points[1].config["decoder"]["type"] == "FcnConfig"
    assert points[2].config["decoder"]["width"] == 64  # the small one of --quick
    with pytest.raises(UserError, match="there is no decoder segformer"):
        plan(segmenter, ["--quick"], vary=[axis("decoder", "segformer")])


def test_pretrained_or_not_is_a_factor():
    vary = [axis("init_from", "weights.safetensors,None")]
    points, left_out = plan(find_experiment("segment_folder"), ["--quick"], vary=vary)
    assert [point.changes for point in points] == [{}, {"init_from": "weights.safetensors"}]
    assert left_out == []
