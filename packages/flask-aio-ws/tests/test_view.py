"""How views are decorated and routed, and what the options of ``@websocket`` do."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from typing import Any

import pytest
import websockets
from flask import Blueprint, request

from flask_aio_core import async_
from flask_aio_ws import websocket, ws

pytestmark = pytest.mark.usefixtures("aio")


async def echo():
    async for message in ws:
        await ws.send_str(message.data)


async def first_answer(dial, client, path, message="hello"):
    connection = await dial(client, path)
    await connection.send(message)
    return await connection.recv()


@pytest.mark.parametrize("rule", [{}, {"websocket": True}, {"websocket": False}])
async def test_any_kind_of_rule_serves_a_websocket(app, serve, dial, rule):
    """A plain route is enough; websocket=True is understood."""
    app.add_url_rule("/echo", view_func=websocket(echo), **rule)
    client = await serve(app)

    assert await first_answer(dial, client, "/echo") == "hello"
    async with client.get("/echo") as response:
        assert response.status == 400


@pytest.mark.parametrize("websocket_first", [True, False])
@pytest.mark.parametrize("handshake_first", [True, False])
async def test_a_path_may_have_an_ordinary_view_besides(
    app, serve, dial, websocket_first, handshake_first
):
    """Each request gets the rule that fits, in whatever order they were made and are asked for."""

    def add_websocket():
        app.add_url_rule("/", "socket", websocket(echo), websocket=True)

    def add_page():
        app.add_url_rule("/", "page", lambda: "the page")

    for add in (add_websocket, add_page) if websocket_first else (add_page, add_websocket):
        add()
    client = await serve(app)

    async def ask_for_page():
        async with client.get("/") as response:
            assert (response.status, await response.text()) == (200, "the page")

    async def talk():
        assert await first_answer(dial, client, "/") == "hello"

    for ask in (talk, ask_for_page) if handshake_first else (ask_for_page, talk):
        await ask()


async def test_an_ordinary_view_stays_in_its_thread_beside_a_websocket(app, serve, dial):
    """A header that is half a handshake does not bring a synchronous view onto the event loop."""
    app.add_url_rule("/", "socket", websocket(echo), websocket=True)
    app.add_url_rule("/", "page", lambda: str(threading.get_ident()))
    client = await serve(app)
    assert await first_answer(dial, client, "/") == "hello"

    async with client.get("/", headers={"Upgrade": "websocket"}) as response:
        assert await response.text() != str(threading.get_ident())


async def test_url_parameters_reach_the_view(app, serve, dial):
    """Converters and query strings work as on any route."""

    @app.route("/rooms/<int:number>/<path:rest>")
    @websocket
    async def room(number, rest):
        await ws.send_json([number, rest, request.args["q"], request.endpoint])

    client = await serve(app)
    connection = await dial(client, "/rooms/7/a/b?q=x")
    assert await connection.recv() == '[7, "a/b", "x", "room"]'


async def test_a_blueprint_with_a_prefix_has_websocket_views(app, serve, dial):
    """Hooks of the blueprint run; the endpoint is the blueprint's."""
    seen = []
    blueprint = Blueprint("chat", __name__, url_prefix="/chat")
    blueprint.before_request(lambda: seen.append(request.endpoint))
    blueprint.add_url_rule("/echo", view_func=websocket(echo))
    app.register_blueprint(blueprint)
    client = await serve(app)

    assert await first_answer(dial, client, "/chat/echo") == "hello"
    assert seen == ["chat.echo"]


async def test_a_view_of_a_mounted_app_is_reached(app, serve, dial):
    """A middleware that copies the environ does not lose the connection."""
    plain = app.wsgi_app
    app.wsgi_app = lambda environ, start_response: plain(dict(environ), start_response)
    app.add_url_rule("/echo", view_func=websocket(echo))
    client = await serve(app)

    connection = await dial(client, "/echo")
    await connection.send("hello")
    assert await connection.recv() == "hello"
    await connection.close()
    assert connection.close_code == 1000


async def test_a_generator_view_waits_by_yield_from(app, aio, serve, dial):
    """The style before async def works, on the event loop."""
    threads = []

    @app.route("/echo")
    @websocket
    def view():
        threads.append(threading.current_thread())
        while True:
            message = yield from aio.ws.receive()
            if message.data == "end":
                return
            yield from aio.ws.send_str(message.data)

    client = await serve(app)
    connection = await dial(client, "/echo")
    await connection.send("hello")
    assert await connection.recv() == "hello"
    await connection.send("end")
    await connection.wait_closed()

    assert connection.close_code == 1000
    assert threads == [threading.current_thread()]


async def test_a_view_that_async_has_marked_keeps_its_options(app, serve, dial):
    """async_ above or below @websocket makes no difference to what the client sees."""
    app.add_url_rule("/above", "above", async_(hooks_in_thread=True)(websocket(echo)))
    app.add_url_rule("/below", "below", websocket(async_(hooks_in_thread=True)(echo)))
    hooks = []
    app.before_request(lambda: hooks.append(threading.current_thread()))
    client = await serve(app)

    assert await first_answer(dial, client, "/above") == "hello"
    assert await first_answer(dial, client, "/below") == "hello"
    assert len(hooks) == 2
    assert threading.current_thread() not in hooks


@pytest.mark.parametrize("decorator", [websocket, websocket(), websocket(heartbeat=None)])
def test_a_decorated_function_keeps_what_it_was(decorator):
    """Flask needs the name, documentation tools the rest."""

    async def coroutine(number: int) -> None:
        """Documented."""

    def synchronous(number: int) -> None:
        """Documented."""

    for function in (coroutine, synchronous):
        function.role = "admin"  # type: ignore[union-attr]
        decorated = decorator(function)

        assert decorated.__name__ == function.__name__
        assert decorated.__qualname__ == function.__qualname__
        assert decorated.__module__ == __name__
        assert decorated.__doc__ == "Documented."
        assert decorated.role == "admin"
        assert decorated.__wrapped__ is function
        assert inspect.iscoroutinefunction(decorated) == inspect.iscoroutinefunction(function)
        assert list(inspect.signature(decorated).parameters) == ["number"]


async def test_text_and_bytes_arrive_as_what_they_are(app, serve, dial):
    """Both message types pass, in both directions, empty and beyond ASCII too."""

    @app.route("/echo")
    @websocket
    async def view():
        async for message in ws:
            send = ws.send_str if isinstance(message.data, str) else ws.send_bytes
            await send(message.data)

    client = await serve(app)
    connection = await dial(client, "/echo")
    for message in ("", "grüße 🙂", b"", b"\x00\xff", "x" * 100_000, b"\x00" * 100_000):
        await connection.send(message)
        assert await connection.recv() == message


@pytest.mark.parametrize("configured", [True, False])
async def test_the_clients_first_choice_among_the_servers_subprotocols_is_agreed_on(
    app, serve, dial, configured
):
    """As in aiohttp, the client's order of preference decides; the view sees which it is."""
    protocols = ["v2", "v1"]
    if configured:
        app.config["AIO_WS_PROTOCOLS"] = protocols
    decorator = websocket if configured else websocket(protocols=protocols)

    @app.route("/")
    @decorator
    async def view():
        await ws.send_str(str(ws.ws_protocol))

    client = await serve(app)
    for offered, agreed in [
        (["v1"], "v1"),
        (["v2", "v1"], "v2"),
        (["v1", "v2"], "v1"),
        (["v0", "v2"], "v2"),
    ]:
        connection = await dial(client, "/", subprotocols=offered)
        assert connection.subprotocol == agreed
        assert await connection.recv() == agreed


async def test_without_a_common_subprotocol_none_is_agreed_on(app, serve, dial):
    """The handshake succeeds nevertheless; the client decides whether to stay."""
    app.add_url_rule("/echo", view_func=websocket(protocols=["v1"])(echo))
    client = await serve(app)
    connection = await dial(client, "/echo", subprotocols=["v0"])

    assert connection.subprotocol is None


@pytest.mark.parametrize("where", ["parameter", "configuration"])
@pytest.mark.parametrize("receives", [True, False])
async def test_a_client_that_answers_no_ping_ends_the_view(
    app, serve, raw, eventually, where, receives
):
    """It is pinged after the time of the heartbeat, and given up after half of it."""
    ended = []
    if where == "configuration":
        app.config["AIO_WS_HEARTBEAT"] = 0.1
    decorator = websocket if where == "configuration" else websocket(heartbeat=0.1)

    @app.route("/")
    @decorator
    async def view():
        try:
            if receives:
                async for _ in ws:
                    pass
            else:
                await asyncio.Event().wait()
        finally:
            ended.append(ws.close_code)

    client = await serve(app)
    one = await raw(client, "/")

    assert (await one.frame())[0] == 9
    await eventually(lambda: ended)
    assert ended == [1006]


async def test_a_client_that_answers_pings_stays(app, serve, raw):
    """Several heartbeats pass, and the socket works as before."""
    app.add_url_rule("/echo", view_func=websocket(heartbeat=0.05)(echo))
    client = await serve(app)
    one = await raw(client, "/echo")
    for _ in range(4):
        assert await one.frame() == (9, b"")
        one.send(10, b"")
    one.send(1, b"hello")
    while (frame := await one.frame()) == (9, b""):
        one.send(10, b"")
    assert frame == (1, b"hello")


@pytest.mark.parametrize("where", ["parameter", "configuration"])
@pytest.mark.parametrize("compression", ["deflate", None])
async def test_a_message_may_be_as_long_as_allowed_and_no_longer(
    app, serve, dial, where, compression
):
    """The limit counts bytes, and what a compressed message unfolds to."""
    if where == "configuration":
        app.config["AIO_WS_MAX_MESSAGE_SIZE"] = 1000
    options: Any = {} if where == "configuration" else {"max_message_size": 1000}
    app.add_url_rule("/echo", view_func=websocket(**options)(echo))
    client = await serve(app)
    connection = await dial(client, "/echo", compression=compression)
    await connection.send("x" * 1000)
    assert await connection.recv() == "x" * 1000
    # aiohttp may let one byte more through when it decompresses.
    await connection.send("x" * (1100 if compression else 1001))
    await connection.wait_closed()
    assert connection.close_code == 1009


async def test_a_message_in_fragments_counts_as_a_whole(app, serve, raw):
    """Fragments cannot get round the limit."""
    app.add_url_rule("/echo", view_func=websocket(max_message_size=100)(echo))
    client = await serve(app)
    one = await raw(client, "/echo")
    one.send(1, b"x" * 60, first=0)
    one.send(0, b"x" * 60)

    assert await one.close_code() == 1009


@pytest.mark.parametrize("where", ["parameter", "configuration"])
@pytest.mark.parametrize("compress", [True, False])
async def test_compression_is_negotiated_if_wanted(app, serve, raw, compress, where):
    """The answer agrees to permessage-deflate, or does not mention it."""
    if where == "configuration":
        app.config["AIO_WS_COMPRESS"] = compress
    options: Any = {} if where == "configuration" else {"compress": compress}
    app.add_url_rule("/echo", view_func=websocket(**options)(echo))
    client = await serve(app)
    offer: dict[str, str | None] = {"Sec-WebSocket-Extensions": "permessage-deflate"}
    one = await raw(client, "/echo", offer)

    assert one.status == 101
    assert ("permessage-deflate" in one.head) == compress


async def test_a_client_without_compression_gets_none(app, serve, dial):
    """Compression is an offer of the client's."""
    app.add_url_rule("/echo", view_func=websocket(compress=True)(echo))
    client = await serve(app)
    connection = await dial(client, "/echo", compression=None)
    await connection.send("x" * 1000)

    assert await connection.recv() == "x" * 1000
    assert connection.protocol.extensions == []


@pytest.mark.parametrize("where", ["parameter", "configuration"])
async def test_a_receive_that_takes_too_long_raises_timeout_error(app, serve, dial, where):
    """The view may catch it and go on; the socket is still open."""
    if where == "configuration":
        app.config["AIO_WS_RECEIVE_TIMEOUT"] = 0.05
    decorator = websocket if where == "configuration" else websocket(receive_timeout=0.05)

    @app.route("/")
    @decorator
    async def view():
        try:
            await ws.receive()
        except TimeoutError:
            await ws.send_str("are you there?")
        assert (await ws.receive(timeout=60)).data == "yes"
        await ws.send_str("good")

    client = await serve(app)
    connection = await dial(client, "/")
    assert await connection.recv() == "are you there?"
    await connection.send("yes")
    assert await connection.recv() == "good"


async def test_a_parameter_takes_precedence_over_the_configuration(app, serve, raw):
    """None and False are values like others."""
    app.config.update(
        AIO_WS_HEARTBEAT=0.01,
        AIO_WS_COMPRESS=True,
        AIO_WS_PROTOCOLS=["a"],
        AIO_WS_FAILURE_STATUS=400,
    )

    @app.route("/")
    @websocket(heartbeat=None, compress=False, protocols=["b"], failure_status_code=404)
    async def view():
        await echo()

    client = await serve(app)
    extensions = {"Sec-WebSocket-Extensions": "permessage-deflate"}
    one = await raw(client, "/", {**extensions, "Sec-WebSocket-Protocol": "a, b"})
    assert "permessage-deflate" not in one.head
    assert "Sec-WebSocket-Protocol: b" in one.head
    one.send(1, b"hello")
    assert await one.frame() == (1, b"hello")
    async with client.get("/") as response:
        assert response.status == 404


async def test_a_ping_of_the_client_is_answered(app, serve, dial):
    """Without the view's doing, while it receives."""
    app.add_url_rule("/echo", view_func=websocket(echo))
    client = await serve(app)
    connection = await dial(client, "/echo")
    await (await connection.ping(b"hi"))


async def test_a_view_may_receive_and_send_at_the_same_time(app, serve, dial):
    """Tasks of the view use the socket object itself, which needs no context."""

    @app.route("/")
    @websocket
    async def view():
        socket = ws._get_current_object()
        queue: asyncio.Queue[str] = asyncio.Queue()

        async def send():
            while True:
                await socket.send_str(await queue.get())

        async with asyncio.TaskGroup() as tasks:
            sender = tasks.create_task(send())
            async for message in socket:
                queue.put_nowait(message.data + "1")
                queue.put_nowait(message.data + "2")
            sender.cancel()

    client = await serve(app)
    connection = await dial(client, "/")
    await connection.send("a")
    assert [await connection.recv(), await connection.recv()] == ["a1", "a2"]
    await connection.close()
    assert connection.close_code == 1000


async def test_a_websocket_is_logged_as_a_request_with_status_101(app, serve, dial, caplog):
    """The access log has one line for it, written at its end."""
    caplog.set_level(logging.INFO, "aiohttp.access")
    app.add_url_rule("/echo", view_func=websocket(echo))
    client = await serve(app)
    connection = await dial(client, "/echo")
    await connection.close()
    await client.close()

    lines = [one.getMessage() for one in caplog.records if one.name == "aiohttp.access"]
    assert len(lines) == 1
    assert '"GET /echo HTTP/1.1" 101' in lines[0]


def test_the_client_library_is_the_one_meant():
    """The tests need the asyncio client of websockets, which is not ours."""
    assert websockets.connect.__module__.startswith("websockets.asyncio")
