"""Keeps worker threads that compute from starving the event loop.

Threads share one interpreter lock. Each thread that wants it all the time gets it as often as the
event loop does, so with many of them a coroutine request waits many times as long. Running fewer of
them at once costs nothing then, as only one of them gets on at a time anyway.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .threads import WorkerThreads

#: Seconds between two looks, while more than one call runs.
_INTERVAL: Final = 0.02
#: The share of a processor from which on the threads are computing: less, and the loop is late for
#: another reason, like coroutines or a busy machine, which running fewer calls does not mend.
_COMPUTING: Final = 0.5


class Contention:
    """Has fewer calls run at once while the event loop is late, and later more again.

    :param max_lag: seconds the loop may be late.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, threads: WorkerThreads, max_lag: float
    ) -> None:
        self._loop = loop
        self._threads = threads
        self._max_lag = max_lag
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._cpu = 0.0

    def watch(self) -> None:
        """Begin to look, if not begun already; called on the loop when calls run side by side."""
        if self._timer is None:
            self._look_later()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_later(self) -> None:
        self._cpu = _cpu_of_other_threads()
        # Not the loop's clock: uvloop's stands still while it waits for the interpreter lock.
        self._due = time.monotonic() + _INTERVAL
        self._timer = self._loop.call_later(_INTERVAL, self._look)

    def _look(self) -> None:
        lag = time.monotonic() - self._due
        computing = _cpu_of_other_threads() - self._cpu >= _COMPUTING * (_INTERVAL + lag)
        self._timer = None
        threads = self._threads
        if lag > self._max_lag and computing:
            threads.limit_running(max(1, min(threads.running_limit, threads.running) // 2))
        elif not computing or lag < self._max_lag / 4:
            threads.limit_running(threads.running_limit + 1)
        if threads.running > 1 or not threads.is_unlimited:
            self._look_later()


def _cpu_of_other_threads() -> float:
    """Return the seconds of processor time that all threads but the current one have used."""
    return time.process_time() - time.thread_time()
