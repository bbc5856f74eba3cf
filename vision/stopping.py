"""The first lines of a program: signals before it trains are a sentence and an exit code, and it starts fast.

SIGTERM and Ctrl-C would be a traceback out of an import. Imports nothing that takes time, since it is needed first.
"""

import gc
import os
import signal
import sys
from types import FrameType

from vision.huge_pages import restart_with_huge_pages

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: nothing is wrong, run the same command again."""


def install() -> None:
    """Stop the process at once on SIGTERM and SIGINT, until a run installs handlers of its own.

    Nothing is at stake then: files appear at once or not at all.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)


def install_for_programs() -> None:
    """:func:`install` where a module of this package is being started by ``python -m``, and nowhere else.

    There memory comes in huge pages too (``vision.huge_pages``), and the collector of cyclic garbage runs seldom:
    imports and traces make hundreds of thousands of objects that stay, and looking through them again and again takes a
    fifth of the time of imports and a third of that of traces.
    """
    if sys.argv[:1] == ["-m"]:
        restart_with_huge_pages()
        install()
        gc.set_threshold(100_000, 20, 100)


def stop(message: str, code: int) -> None:
    """Print ``message`` and end the process without unwinding, as a kill would."""
    os.write(2, f"{message}\n".encode())
    os._exit(code)


def _stop(number: int, frame: FrameType | None) -> None:
    del number, frame
    stop("stopped while no training was going on; run the same command again", EXIT_CODE)
