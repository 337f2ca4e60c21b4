"""An event loop for an app that no server of ours serves: test client, CLI, other WSGI servers.

It runs in a thread of its own, so that it also serves code which itself runs in an event loop (a
test of pytest-asyncio), and is one for the whole process, made when it is first needed: never at
import, and anew after a fork.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from flask import Flask

from .gevent import refuse_gevent
from .lifecycle import Lifecycle

if TYPE_CHECKING:
    from .runtime import Runtime

T = TypeVar("T")

_lock = threading.RLock()
_loop: PrivateLoop | None = None


class PrivateLoop:
    """A running event loop in a daemon thread, and the runtimes of the apps that use it."""

    def __init__(self) -> None:
        refuse_gevent()
        self.loop = asyncio.new_event_loop()
        self._runtimes: WeakSet[Runtime] = WeakSet()
        self._thread = threading.Thread(
            target=self.loop.run_forever, name="flask-aio-private-loop", daemon=True
        )
        self._thread.start()

    def start(self, app: Flask, lifecycle: Lifecycle) -> Runtime:
        """Make a runtime for an app and run the app's start hooks."""
        runtime = self._run(_start(app, lifecycle))
        self._runtimes.add(runtime)
        return runtime

    def stop(self, runtime: Runtime) -> None:
        """Run the clean-up hooks of a runtime's app."""
        self._runtimes.discard(runtime)
        self._run(runtime.stop())

    def close(self) -> None:
        """Stop all runtimes, then the loop."""
        for runtime in list(self._runtimes):
            self.stop(runtime)
        self._run(self.loop.shutdown_asyncgens())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=5)
        self.loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()


async def _start(app: Flask, lifecycle: Lifecycle) -> Runtime:
    from .runtime import Runtime

    runtime = Runtime(app, lifecycle)
    await runtime.start()
    return runtime


def private_runtime(known: Runtime | None, app: Flask, lifecycle: Lifecycle) -> Runtime:
    """Return an app's runtime on the process's private loop, made if need be.

    :param known: the one that was returned before; it is of no use after a fork.
    """
    global _loop
    with _lock:
        if _loop is None:
            _loop = PrivateLoop()
        if known is not None and known.loop is _loop.loop:
            return known
        return _loop.start(app, lifecycle)


def stop_private_runtime(runtime: Runtime) -> None:
    """Run the clean-up hooks of an app that was used without a server."""
    with _lock:
        if _loop is not None and runtime.loop is _loop.loop:
            _loop.stop(runtime)


@atexit.register
def _close() -> None:
    global _loop
    with _lock:
        if _loop is not None:
            loop, _loop = _loop, None
            loop.close()


def _forget() -> None:
    global _loop, _lock
    _lock = threading.RLock()  # Another thread may have held it during the fork.
    _loop = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
