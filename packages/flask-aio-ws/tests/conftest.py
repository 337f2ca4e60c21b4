"""Fixtures of all tests: a Flask app with the extension, a server on port 0, foreign clients."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import websockets
from aiohttp import WSServerHandshakeError
from aiohttp.test_utils import TestClient, TestServer
from flask import Flask

from flask_aio_core import AioHTTP

Client = TestClient[Any, Any]


@pytest.fixture
def app() -> Flask:
    """A Flask app that nothing has been done to."""
    app = Flask("shop")
    app.secret_key = "not a secret"
    return app


@pytest.fixture
def aio(app: Flask) -> AioHTTP:
    """The extension on that app, with the plugins of all installed packages."""
    return AioHTTP(app)


class PlainServer(TestServer):
    """Serves as aiohttp does by default: its test server cancels handlers whose client leaves."""

    grace = 1.0

    async def _make_runner(self, **kwargs):
        kwargs.update(handler_cancellation=False, shutdown_timeout=self.grace)
        return await super()._make_runner(**kwargs)


@pytest.fixture
async def serve():
    """Start a server for an app; return an aiohttp client for it. Both end with the test."""
    clients: list[Client] = []

    async def start(app: Flask, *, grace: float = 1.0) -> Client:
        server = PlainServer(app.aiohttp_app)  # type: ignore[attr-defined]
        server.grace = grace
        client = TestClient(server)
        clients.append(client)
        await client.start_server()
        return client

    yield start
    for client in reversed(clients):
        await client.close()


@pytest.fixture
async def connect():
    """Open a plain TCP connection to a client's server, for bytes that no client sends."""
    writers: list[asyncio.StreamWriter] = []

    async def open_connection(
        client: Client,
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(client.host, client.port)
        writers.append(writer)
        return reader, writer

    yield open_connection
    for writer in writers:
        writer.close()


@pytest.fixture
def eventually():
    """Wait until a condition holds; pytest's own time limit ends a test where it never does."""

    async def wait(condition: Callable[[], object]) -> None:
        while not condition():  # noqa: ASYNC110 -- a condition may be anything
            await asyncio.sleep(0.005)

    return wait


@pytest.fixture
async def dial():
    """Open a WebSocket with the library ``websockets``; it is closed with the test."""
    connections: list[Any] = []

    async def open_websocket(client: Client, path: str, **options: Any) -> Any:
        url = f"ws://{client.host}:{client.port}{path}"
        connection = await websockets.connect(url, proxy=None, **options)
        connections.append(connection)
        return connection

    yield open_websocket
    for connection in connections:
        await connection.close()


@pytest.fixture
def refusal():
    """Return the error by which aiohttp's client tells that a handshake was refused."""

    async def refused(client: Client, path: str, **options: Any) -> WSServerHandshakeError:
        with pytest.raises(WSServerHandshakeError) as caught:
            await client.ws_connect(path, **options)
        return caught.value

    return refused


class RawWebSocket:
    """A WebSocket client that does only what it is told: it answers neither ping nor close."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.head = ""
        self.status = 0

    async def handshake(self, path: str, headers: dict[str, str | None] | None = None) -> None:
        """Send a handshake; a header given as None is left out."""
        fields: dict[str, str | None] = {
            "Host": "shop.example",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            **(headers or {}),
        }
        lines = [f"{name}: {value}\r\n" for name, value in fields.items() if value is not None]
        self.writer.write(f"GET {path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode())

    async def answer(self) -> int:
        """Read the head of the answer; return its status."""
        self.head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        self.status = int(self.head.split()[1])
        return self.status

    def send(self, opcode: int, payload: bytes, *, mask: bool = True, first: int = 0x80) -> None:
        """Send one frame; ``first`` has the bits beside the opcode."""
        assert len(payload) < 126
        head = bytes([first | opcode, (0x80 if mask else 0) | len(payload)])
        self.writer.write(head + (bytes(4) if mask else b"") + payload)

    async def frame(self) -> tuple[int, bytes]:
        """Read one short frame; return its opcode and payload."""
        first, length = await self.reader.readexactly(2)
        assert length < 126
        return first & 0x0F, await self.reader.readexactly(length)

    async def close_code(self) -> int:
        """Read frames up to a close frame; return its code."""
        while True:
            opcode, payload = await self.frame()
            if opcode == 8:
                return int(struct.unpack("!H", payload[:2])[0])

    def vanish(self) -> None:
        """Reset the connection, as the death of the client's process does."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@pytest.fixture
def raw(connect) -> Callable[..., Awaitable[RawWebSocket]]:
    """Open a raw WebSocket: the handshake is sent, and unless told otherwise answered."""

    async def open_raw(
        client: Client,
        path: str,
        headers: dict[str, str | None] | None = None,
        *,
        wait: bool = True,
    ) -> RawWebSocket:
        one = RawWebSocket(*await connect(client))
        await one.handshake(path, headers)
        if wait:
            await one.answer()
        return one

    return open_raw
