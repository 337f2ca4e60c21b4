"""What flask_aio_core.testing offers to the tests of an app."""

from __future__ import annotations

import asyncio
import gc
import http.client
import socket
import threading
import urllib.request
from urllib.parse import urlsplit

import aiohttp
import pytest
from flask import Flask, request, session

from flask_aio_core import AioHTTP
from flask_aio_core.testing import AioClient, LiveServer


def get(url):
    with urllib.request.urlopen(url, timeout=60) as response:
        return response.read().decode()


def test_a_live_server_serves_an_app_that_knows_nothing_of_it(app):
    """The extension is added, and a blocking client gets its answer in the same thread."""

    @app.get("/")
    async def index():
        await asyncio.sleep(0)
        return f"Hello on {threading.current_thread().name}"

    with LiveServer(app) as server:
        assert get(f"{server.url}/") == "Hello on flask-aio-live-server"


def test_a_live_server_runs_the_hooks_and_can_be_started_again(app, aio):
    """Start hooks have run when it accepts connections, clean-up hooks when it has stopped."""
    steps = []

    @aio.cleanup_ctx
    async def resource():
        steps.append("start")
        yield
        steps.append("stop")

    app.add_url_rule("/", view_func=lambda: "-".join(steps))
    server = LiveServer(app)
    for _ in range(2):
        with server:
            assert get(f"{server.url}/") == "start"
        assert steps == ["start", "stop"]
        steps.clear()
    server.stop()  # Nothing happens.


@pytest.mark.parametrize("error", [LookupError, SystemExit])
def test_the_error_of_a_start_hook_is_raised_in_the_test(app, aio, error):
    """It is the error itself, and nothing of the server is left."""
    wrong = [True]

    @aio.on_startup
    async def fail():
        if wrong:
            raise error("no such table")

    app.add_url_rule("/", view_func=lambda: "Hello")
    server = LiveServer(app)
    with pytest.raises(error, match="no such table"):
        server.start()
    with pytest.raises(RuntimeError, match="does not run"):
        _ = server.url
    wrong.clear()
    with server:
        assert get(server.url) == "Hello"


def test_the_error_of_a_cleanup_hook_is_raised_in_the_test(app, aio):
    """The server has stopped nevertheless."""

    @aio.on_cleanup
    async def fail():
        raise LookupError("no such table")

    server = LiveServer(app)
    server.start()
    address = urlsplit(server.url)
    with pytest.raises(LookupError, match="no such table"):
        server.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.hostname, address.port))


def test_a_live_server_leaves_no_thread_and_no_socket(app):
    """An idle connection of a client does not keep it."""
    app.add_url_rule("/", view_func=lambda: "Hello")
    before = set(threading.enumerate())
    with LiveServer(app) as server:
        address = urlsplit(server.url)
        connection = http.client.HTTPConnection(address.netloc, timeout=60)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"Hello"
        assert set(threading.enumerate()) > before
    connection.close()
    gc.collect()  # A socket that was left open would warn, which is an error.
    assert set(threading.enumerate()) == before


def test_a_view_that_does_not_end_is_cancelled_after_the_grace(app, aio):
    """Stopping a server does not wait for ever."""
    reached, cancelled = threading.Event(), threading.Event()

    @app.get("/")
    async def forever():
        reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with LiveServer(app, grace=0.1) as server:
        address = urlsplit(server.url)
        connection = http.client.HTTPConnection(address.netloc, timeout=60)
        connection.request("GET", "/")
        assert reached.wait(60)
    connection.close()
    assert cancelled.is_set()


def test_a_live_server_is_started_once(app):
    """A mistake is told, and harms nothing."""
    with LiveServer(app) as server:
        with pytest.raises(RuntimeError, match="started already"):
            server.start()
        assert server.url


def test_a_port_that_is_taken_is_told(app):
    """The error is the system's."""
    with LiveServer(app) as server:
        other = LiveServer(Flask("other"), port=urlsplit(server.url).port or 0)
        with pytest.raises(OSError, match="in use"):
            other.start()
        with pytest.raises(RuntimeError, match="does not run"):
            _ = other.url


def test_a_live_server_may_listen_on_every_address(app):
    """Its address is one that can be opened."""
    app.add_url_rule("/", view_func=lambda: request.host)
    with LiveServer(app, host="0.0.0.0") as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert server.url.endswith(get(server.url))


def test_coroutines_run_on_the_loop_of_a_live_server(app):
    """The result is returned, an error raised; one that takes too long is cancelled."""
    server = LiveServer(app)
    cancelled = threading.Event()

    async def name():
        return threading.current_thread().name

    async def fail():
        raise LookupError("absent")

    async def forever():
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with server:
        assert server.run(name()) == "flask-aio-live-server"
        with pytest.raises(LookupError):
            server.run(fail())
        with pytest.raises(TimeoutError, match=r"longer than 0\.01 s"):
            server.run(forever(), timeout=0.01)
        assert cancelled.wait(60)
    with pytest.raises(RuntimeError, match="does not run"):
        server.run(name())


async def test_a_live_server_serves_a_test_that_is_a_coroutine(app):
    """Its loop is not the test's."""

    @app.get("/")
    async def index():
        return "Hello"

    with LiveServer(app) as server:
        async with aiohttp.request("GET", server.url) as response:
            assert await response.text() == "Hello"


async def test_the_async_client_reads_a_stream_piece_by_piece(app):
    """The view goes on when the test lets it."""
    gate = asyncio.Event()

    async def pieces():
        yield "one"
        await gate.wait()
        yield "two"

    @app.get("/")
    async def index():
        return pieces()

    async with AioClient(app) as client:
        response = await client.get("/")
        assert await response.content.readany() == b"one"
        gate.set()
        assert await response.text() == "two"


async def test_the_async_client_keeps_cookies_and_takes_relative_paths(app):
    """As a browser would; its address is for other clients."""

    @app.post("/login")
    async def login():
        session["user"] = "ada"
        return ""

    @app.get("/user")
    async def user():
        return session["user"] + request.args["mark"]

    async with AioClient(app, headers={"X-Test": "1"}) as client:
        await client.post("/login")
        async with client.get("/user?mark=!") as response:
            assert await response.text() == "ada!"
            assert response.request_info.headers["X-Test"] == "1"
        async with aiohttp.request("GET", f"{client.url}/absent") as response:
            assert response.status == 404


async def test_a_client_that_leaves_does_not_cancel_the_view(app):
    """Unlike under aiohttp's own test server: after_request functions run."""
    reached, gate, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @app.after_request
    def after(response):
        ended.set()
        return response

    @app.get("/")
    async def index():
        reached.set()
        await gate.wait()
        return "Hello"

    async with AioClient(app) as client:

        async def ask():
            await client.get("/")

        asking = asyncio.create_task(ask())
        await reached.wait()
        asking.cancel()
        await asyncio.wait([asking])
        gate.set()
        await ended.wait()


async def test_the_async_client_runs_the_hooks_and_raises_their_errors(app, aio):
    """A client that could not start leaves nothing open."""
    steps: list[object] = []

    @aio.on_startup
    async def start():
        steps.append(asyncio.get_running_loop())

    @aio.on_cleanup
    async def stop():
        steps.append("stop")

    async with AioClient(app):
        assert steps == [asyncio.get_running_loop()]
    assert steps[1:] == ["stop"]

    @aio.on_startup
    async def fail():
        raise LookupError("no such table")

    with pytest.raises(LookupError, match="no such table"):
        async with AioClient(app):
            pass
    gc.collect()


def test_an_app_may_have_a_test_client_beside_its_server(app):
    """Flask's client then uses the server's loop."""
    aio = AioHTTP(app)
    started = []
    aio.on_startup(lambda: started.append(True))

    @app.get("/")
    async def index():
        return threading.current_thread().name

    with LiveServer(app):
        assert app.test_client().get("/").text
    assert started == [True]
