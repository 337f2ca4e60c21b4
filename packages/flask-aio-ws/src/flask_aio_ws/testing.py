"""For the tests of an app: a WebSocket client for plain tests, and one for coroutines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

import aiohttp
import werkzeug.test
from aiohttp import ClientHandlerType, ClientRequest, ClientResponse, WSMsgType
from flask import Flask
from flask.testing import EnvironBuilder, FlaskClient
from multidict import CIMultiDict, CIMultiDictProxy
from werkzeug.datastructures import Headers
from werkzeug.http import dump_cookie
from werkzeug.test import TestResponse
from yarl import URL

from flask_aio_core.testing import LiveServer

from .exceptions import ConnectionClosed, WebSocketError

__all__ = [
    "AsyncWebSocketClient",
    "HandshakeRefused",
    "WebSocketClient",
    "connect",
    "connect_async",
]

T = TypeVar("T")

#: Seconds that the answer to a handshake, a message, and the answer to a close may take.
_TIMEOUT: Final = 5.0
#: Seconds that the event loop gets to tell that a time is over.
_MOMENT: Final = 1.0


class HandshakeRefused(WebSocketError):
    """The server answered a handshake as an ordinary request.

    :param response: the answer, with its body, as Flask's test client returns responses.
    """

    def __init__(self, response: TestResponse) -> None:
        super().__init__(response)
        self.response = response

    def __str__(self) -> str:
        return f"The handshake was answered by {self.response.status}."


class _Served(Protocol):
    @property
    def url(self) -> str: ...


class AsyncWebSocketClient:
    """The client's end of a WebSocket, whose methods are awaited; made by :func:`connect_async`.

    Iterating yields the data of each message until the socket is closed.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        socket: aiohttp.ClientWebSocketResponse,
        headers: CIMultiDictProxy[str],
        timeout: float,
    ) -> None:
        self._session = session
        self._socket = socket
        self._timeout = timeout
        #: The headers of the handshake's answer.
        self.headers = headers
        #: The close code (RFC 6455, section 7.4.1), once the socket is closed; 1006 if there was no
        #: closing handshake.
        self.close_code: int | None = None
        #: The reason that the server gave for closing.
        self.close_reason = ""

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was agreed on."""
        return self._socket.protocol

    async def send(self, data: str | bytes) -> None:
        """Send a text message for a string, a binary one for bytes.

        :raises ConnectionClosed: the socket is closed.
        """
        try:
            if isinstance(data, str):
                await self._socket.send_str(data)
            else:
                await self._socket.send_bytes(data)
        except ConnectionError as error:
            raise self._closed(self._socket.close_code) from error

    async def send_json(self, data: Any) -> None:
        """Send data as JSON, in a text message.

        :raises ConnectionClosed: the socket is closed.
        """
        await self.send(json.dumps(data))

    async def receive(self, timeout: float | None = None) -> str | bytes:  # noqa: ASYNC109
        """Return the data of the next message: a string of a text message, bytes of a binary one.

        :param timeout: seconds; the default is that of the connection.
        :raises TimeoutError: no message came in that time.
        :raises ConnectionClosed: the socket is closed.
        """
        seconds = self._timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(seconds):
                message = await self._socket.receive()
        except TimeoutError:
            raise TimeoutError(f"No message came within {seconds:g} s.") from None
        if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            data: str | bytes = message.data
            return data
        if message.type is WSMsgType.CLOSE:
            raise self._closed(message.data or 1005, message.extra or "")
        raise self._closed(1006)

    async def receive_json(self, timeout: float | None = None) -> Any:  # noqa: ASYNC109
        """Return what the next message has as JSON.

        :param timeout: as of :meth:`receive`, which also tells what is raised.
        :raises ValueError: the message is no JSON.
        """
        return json.loads(await self.receive(timeout))

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the socket and wait for the answer; messages that come before it are dropped.

        :param code: the close code.
        :param reason: a text for the server, at most 123 bytes in UTF-8.
        """
        try:
            await self._socket.close(code=code, message=reason.encode())
            self._closed(self._socket.close_code)
        finally:
            await self._session.close()

    def __aiter__(self) -> AsyncIterator[str | bytes]:
        return self

    async def __anext__(self) -> str | bytes:
        try:
            return await self.receive()
        except ConnectionClosed:
            raise StopAsyncIteration from None

    def _closed(self, code: int | None, reason: str = "") -> ConnectionClosed:
        if self.close_code is None:  # What came first is why it is closed.
            self.close_code, self.close_reason = code or 1006, reason
        return ConnectionClosed(self.close_code, self.close_reason)


class WebSocketClient:
    """The client's end of a WebSocket, whose methods wait; made by :func:`connect`.

    It is a context manager that closes the socket. Iterating yields the data of each message until
    the socket is closed.
    """

    def __init__(self, server: LiveServer, socket: AsyncWebSocketClient, timeout: float) -> None:
        self._server = server
        self._socket = socket
        self._timeout = timeout

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """The headers of the handshake's answer."""
        return self._socket.headers

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was agreed on."""
        return self._socket.subprotocol

    @property
    def close_code(self) -> int | None:
        """The close code, as of :class:`AsyncWebSocketClient`; ``None`` while it is open."""
        return self._socket.close_code

    @property
    def close_reason(self) -> str:
        """The reason that the server gave for closing."""
        return self._socket.close_reason

    def send(self, data: str | bytes) -> None:
        """Send a message, as :meth:`AsyncWebSocketClient.send` does."""
        self._run(self._socket.send(data))

    def send_json(self, data: Any) -> None:
        """Send data as JSON, as :meth:`AsyncWebSocketClient.send_json` does."""
        self._run(self._socket.send_json(data))

    def receive(self, timeout: float | None = None) -> str | bytes:
        """Return the data of the next message, as :meth:`AsyncWebSocketClient.receive` does."""
        return self._run(self._socket.receive(timeout), timeout)

    def receive_json(self, timeout: float | None = None) -> Any:
        """Return the next message's, as :meth:`AsyncWebSocketClient.receive_json` does."""
        return self._run(self._socket.receive_json(timeout), timeout)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the socket, as :meth:`AsyncWebSocketClient.close` does."""
        self._run(self._socket.close(code, reason))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[str | bytes]:
        while True:
            try:
                yield self.receive()
            except ConnectionClosed:
                return

    def _run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        seconds = self._timeout if timeout is None else timeout
        return self._server.run(coroutine, seconds + _MOMENT)


def connect(
    server: LiveServer,
    path: str,
    *,
    headers: Mapping[str, str] | None = None,
    origin: str | None = None,
    subprotocols: Sequence[str] = (),
    cookies: Mapping[str, str] | None = None,
    client: FlaskClient | None = None,
    timeout: float = _TIMEOUT,
) -> WebSocketClient:
    """Open a WebSocket to a server, in a test that is no coroutine; use it by ``with``.

    :param server: the server, which runs.
    :param path: the path of the view, with its query.
    :param headers: of the handshake.
    :param origin: the origin of the page that the client pretends to be of.
    :param subprotocols: that the client speaks, its first choice first.
    :param cookies: by name.
    :param client: a test client of the app: its cookies are sent, so that a user who is logged in
        there is so here, and it gets those that the handshake sets.
    :param timeout: seconds that the answer to the handshake, each message, and the answer to a
        close may take.
    :raises HandshakeRefused: there was another answer than a WebSocket.
    :raises TimeoutError: there was no answer.
    """
    opening = _open(server, path, headers, origin, subprotocols, cookies, client, timeout)
    return WebSocketClient(server, server.run(opening, timeout + _MOMENT), timeout)


@asynccontextmanager
async def connect_async(
    server: _Served,
    path: str,
    *,
    headers: Mapping[str, str] | None = None,
    origin: str | None = None,
    subprotocols: Sequence[str] = (),
    cookies: Mapping[str, str] | None = None,
    client: FlaskClient | None = None,
    timeout: float = _TIMEOUT,  # noqa: ASYNC109 -- a default of what follows too
) -> AsyncIterator[AsyncWebSocketClient]:
    """Open a WebSocket in a test that is a coroutine, by ``async with``.

    :param server: an :class:`~flask_aio_core.testing.AioClient` or
        :class:`~flask_aio_core.testing.LiveServer`.

    Its other parameters, and what is raised, are those of :func:`connect`.
    """
    socket = await _open(server, path, headers, origin, subprotocols, cookies, client, timeout)
    try:
        yield socket
    finally:
        await socket.close()


async def _open(
    server: _Served,
    path: str,
    headers: Mapping[str, str] | None,
    origin: str | None,
    subprotocols: Sequence[str],
    cookies: Mapping[str, str] | None,
    client: FlaskClient | None,
    seconds: float,
) -> AsyncWebSocketClient:
    answers: list[ClientResponse] = []

    async def keep(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        # Where a redirect is seen that would be followed, and a body that would be dropped.
        answer = await handler(request)
        if client is not None:
            _store_cookies(client, path, answer)
        if answer.status != 101:
            async with answer:
                body = await answer.read()
            asked = werkzeug.test.EnvironBuilder(
                path, server.url, headers=[*request.headers.items()]
            )
            raise HandshakeRefused(
                TestResponse(
                    [body],
                    f"{answer.status} {answer.reason}",
                    Headers([*answer.headers.items()]),
                    asked.get_request(),
                )
            )
        answers.append(answer)
        return answer

    fields = CIMultiDict(headers or {})
    cookie = [fields.pop("Cookie", ""), _cookies_of(client, path) if client is not None else ""]
    cookie += [dump_cookie(name, value, path=None) for name, value in (cookies or {}).items()]
    if any(cookie):
        fields["Cookie"] = "; ".join(filter(None, cookie))
    session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), middlewares=[keep])
    try:
        async with asyncio.timeout(seconds):
            socket = await session.ws_connect(
                URL(server.url).join(URL(path)),
                headers=fields,
                origin=origin,
                protocols=subprotocols,
                timeout=aiohttp.ClientWSTimeout(ws_close=seconds),
                max_msg_size=0,
            )
    except TimeoutError:
        await session.close()
        raise TimeoutError(f"The handshake was not answered within {seconds:g} s.") from None
    except BaseException:
        await session.close()
        raise
    return AsyncWebSocketClient(session, socket, answers[0].headers, seconds)


# Werkzeug's test client has no public way to its cookies but by their names. Flask's own client
# uses these two methods.
def _cookies_of(client: FlaskClient, path: str) -> str:
    """Return the header with the cookies that a client would send to a path."""
    environ = _environ(client.application, path)
    client._add_cookies_to_wsgi(environ)
    header: str = environ.get("HTTP_COOKIE", "")
    return header


def _store_cookies(client: FlaskClient, path: str, answer: ClientResponse) -> None:
    environ = _environ(client.application, path)
    client._update_cookies_from_response(
        environ["SERVER_NAME"], environ["PATH_INFO"], answer.headers.getall("Set-Cookie", [])
    )


def _environ(app: Flask, path: str) -> dict[str, Any]:
    return EnvironBuilder(app, path).get_environ()
