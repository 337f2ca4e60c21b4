"""What flask_aio_ws.testing offers to the tests of an app."""

from __future__ import annotations

import asyncio
import gc
import threading
from contextlib import AsyncExitStack

import pytest
from flask import abort, make_response, redirect, request, session

from flask_aio_core.testing import AioClient, LiveServer
from flask_aio_ws import ConnectionClosed, websocket, ws
from flask_aio_ws.testing import HandshakeRefused, connect, connect_async

pytestmark = pytest.mark.usefixtures("aio")


@pytest.fixture
def app(app):
    """An app with views that talk."""

    @app.route("/echo")
    @websocket
    async def echo():
        async for message in ws:
            if message.data == "bye":
                await ws.close(code=4001, message=b"as you wish")
                break
            send = ws.send_str if isinstance(message.data, str) else ws.send_bytes
            await send(message.data)

    @app.route("/handshake")
    @websocket(protocols=["chat", "news"], origins=["https://shop.example"])
    async def handshake():
        await ws.send_json(
            {
                "headers": {name: request.headers.get(name) for name in ("X-Test", "Origin")},
                "cookies": request.cookies,
                "query": request.args,
            }
        )

    @app.post("/login")
    def login():
        session["user"] = "ada"
        return ""

    @app.route("/user")
    @websocket
    async def user():
        await ws.send_str(session.get("user", "nobody"))

    @app.route("/closed")
    def closed():
        return make_response({"error": "closed"}, 403, {"X-Reason": "night"})

    @app.route("/moved")
    def moved():
        return redirect("/echo")

    return app


@pytest.fixture
def server(app):
    with LiveServer(app) as server:
        yield server


def test_messages_of_each_kind(server):
    """Text stays text, bytes stay bytes."""
    with connect(server, "/echo") as socket:
        socket.send("hello")
        assert socket.receive() == "hello"
        socket.send(b"\x00\xff")
        assert socket.receive() == b"\x00\xff"
        socket.send_json({"price": 3})
        assert socket.receive_json() == {"price": 3}
        assert socket.close_code is None
    assert socket.close_code == 1000


def test_what_the_handshake_carries(server):
    """Headers, cookies, the origin, subprotocols and the query."""
    with connect(
        server,
        "/handshake?page=2",
        headers={"X-Test": "1", "Cookie": "old=3"},
        origin="https://shop.example",
        subprotocols=["news", "chat"],
        cookies={"mark": "a b;c"},
    ) as socket:
        assert socket.subprotocol == "news"
        assert socket.headers["Sec-WebSocket-Protocol"] == "news"
        assert socket.receive_json() == {
            "headers": {"X-Test": "1", "Origin": "https://shop.example"},
            "cookies": {"mark": "a b;c", "old": "3"},
            "query": {"page": "2"},
        }


def test_the_code_and_the_reason_of_a_close(server):
    """They are in the exception, and stay in the client."""
    with connect(server, "/echo") as socket:
        socket.send("bye")
        for _ in range(2):
            with pytest.raises(ConnectionClosed) as closed:
                socket.receive()
            assert (closed.value.code, closed.value.reason) == (4001, "as you wish")
        with pytest.raises(ConnectionClosed):
            socket.send("more")
    assert (socket.close_code, socket.close_reason) == (4001, "as you wish")


def test_a_close_of_our_own_reaches_the_view(app, server):
    """With its code and reason."""
    seen = []
    ended = threading.Event()

    @app.route("/seen")
    @websocket
    async def see():
        message = await ws.receive()
        seen.append((message.data, message.extra))
        ended.set()

    with connect(server, "/seen") as socket:
        socket.close(3000, "done")
    assert ended.wait(60)
    assert seen == [(3000, "done")]


def test_iterating_ends_with_the_socket(server):
    """Each message is yielded."""
    with connect(server, "/echo") as socket:
        for text in ("one", "two", "bye"):
            socket.send(text)
        assert list(socket) == ["one", "two"]


def test_a_connection_that_breaks_is_closed_with_1006(app, server):
    """There is no code of the server."""

    @app.route("/broken")
    @websocket
    async def broken():
        request.environ["aiohttp.request"].transport.abort()

    with connect(server, "/broken") as socket, pytest.raises(ConnectionClosed) as closed:
        socket.receive()
    assert closed.value.code == socket.close_code == 1006


def test_a_message_that_does_not_come_fails_the_test(server):
    """And the socket is as good as before."""
    with connect(server, "/echo", timeout=2) as socket:
        with pytest.raises(TimeoutError, match=r"within 0\.01 s"):
            socket.receive(timeout=0.01)
        with pytest.raises(TimeoutError, match=r"within 2 s"):
            socket.receive()
        socket.send("hello")
        assert socket.receive(timeout=60) == "hello"


def test_a_view_that_blocks_the_loop_fails_the_test(app, server):
    """The client's own time limits need that loop too; something else ends the waiting."""
    gate = threading.Event()

    @app.route("/blocked")
    @websocket
    async def blocked():
        await ws.receive()
        gate.wait()

    with connect(server, "/blocked") as socket:
        socket.send("hello")
        try:
            with pytest.raises(TimeoutError, match="blocks the event loop"):
                socket.receive(timeout=0.01)
        finally:
            gate.set()


def test_a_handshake_that_is_not_answered_fails_the_test(app, server):
    """The view never gets to it."""

    @app.before_request
    async def wait():
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError, match=r"handshake was not answered within 0\.01 s"):
        connect(server, "/echo", timeout=0.01)


def test_a_handshake_that_is_refused_shows_the_response(app, server):
    """Status, headers and body."""
    with pytest.raises(HandshakeRefused, match="403 FORBIDDEN") as refused:
        connect(server, "/closed?night=1", headers={"X-Test": "1"})
    response = refused.value.response
    assert response.request.path == "/closed"
    assert response.request.args["night"] == "1"
    assert response.request.headers["X-Test"] == "1"
    assert response.text.startswith("{")
    assert response.status_code == 403
    assert response.headers["X-Reason"] == "night"
    assert response.json == {"error": "closed"}


def test_a_handshake_that_a_hook_refuses(app, server):
    """The hook's answer is shown, and nothing is left open."""

    @app.before_request
    def refuse():
        abort(401)

    with pytest.raises(HandshakeRefused) as refused:
        connect(server, "/echo")
    assert refused.value.response.status_code == 401
    gc.collect()


def test_a_redirect_is_not_followed(server):
    """As browsers do not follow it in a handshake (WHATWG, fetch)."""
    with pytest.raises(HandshakeRefused) as refused:
        connect(server, "/moved")
    assert refused.value.response.location == "/echo"


def test_another_origin_is_refused(server):
    """Unless the view allows it."""
    with pytest.raises(HandshakeRefused) as refused:
        connect(server, "/echo", origin="https://evil.example")
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize("name", [None, "shop.example:8000"])
def test_a_user_who_is_logged_in_is_so_on_the_socket(app, server, name):
    """The cookies of Flask's test client are sent, whatever name it knows the app by."""
    app.config["SERVER_NAME"] = name
    client = app.test_client()
    with connect(server, "/user", client=client) as socket:
        assert socket.receive() == "nobody"
    client.post("/login")
    with connect(server, "/user", client=client) as socket:
        assert socket.receive() == "ada"


def test_the_test_client_gets_the_cookies_of_the_handshake(app, server):
    """Whether it is accepted or refused."""

    @app.after_request
    def mark(response):
        response.set_cookie("visited", request.path)
        return response

    client = app.test_client()
    with pytest.raises(HandshakeRefused):
        connect(server, "/closed", client=client)
    cookie = client.get_cookie("visited")
    assert cookie is not None
    assert cookie.decoded_value == "/closed"


def test_a_client_without_cookies_shares_none(app, server):
    """``use_cookies=False`` is heeded."""
    client = app.test_client(use_cookies=False)
    client.post("/login")
    with connect(server, "/user", client=client) as socket:
        assert socket.receive() == "nobody"


@pytest.mark.parametrize("kind", [AioClient, LiveServer])
async def test_the_asynchronous_client(app, kind):
    """On the loop of the test, to a server there or in a thread."""
    flask_client = app.test_client()
    async with AsyncExitStack() as stack:
        server: AioClient | LiveServer
        if kind is LiveServer:
            server = stack.enter_context(LiveServer(app))
        else:
            server = await stack.enter_async_context(AioClient(app))
        async with connect_async(server, "/echo?x=1") as socket:
            await socket.send("hello")
            assert await socket.receive() == "hello"
            await socket.send_json([1])
            assert await socket.receive_json() == [1]
            await socket.send("last")
            await socket.send("bye")
            assert [data async for data in socket] == ["last"]
            with pytest.raises(ConnectionClosed, match="4001"):
                await socket.send("more")
        assert (socket.close_code, socket.close_reason) == (4001, "as you wish")
        with pytest.raises(HandshakeRefused):
            async with connect_async(server, "/closed"):
                pass
        await asyncio.to_thread(flask_client.post, "/login")
        async with connect_async(server, "/user", client=flask_client) as socket:
            assert await socket.receive() == "ada"
    gc.collect()
