"""SIGTERM and Ctrl-C before a run trains: a sentence and an exit code, in place of a traceback out of an import.

Imports nothing that takes time, since it is needed first.
"""

import os
import signal
import sys
from types import FrameType

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: nothing is wrong, run the same command again."""


def install() -> None:
    """Stop the process at once on SIGTERM and SIGINT, until a run installs handlers of its own.

    Nothing is at stake then: files appear at once or not at all.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)


def install_for_programs() -> None:
    """:func:`install` where a module of this package is being started by ``python -m``, and nowhere else."""
    if sys.argv[:1] == ["-m"]:
        install()


def stop(message: str, code: int) -> None:
    """Print ``message`` and end the process without unwinding, as a kill would."""
    os.write(2, f"{message}\n".encode())
    os._exit(code)


def _stop(number: int, frame: FrameType | None) -> None:
    del number, frame
    stop("stopped while no training was going on; run the same command again", EXIT_CODE)
