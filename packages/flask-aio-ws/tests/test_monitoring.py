"""What a monitor sees of WebSockets: the number of open ones, and the id of their requests."""

from __future__ import annotations

import logging

import pytest
from aiohttp import WSServerHandshakeError
from flask import request

from flask_aio_core import RequestIDFilter
from flask_aio_ws import websocket, ws


@pytest.fixture
def echo(app, aio):
    """The app with an echo on either side."""

    @app.route("/coroutine")
    @websocket
    async def coroutine():
        async for message in ws:
            await ws.send_str(f"{aio.request_id} {request.environ['flask_aio.side']}")
            del message

    @app.route("/synchronous")
    @websocket
    def synchronous():
        while ws.receive() is not None:
            ws.send(f"{aio.request_id} {request.environ['flask_aio.side']}")

    return app


async def test_open_sockets_are_counted(echo, aio, serve, dial, eventually):
    """A socket counts from its handshake to the end of its view, on either side."""
    client = await serve(echo)
    sockets = [await dial(client, path) for path in ("/coroutine", "/coroutine", "/synchronous")]
    gauges = aio.gauges()
    assert gauges.websockets == 3
    assert (gauges.requests_on_loop, gauges.requests_in_threads) == (2, 1)
    assert gauges.streams == 0
    for left, socket in zip((2, 1, 0), sockets, strict=True):
        await socket.close()
        await eventually(lambda left=left: aio.gauges().websockets == left)
    await eventually(lambda: aio.gauges().requests_in_threads == 0)


async def test_each_app_counts_its_own(echo, aio, serve, dial):
    """The sockets of another app of the process are not counted."""
    from flask import Flask

    from flask_aio_core import AioHTTP

    other = AioHTTP(Flask("other"))
    client = await serve(echo)
    await dial(client, "/coroutine")
    assert (aio.gauges().websockets, other.gauges().websockets) == (1, 0)


@pytest.mark.parametrize(("path", "side"), [("/coroutine", "loop"), ("/synchronous", "thread")])
async def test_the_handshake_has_the_id(echo, serve, path, side):
    """The id comes back with the 101, and is known as long as the socket is open."""
    echo.config["AIO_REQUEST_ID"] = "accept"
    client = await serve(echo)
    socket = await client.ws_connect(path, headers={"X-Request-ID": "w-1"})
    assert socket._response.headers.getall("X-Request-ID") == ["w-1"]
    for _ in range(2):
        await socket.send_str("?")
        assert await socket.receive_str(timeout=60) == f"w-1 {side}"


async def test_a_refused_handshake_has_the_id(echo, serve):
    """So does the plain answer of one that is refused."""
    echo.config["AIO_REQUEST_ID"] = "accept"
    client = await serve(echo)
    with pytest.raises(WSServerHandshakeError) as caught:
        await client.ws_connect(
            "/coroutine", headers={"X-Request-ID": "w-2", "Origin": "http://evil"}
        )
    assert caught.value.status == 403
    assert caught.value.headers is not None
    assert caught.value.headers["X-Request-ID"] == "w-2"


async def test_the_log_records_of_a_socket_have_the_id(echo, serve, eventually):
    """The error of a view is logged with the id of its handshake."""
    echo.config["AIO_REQUEST_ID"] = "accept"
    seen = []

    class Handler(logging.Handler):
        def emit(self, record):
            seen.append(record.request_id)

    @echo.route("/fails")
    @websocket
    async def fails():
        await ws.receive()
        raise RuntimeError

    handler = Handler()
    handler.addFilter(RequestIDFilter())
    echo.logger.addHandler(handler)
    client = await serve(echo)
    socket = await client.ws_connect("/fails", headers={"X-Request-ID": "w-3"})
    await socket.send_str("now")
    await eventually(lambda: seen)
    echo.logger.removeHandler(handler)
    assert seen == ["w-3"]
