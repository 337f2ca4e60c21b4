"""The access log of aio.run: the line, and its fields on the record."""

from __future__ import annotations

import asyncio
import logging
import re
import socket

import aiohttp
import pytest
from aiohttp import web
from werkzeug.middleware.proxy_fix import ProxyFix

import flask_aio_core.server as server
from flask_aio_core.plugins import SIDE_KEY
from flask_aio_core.state import get_state

LINE = re.compile(
    r"127\.0\.0\.1 \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]"
    r' "([^"]*)" (\d+) (\d+) (\d+\.\d{3})s (\S+)'
)


class Records(logging.Handler):
    def __init__(self):
        super().__init__()
        self.all: list[logging.LogRecord] = []

    def emit(self, record):
        self.all.append(record)


@pytest.fixture
async def run(app, aio, eventually):
    """Serve the app as aio.run does; return an HTTP client and the records of the access log."""

    @app.get("/coroutine")
    async def coroutine():
        await asyncio.sleep(0.05)
        return "x" * 1000

    @app.get("/synchronous")
    def synchronous():
        return "synchronous"

    @app.get("/stream")
    async def stream():
        for _ in range(3):
            yield "x" * 1000

    log = logging.getLogger("aiohttp.access")
    level = log.level
    records = Records()
    log.addHandler(records)
    stopping = asyncio.Event()
    tasks = []
    clients = []

    async def start():
        sock = socket.create_server(("127.0.0.1", 0))
        options = server.ServerOptions(
            sock=sock,
            ssl_context=None,
            factory=asyncio.new_event_loop,
            access_log=True,
            grace=1,
        )
        tasks.append(
            asyncio.create_task(server._serve(app, options, stopping, handle_signals=False))
        )
        await eventually(lambda: get_state(app).serving_runtime() is not None or tasks[0].done())
        if tasks[0].done():
            await tasks[0]
        clients.append(aiohttp.ClientSession(f"http://127.0.0.1:{sock.getsockname()[1]}"))
        return clients[0], records.all

    yield start
    for client in clients:
        await client.close()
    stopping.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    log.removeHandler(records)
    log.setLevel(level)


async def test_the_line(run, eventually):
    """The line has request, status, bytes, duration, and the side that the request ran on."""
    client, records = await run()
    for number, (path, side, least) in enumerate(
        [
            ("/coroutine?a=1", "loop", 1000),
            ("/synchronous", "thread", 11),
            ("/stream", "loop", 3000),
        ]
    ):
        async with client.get(path) as response:
            await response.read()
        await eventually(lambda number=number: len(records) > number)
        match = LINE.fullmatch(records[-1].getMessage())
        assert match is not None, records[-1].getMessage()
        request, status, size, duration, found = match.groups()
        assert (request, status, found) == (f"GET {path} HTTP/1.1", "200", side)
        assert int(size) >= least
        assert 0 <= float(duration) < 60
        if path.startswith("/coroutine"):
            assert float(duration) >= 0.05


async def test_the_fields(app, run, eventually):
    """Each field is an attribute of the record, whatever the format shows."""
    app.config.update(AIO_ACCESS_LOG_FORMAT="%(response_status)d", AIO_REQUEST_ID="accept")
    client, records = await run()
    headers = {"X-Request-ID": "r-1", "User-Agent": "Me/1", "Referer": "http://there/"}
    async with client.get("/coroutine?a=1", headers=headers) as response:
        await response.read()
    await eventually(lambda: records)
    (record,) = records
    assert record.getMessage() == "200"
    assert record.duration >= 0.05
    assert record.response_size > 1000
    assert {
        name: vars(record)[name]
        for name in (
            *("remote_address", "request_method", "request_path", "first_request_line"),
            *("response_status", "side", "request_id", "referer", "user_agent"),
        )
    } == {
        "remote_address": "127.0.0.1",
        "request_method": "GET",
        "request_path": "/coroutine",
        "first_request_line": "GET /coroutine?a=1 HTTP/1.1",
        "response_status": 200,
        "side": "loop",
        "request_id": "r-1",
        "referer": "http://there/",
        "user_agent": "Me/1",
    }


async def test_any_value_of_the_environ(app, run, eventually):
    """A name that is no field is one of the environ; what nobody has set is a hyphen."""
    app.config["AIO_ACCESS_LOG_FORMAT"] = "%(HTTP_X_COLOUR)s %(SERVER_PROTOCOL)s %(HTTP_X_NONE)s"
    client, records = await run()
    async with client.get("/synchronous", headers={"X-Colour": "blue 100%"}):
        pass
    await eventually(lambda: records)
    assert records[0].getMessage() == "blue 100% HTTP/1.1 -"


async def test_the_client_behind_a_proxy(app, run, eventually):
    """The address is the one that the app believes a proxy."""
    app.wsgi_app = ProxyFix(app.wsgi_app)
    client, records = await run()
    async with client.get("/synchronous", headers={"X-Forwarded-For": "192.0.2.7"}):
        pass
    await eventually(lambda: records)
    assert records[0].remote_address == "192.0.2.7"


async def test_a_log_that_nobody_reads_keeps_nothing(app, aio, run):
    """Where the program has set the logger's level higher, a request has nothing to remember."""
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    hooks = get_state(app).hooks.on_request
    before = list(hooks)
    client, records = await run()
    async with client.get("/synchronous") as response:
        assert response.status == 200
    assert hooks == before
    assert records == []


async def test_nothing_forges_a_line(app, run, eventually):
    """Control characters are escaped, also where a proxy or the app has put them."""
    app.config["AIO_ACCESS_LOG_FORMAT"] = "%(PATH_INFO)s"
    client, records = await run()
    async with client.get("/%0a%1b%5b2J") as response:
        assert response.status == 404
    await eventually(lambda: records)
    assert records[0].getMessage() == r"/\n\x1b[2J"


async def test_a_native_route(app, run, eventually):
    """A route of aiohttp's own runs on no side of the app."""

    async def native(_):
        return web.Response(text="native")

    app.aiohttp_app.router.add_get("/native", native)
    client, records = await run()
    async with client.get("/native"):
        pass
    await eventually(lambda: records)
    assert (records[0].side, records[0].request_id) == ("-", "-")


async def test_nothing_is_kept_after_the_log(app, run, eventually):
    """The request lets go of the environ, and the app of the hook that had it kept."""
    seen = []

    @app.before_request
    def look():
        from flask import request

        seen.append(request.environ)

    client, records = await run()
    async with client.get("/synchronous"):
        pass
    await eventually(lambda: records)
    assert seen[0][SIDE_KEY] == "thread"
    assert len(seen[0]["aiohttp.request"]) == 0


@pytest.mark.parametrize("value", [None, 5, "%(response_status)q", "%d", b"%(side)s", "%(side)d"])
async def test_a_format_that_would_fail_is_refused_at_start(app, aio, serve, value):
    """The server does not start, and the error names the key."""
    app.config["AIO_ACCESS_LOG_FORMAT"] = value
    with pytest.raises(ValueError, match="AIO_ACCESS_LOG_FORMAT"):
        await serve(app)
