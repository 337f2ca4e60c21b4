"""What is injected into the environ, and the proxies to it."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from aiohttp import web
from flask import g, request, session

import flask_aio_core
from flask_aio_core import NoWebSocket
from flask_aio_ws import SyncWebSocket, WebSocket, has_websocket, websocket, ws
from flask_aio_ws.connection import open_sockets

pytestmark = pytest.mark.usefixtures("aio")

KEY = "wsgi.websocket"


def test_the_core_contains_no_websocket_code():
    """The core's source does not name aiohttp's class: all of it is in this package."""
    package = Path(flask_aio_core.__file__).parent
    sources = {path.name: path.read_text() for path in package.glob("**/*.py")}

    assert "extension.py" in sources
    assert [name for name, text in sources.items() if "WebSocketResponse" in text] == []


@pytest.mark.parametrize("kind", ["coroutine", "synchronous"])
async def test_a_handshake_to_an_undecorated_view_has_the_websocket_in_its_environ(
    app, serve, refusal, kind
):
    """Any view may find the object there, and answer as plain HTTP all the same."""
    seen = []

    def look():
        seen.append((request.environ[KEY], has_websocket()))
        return "plain", 418

    @app.route("/coroutine")
    async def coroutine():
        return look()

    @app.route("/synchronous")
    def synchronous():
        return look()

    client = await serve(app)
    assert (await refusal(client, f"/{kind}")).status == 418

    [(socket, has)] = seen
    assert isinstance(socket, web.WebSocketResponse)
    assert isinstance(socket, WebSocket)
    assert has


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Upgrade": "websocket"},
        {"Connection": "Upgrade"},
        {"Connection": "Upgrade", "Upgrade": "TLS/1.3"},
    ],
)
async def test_a_request_that_is_no_handshake_has_no_websocket(app, serve, headers):
    """The key is absent, not None, and has_websocket says so."""

    @app.route("/")
    async def look():
        return {"present": KEY in request.environ, "has": has_websocket()}

    client = await serve(app)
    async with client.get("/", headers=headers) as response:
        assert await response.json() == {"present": False, "has": False}


async def test_an_undecorated_view_may_take_the_connection_over(app, serve, dial):
    """It prepares aiohttp's object with aiohttp's request; what it returns is discarded."""

    @app.route("/echo")
    async def echo():
        socket = request.environ[KEY]
        await socket.prepare(request.environ["aiohttp.request"])
        async for message in socket:
            await socket.send_str(message.data.upper())
            if message.data == "end":
                break
        return "this is sent to nobody"

    client = await serve(app)
    connection = await dial(client, "/echo")
    await connection.send("end")

    assert await connection.recv() == "END"
    await connection.wait_closed()
    assert connection.close_code == 1000


async def test_an_undecorated_view_uses_the_configured_options(app, serve, raw):
    """The injected object has the app's configuration already."""
    app.config["AIO_WS_PROTOCOLS"] = ["chat"]

    @app.route("/echo")
    async def echo():
        await ws.prepare(request.environ["aiohttp.request"])
        return ""

    client = await serve(app)
    one = await raw(client, "/echo", {"Sec-WebSocket-Protocol": "chat"})

    assert one.status == 101
    assert "sec-websocket-protocol: chat" in one.head.lower()


async def test_the_socket_of_an_undecorated_view_is_forgotten_when_it_ends(
    app, serve, dial, eventually
):
    """A process does not collect the sockets of clients that have left."""

    @app.route("/echo")
    async def echo():
        await ws.prepare(request.environ["aiohttp.request"])
        async for _ in ws:
            pass
        return ""

    ended: list[object] = []
    app.teardown_request(ended.append)
    gc.collect()
    before = len(open_sockets(app))
    client = await serve(app)
    connection = await dial(client, "/echo")
    assert len(open_sockets(app)) == before + 1
    await connection.close()
    await eventually(lambda: ended)

    await eventually(lambda: gc.collect() >= 0 and len(open_sockets(app)) <= before)


async def test_a_coroutine_view_sees_the_same_socket_in_every_place(app, aio, serve, dial):
    """aio.ws, ws and the environ lead to one object, which is aiohttp's."""
    seen = []

    @app.route("/")
    @websocket
    async def view():
        seen.extend([aio.ws, ws._get_current_object(), request.environ[KEY]])
        assert has_websocket()

    client = await serve(app)
    await (await dial(client, "/")).wait_closed()

    assert len(seen) == 3
    assert seen[0] is seen[1] is seen[2]
    assert isinstance(seen[0], web.WebSocketResponse)


async def test_a_synchronous_view_sees_the_same_socket_in_both_places(app, aio, serve, dial):
    """aio.ws and ws are the same there as well: the object with blocking methods."""
    seen = []

    @app.route("/")
    @websocket
    def view():
        seen.extend([aio.ws, ws._get_current_object()])

    client = await serve(app)
    await (await dial(client, "/")).wait_closed()

    assert isinstance(seen[1], SyncWebSocket)
    assert seen[0] is seen[1]


async def test_the_proxies_outside_a_handshake_raise_no_websocket(app, aio, serve):
    """The error says what to do; it is the core's NoWebSocket."""
    seen = []

    @app.route("/")
    async def view():
        for access in (lambda: ws.closed, lambda: aio.ws):
            with pytest.raises(NoWebSocket, match="@websocket") as caught:
                access()
            seen.append(caught.type)
        return ""

    client = await serve(app)
    async with client.get("/") as response:
        assert response.status == 200
    assert seen == [NoWebSocket, NoWebSocket]


def test_the_proxies_outside_a_request_raise_no_websocket(app, aio):
    """There is no request to ask, and no other error."""
    assert not has_websocket()
    with pytest.raises(NoWebSocket):
        ws.closed  # noqa: B018
    with pytest.raises(NoWebSocket):
        aio.ws  # noqa: B018


async def test_a_helper_that_a_view_calls_uses_the_proxy(app, serve, dial):
    """The proxy works in functions that are called, not only in the view."""

    async def greet():
        await ws.send_str("hello")

    @app.route("/")
    @websocket
    async def view():
        await greet()

    client = await serve(app)
    assert await (await dial(client, "/")).recv() == "hello"


async def test_concurrent_sockets_keep_their_contexts(app, serve, dial):
    """Interleaved views each see their own request, g, session and socket."""

    @app.before_request
    def remember():
        g.number = request.args["n"]
        session["n"] = request.args["n"]

    @app.route("/<number>")
    @websocket
    async def view(number):
        async for message in ws:
            seen = [number, request.path[1:], g.number, session["n"], message.data]
            await ws.send_json(seen)

    client = await serve(app)
    connections = [await dial(client, f"/{n}?n={n}") for n in range(10)]
    for _ in range(3):
        for n, connection in enumerate(connections):
            await connection.send(str(n))
        for n, connection in reversed(list(enumerate(connections))):
            assert await connection.recv() == "[" + ", ".join([f'"{n}"'] * 5) + "]"
