"""Which points an ablation compares: a baseline, and changes of it that are typed or named by the experiment.

``--vary FIELD VALUES`` changes one field at a time, ``--grid FIELD VALUES`` is every combination of all fields given,
``--named`` takes changes from the experiment's ``ABLATIONS``. All of them become options of the experiment, so that the
parser of command lines also checks the points, and each row of the table is a command.
"""

import dataclasses
import hashlib
import itertools
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision.errors import UserError
from vision.launch.experiment_module import ExperimentModule
from vision.launch.options import HELP, Parsed, choices, flatten, nested, option_of, unknown_name
from vision.written_option import written_option

BASELINE = "baseline"
EMPTY = "()"
"""How the empty tuple is written among the values of a field."""

# Options for all points in addition to the configuration; the runner sets the others.
_FOR_ALL = ("quick", "config", "replicas_by", "profile", "processes")
_LONGEST_NAME = 100  # file systems allow 255 bytes; a name is also a row of a table


@dataclass(frozen=True, kw_only=True)
class Point:
    """One row of the table: a configuration that is trained with every seed."""

    name: str
    """Names its folder and its row; ``baseline`` for the first."""
    arguments: tuple[str, ...]
    """Options of the experiment that distinguish it from the baseline."""
    changes: Mapping[str, Any]
    """What it changes, as JSON values by dotted field: only what differs from the baseline."""
    config: Mapping[str, Any]
    """All values, nested, as config.json has them; without the seed."""
    budget: int
    """Images after which a run is finished."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A field and the values it takes."""

    field: str
    values: tuple[tuple[str, ...], ...]
    """Each as the words that follow the option."""


def read_axis(field: str, text: str, *, option: str) -> Axis:
    """``("model.attention", "16 8,8,()")`` as the field with the values (16, 8), (8,) and ().

    Commas separate values, spaces the parts of a tuple, and ``()`` is the empty tuple.

    Raises:
      UserError: an empty value.
    """
    values = tuple(tuple(value.split()) for value in text.split(","))
    if not all(values):
        raise UserError(
            f"{option} {field} {text!r} has an empty value: commas separate values, spaces the parts of a tuple, "
            f"and {EMPTY} is the empty tuple"
        )
    return Axis(field=field.lstrip("-").replace("-", "_"), values=tuple(() if v == (EMPTY,) else v for v in values))


def plan(
    recipe: ExperimentModule,
    arguments: Sequence[str],
    *,
    named: Sequence[str] = (),
    vary: Sequence[Axis] = (),
    grid: Sequence[Axis] = (),
) -> tuple[tuple[Point, ...], list[str]]:
    """The baseline and all points, parsed and built, in the order: named, one field at a time, grid.

    Args:
      recipe: the experiment.
      arguments: its options for all points, the baseline included.
      named: names in ``recipe.ablations``; ``("all",)`` for all of them.
      vary: each value of each is a point.
      grid: each combination of values is a point.

    Returns:
      The points, and messages about points left out because they equal another.

    Raises:
      UserError: an unknown field, a value that does not parse, or a point that cannot be built.
    """
    base = _baseline(recipe, arguments)
    fields = flatten(base.config)
    wanted = [
        *_named(recipe, named, base.config),
        *((_typed([(axis, value)]), _options(base.config, axis, value, "--vary")) for axis, value in _each(vary)),
        *_combinations(base.config, grid),
    ]
    first = _point(recipe, BASELINE, arguments, (), fields)
    points, left_out = [first], []
    for name, options in wanted:
        is_named = name in recipe.ablations
        point = _point(recipe, name, arguments, options, fields)
        equal = next((other for other in points if other.config == point.config), None)
        if equal is None:
            chosen = any(option_of(field) in options for field in choices(base.config))
            points.append(_distinct(point if is_named or chosen else _renamed(point), points))
        elif equal is not first or is_named:
            left_out.append(f"{name} equals {'the baseline' if equal is first else equal.name}")
    return tuple(points), left_out


def planned_again(recipe: ExperimentModule, arguments: Sequence[str], points: Sequence[Point]) -> tuple[Point, ...]:
    """Stored points, parsed and built anew, which tells whether the code still means the same by them.

    Raises:
      UserError: a point can no longer be built.
    """
    fields = flatten(_baseline(recipe, arguments).config)
    made = (_point(recipe, point.name, arguments, point.arguments, fields) for point in points)
    return tuple(made)


def _baseline(recipe: ExperimentModule, arguments: Sequence[str]) -> Parsed[Any]:
    for argument in arguments:
        if argument.split("=")[0] in ("--seed", *HELP):
            raise UserError(f"{argument} cannot be an option for all points: seeds are given as --seeds")
    parsed = _explained(BASELINE, lambda: recipe.parse(arguments))
    for field in dataclasses.fields(parsed.run):
        if field.name not in _FOR_ALL and getattr(parsed.run, field.name) != field.default:
            raise UserError(
                f"--{field.name.replace('_', '-')} cannot be an option for all points: the runner decides what each "
                "trial does and where it lives"
            )
    if "seed" not in flatten(parsed.config):
        raise UserError(f"{recipe.module} has no seed in its configuration, so that its runs cannot be compared")
    return parsed


def _explained(point: str, make: Callable[[], Any]) -> Any:
    """The result of ``make``; its errors name the point."""
    try:
        return make()
    except UserError as error:
        raise UserError(f"{point}: {error}") from error
    except Exception as error:
        raise UserError(f"{point} cannot be built: {type(error).__name__}: {error}") from error


def _point(
    recipe: ExperimentModule, name: str, shared: Sequence[str], own: Sequence[str], before: Mapping[str, Any]
) -> Point:
    config = _explained(name, lambda: recipe.parse([*shared, *own])).config
    built = _explained(name, lambda: recipe.build(config))
    changes = {key: plain(value) for key, value in flatten(config).items() if before.get(key, _MISSING) != value}
    stored = json.loads(json.dumps({key: value for key, value in nested(config).items() if key != "seed"}))
    return Point(
        name=name, arguments=tuple(own), changes=changes, config=stored, budget=built.total_steps * built.batch_size
    )


_MISSING = object()


def plain(value: Any) -> Any:
    """A field's value as in JSON."""
    return list(map(plain, value)) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value


def written(value: Any) -> str:
    """A value of a field for a table: ``1x2`` for a tuple, ``()`` for an empty one."""
    if isinstance(value, list | tuple):
        return "x".join(map(written, value)) or EMPTY
    return str(value)


def _named(recipe: ExperimentModule, names: Sequence[str], config: Any) -> list[tuple[str, tuple[str, ...]]]:
    known, fields = list(recipe.ablations), {*flatten(config), *choices(config)}
    if not names:
        return []
    if not known:
        raise UserError(f"{recipe.name} names no ablations: vary fields with --vary or --grid")
    if tuple(names) == ("all",):
        names = known
    found = []
    for name in names:
        if name not in recipe.ablations:
            raise UserError(unknown_name("ablation", name, known, _listed(known)))
        if name == BASELINE:
            raise UserError(f"{recipe.module}.ABLATIONS names a change {BASELINE}, which is every table's first row")
        options: list[str] = []
        for field, value in recipe.ablations[name].items():
            if field not in fields:
                raise UserError(f"{name}: {_unknown(field, fields)}")
            options += written_option(field, value)
        found.append((name, tuple(options)))
    return found


def _listed(names: Sequence[str]) -> str:
    return f"there are {', '.join(names)}"


def _each(axes: Sequence[Axis]) -> list[tuple[Axis, tuple[str, ...]]]:
    return [(axis, value) for axis in axes for value in axis.values]


def _combinations(config: Any, axes: Sequence[Axis]) -> list[tuple[str, tuple[str, ...]]]:
    twice = [axis.field for axis in axes]
    for field in twice:
        if twice.count(field) > 1:
            raise UserError(f"--grid {field} is given twice: write all its values in one")
    found = []
    for values in itertools.product(*(axis.values for axis in axes)) if axes else ():
        chosen = list(zip(axes, values, strict=True))
        options = [word for axis, value in chosen for word in _options(config, axis, value, "--grid")]
        found.append((_typed(chosen), tuple(options)))
    return found


def _typed(chosen: Sequence[tuple[Axis, tuple[str, ...]]]) -> str:
    """The name of a point until it is parsed."""
    return ",".join(f"{axis.field}={'x'.join(value) or EMPTY}" for axis, value in chosen)


def _unknown(field: str, fields: Iterable[str]) -> str:
    return unknown_name("field", field, list(fields), "the experiment's --help-all lists all")


def _options(config: Any, axis: Axis, value: tuple[str, ...], option: str) -> tuple[str, ...]:
    """The experiment's option that gives ``axis.field`` a value typed as words."""
    field, fields = axis.field, {*flatten(config), *choices(config)}
    if field not in fields:
        raise UserError(f"{option}: {_unknown(field, fields)}")
    if field in choices(config):  # chosen by name, as on the command line
        return (option_of(field), " ".join(value) or EMPTY)
    if field == "seed":
        raise UserError(f"{option} seed: seeds are what a mean is taken over; give them as --seeds")
    kind = field_type(config, field)
    if kind is bool:
        if len(value) != 1 or value[0].lower() not in ("true", "false"):
            raise UserError(f"{option} {field}: its values are true and false, not {' '.join(value) or EMPTY}")
        return written_option(field, value[0].lower() == "true")
    if not _takes_tuple(kind):
        return written_option(field, " ".join(value) or EMPTY)
    return written_option(field, value)


def field_type(config: Any, dotted: str) -> Any:
    """The annotation of a dotted field of nested dataclasses."""
    first, _, rest = dotted.partition(".")
    if rest:
        return field_type(getattr(config, first), rest)
    return typing.get_type_hints(type(config))[first]


def _takes_tuple(kind: Any) -> bool:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return any(_takes_tuple(part) for part in typing.get_args(kind))
    return kind is tuple or typing.get_origin(kind) is tuple


def _renamed(point: Point) -> Point:
    """A name from the changes, so that equal configurations have the same name however they were typed."""
    name = ",".join(f"{field}={written(value)}" for field, value in point.changes.items())
    return dataclasses.replace(point, name=name)


def _distinct(point: Point, others: Sequence[Point]) -> Point:
    """With a name that is valid as a folder and differs from all ``others``, also ignoring case."""
    name = re.sub(r"[^A-Za-z0-9._+=,-]", "-", point.name.replace(EMPTY, "empty"))
    digest = hashlib.sha256(repr(point.config).encode()).hexdigest()[:8]
    if len(name) > _LONGEST_NAME:
        name = f"{name[:_LONGEST_NAME]},{digest}"
    if name.startswith((".", "-")) or name.casefold() in {other.name.casefold() for other in others}:
        name = f"{name.lstrip('.-')},{digest}"
    return dataclasses.replace(point, name=name)
