"""The handshake is answered when the view is reached; until then the request is an ordinary one."""

from __future__ import annotations

import asyncio
import logging
from functools import wraps

import pytest
from flask import Response, abort, after_this_request, g, redirect, request, session
from websockets.exceptions import InvalidStatus

from flask_aio_ws import websocket, ws

pytestmark = pytest.mark.usefixtures("aio")


def install_echo(app, path="/echo", **options):
    reached = []

    async def echo():
        reached.append(request.path)
        async for message in ws:
            await ws.send_str(message.data)

    app.add_url_rule(path, view_func=websocket(**options)(echo))
    return reached


async def test_the_handshake_of_a_websocket_view_is_accepted(app, serve, dial):
    """A foreign client gets a WebSocket, and its messages back."""
    install_echo(app)
    client = await serve(app)
    connection = await dial(client, "/echo")
    await connection.send("hello")

    assert await connection.recv() == "hello"


async def test_a_handshake_as_firefox_sends_it_is_accepted(app, serve, raw):
    """Header values may be lists and in any case."""
    install_echo(app)
    client = await serve(app)
    one = await raw(client, "/echo", {"Connection": "keep-alive, Upgrade", "Upgrade": "WebSocket"})

    assert one.status == 101
    one.send(1, b"hello")
    assert await one.frame() == (1, b"hello")


async def test_the_handshake_is_not_answered_before_the_view_is_reached(
    app, serve, raw, eventually
):
    """Nothing is sent while a before_request function still decides."""
    gate = asyncio.Event()
    waiting = []

    @app.before_request
    async def decide():
        waiting.append(True)
        await gate.wait()

    install_echo(app)
    client = await serve(app)
    one = await raw(client, "/echo", wait=False)
    await eventually(lambda: waiting)

    assert one.reader._buffer == b""
    gate.set()
    assert await one.answer() == 101


@pytest.mark.parametrize("kind", ["coroutine", "synchronous"])
async def test_a_before_request_that_aborts_answers_the_handshake(app, serve, dial, kind):
    """The client gets the 401 as plain HTTP, with headers and body; the view is not called."""
    called = []

    @app.before_request
    def authenticate():
        abort(Response("who are you?", 401, {"WWW-Authenticate": "Basic"}))

    @app.route("/coroutine")
    @websocket
    async def coroutine():
        called.append(1)

    @app.route("/synchronous")
    @websocket
    def synchronous():
        called.append(1)

    client = await serve(app)
    with pytest.raises(InvalidStatus) as refused:
        await dial(client, f"/{kind}")

    response = refused.value.response
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Basic"
    assert response.body == b"who are you?"
    assert called == []


async def test_a_before_request_that_returns_a_response_answers_the_handshake(app, serve, refusal):
    """A maintenance page is sent, and errorhandlers and after_request have their say."""

    @app.before_request
    async def maintain():
        abort(503)

    @app.errorhandler(503)
    def explain(error):
        return "back soon", 503, {"Retry-After": "60"}

    @app.after_request
    def mark(response):
        response.headers["X-Marked"] = "yes"
        return response

    reached = install_echo(app)
    client = await serve(app)
    refused = await refusal(client, "/echo")

    assert refused.status == 503
    assert refused.headers is not None
    assert (refused.headers["Retry-After"], refused.headers["X-Marked"]) == ("60", "yes")
    assert reached == []


@pytest.mark.parametrize("kind", ["coroutine", "synchronous"])
async def test_a_failing_decorator_answers_the_handshake_with_its_redirect(app, serve, raw, kind):
    """A decorator above @websocket such as login_required works as on other views."""

    def login_required(view):
        @wraps(view)
        def wrapper(*args, **kwargs):
            if "user" not in request.args:
                return redirect("/login")
            return app.ensure_sync(view)(*args, **kwargs)

        return wrapper

    @app.route("/coroutine")
    @login_required
    @websocket
    async def coroutine():
        await ws.send_str(request.args["user"])

    @app.route("/synchronous")
    @login_required
    @websocket
    def synchronous():
        ws.send(request.args["user"])

    client = await serve(app)
    refused = await raw(client, f"/{kind}")
    assert refused.status == 302
    assert "location: /login\r\n" in refused.head.lower()

    async with client.ws_connect(f"/{kind}?user=ann") as accepted:
        assert await accepted.receive_str() == "ann"


async def test_a_handshake_to_an_unknown_path_gets_404(app, serve, refusal):
    """The ordinary page for what does not exist."""
    client = await serve(app)
    assert (await refusal(client, "/nothing")).status == 404


async def test_a_handshake_to_a_path_without_its_slash_is_redirected(app, serve, raw):
    """Werkzeug's redirect answers it."""
    install_echo(app, "/echo/")
    client = await serve(app)
    refused = await raw(client, "/echo")

    assert refused.status == 308
    assert "/echo/\r\n" in refused.head


async def test_a_handshake_to_an_ordinary_view_gets_its_response(app, serve, refusal):
    """A view that knows nothing of WebSockets answers as ever."""

    @app.route("/plain")
    async def plain():
        return "plain", 203

    client = await serve(app)
    assert (await refusal(client, "/plain")).status == 203


async def test_the_connection_lives_on_after_a_refused_handshake(app, serve, raw):
    """Another handshake may follow on the same connection."""
    install_echo(app)
    client = await serve(app)
    one = await raw(client, "/nothing")
    assert one.status == 404
    length = int(one.head.lower().split("content-length:")[1].split()[0])
    await one.reader.readexactly(length)
    if "connection: close" not in one.head.lower():
        await one.handshake("/echo")
        assert await one.answer() == 101


@pytest.mark.parametrize("kind", ["coroutine", "synchronous"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-WebSocket-Key": None},
        {"Sec-WebSocket-Key": "c2hvcnQ="},
        {"Sec-WebSocket-Key": "?"},
        {"Sec-WebSocket-Version": "12"},
        {"Sec-WebSocket-Version": None},
    ],
)
async def test_a_malformed_handshake_gets_400(app, serve, raw, caplog, headers, kind):
    """It is the client's error: nothing is logged as ours, and the view does not begin."""
    called = []

    @app.route("/coroutine")
    @websocket
    async def coroutine():
        called.append(1)

    @app.route("/synchronous")
    @websocket
    def synchronous():
        called.append(1)

    client = await serve(app)
    one = await raw(client, f"/{kind}", headers)

    assert one.status == 400
    assert called == []
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []


async def test_a_handshake_without_connection_upgrade_is_a_plain_request(app, serve, raw):
    """Half a handshake gets the answer of a plain request."""
    install_echo(app, failure_status_code=404)
    client = await serve(app)
    assert (await raw(client, "/echo", {"Connection": None})).status == 404


@pytest.mark.parametrize("status", [400, 404, 403, 406, 426])
@pytest.mark.parametrize("kind", ["coroutine", "synchronous"])
async def test_a_plain_request_gets_the_failure_status_code(app, serve, status, kind):
    """The parameter of @websocket says what a browser's address bar gets."""

    @app.route("/coroutine")
    @websocket(failure_status_code=status)
    async def coroutine():
        raise AssertionError

    @app.route("/synchronous")
    @websocket(failure_status_code=status)
    def synchronous():
        raise AssertionError

    client = await serve(app)
    async with client.get(f"/{kind}") as response:
        assert response.status == status
        assert response.headers.get("Upgrade") == ("websocket" if status == 426 else None)
        assert ("upgrade" in response.headers.get("Connection", "").lower()) == (status == 426)


async def test_a_plain_request_gets_400_unless_configured(app, serve):
    """The default is 400; AIO_WS_FAILURE_STATUS is another default."""
    install_echo(app)
    client = await serve(app)
    async with client.get("/echo") as response:
        assert response.status == 400
        assert "WebSocket" in await response.text()
    app.config["AIO_WS_FAILURE_STATUS"] = 404
    async with client.get("/echo") as response:
        assert response.status == 404


def test_the_test_client_gets_the_failure_status_code(app):
    """Flask's own test client has no WebSocket to offer, even if it sends the headers."""
    install_echo(app)
    client = app.test_client()

    assert client.get("/echo").status_code == 400
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
    assert client.get("/echo", headers=upgrade).status_code == 400


@pytest.mark.parametrize("kind", ["coroutine", "synchronous"])
async def test_hooks_of_a_websocket_request_run_once(app, serve, dial, eventually, kind):
    """after_request sees a response of status 101, when the view has ended."""
    events = []
    app.before_request(lambda: events.append("before"))
    app.teardown_request(lambda error: events.append(f"teardown {error}"))
    app.teardown_appcontext(lambda error: events.append("appcontext"))

    @app.after_request
    def after(response):
        events.append(f"after {response.status_code}")
        return response

    @app.route("/coroutine")
    @websocket
    async def coroutine():
        async for _ in ws:
            pass
        events.append("view")

    @app.route("/synchronous")
    @websocket
    def synchronous():
        for _ in ws:
            pass
        events.append("view")

    client = await serve(app)
    events.clear()  # The start of the server has an app context of its own.
    connection = await dial(client, f"/{kind}")
    await connection.send("x")
    assert events == ["before"]
    await connection.close()
    await eventually(lambda: "appcontext" in events)

    assert events == ["before", "view", "after 101", "teardown None", "appcontext"]


async def test_a_websocket_view_reads_session_cookies_and_g(app, serve):
    """What the handshake brings is there, as on any request."""

    @app.route("/login")
    async def login():
        session["user"] = "ann"
        return "", 200, {"Set-Cookie": "plain=biscuit; Path=/"}

    @app.before_request
    def load():
        g.user = session.get("user")

    @app.route("/who")
    @websocket
    async def who():
        await ws.send_json([session["user"], g.user, request.cookies["plain"]])

    client = await serve(app)
    async with client.get("/login") as response:
        cookies = {name: one.value for name, one in response.cookies.items()}
    header = "; ".join(f"{name}={value}" for name, value in cookies.items())
    async with client.ws_connect("/who", headers={"Cookie": header}) as connection:
        assert await connection.receive_json() == ["ann", "ann", "biscuit"]


@pytest.mark.parametrize("kind", ["coroutine", "synchronous"])
async def test_a_session_changed_before_the_handshake_is_sent_with_the_101(app, serve, raw, kind):
    """Its cookie is valid: another request brings the session back."""

    @app.before_request
    def count():
        session["count"] = session.get("count", 0) + 1

    @app.route("/coroutine")
    @websocket
    async def coroutine():
        pass

    @app.route("/synchronous")
    @websocket
    def synchronous():
        pass

    @app.route("/count")
    async def show():
        return str(session["count"])

    client = await serve(app)
    one = await raw(client, f"/{kind}")
    assert one.status == 101
    cookies = [line for line in one.head.split("\r\n") if line.lower().startswith("set-cookie:")]
    [cookie] = cookies

    value = cookie.split(":", 1)[1].split(";")[0].strip()
    async with client.get("/count", headers={"Cookie": value}) as response:
        assert await response.text() == "2"


async def test_a_decorator_changes_the_session_before_the_handshake(app, serve, raw):
    """Whatever runs before the view counts, not hooks alone."""

    def visit(view):
        @wraps(view)
        async def wrapper():
            session["visited"] = True
            return await view()

        return wrapper

    @app.route("/")
    @visit
    @websocket
    async def view():
        pass

    client = await serve(app)
    assert "set-cookie: session=" in (await raw(client, "/")).head.lower()


async def test_an_unchanged_session_sends_no_cookie(app, serve, raw):
    """The 101 has no Set-Cookie without a reason."""
    install_echo(app)
    client = await serve(app)
    assert "set-cookie" not in (await raw(client, "/echo")).head.lower()


async def test_an_app_without_a_secret_key_accepts_handshakes(app, serve, raw):
    """There is no session to save then, and no error about it."""
    app.secret_key = None
    install_echo(app)
    client = await serve(app)
    assert (await raw(client, "/echo")).status == 101


async def test_after_this_request_runs_once_with_the_101(app, serve, dial, eventually):
    """Functions that the view registers run at its end."""
    seen = []

    @app.route("/")
    @websocket
    async def view():
        @after_this_request
        def look(response):
            seen.append(response.status_code)
            return response

    client = await serve(app)
    await (await dial(client, "/")).wait_closed()
    await eventually(lambda: seen)

    assert seen == [101]


@pytest.mark.parametrize("kind", ["coroutine", "synchronous"])
async def test_a_client_that_leaves_before_the_handshake_is_no_error(
    app, serve, raw, eventually, caplog, kind
):
    """Nobody has done anything wrong: nothing is logged, and teardown runs."""
    gate = asyncio.Event()
    arrived = []
    ended: list[object] = []

    @app.before_request
    async def wait():
        arrived.append(request.environ["aiohttp.request"])
        await gate.wait()

    app.teardown_request(ended.append)

    @app.route("/coroutine")
    @websocket
    async def coroutine():
        pass

    @app.route("/synchronous")
    @websocket
    def synchronous():
        pass

    client = await serve(app)
    one = await raw(client, f"/{kind}", wait=False)
    await eventually(lambda: arrived)
    one.vanish()
    await eventually(lambda: arrived[0].transport is None)
    gate.set()
    await eventually(lambda: ended)

    await client.close()
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING] == []
