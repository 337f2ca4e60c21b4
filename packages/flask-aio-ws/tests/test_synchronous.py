"""Synchronous views: blocking methods, in a worker thread."""

from __future__ import annotations

import logging
import threading

import pytest

from flask_aio_ws import ConnectionClosed, SyncWebSocket, WebSocketError, websocket, ws

pytestmark = pytest.mark.usefixtures("aio")


async def test_a_synchronous_view_iterates_and_sends_in_a_worker_thread(app, serve, dial):
    """Text and bytes arrive as data, and go back as what they are."""
    threads = []

    @app.route("/")
    @websocket
    def echo():
        threads.append(threading.current_thread())
        for message in ws:
            ws.send(message)

    client = await serve(app)
    connection = await dial(client, "/")
    for message in ("grüße", b"\x00\xff", "", b""):
        await connection.send(message)
        assert await connection.recv() == message
    assert threads != [threading.current_thread()]


async def test_receive_with_a_timeout_returns_none(app, serve, dial):
    """Nothing is lost by it: the next message comes with the next call."""

    @app.route("/")
    @websocket
    def view():
        ws.send_json({"first": ws.receive(timeout=0.01)})
        ws.send_json(ws.receive(timeout=60))

    client = await serve(app)
    connection = await dial(client, "/")
    assert await connection.recv() == '{"first": null}'
    await connection.send("x")
    assert await connection.recv() == '"x"'


async def test_receive_with_timeout_zero_returns_at_once(app, serve, dial):
    """Zero is a timeout, not the absence of one."""

    @app.route("/")
    @websocket
    def view():
        ws.send_json([ws.receive(timeout=0)])

    client = await serve(app)
    assert await (await dial(client, "/")).recv() == "[null]"


async def test_a_closed_socket_raises_with_code_and_reason(app, serve, dial, eventually):
    """receive tells what the client said; then receive and send raise, connected is False."""
    seen = []

    @app.route("/")
    @websocket(protocols=["v1"])
    def view():
        seen.extend([ws.connected, ws.subprotocol, type(ws._get_current_object())])
        for action in (ws.receive, ws.receive, lambda: ws.send("x"), lambda: ws.send_json(1)):
            with pytest.raises(ConnectionClosed) as caught:
                action()
            seen.append(caught.value)
        seen.append(ws.connected)

    client = await serve(app)
    connection = await dial(client, "/", subprotocols=["v1"])
    await connection.close(4001, "bye")
    await eventually(lambda: len(seen) == 8)

    assert seen[:3] == [True, "v1", SyncWebSocket]
    assert [error.code for error in seen[3:7]] == [4001] * 4
    assert seen[3].reason == "bye"
    assert str(seen[3]) == "The WebSocket was closed with code 4001. bye"
    assert isinstance(seen[3], WebSocketError)
    assert seen[7] is False


async def test_send_after_an_own_close_raises(app, serve, dial, eventually):
    """Its code is that of the close."""
    seen = []

    @app.route("/")
    @websocket
    def view():
        ws.close(4002, "done")
        with pytest.raises(ConnectionClosed) as caught:
            ws.send("x")
        seen.append(caught.value.code)

    client = await serve(app)
    connection = await dial(client, "/")
    await connection.wait_closed()
    await eventually(lambda: seen)
    assert (connection.close_code, connection.close_reason) == (4002, "done")
    assert seen == [4002]


async def test_a_view_that_lets_connection_closed_pass_has_ended(
    app, serve, dial, eventually, caplog
):
    """A loop around receive ends so when the client leaves; it is no error and is not logged."""
    ended: list[object] = []
    app.teardown_request(ended.append)

    @app.route("/")
    @websocket
    def view():
        while True:
            ws.send(ws.receive())

    client = await serve(app)
    connection = await dial(client, "/")
    await connection.close()
    await eventually(lambda: ended)

    await client.close()
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


async def test_more_sockets_than_allowed_get_503(app, serve, dial, refusal, eventually):
    """One more may come when one has ended; coroutine views do not count."""
    app.config["AIO_WS_MAX_SYNCHRONOUS"] = 2
    ended: list[object] = []
    app.teardown_request(ended.append)

    @app.route("/")
    @websocket
    def view():
        for message in ws:
            ws.send(message)

    @app.route("/coroutine")
    @websocket
    async def coroutine():
        await ws.send_str("hello")

    client = await serve(app)
    first, _ = await dial(client, "/"), await dial(client, "/")
    refused = await refusal(client, "/")
    assert refused.status == 503
    assert refused.headers["Retry-After"] == str(app.config["AIO_RETRY_AFTER"])
    assert await (await dial(client, "/coroutine")).recv() == "hello"

    await eventually(lambda: len(ended) == 2)
    await first.close()
    await eventually(lambda: len(ended) == 3)
    again = await dial(client, "/")
    await again.send("x")
    assert await again.recv() == "x"


async def test_coroutine_views_go_on_while_all_threads_are_taken(app, serve, dial):
    """WebSockets of synchronous views can take every thread; the event loop stays free."""
    app.config["AIO_WORKER_THREADS"] = 2

    @app.route("/")
    @websocket
    def view():
        ws.send("ready")
        ws.receive()

    @app.route("/page")
    async def page():
        return "page"

    @app.route("/echo")
    @websocket
    async def echo():
        async for message in ws:
            await ws.send_str(message.data)

    client = await serve(app)
    for _ in range(2):
        assert await (await dial(client, "/")).recv() == "ready"
    async with client.get("/page") as response:
        assert await response.text() == "page"
    connection = await dial(client, "/echo")
    await connection.send("x")
    assert await connection.recv() == "x"


async def test_shutdown_ends_a_synchronous_receive(app, serve, dial):
    """It raises ConnectionClosed, and the server waits for the view."""
    seen = []

    @app.route("/")
    @websocket
    def view():
        ws.send("ready")
        with pytest.raises(ConnectionClosed) as caught:
            ws.receive()
        seen.append(caught.value)

    client = await serve(app, grace=30)
    connection = await dial(client, "/")
    assert await connection.recv() == "ready"
    await client.server.close()

    assert len(seen) == 1
    await connection.wait_closed()
    assert connection.close_code == 1001
