"""The one exception that is meant for the person at the keyboard, and text of files in its message."""


class UserError(Exception):
    """Something the user asked for cannot be done: a wrong path, a damaged file, a rule that cannot hold.

    The message is one or two plain sentences: what is wrong, where, and what to do. The command line prints it
    without a traceback and exits with ``code``.
    """

    def __init__(self, message: str, *, code: int = 2):
        super().__init__(message)
        self.code = code


def on_one_line(text: str, most: int = 200) -> str:
    """Text from a file, for a message: printable and not long."""
    cut = text if len(text) <= most else f"{text[:most]}..."
    return cut if cut.isprintable() else ascii(cut)[1:-1]
