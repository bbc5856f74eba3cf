"""Options of the command line as text, for messages that say what to add and for commands that are composed."""

from typing import Any


def written_option(field: str, value: Any) -> tuple[str, ...]:
    """The option that sets a field: ``--model.width 64``, ``--no-flip``, ``--model.attention 16 8``."""
    option = f"--{field.replace('_', '-')}"
    if isinstance(value, bool):
        parent, _, last = option[2:].rpartition(".")
        return (option,) if value else (f"--{parent}.no-{last}" if parent else f"--no-{last}",)
    if isinstance(value, tuple | list):
        return (option, *map(str, value))
    # "-1" after a space could be parsed as an option
    return (f"{option}={value}",) if str(value).startswith("-") else (option, str(value))
