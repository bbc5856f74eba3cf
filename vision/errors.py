"""The one exception that is meant for the person at the keyboard."""

from typing import Any


class UserError(Exception):
    """Something the user asked for cannot be done: a wrong path, a damaged file, a rule that cannot hold.

    The message is one or two plain sentences: what is wrong, where, and what to do. The command line prints it
    without a traceback and exits with ``code``.
    """

    def __init__(self, message: str, *, code: int = 2):
        super().__init__(message)
        self.code = code


def at_least_one(config: Any, *names: str, prefix: str = "") -> None:
    """Raise ``UserError`` for the first field of ``config`` among ``names`` that is less than 1.

    Fields that are tuples have at least one number, and none less than 1. ``prefix`` is what the fields are called by
    on the command line: "model." for "model.width".
    """
    for name in names:
        value = getattr(config, name)
        if isinstance(value, tuple) and (not value or min(value) < 1):
            raise UserError(f"{prefix}{name} has a number or more, each at least 1, and not {value}")
        if not isinstance(value, tuple) and value < 1:
            raise UserError(f"{prefix}{name} is at least 1, not {value}")
