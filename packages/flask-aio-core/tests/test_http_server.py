"""The HTTP server of aio.run and of other packages: what it adds to aiohttp's, and leaves out."""

from __future__ import annotations

import asyncio
import socket

import aiohttp
import pytest
from aiohttp import web
from flask import request

from flask_aio_core.serving import HTTPServer, unused_application


@pytest.fixture
async def start():
    """Start our own server for an app; return its address. It stops with the test."""
    servers = []

    async def run(app, **options):
        server = HTTPServer(unused_application(app), keepalive=75, **options)
        servers.append(server)
        await server.start()
        sock = socket.create_server(("127.0.0.1", 0))
        await server.listen(sock)
        return sock.getsockname()[:2]

    yield run
    for server in servers:
        await server.stop(1)


@pytest.fixture
async def get():
    """GET a path; return status and text."""
    async with aiohttp.ClientSession() as session:

        async def call(address, path="/", **options):
            host, port = address
            async with session.get(f"http://{host}:{port}{path}", **options) as response:
                return response.status, await response.text()

        yield call


async def exchange(address, data):
    """Send bytes over a connection of their own; return all that comes back."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(data)
    answer = await reader.read()
    writer.close()
    return answer.decode()


async def test_the_aiohttp_request_knows_its_application(app, aio, start, get):
    """aiohttp's router is left out; request.app and request.match_info are there all the same."""

    @app.get("/")
    async def view():
        inner = request.environ["aiohttp.request"]
        return {"app": inner.app is application, "match": dict(inner.match_info)}

    application = app.aiohttp_app
    assert await get(await start(app)) == (200, '{"app":true,"match":{}}\n')


async def test_routes_and_middlewares_of_aiohttp_are_not_left_out(app, aio, start, get):
    """A route of aiohttp's takes precedence, and its middlewares see every request."""
    seen = []

    @web.middleware
    async def middleware(request, handler):
        seen.append(request.path)
        return await handler(request)

    @app.get("/flask")
    async def view():
        return "flask"

    async def native(_):
        return web.Response(text="aiohttp")

    app.aiohttp_app.middlewares.append(middleware)
    app.aiohttp_app.router.add_get("/native", native)
    address = await start(app)
    assert await get(address, "/flask") == (200, "flask")
    assert await get(address, "/native") == (200, "aiohttp")
    assert seen == ["/flask", "/native"]


async def test_a_middleware_alone_is_not_left_out(app, aio, start, get):
    """With no other route, a middleware is called too, and may answer itself."""

    @web.middleware
    async def middleware(request, handler):
        raise web.HTTPForbidden

    app.aiohttp_app.middlewares.append(middleware)
    assert (await get(await start(app), "/"))[0] == 403


async def test_the_signal_on_response_prepare_is_sent(app, aio, start):
    """It can add headers to the response of the Flask app."""

    async def add_header(_, response):
        response.headers["X-Added"] = "yes"

    @app.get("/")
    async def view():
        return "x"

    app.aiohttp_app.on_response_prepare.append(add_header)
    host, port = await start(app)
    async with aiohttp.request("GET", f"http://{host}:{port}/") as response:
        assert response.headers["X-Added"] == "yes"


async def test_an_unknown_expectation_is_refused(app, aio, start):
    """As with aiohttp's router, the answer is 417."""
    address = await start(app)
    answer = await exchange(
        address, b"GET / HTTP/1.1\r\nHost: x\r\nExpect: magic\r\nConnection: close\r\n\r\n"
    )
    assert answer.startswith("HTTP/1.1 417 ")


async def test_requests_of_one_connection_do_not_share_an_environ(app, aio, start, get):
    """What one adds to its environ, the next does not find."""

    @app.get("/")
    async def view():
        return str(request.environ.setdefault("mine", request.args["n"]))

    address = await start(app)
    assert [(await get(address, f"/?n={n}"))[1] for n in range(3)] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("head", "status", "reason"),
    [
        (b"GET /%s HTTP/1.1" % (b"a" * 9000), 414, "The request line is longer than 8190 bytes."),
        (b"GET / HTTP/1.1\r\nX: %s" % (b"a" * 9000), 431, "A header field is longer than 8191"),
        (b"GET / HTTP/1.1\r\nbad header", 400, ""),
    ],
    ids=["line", "field", "garbage"],
)
async def test_an_invalid_request_gets_its_status_and_one_log_line(
    app, aio, start, caplog, head, status, reason
):
    """The client is told what was wrong, and the log has no traceback."""
    answer = await exchange(await start(app), head + b"\r\nHost: x\r\n\r\n")
    assert answer.split()[1] == str(status)
    assert reason in answer
    (record,) = [one for one in caplog.records if one.name == "aiohttp.server"]
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith("Invalid request from 127.0.0.1: ")
    assert record.exc_info is None
