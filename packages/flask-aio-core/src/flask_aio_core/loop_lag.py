"""How late the event loop is: a timer looks, a few times a second at most."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Final

#: Seconds after which the greatest lag begins to be forgotten.
_WINDOW: Final = 30.0


class LoopLag:
    """Measures by how much a timer of the event loop is late.

    All that a request could pay is the loop's one callback per interval.

    :param interval: seconds from one measurement to the next.
    :param limit: seconds of lag from which the loop counts as having been blocked; 0 counts none.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, interval: float, limit: float) -> None:
        self._loop = loop
        self._interval = interval
        self._limit = limit
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self._greatest = 0.0
        self._greatest_before = 0.0
        self._window_end = 0.0
        #: When the timer should go off next, as of :func:`time.monotonic`; 0 until it is started.
        self.due = 0.0
        #: How often the loop was blocked.
        self.blocked = 0

    def start(self) -> None:
        """Begin to measure, unless that has begun; called in the loop's thread."""
        if self._timer is None and not self._stopped:
            self._set_timer()

    def want(self) -> None:
        """Begin to measure; called in any thread."""
        if not self.due:
            with contextlib.suppress(RuntimeError):  # The loop was closed.
                self._loop.call_soon_threadsafe(self.start)

    def stop(self) -> None:
        """End it; called in the loop's thread."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    @property
    def greatest(self) -> float:
        """The greatest lag of the last half to whole minute, in seconds.

        A blockade counts while it lasts: another thread sees it.
        """
        overdue = time.monotonic() - self.due if self.due else 0.0
        return max(self._greatest, self._greatest_before, overdue, 0.0)

    def _set_timer(self) -> None:
        # Not the loop's clock: uvloop's stands still while a callback runs.
        self.due = time.monotonic() + self._interval
        self._timer = self._loop.call_later(self._interval, self._look)

    def _look(self) -> None:
        now = time.monotonic()
        lag = now - self.due
        if now >= self._window_end:
            self._greatest_before, self._greatest = self._greatest, 0.0
            self._window_end = now + _WINDOW
        self._greatest = max(self._greatest, lag)
        if self._limit and lag >= self._limit:
            self.blocked += 1
        self._set_timer()
