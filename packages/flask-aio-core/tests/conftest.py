"""Fixtures of all tests: a Flask app with the extension, served over real sockets on port 0."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from flask import Flask

from flask_aio_core import AioHTTP

Client = TestClient[Any, Any]
Serve = Callable[[Flask], Awaitable[Client]]
Connect = Callable[[Client], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@pytest.fixture(autouse=True)
def _quiet_access_log():
    """Switch the access log off again, which aio.run switches on for the whole process."""
    log = logging.getLogger("aiohttp.access")
    level, handlers = log.level, list(log.handlers)
    yield
    log.setLevel(level)
    log.handlers[:] = handlers


@pytest.fixture
def app() -> Flask:
    """A Flask app that nothing has been done to."""
    app = Flask("shop")
    app.secret_key = "not a secret"
    return app


@pytest.fixture
def aio(app: Flask) -> AioHTTP:
    """The extension on that app."""
    return AioHTTP(app)


class PlainServer(TestServer):
    """Serves as aiohttp does by default: its test server cancels handlers whose client leaves."""

    async def _make_runner(self, **kwargs):
        kwargs.update(handler_cancellation=False, shutdown_timeout=1)
        return await super()._make_runner(**kwargs)


@pytest.fixture
async def serve():
    """Start a server for an app; return an aiohttp client for it. Both end with the test."""
    clients: list[Client] = []

    async def start(app: Flask) -> Client:
        client = TestClient(PlainServer(app.aiohttp_app))  # type: ignore[attr-defined]
        clients.append(client)
        await client.start_server()
        return client

    yield start
    for client in reversed(clients):
        await client.close()


@pytest.fixture
async def connect():
    """Open a plain TCP connection to a client's server, for bytes that no HTTP client sends."""
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
