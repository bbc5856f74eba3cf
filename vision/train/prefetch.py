"""Batches are put on the devices by a background thread, ahead of the step that uses them."""

import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")
Moved = TypeVar("Moved")


def prefetch(
    iterator: Iterable[Item], transfer: Callable[[Item], Moved], *, depth: int = 2
) -> "Prefetched[Item, Moved]":
    """Applies ``transfer`` to what comes out of ``iterator``, in a background thread, ahead of the consumer.

    Args:
        iterator: what to read from; used by the thread only, and closed there if it can be.
        transfer: called in the thread, such as ``jax.device_put`` to a sharding.
        depth: at least 1; at most this number of transferred items wait, besides the one that the consumer has.

    Returns:
        an iterator that starts at once. An exception of ``iterator`` or ``transfer`` is raised where the
        consumer would have got the item. A consumer that stops early calls ``close()``, or uses ``with``.

    Raises:
        ValueError: ``depth`` is less than 1.
    """
    return Prefetched(iterator, transfer, depth)


class Prefetched(Generic[Item, Moved]):
    """The iterator that `prefetch` returns."""

    def __init__(self, iterator: Iterable[Item], transfer: Callable[[Item], Moved], depth: int):
        if depth < 1:
            raise ValueError(f"prefetch needs a depth of at least 1, got {depth}.")
        self._ready: queue.SimpleQueue = queue.SimpleQueue()
        self._slots = threading.Semaphore(depth)
        stop = threading.Event()
        # The thread holds no reference to self: a consumer that merely lets go of self ends it too.
        thread = threading.Thread(
            target=_fill,
            args=(iterator, transfer, self._ready, self._slots, stop),
            name="prefetch",
            daemon=True,
        )
        thread.start()
        self._close = weakref.finalize(self, _end, thread, self._slots, stop)

    def __iter__(self) -> Iterator[Moved]:
        return self

    def __next__(self) -> Moved:
        if not self._close.alive:
            raise StopIteration
        item, error = self._ready.get()
        self._slots.release()
        if error is not None:
            self.close()
            raise error
        return item

    def close(self) -> None:
        """Stops the thread and waits for its end, at most one item away; may be called more than once."""
        self._close()

    def __enter__(self) -> "Prefetched[Item, Moved]":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _fill(iterator, transfer, ready, slots, stop) -> None:
    outcome: BaseException = StopIteration()
    try:
        source = iter(iterator)
        try:
            while not stop.is_set():
                item = next(source)
                slots.acquire()
                if not stop.is_set():
                    ready.put((transfer(item), None))
        finally:
            if hasattr(source, "close"):
                source.close()
    except BaseException as error:  # Whatever it is, it belongs to the consumer.
        outcome = error
    ready.put((None, outcome))


def _end(thread: threading.Thread, slots: threading.Semaphore, stop: threading.Event) -> None:
    stop.set()
    slots.release()
    # The collector may run the finaliser in the very thread that it ends.
    if thread is not threading.current_thread():
        thread.join()
