"""The ends of a WebSocket: by the view, the client, an error, the server."""

from __future__ import annotations

import asyncio
import logging
import traceback

import pytest
from flask import abort, got_request_exception
from websockets.exceptions import ConnectionClosed

from flask_aio_ws import websocket, ws

pytestmark = pytest.mark.usefixtures("aio")

KINDS = pytest.mark.parametrize("kind", ["coroutine", "synchronous"])


def noise(caplog):
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


def add_view(app, kind, end):
    """Add a view that waits for a message and then calls a function."""

    async def coroutine():
        await ws.receive()
        end()

    def synchronous():
        ws.receive()
        end()

    app.add_url_rule("/", "view", websocket(coroutine if kind == "coroutine" else synchronous))


async def ended(dial, client):
    connection = await dial(client, "/")
    await connection.send("go")
    await connection.wait_closed()
    return connection


@KINDS
async def test_a_view_that_returns_closes_with_1000(app, serve, dial, kind):
    """What it returns does not matter."""
    add_view(app, kind, lambda: "ignored")
    client = await serve(app)
    assert (await ended(dial, client)).close_code == 1000


@KINDS
async def test_a_view_may_close_with_a_code_of_its_own(app, serve, dial, kind):
    """Its code and reason reach the client; the return of the view adds nothing."""

    @app.route("/coroutine")
    @websocket
    async def coroutine():
        await ws.close(code=4001, message=b"enough")

    @app.route("/synchronous")
    @websocket
    def synchronous():
        ws.close(4001, "enough")

    client = await serve(app)
    connection = await dial(client, f"/{kind}")
    await connection.wait_closed()
    assert (connection.close_code, connection.close_reason) == (4001, "enough")


@KINDS
@pytest.mark.parametrize("testing", [True, False])
async def test_an_exception_closes_with_1011_and_is_logged(
    app, serve, dial, eventually, caplog, kind, testing
):
    """It takes Flask's way: signal, log with the frames of the view, teardown; not the client."""
    app.testing = testing
    torn_down: list[object] = []
    signalled = []
    app.teardown_request(torn_down.append)

    def fail_in_the_view():
        raise ZeroDivisionError("a secret")

    add_view(app, kind, fail_in_the_view)

    def remember(sender, exception, **_):
        signalled.append(exception)

    with got_request_exception.connected_to(remember, app):
        client = await serve(app)
        connection = await ended(dial, client)
        await eventually(lambda: torn_down)

    assert (connection.close_code, connection.close_reason) == (1011, "")
    [error] = signalled
    assert isinstance(error, ZeroDivisionError)
    assert torn_down == [error]
    await client.close()
    [record] = [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert record.exc_info
    frames = "".join(traceback.format_exception(record.exc_info[1]))
    assert "fail_in_the_view" in frames
    assert f"in {kind}" in frames


@KINDS
async def test_teardown_gets_an_exception_that_propagates(app, serve, dial, eventually, kind):
    """With PROPAGATE_EXCEPTIONS Flask does not answer it, and teardown sees it."""
    app.config["PROPAGATE_EXCEPTIONS"] = True
    torn_down: list[object] = []
    app.teardown_request(torn_down.append)

    def fail():
        raise ZeroDivisionError

    add_view(app, kind, fail)
    client = await serve(app)
    assert (await ended(dial, client)).close_code == 1011
    await eventually(lambda: torn_down)
    assert isinstance(torn_down[0], ZeroDivisionError)


@KINDS
async def test_an_errorhandler_is_called(app, serve, dial, eventually, caplog, kind):
    """It counts as handled then, and is not logged; the handler's response goes nowhere."""
    handled = []

    @app.errorhandler(ZeroDivisionError)
    def handle(error):
        handled.append(error)
        return "handled", 500

    def fail():
        raise ZeroDivisionError

    add_view(app, kind, fail)
    client = await serve(app)
    assert (await ended(dial, client)).close_code == 1011
    await eventually(lambda: handled)
    assert noise(caplog) == []


@KINDS
@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [(400, 4400, "Bad Request"), (403, 4403, "Forbidden"), (404, 4404, "Not Found")],
)
async def test_an_http_exception_closes_with_its_status(
    app, serve, dial, caplog, kind, status, code, reason
):
    """abort works after the handshake: 4000 plus the status, and no log."""
    add_view(app, kind, lambda: abort(status))
    client = await serve(app)
    connection = await ended(dial, client)

    assert (connection.close_code, connection.close_reason) == (code, reason)
    assert noise(caplog) == []


@KINDS
@pytest.mark.parametrize("status", [500, 503])
async def test_an_http_exception_of_the_server_closes_with_1011(app, serve, dial, kind, status):
    """It is an internal error to the client."""
    add_view(app, kind, lambda: abort(status))
    client = await serve(app)
    assert (await ended(dial, client)).close_code == 1011


async def test_a_message_over_the_limit_closes_with_1009_and_is_logged(
    app, serve, dial, eventually, caplog
):
    """The log names the setting; the view sees the end of its loop."""
    after = []

    @app.route("/")
    @websocket(max_message_size=100)
    async def view():
        async for _ in ws:
            raise AssertionError
        after.append(ws.closed)

    client = await serve(app)
    connection = await dial(client, "/")
    await connection.send("x" * 200)
    await connection.wait_closed()
    await eventually(lambda: after)

    assert (connection.close_code, after) == (1009, [True])
    [message] = noise(caplog)
    assert "AIO_WS_MAX_MESSAGE_SIZE" in message
    assert "100" in message


@KINDS
@pytest.mark.parametrize(
    ("opcode", "payload", "first", "code"),
    [
        (3, b"x", 0x80, 1002),
        (1, b"x", 0x80 | 0x40 | 0x20, 1002),
        (0, b"x", 0x80, 1002),
        (9, b"x", 0x00, 1002),
        (8, b"x", 0x80, 1002),
        (1, b"\xff\xfe", 0x80, 1007),
    ],
)
async def test_a_protocol_error_ends_the_view(
    app, serve, raw, eventually, caplog, kind, opcode, payload, first, code
):
    """Bad frames close with 1002, bad UTF-8 with 1007; the loop of the view just ends."""
    after = []

    @app.route("/coroutine")
    @websocket
    async def coroutine():
        async for _ in ws:
            raise AssertionError
        after.append(ws.close_code)

    @app.route("/synchronous")
    @websocket
    def synchronous():
        for _ in ws:
            raise AssertionError
        after.append(ws.socket.close_code)

    client = await serve(app)
    one = await raw(client, f"/{kind}")
    one.send(opcode, payload, first=first)
    assert await one.close_code() == code
    one.vanish()
    await eventually(lambda: after)
    assert noise(caplog) == []


@pytest.mark.parametrize("receive", ["receive_str", "receive_bytes", "receive_json"])
async def test_a_client_that_leaves_a_view_which_wants_data_is_no_error(
    app, serve, dial, eventually, caplog, receive
):
    """aiohttp raises an error there, because a close is no text; the view just ends."""
    ends = []

    @app.teardown_request
    def remember(error):
        ends.append(error)

    @app.route("/")
    @websocket
    async def view():
        while True:
            await getattr(ws, receive)()

    client = await serve(app)
    connection = await dial(client, "/")
    await connection.close()
    await eventually(lambda: ends)
    assert ends == [None]
    assert noise(caplog) == []


async def test_a_message_of_the_wrong_type_is_an_error(app, serve, dial, caplog):
    """The client is still there: the view did not expect what it sends."""

    @app.route("/")
    @websocket
    async def view():
        await ws.receive_bytes()

    client = await serve(app)
    assert (await ended(dial, client)).close_code == 1011
    assert any("Exception on /" in message for message in noise(caplog))


async def test_code_and_reason_of_the_client_are_visible(app, serve, dial, eventually):
    """The code is an attribute; the reason is in the message that ends the conversation."""
    seen = []

    @app.route("/")
    @websocket
    async def view():
        message = await ws.receive()
        seen.extend([message.data, message.extra, ws.close_code, ws.closed])

    client = await serve(app)
    connection = await dial(client, "/")
    await connection.close(4321, "bye")
    await eventually(lambda: seen)

    assert seen == [4321, "bye", 4321, True]


@KINDS
async def test_a_receiving_view_whose_client_vanishes_sees_the_end_of_its_loop(
    app, serve, raw, eventually, caplog, kind
):
    """Its code after the loop runs, and teardown; nothing is logged."""
    events = []
    app.teardown_request(lambda error: events.append(error))

    @app.route("/coroutine")
    @websocket
    async def coroutine():
        async for _ in ws:
            pass
        events.append("after")

    @app.route("/synchronous")
    @websocket
    def synchronous():
        for _ in ws:
            pass
        events.append("after")

    client = await serve(app)
    (await raw(client, f"/{kind}")).vanish()
    await eventually(lambda: len(events) == 2)

    assert events == ["after", None]
    await client.close()
    assert noise(caplog) == []


@pytest.mark.parametrize("hooks_in_thread", [True, False])
async def test_a_waiting_view_whose_client_vanishes_is_cancelled(
    app, serve, raw, eventually, caplog, hooks_in_thread
):
    """Whatever it awaits, its finally runs, and may await; then teardown."""
    app.config["AIO_HOOKS_IN_THREAD"] = hooks_in_thread
    events = []
    app.teardown_request(lambda error: events.append("teardown"))

    @app.route("/")
    @websocket
    async def view():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            events.append("finally")

    client = await serve(app)
    (await raw(client, "/")).vanish()
    await eventually(lambda: len(events) == 2)

    assert events == ["finally", "teardown"]
    await client.close()
    assert noise(caplog) == []


@KINDS
@pytest.mark.parametrize("leave", ["vanish", "close"])
async def test_a_client_that_leaves_while_the_view_sends_is_no_error(
    app, serve, raw, eventually, caplog, kind, leave
):
    """The view ends by the exception of its sending, which is not logged."""
    events = []
    app.teardown_request(lambda error: events.append(error))

    @app.route("/coroutine")
    @websocket
    async def coroutine():
        while True:
            await ws.send_str("tick")
            await asyncio.sleep(0)

    @app.route("/synchronous")
    @websocket
    def synchronous():
        while True:
            ws.send("tick")

    client = await serve(app)
    one = await raw(client, f"/{kind}")
    assert await one.frame() == (1, b"tick")
    if leave == "vanish":
        one.vanish()
    else:
        one.writer.close()
    await eventually(lambda: events)

    await client.close()
    assert noise(caplog) == []
    assert events == [None]


@KINDS
async def test_shutdown_closes_with_1001_and_waits_for_the_view(app, serve, dial, kind):
    """The code after the loop runs before the server has stopped."""
    events = []

    @app.route("/coroutine")
    @websocket
    async def coroutine():
        async for _ in ws:
            await ws.send_str("ready")
        await asyncio.sleep(0.05)
        events.append("saved")

    @app.route("/synchronous")
    @websocket
    def synchronous():
        for _ in ws:
            ws.send("ready")
        events.append("saved")

    app.teardown_request(lambda error: events.append("teardown"))
    client = await serve(app, grace=30)
    connection = await dial(client, f"/{kind}")
    await connection.send("x")
    assert await connection.recv() == "ready"
    await client.server.close()

    assert events == ["saved", "teardown"]
    with pytest.raises(ConnectionClosed):
        await connection.recv()
    assert connection.close_code == 1001


async def test_a_view_that_does_not_end_is_cancelled_after_the_grace(app, serve, dial):
    """Its finally runs, and the server stops."""
    events = []

    @app.route("/")
    @websocket
    async def view():
        await ws.send_str("ready")
        try:
            await asyncio.Event().wait()
        finally:
            events.append("finally")

    client = await serve(app, grace=0.1)
    connection = await dial(client, "/")
    assert await connection.recv() == "ready"
    await client.server.close()

    assert events == ["finally"]
    assert connection.close_code == 1001
