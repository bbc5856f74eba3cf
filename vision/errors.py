"""The one exception that is meant for the person at the keyboard."""


class UserError(Exception):
    """Something the user asked for cannot be done: a wrong path, a damaged file, a rule that cannot hold.

    The message is one or two plain sentences: what is wrong, where, and what to do. The command line prints it
    without a traceback and exits with ``code``.
    """

    def __init__(self, message: str, *, code: int = 2):
        super().__init__(message)
        self.code = code
