"""The WebSocket as a synchronous view uses it: every call waits in the view's worker thread."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from aiohttp import WSMessage, WSMsgType

from flask_aio_core import await_

from .connection import WebSocket
from .exceptions import ConnectionClosed


class SyncWebSocket:
    """A WebSocket with blocking methods. Iterating yields the data of each message."""

    def __init__(self, socket: WebSocket) -> None:
        #: aiohttp's object, for what this one does not offer; use it through ``await_``.
        self.socket = socket

    @property
    def connected(self) -> bool:
        """Whether the socket is open."""
        return self.socket.is_connected

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was agreed on."""
        return self.socket.ws_protocol

    def receive(self, timeout: float | None = None) -> str | bytes | None:
        """Return the data of the next message, a string or bytes.

        :param timeout: seconds; if no message comes in that time, ``None`` is returned.
        :raises ConnectionClosed: the socket is closed.
        """
        if self.socket.closed:
            raise self._closed()
        try:
            message: WSMessage = await_(self.socket.receive(timeout))
        except TimeoutError:
            return None
        if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            data: str | bytes = message.data
            return data
        raise self._closed(message)

    def send(self, data: str | bytes) -> None:
        """Send a text message for a string, a binary one for bytes.

        :raises ConnectionClosed: the socket is closed.
        :raises TypeError: the data is neither.
        """
        send = self.socket.send_str if isinstance(data, str) else self.socket.send_bytes
        try:
            await_(send(data))  # type: ignore[arg-type]
        except ConnectionError as error:
            raise self._closed() from error

    def send_json(self, data: Any) -> None:
        """Send data as JSON, in a text message.

        :raises ConnectionClosed: the socket is closed.
        """
        self.send(json.dumps(data))

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the socket; nothing happens if it is closed.

        :param code: the close code (RFC 6455, section 7.4).
        :param reason: a text for the client, at most 123 bytes in UTF-8.
        """
        await_(self.socket.close(code=code, message=reason.encode()))

    def __iter__(self) -> Iterator[str | bytes]:
        while True:
            try:
                data = self.receive()
            except ConnectionClosed:
                return
            if data is not None:
                yield data

    def _closed(self, message: WSMessage | None = None) -> ConnectionClosed:
        reason = message.extra if message is not None and message.extra else ""
        # aiohttp's error knows with which code it has closed the socket, its close_code does not.
        code = getattr(message and message.data, "code", None) or self.socket.close_code
        return ConnectionClosed(code or 1006, reason)
