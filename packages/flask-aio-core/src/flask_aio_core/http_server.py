"""An HTTP server for one aiohttp application: its connections, and how they end."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from socket import socket
from typing import Any, Final, Protocol

from aiohttp import web

from .application import direct_handler
from .connection import Connection
from .handler import Handler

#: Seconds that a cancelled request gets for its teardown.
_MOMENT: Final = 1.0
#: Seconds between two looks at the connections of a server that stops.
_PAUSE: Final = 0.02
#: Bytes of a request line and of a header field. They differ by one so that the parser's error,
#: which only tells the limit, can be told to be about the one or the other.
_LINE_SIZE: Final = 8190
_FIELD_SIZE: Final = 8191


class Connections(web.Server):
    """The open connections of a server; called, it makes the protocol of a new one."""

    def __init__(
        self,
        handler: Handler,
        application: web.Server,
        connection_class: Callable[..., Connection],
        options: dict[str, Any],
    ) -> None:
        super().__init__(handler, request_factory=application.request_factory)
        self._connection_class = connection_class
        self._options = options
        self._loop = asyncio.get_running_loop()
        #: Connections that were accepted and are not among the open ones yet.
        self.expected = 0
        #: Called when a connection has ended.
        self.on_end: Callable[[], None] = lambda: None

    def __call__(self) -> Connection:
        return self._connection_class(self, loop=self._loop, **self._options)

    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        """Forget a connection that has ended; called by the connection itself."""
        super().connection_lost(handler, exc)
        self.on_end()

    @property
    def idle(self) -> list[Connection]:
        """The connections on which nothing happens."""
        return [one for one in self.connections if isinstance(one, Connection) and one.is_idle]


class Listener(Protocol):
    """What accepts connections."""

    def close(self) -> None:
        """Accept no more."""


class HTTPServer:
    """Serves an aiohttp application; started once and stopped once.

    :param application: what is served, not yet frozen.
    :param keepalive: seconds that an idle connection is held.
    :param connection_class: the protocol of each connection.
    :param wrap: given the application's handler, returns the one that is called instead.
    :param options: further arguments of aiohttp's ``RequestHandler``.
    """

    def __init__(
        self,
        application: web.Application,
        *,
        keepalive: float,
        connection_class: Callable[..., Connection] = Connection,
        wrap: Callable[[Handler], Handler] | None = None,
        **options: Any,
    ) -> None:
        self._application = application
        self._runner = _Runner(application)
        self._connection_class = connection_class
        self._wrap = wrap
        self._options: dict[str, Any] = {
            "keepalive_timeout": keepalive,
            "max_line_size": _LINE_SIZE,
            "max_field_size": _FIELD_SIZE,
            # As the application of this package wants it, which only its own server would know.
            "auto_decompress": False,
            **options,
        }
        self._listeners: list[Listener] = []
        self._hurry = asyncio.Event()
        #: The open connections, once the server has started.
        self.connections: Connections | None = None

    async def start(self) -> None:
        """Run the start hooks of the application; after that it can listen."""
        await self._runner.setup()
        server = self._runner.server
        assert server is not None
        handler = direct_handler(self._application, server.request_handler)
        self.connections = Connections(
            handler if self._wrap is None else self._wrap(handler),
            server,
            self._connection_class,
            {"debug": asyncio.get_running_loop().get_debug(), **self._options},
        )

    async def listen(self, sock: socket, ssl_context: ssl.SSLContext | None = None) -> None:
        """Accept the connections of a listening socket."""
        assert self.connections is not None
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(self.connections, sock=sock, ssl=ssl_context)
        self.add_listener(listener)

    def add_listener(self, listener: Listener) -> None:
        """Have something closed that accepts connections by other means."""
        self._listeners.append(listener)

    def hurry(self) -> None:
        """Stop without waiting for running requests, also when the stop has begun already."""
        self._hurry.set()

    async def stop(self, grace: float, *, linger: float = 0.0) -> None:
        """Accept no more connections, let running requests end, then run the clean-up hooks.

        Requests that take longer than the grace are cancelled; their teardown gets a moment more.

        :param grace: seconds.
        :param linger: seconds that idle connections stay open, because a client may be sending a
            request just now; it is told then that the connection closes.
        """
        begun = asyncio.get_running_loop().time()
        try:
            for listener in self._listeners:
                listener.close()
            if self.connections is not None:
                try:
                    await self._application.shutdown()
                finally:
                    await self._end_connections(self.connections, begun, grace, linger)
        finally:
            await self._runner.cleanup()

    async def _end_connections(
        self, connections: Connections, begun: float, grace: float, linger: float
    ) -> None:
        now = asyncio.get_running_loop().time
        moment = min(_MOMENT, grace / 2)
        idle_end = now() + min(linger, grace)
        end = begun + grace - moment
        while not self._hurry.is_set() and now() < end:
            if now() >= idle_end:
                _close(connections.idle)
            await _wait(self._hurry, _PAUSE)
            if not (connections.connections or connections.expected):
                return
        _close(connections.idle)
        await connections.shutdown(moment / 2 if self._hurry.is_set() else moment)


class _Runner(web.AppRunner):
    """Runs an application's hooks; the server does the rest itself."""

    async def shutdown(self) -> None:
        """Do nothing: the server has called the application's hooks when it began to stop."""


def _close(connections: list[Connection]) -> None:
    for connection in connections:
        # Its close() only ends the waiting for a request; the connection would stay open.
        connection.force_close()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
