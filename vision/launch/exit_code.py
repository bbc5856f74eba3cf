"""Errors as one line and an exit code."""

import contextlib
import errno
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax

from vision.errors import UserError
from vision.launch.options import command_line
from vision.parallel.agreement import is_first
from vision.stopping import EXIT_CODE
from vision.train.interruption import Interrupted

DISK = 4
"""The exit code of trouble with disks and checkpoints."""


def exit_code(action: Callable[[], object]) -> int:
    """Run ``action``; what a user can mend is printed as one line.

    Returns:
      0: done. 2: wrong options or input. 3: a value was not finite. 4: disk or checkpoint trouble. 75: interrupted and
      saved; the same command continues. 130: Ctrl-C pressed twice.
    """
    try:
        with _without_late_callbacks():
            action()
    except UserError as error:
        return _stopped(f"error: {' '.join(str(error).split())}", error.code)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        place = f" at {error.filename}" if error.filename else ""
        return _stopped(
            f"error: the disk (or your quota) is full{place}: free some "
            "space and run the same command again, which continues from the last checkpoint",
            DISK,
        )
    except Interrupted as stop:
        if is_first():
            print(
                f"{stop}; everything is saved. To continue, run the same command:\n  {command_line()}",
                file=sys.stderr,
            )
        return EXIT_CODE
    except KeyboardInterrupt:
        return _stopped("stopped at once; the same command continues from the last checkpoint", 130)
    return 0


@contextlib.contextmanager
def _without_late_callbacks() -> Iterator[None]:
    """Do not print what the threads of a failed save find: that others have ended.

    When one array of a checkpoint cannot be written, the error is raised here. The writes of the other arrays go on in
    the background, report to an event loop that is closed by then, and print a traceback each.
    """
    hook = sys.unraisablehook

    def print_others(unraisable: Any) -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            hook(unraisable)

    sys.unraisablehook = print_others
    try:
        yield
    finally:
        sys.unraisablehook = hook


def _stopped(message: str, code: int) -> int:
    """Say why, and return the exit code; one of several processes leaves without waiting for the others.

    JAX would let it wait at the exit for minutes for processes which themselves wait for it in a computation.
    """
    if code == DISK:  # the coroutines of a failed save are found at the exit
        warnings.filterwarnings("ignore", message="coroutine .* was never awaited", category=RuntimeWarning)
    several = jax.distributed.is_initialized() and jax.process_count() > 1
    print(f"process {jax.process_index()}: {message}" if several else message, file=sys.stderr, flush=True)
    if several:
        sys.stdout.flush()
        os._exit(code)
    return code
