"""The WebSocket of a request: aiohttp's own, which knows the environ it was put into."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, Final
from weakref import WeakSet

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web
from flask import Flask

from flask_aio_core.plugins import REQUEST_ID_KEY, RESPONSE_KEY

from .config import Options

logger = logging.getLogger("flask_aio_ws")

#: The environ key of the WebSocket, which the predecessor of this package introduced. A synchronous
#: view finds the object with blocking methods there.
WEBSOCKET_KEY: Final = "wsgi.websocket"

#: Where ``app.extensions`` has the open WebSockets of an app.
EXTENSION: Final = "flask_aio_ws"

#: The reason that goes with 1001.
STOPPING: Final = b"The server is stopping."
_AT_ONCE: Final = 1e-6
#: Close codes that only stand for what happened, and are no part of a frame (RFC 6455, 7.4.1).
_NEVER_SENT: Final = {1004, 1005, 1006, 1015}
#: Types of message after which no other comes.
_LAST: Final = {WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR}
#: Seconds that clients get to answer our close before the waiting for their views begins.
_MOMENT: Final = 1.0


class WebSocket(web.WebSocketResponse):
    """aiohttp's :class:`~aiohttp.web.WebSocketResponse`, injected into a WSGI environ.

    It is made for each handshake request, and answers the handshake when it is prepared: until then
    the request can still be answered as any other.
    """

    # Beside the attributes of aiohttp's class they would double the size of the dictionary.
    __slots__ = ("_environ", "_max_message_size", "_request", "app", "close_timeout", "loop")

    def __init__(self, app: Flask, environ: dict[str, Any], options: Options) -> None:
        super().__init__(
            timeout=app.config["AIO_WS_CLOSE_TIMEOUT"],
            receive_timeout=options.receive_timeout,
            heartbeat=options.heartbeat,
            protocols=tuple(options.protocols),
            compress=options.compress,
            # aiohttp's limit is the first length that is too long; 0 is none.
            max_msg_size=options.max_message_size and options.max_message_size + 1,
        )
        self.app = app
        self._max_message_size = options.max_message_size
        self._environ = environ
        self._request: web.Request = environ["aiohttp.request"]
        self.loop = asyncio.get_running_loop()
        #: Seconds that the peer gets to answer our close.
        self.close_timeout: float = app.config["AIO_WS_CLOSE_TIMEOUT"]

    async def open(self) -> None:
        """Answer the handshake (RFC 6455, section 4.2.2); from now on the view has the connection.

        :raises aiohttp.web.HTTPBadRequest: the request is no proper handshake.
        """
        await self.prepare(self._request)

    async def prepare(self, request: web.BaseRequest) -> Any:
        """Answer the handshake; :meth:`open` calls it. Nothing happens when it was answered."""
        if self.prepared:  # aiohttp's server does this again with every response.
            return await super().prepare(request)
        request_id = self._environ.get(REQUEST_ID_KEY)
        if request_id is not None:
            self.headers.setdefault(self.app.config["AIO_REQUEST_ID_HEADER"], request_id)
        writer = await super().prepare(request)
        self._environ[RESPONSE_KEY] = self
        self._environ = {}  # It refers to us: together we would wait for the garbage collector.
        open_sockets(self.app).add(self)
        return writer

    async def end(self, code: int, reason: bytes = b"") -> None:
        """Close the socket, and do not wait for a client that does not even read.

        It still gets a while to read what was sent, and the close code; then that is dropped.
        """
        await self.close(code=code, message=reason, drain=False)
        transport = self._request.transport
        if transport is not None and transport.get_write_buffer_size():
            self.loop.call_later(self.close_timeout, self.abort)

    def abort(self) -> None:
        """Cut the connection, unsent data included."""
        if self._request.transport is not None:
            self._request.transport.abort()

    def receive(self, timeout: float | None = None) -> Any:
        """Return an awaitable of the next message, an :class:`aiohttp.WSMessage`.

        Its type is ``CLOSE``, ``CLOSING``, ``CLOSED`` or ``ERROR`` when there will be no other.

        :param timeout: seconds; the default is ``AIO_WS_RECEIVE_TIMEOUT``, 0 does not wait.
        :raises TimeoutError: no message came in that time.
        :raises RuntimeError: another task waits for a message of this socket.
        """
        # Not a coroutine function: that would be one more frame to go through for each message.
        # aiohttp takes 0 for no timeout at all.
        return super().receive(_AT_ONCE if timeout == 0 else timeout)

    async def close(
        self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True
    ) -> bool:
        """Close the socket, and wait for the client's answer for ``AIO_WS_CLOSE_TIMEOUT`` seconds.

        :param code: the close code (RFC 6455, section 7.4).
        :param message: the reason, at most 123 bytes.
        :param drain: wait until the close frame has left.
        :return: whether it was still open.
        """
        if code == WSCloseCode.OK and self.close_code in _NEVER_SENT:
            # aiohttp would answer 1000 even to a code that must never be sent.
            code = WSCloseCode.PROTOCOL_ERROR
        elif code == WSCloseCode.MESSAGE_TOO_BIG == self.close_code:
            logger.warning(
                "A message was longer than %s bytes; the WebSocket was closed with 1009."
                " AIO_WS_MAX_MESSAGE_SIZE sets the limit.",
                self._max_message_size,
            )
        return await super().close(code=code, message=message, drain=drain)

    async def __anext__(self) -> WSMessage:
        message: WSMessage = await self.receive()
        # After an error the socket is closed too: there is nothing that a view could answer.
        if message.type in _LAST:
            raise StopAsyncIteration
        return message

    @property
    def is_connected(self) -> bool:
        """Whether the client can still be reached, as far as is known."""
        return not self.closed and self._request.transport is not None


def has_handshake(request: web.BaseRequest) -> bool:
    """Whether a request asks for a WebSocket (RFC 6455, section 4.1)."""
    headers = request.headers
    connection = headers.get("Connection", "").lower()
    return headers.get("Upgrade", "").strip().lower() == "websocket" and "upgrade" in connection


def open_sockets(app: Flask) -> WeakSet[WebSocket]:
    """Return the WebSockets of an app that are open in this process."""
    sockets: WeakSet[WebSocket] = app.extensions[EXTENSION]
    return sockets


async def close_open_sockets(app: Flask) -> None:
    """Tell all clients of an app on the current event loop that the server goes away (1001)."""
    loop = asyncio.get_running_loop()
    closing = [
        loop.create_task(_close(socket))
        for socket in list(open_sockets(app))
        if socket.loop is loop
    ]
    if closing:
        await asyncio.wait(closing, timeout=_MOMENT)


async def _close(socket: WebSocket) -> None:
    with contextlib.suppress(Exception):  # The connection may break meanwhile: all the same to us.
        await socket.end(WSCloseCode.GOING_AWAY, STOPPING)
