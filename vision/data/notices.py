"""Oddities of data that can be lived with: each is reported once, in one sentence, by the first process."""

import multiprocessing
import sys
import threading

import jax

_LOCK = threading.Lock()
_REPORTED: set[str] = set()


def notice(text: str, *, kind: str = "") -> None:
    """Print one sentence to stderr, unless one of the same ``kind`` (by default the text) was printed before.

    The first process prints. Worker processes, which only decode, do not: the main process reads the same files.
    """
    if multiprocessing.parent_process() is not None or jax.process_index() != 0:
        return
    with _LOCK:
        if (kind or text) in _REPORTED:
            return
        _REPORTED.add(kind or text)
    print(text, file=sys.stderr)
