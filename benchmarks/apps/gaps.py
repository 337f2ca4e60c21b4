"""How long an event loop has not come round: a ticker on it measures its own delays."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

_PERIOD: Final = 0.002


class Gaps:
    """Measures, from its start on, the longest time that the loop was held up."""

    def __init__(self) -> None:
        self._ticker: Any = None
        self._longest = 0.0

    def start(self, spawn: Callable[[], Any]) -> None:
        """Start the ticker, once."""
        if self._ticker is None:
            self._ticker = spawn()

    def longest(self) -> float:
        """Return the seconds of the longest gap since this was last called."""
        longest, self._longest = self._longest, 0.0
        return longest

    def tick(self, sleep: Callable[[float], Any]) -> None:
        """Measure for ever, on a greenlet of gevent."""
        while True:
            start = time.perf_counter()
            sleep(_PERIOD)
            self._note(start)

    async def tick_on_loop(self, sleep: Callable[[float], Awaitable[Any]]) -> None:
        """Measure for ever, in a task of asyncio."""
        while True:
            start = time.perf_counter()
            await sleep(_PERIOD)
            self._note(start)

    def _note(self, start: float) -> None:
        self._longest = max(self._longest, time.perf_counter() - start - _PERIOD)
