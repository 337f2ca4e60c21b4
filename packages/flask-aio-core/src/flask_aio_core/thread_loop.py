"""The current event loop of a worker thread: what it is given to run, the server's loop runs.

SQLAlchemy closes a connection that it gives up by ``asyncio.shield(coroutine)``, which needs a
current event loop where it is called. A worker thread has none, and the connection would stay open
for ever.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from .bridge import close_orphan, current_context

if TYPE_CHECKING:
    from .runtime import Runtime

T = TypeVar("T")


class ThreadLoop(asyncio.AbstractEventLoop):
    """Makes tasks on the loop of a runtime, from another thread."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def create_task(  # type: ignore[override]
        self, coroutine: Coroutine[Any, Any, T], **options: Any
    ) -> asyncio.Task[T]:
        """Start a task; block until the loop has made it."""

        async def create() -> asyncio.Task[T]:
            return self._runtime.loop.create_task(coroutine, **options)

        try:
            return self._runtime.wait(create(), current_context())
        except BaseException:
            close_orphan(coroutine)
            raise

    def run_until_complete(self, future: Awaitable[T]) -> T:  # type: ignore[override]
        """Block until the loop has run an awaitable."""
        return self._runtime.wait(future, current_context())

    def is_running(self) -> bool:
        """Return whether code of this thread runs in a loop; it never does."""
        return False

    def is_closed(self) -> bool:
        """Return whether the loop has ended."""
        return self._runtime.loop.is_closed()

    def get_debug(self) -> bool:
        """Return whether the loop is in asyncio's debug mode."""
        return self._runtime.loop.get_debug()


def lend_loop(runtime: Runtime) -> None:
    """Give the current worker thread a current event loop, if it has none and may need one."""
    if "sqlalchemy.connectors.asyncio" not in sys.modules:
        return  # Other code shall see the thread as it always was.
    try:
        asyncio.get_event_loop()
    except RuntimeError:
        asyncio.set_event_loop(ThreadLoop(runtime))  # type: ignore[abstract]
