"""The app under a server that is not ours: Flask's test client, gunicorn's sync worker, and so on.

There a request runs in the server's own thread, and nothing could suspend it. So each call of the
app, each step of its iterable and its close run on a greenlet of that thread: coroutine views and
SQLAlchemy's asyncio drivers work as they do under our server, at one request per thread.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from .bridge import GreenletPool, can_suspend, current_context, run_in_thread
from .state import AioState
from .streams import close_open_streams, close_response

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

T = TypeVar("T")

_END: Final = object()
_local = threading.local()


class Elsewhere:
    """WSGI middleware: passes a call of our own server on, and bridges any other."""

    def __init__(self, app: WSGIApplication, state: AioState) -> None:
        self._app = app
        self._state = state

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if can_suspend():
            return self._app(environ, start_response)
        bridge = _ThreadBridge(self._state)
        try:
            iterable = bridge.run(partial(self._app, environ, start_response))
        except BaseException:
            bridge.run(partial(close_open_streams, environ))
            raise
        wrapper = environ.get("wsgi.file_wrapper")
        if isinstance(iterable, (list, tuple)) or (
            isinstance(wrapper, type) and isinstance(iterable, wrapper)
        ):
            return iterable  # The server knows what to do with it.
        return _BridgedIterable(iterable, bridge, environ)


class _ThreadBridge:
    """Runs synchronous code so that it can wait for the app's event loop, wherever that runs."""

    def __init__(self, state: AioState) -> None:
        self._state = state

    def run(self, function: Callable[[], T]) -> T:
        try:
            pool = _local.greenlets
        except AttributeError:
            pool = _local.greenlets = GreenletPool(None)
        return run_in_thread(pool, function, current_context(), self._wait)

    def _wait(self, awaitable: Awaitable[Any], context: Context) -> Any:
        # Only here is a loop needed: purely synchronous requests do not start one.
        return self._state.wait(awaitable, context)


class _BridgedIterable(Iterator[bytes]):
    def __init__(
        self, iterable: Iterable[bytes], bridge: _ThreadBridge, environ: WSGIEnvironment
    ) -> None:
        self._iterable = iterable
        self._iterator = iter(iterable)
        self._bridge = bridge
        self._environ = environ

    def __next__(self) -> bytes:
        chunk = self._bridge.run(partial(next, self._iterator, _END))
        if chunk is _END:
            raise StopIteration
        return cast(bytes, chunk)

    def close(self) -> None:
        self._bridge.run(partial(close_response, self._iterable, self._environ))
