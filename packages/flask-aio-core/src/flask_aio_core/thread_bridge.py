"""Synchronous code in a thread that is not ours, and may wait for the app's event loop there.

Such a thread serves a WSGI call of another server, a command of the CLI, or a script. The code runs
on a greenlet of it, so that it may wait: ``await_``, and SQLAlchemy's asyncio drivers. The loop is
that of the server which serves the app, or else the process's private one.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVar

from .bridge import GreenletPool, can_suspend, current_context, run_in_thread

if TYPE_CHECKING:
    from .state import AioState

T = TypeVar("T")

_local = threading.local()


class ThreadBridge:
    """Runs functions so that they can wait for one app's event loop, wherever that runs."""

    def __init__(self, state: AioState) -> None:
        self._state = state

    def run(self, function: Callable[[], T]) -> T:
        """Run a function in the current thread and context, and return its result."""
        if can_suspend():
            return function()
        try:
            pool = _local.greenlets
        except AttributeError:
            pool = _local.greenlets = GreenletPool(None)
        return run_in_thread(pool, function, current_context(), self._wait)

    def _wait(self, awaitable: Awaitable[Any], context: Context) -> Any:
        # Only here is a loop needed: purely synchronous code does not start one.
        return self._state.wait(awaitable, context)
