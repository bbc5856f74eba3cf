"""Collective decisions of the processes of a run; trivial with a single process.

Each function is a collective operation: every process calls it, in the same order.
"""

from collections.abc import Callable

import jax
import numpy as np

from vision.errors import UserError

_MESSAGE_BYTES = 4096


def is_first() -> bool:
    """Whether this is the process that writes files."""
    return jax.process_index() == 0


def first_alone(action: Callable[[], None]) -> None:
    """Run ``action`` on the first process while the others wait for it.

    Raises ``UserError`` on every process if it did on the first.
    """
    if jax.process_count() == 1:
        action()
        return
    message, code = "", 0
    if is_first():
        try:
            action()
        except UserError as error:
            message, code = str(error) or "an error without a message", error.code
    text = message.encode()[:_MESSAGE_BYTES]
    packed = np.zeros(_MESSAGE_BYTES + 1, np.int32)
    packed[: len(text)] = np.frombuffer(text, np.uint8)
    packed[-1] = code
    packed = from_first(packed)
    if packed[-1]:
        text = bytes(packed[:-1].astype(np.uint8)).rstrip(b"\0").decode(errors="replace")
        raise UserError(text, code=int(packed[-1]))


def from_first(value: np.ndarray) -> np.ndarray:
    """The first process's value, of the same shape and dtype everywhere."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(value))


def all_of(flag: bool) -> bool:
    """Whether ``flag`` holds on every process."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.asarray(flag, np.int32))))


def check_equal(what: str, value: object) -> None:
    """Raise ``UserError`` on every process unless ``value`` has the same text on all."""
    import hashlib

    digest = np.frombuffer(hashlib.sha256(str(value).encode()).digest(), np.uint8).astype(np.int32)
    if not all_of(bool(np.array_equal(from_first(digest), digest))):
        raise UserError(f"the processes of this run have different {what}: start all with the same command and code")
