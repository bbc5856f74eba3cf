"""From a command line to a configuration and back: tyro, with errors of one line that name the neighbours."""

import contextlib
import dataclasses
import difflib
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro

from vision.errors import UserError
from vision.parallel.processes import ProcessOptions
from vision.ranges import NonNegativeInt, check_ranges

Config = TypeVar("Config")

PLAIN_UNIONS = (tyro.conf.AvoidSubcommands,)
"""The options of a field of several types are those of its default's type."""

TYPE = "type"
"""Key in config.json under which a field that is chosen by name keeps the type of its value."""

HELP = frozenset({"--help", "-h", "--help-all"})
"""Words that print help in place of doing anything; ``vision.launch.run`` answers the first two with a short one."""


@dataclass(frozen=True)
class RunOptions:
    """What to do with a configuration."""

    quick: bool = False
    """Start from the quick configuration: small, on generated data, made for a laptop."""
    config: Path | None = None
    """Start from the config.json of another run."""
    workdir: Path | None = None
    """The run folder. Default: runs/, the experiment's name, and what differs from the defaults."""
    dry_run: bool = False
    """Print the resolved configuration, every parameter with its sharding, memory and FLOPs, then stop."""
    topology: str | None = None
    """With --dry-run: compile the step, the evaluation and the sampling for these devices, which need not be there:
    "v5e:4x4" (v4, v5e, v5p, v6e and the sides of the slice), "h100:8" or "h100:4x8" (a100, h100, h200, b200; hosts, and
    GPUs of each). Needs the extra that has the compiler, tpu or cuda12."""
    seeds: NonNegativeInt = 0
    """Train this number of runs as one program, with seeds counted up from the configuration's; 0 for a single run."""
    sweep: tuple[str, ...] = ()
    """Fields that are plain numbers, each followed by its values, as in "optimizer.lr 1e-4,3e-4,1e-3": one run for
    every combination (and seed), all in one program."""
    replicas_by: Literal["auto", "vmap", "sequential"] = "auto"
    """How the runs of --seeds and --sweep that share a device are computed: vectorized, or one after another. By
    default what is fastest on the backend; changes rounding, nothing else."""
    extend: Path | None = None
    """Start from the end of this finished run, which had the same recipe and a smaller budget (--images)."""
    profile: bool = False
    """Write a trace of a few steps to profile/ in the run folder."""
    processes: ProcessOptions = ProcessOptions()


@dataclass(frozen=True)
class Parsed(Generic[Config]):
    """A parsed command line."""

    config: Config
    default: Config
    """The configuration that the options were applied to."""
    run: RunOptions


def parse(prog: str, *, default: Config, quick: Config, description: str, arguments: Sequence[str]) -> Parsed[Config]:
    """Parse ``arguments``: nested fields as ``--model.width 64``, later ones winning over earlier ones.

    ``--quick`` replaces the defaults by ``quick``, ``--config FILE`` by a stored configuration.

    Raises:
      UserError: for an unknown option, a wrong value, a number out of its range, or an unreadable configuration file.
      SystemExit: after printing help.
    """
    base = quick if "--quick" in arguments else default
    stored: list[str] = []
    start = base
    location = _value_of("--config", arguments)
    if location is not None and "--quick" in arguments:
        raise UserError("--quick and --config both say where to start: choose one")
    if location is not None:
        content = _read(Path(location))
        base, fields = _with_stored_types(default, content["config"], origin=Path(location))
        start = default
        stored = _as_arguments(fields, origin=Path(location), known=flatten(base))
        stored += _replica_arguments(content.get("replicas", {}))

    base, arguments = with_named_choices(base, arguments, quick="--quick" in arguments)

    @dataclass(frozen=True)
    class CommandLine:
        config: Annotated[Any, tyro.conf.arg(name="")]
        run: Annotated[RunOptions, tyro.conf.arg(name="")] = RunOptions()

    CommandLine.__annotations__["config"] = Annotated[type(base), tyro.conf.arg(name="")]
    names = [option_of(name) for name in (*flatten(base), *flatten(RunOptions()))]
    parsed = _tyro(CommandLine, prog, description, [*stored, *arguments], CommandLine(config=base), names)
    check_ranges(parsed.config)
    check_ranges(parsed.run)
    return Parsed(config=parsed.config, default=start, run=parsed.run)


def parse_fields(prog: str, *, base: Config, arguments: Sequence[str], known: Sequence[str] = ()) -> Config:
    """``base`` with the fields that ``arguments`` set, which are options of the configuration and nothing else.

    Args:
      prog: the command, for messages.
      base: the configuration to start from.
      arguments: options such as ``--detector.iou 0.5``.
      known: other options of the command, which a message about an unknown one may suggest.

    Raises:
      UserError: for an unknown option, a wrong value, or a number out of its range.
    """
    names = [option_of(name) for name in flatten(base)]
    config = _tyro(type(base), prog, "", arguments, base, [*known, *names])
    check_ranges(config)
    return config


def config_of(content: Mapping[str, Any], *, origin: Path, default: Config) -> Config:
    """The configuration that a config.json holds; fields that it lacks have the values of ``default``.

    Args:
      content: its object "config".
      origin: the file, for messages.
      default: the experiment's default configuration.

    Raises:
      UserError: for a key that there is not, or a value that does not fit.
    """
    base, fields = _with_stored_types(default, content, origin=origin)
    return parse_fields(str(origin), base=base, arguments=_as_arguments(fields, origin=origin, known=flatten(base)))


def choices(config: Any, *, quick: bool = False) -> dict[str, Mapping[str, Any]]:
    """Fields of a configuration that are chosen by name, each with its table from name to frozen configuration.

    They are declared as ``field(default=..., metadata={"choices": TABLE})``, where "quick_choices" may have a smaller
    configuration for each name, to be chosen with ``--quick``.
    """
    fields = [each for each in dataclasses.fields(config) if "choices" in each.metadata]
    key = "quick_choices" if quick else "choices"
    return {each.name: each.metadata.get(key, each.metadata["choices"]) for each in fields}


def with_named_choices(base: Config, arguments: Sequence[str], *, quick: bool = False) -> tuple[Config, list[str]]:
    """``base`` with the entries that ``--FIELD NAME`` chooses from the table of a field, and the other arguments.

    Args:
      base: the configuration to start from.
      arguments: the command line.
      quick: whether ``base`` is the quick configuration.

    Raises ``UserError`` for a name that the table lacks.
    """
    rest = list(arguments)
    for name, table in choices(base, quick=quick).items():
        while option_of(name) in rest:
            index = rest.index(option_of(name))
            chosen = rest[index + 1] if index + 1 < len(rest) else ""
            if chosen not in table:
                raise UserError(
                    unknown_name(name, chosen or "without a name", list(table), f"there are {', '.join(table)}")
                )
            base = _replaced(base, name, table[chosen])
            del rest[index : index + 2]
    return base, rest


def _replaced(config: Any, name: str, value: Any) -> Any:
    return dataclasses.replace(config, **{name: value})


def _with_stored_types(default: Config, content: Mapping[str, Any], *, origin: Path) -> tuple[Config, dict[str, Any]]:
    """``default`` with values of the types that a config.json names, and its content without the names of types."""
    fields = dict(content)
    for name, table in choices(default).items():
        value = dict(fields.get(name, {}))
        kind = value.pop(TYPE, type(getattr(default, name)).__name__)
        kinds = {type(each).__name__: type(each) for each in (*table.values(), getattr(default, name))}
        if kind not in kinds:
            raise UserError(f"{origin}: {unknown_name(f'type of {name}', kind, list(kinds), f'there are {kinds}')}")
        if not isinstance(getattr(default, name), kinds[kind]):
            default = _replaced(default, name, kinds[kind]())
        fields[name] = value
    return default, fields


def _tyro(kind: Any, prog: str, description: str, arguments: Sequence[str], default: Any, names: Sequence[str]) -> Any:
    """Parse ``arguments`` as an instance of ``kind``; ``names`` are the options that a message may suggest."""
    if HELP & set(arguments):
        tyro.cli(
            kind,
            prog=prog,
            description=description,
            args=["--help"],
            default=default,
            config=PLAIN_UNIONS,
        )
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            parsed, unknown = tyro.cli(
                kind,
                prog=prog,
                args=list(arguments),
                default=default,
                return_unknown_args=True,
                config=PLAIN_UNIONS,
            )
    except SystemExit as stop:
        raise UserError(_first_section(said.getvalue())) from stop
    if unknown and not unknown[0].startswith("-"):
        raise UserError(
            f"{unknown[0]} belongs to no option: options begin with --, and files, of 'python -m vision', are named "
            "before them or after --"
        )
    if unknown:
        raise UserError(unknown_name("option", unknown[0], names))
    return parsed


def unknown_name(kind: str, name: str, known: Sequence[str], otherwise: str = "--help-all lists all options") -> str:
    """One sentence: there is no such option or key, and which ones are near, or else ``otherwise``."""
    plain = name.split("=")[0].replace("_", "-") if name.startswith("--") else name
    last_part = lambda dotted: dotted.lstrip("-").rsplit(".", 1)[-1]
    last = last_part(plain)
    near = [candidate for candidate in known if last_part(candidate) == last][:3]
    near = near or difflib.get_close_matches(plain, known, n=3, cutoff=0.5)
    near = near or [candidate for candidate in known if last and last in candidate][:3]
    hint = f"did you mean {' or '.join(near)}?" if near else otherwise
    return f"there is no {kind} {name}: {hint}"


def _first_section(text: str) -> str:
    """The message of tyro's box: what lies between its first two rules, on one line."""
    rule = set("-─━╭╰╮╯│ ")
    sections, current = [], []
    for line in text.splitlines():
        content = line.strip().strip("│").strip()
        if content and set(content) <= rule:
            sections.append(" ".join(current))
            current = []
        elif content and not line.strip().startswith("╭"):
            current.append(content)
    sections.append(" ".join(current))
    messages = [section for section in sections if section]
    # the first section is the title of the box when there are several
    return messages[1] if len(messages) > 1 else messages[0]


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted field names to values, nested dataclasses opened."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flat.update(flatten(value, f"{prefix}{field.name}."))
        else:
            flat[f"{prefix}{field.name}"] = value
    return flat


def option_of(field: str) -> str:
    """The option that sets a dotted field: "data.max_boxes" -> "--data.max-boxes"."""
    return f"--{field.replace('_', '-')}"


def nested(config: Any) -> dict[str, Any]:
    """A configuration as JSON values, nested like its dataclasses."""
    plain = lambda v: str(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v
    named = lambda field, value: {TYPE: type(value).__name__} if "choices" in field.metadata else {}
    return {
        field.name: {**named(field, value), **nested(value)} if dataclasses.is_dataclass(value) else plain(value)
        for field in dataclasses.fields(config)
        for value in [getattr(config, field.name)]
    }


def changes(config: Any, default: Any) -> dict[str, Any]:
    """The dotted fields in which ``config`` differs from ``default``."""
    before = flatten(default)
    return {name: value for name, value in flatten(config).items() if before.get(name) != value}


def _value_of(option: str, arguments: Sequence[str]) -> str | None:
    for index, argument in enumerate(arguments):
        if argument == option and index + 1 < len(arguments):
            return arguments[index + 1]
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2]
    return None


def _read(path: Path) -> Mapping[str, Any]:
    path = path / "config.json" if path.is_dir() else path
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"the configuration {path} cannot be read: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
        raise UserError(f"{path} is no config.json of a run: it has no object named 'config'")
    return content


def _replica_arguments(replicas: Mapping[str, Any]) -> list[str]:
    """The options that a stored run of several replicas was started with."""
    seeds = ["--seeds", str(replicas["seeds"])] if replicas.get("seeds") else []
    sweep = [
        word for name, numbers in replicas.get("sweep", {}).items() for word in (name, ",".join(map(str, numbers)))
    ]
    return [*seeds, *(["--sweep", *sweep] if sweep else [])]


def _as_arguments(content: Mapping[str, Any], *, origin: Path, known: Mapping[str, Any], prefix: str = "") -> list[str]:
    """A stored configuration as the command line that gives it, so that one parser checks both."""
    arguments: list[str] = []
    for name, value in content.items():
        dotted = f"{prefix}{name}"
        if isinstance(value, Mapping):
            arguments += _as_arguments(value, origin=origin, known=known, prefix=f"{dotted}.")
            continue
        if dotted not in known:
            raise UserError(f"{origin}: {unknown_name('key', dotted, list(known))}")
        option = option_of(dotted)
        if isinstance(value, bool):
            parent, _, last = option[2:].rpartition(".")
            no = f"{parent}.no-{last}" if parent else f"no-{last}"
            arguments.append(option if value else f"--{no}")
        elif isinstance(value, list):
            arguments += [option, *map(str, value)]
        else:
            arguments += [option, str(value)]
    return arguments


def command_line() -> str:
    """What was typed, as it can be typed again."""
    import shlex

    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    start = ["python", "-m", spec.name.removesuffix(".__main__")] if spec is not None else ["python", sys.argv[0]]
    return shlex.join([*start, *sys.argv[1:]])
