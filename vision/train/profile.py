"""A trace of a few steps, for TensorBoard's profile plugin, Perfetto or XProf."""

from pathlib import Path
from typing import Any

import jax

_SKIPPED = 2  # the first dispatches: caches and queues fill
_TRACED = 5


class Profile:
    """Traces dispatches 3 to 7 of this process into ``folder``; does nothing when ``folder`` is None."""

    def __init__(self, folder: Path | None):
        self._folder = folder
        self._seen = 0
        self._running = False

    def before_dispatch(self) -> None:
        """Start the trace when its time has come."""
        if self._folder is not None and self._seen == _SKIPPED:
            jax.profiler.start_trace(self._folder)
            self._running = True
        self._seen += 1

    def after_dispatch(self, results: Any) -> str | None:
        """Write the trace once ``results`` of its last dispatch are there; returns where, the one time it does."""
        if not self._running or self._seen < _SKIPPED + _TRACED:
            return None
        jax.block_until_ready(results)
        self._running = False
        jax.profiler.stop_trace()
        return str(self._folder)
