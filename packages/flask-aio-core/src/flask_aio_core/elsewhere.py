"""The app under a server that is not ours: Flask's test client, gunicorn's sync worker, and so on.

There a request runs in the server's own thread, and nothing could suspend it. So each call of the
app, each step of its iterable and its close run on a greenlet of that thread: coroutine views and
SQLAlchemy's asyncio drivers work as they do under our server, at one request per thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from .bridge import can_suspend
from .state import AioState
from .streams import close_open_streams, close_response
from .thread_bridge import ThreadBridge

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_END: Final = object()


class Elsewhere:
    """WSGI middleware: passes a call of our own server on, and bridges any other."""

    def __init__(self, app: WSGIApplication, state: AioState) -> None:
        self._app = app
        self._state = state

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if can_suspend():
            return self._app(environ, start_response)
        bridge = ThreadBridge(self._state)
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


class _BridgedIterable(Iterator[bytes]):
    def __init__(
        self, iterable: Iterable[bytes], bridge: ThreadBridge, environ: WSGIEnvironment
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
