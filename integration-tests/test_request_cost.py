"""What a request costs may not creep up: counts, which no busy or slow machine changes.

The same request goes to the floor, which calls Flask inline, and to this project. What is counted
are calls of Python functions, each resumption of a coroutine being one, and the memory blocks that
a request leaves behind.
"""

from __future__ import annotations

import asyncio
import gc
import io
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

import pytest
from aiohttp import web
from flask import Flask

from flask_aio_core import AioHTTP
from flask_aio_core.serving import HTTPServer

REQUESTS: Final = 50
WARM_UP: Final = 20
PAYLOAD: Final = {"message": "Hello, World!", "numbers": list(range(10))}
#: Objects in reference cycles that a request may have beyond the floor's.
MORE_IN_CYCLES: Final = 2
#: Whose calls are counted; whatever else runs in the process is not the request's.
COUNTED: Final = frozenset(
    {
        "aiohttp",
        "asyncio",
        "blinker",
        "contextlib",
        "flask",
        "flask_aio_core",
        "flask_aio_ws",
        "greenlet",
        "queue",
        "threading",
        "werkzeug",
    }
)


def floor() -> web.Application:
    """Return the least that anything which serves Flask on aiohttp has to do."""
    app = _flask_app()

    async def handle(request: web.Request) -> web.Response:
        environ: dict[str, Any] = {
            "REQUEST_METHOD": request.method,
            "SCRIPT_NAME": "",
            "PATH_INFO": request.path,
            "QUERY_STRING": request.query_string,
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": False,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        for name, value in request.headers.items():
            environ["HTTP_" + name.upper().replace("-", "_")] = value
        started: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], _: Any = None) -> Any:
            started[:] = [int(status[:3]), headers]

        iterable = app(environ, start_response)
        body = b"".join(iterable)
        iterable.close()  # type: ignore[attr-defined]
        return web.Response(status=started[0], headers=started[1], body=body)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    return application


def ours() -> web.Application:
    """Return this project's application."""
    app = _flask_app()
    AioHTTP(app)
    return app.aiohttp_app  # type: ignore[attr-defined, no-any-return]


def _flask_app() -> Flask:
    app = Flask("guard")

    @app.get("/synchronous")
    def synchronous() -> dict[str, Any]:
        return PAYLOAD

    @app.get("/coroutine")
    async def coroutine() -> dict[str, Any]:
        return PAYLOAD

    return app


class Client:
    """A blocking client in a thread of its own, so that nothing of it is counted."""

    def __init__(self, port: int, path: str) -> None:
        self._connection = socket.create_connection(("127.0.0.1", port), 30)
        self._message = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n".encode()

    def request(self, times: int) -> None:
        """Send requests, one after the other."""
        for _ in range(times):
            self._connection.sendall(self._message)
            answer = b""
            while not answer.endswith(b"\n"):  # As Flask's JSON does.
                received = self._connection.recv(65536)
                assert received
                answer += received
                assert answer.startswith(b"HTTP/1.1 200")
                if b"\r\n\r\n" in answer and answer.endswith(b"\r\n\r\n"):
                    answer += self._connection.recv(65536)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


async def observed(
    make: Callable[[], web.Application], path: str, observe: Callable[[Client], Any]
) -> Any:
    """Return what a function, which runs in a thread, has observed about a server."""
    # An access log that another test has switched on would be kept by pytest, and counted.
    server = HTTPServer(make(), keepalive=75, access_log=None)
    await server.start()
    try:
        sock = socket.create_server(("127.0.0.1", 0))
        await server.listen(sock)
        port = sock.getsockname()[1]
        return await asyncio.to_thread(_with_client, port, path, observe)
    finally:
        await server.stop(1)


def _with_client(port: int, path: str, observe: Callable[[Client], Any]) -> Any:
    client = Client(port, path)
    try:
        return observe(client)
    finally:
        client.close()


async def calls_per_request(make: Callable[[], web.Application], path: str) -> Counter[str]:
    """Return how many Python functions of each package one request calls."""
    counts: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            counts[str(frame.f_globals.get("__name__")).partition(".")[0]] += 1

    loop = asyncio.get_running_loop()

    def observe(client: Client) -> Counter[str]:
        # The worker threads are started by these, and count from their start on.
        client.request(WARM_UP)
        _call(loop, lambda: sys.setprofile(count))
        client.request(5)
        counts.clear()
        client.request(REQUESTS)
        _call(loop, lambda: sys.setprofile(None))
        return Counter({name: counts[name] for name in COUNTED})

    threading.setprofile(count)
    try:
        found = await observed(make, path, observe)
    finally:
        threading.setprofile(None)
        sys.setprofile(None)
    return Counter({name: round(number / REQUESTS) for name, number in found.items()})


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    """Have the event loop's thread call a function, and wait for it."""
    done = threading.Event()
    loop.call_soon_threadsafe(function)
    loop.call_soon_threadsafe(done.set)
    assert done.wait(30)


def own(counts: Counter[str]) -> int:
    """Return the calls of this project's own functions."""
    return counts["flask_aio_core"] + counts["flask_aio_ws"]


@pytest.mark.parametrize(
    ("path", "most_own", "most_of_floor"), [("/coroutine", 85, 1.3), ("/synchronous", 100, 1.55)]
)
async def test_calls_per_request(path: str, most_own: int, most_of_floor: float) -> None:
    """A request calls few functions of ours, and in all not many more than the floor's does."""
    least = (await calls_per_request(floor, "/synchronous")).total()
    counts = await calls_per_request(ours, path)

    assert own(counts) <= most_own, counts
    assert counts.total() <= most_of_floor * least, (counts, least)


def cycles_per_request(client: Client) -> float:
    """Return how many objects of a request only the garbage collector can free."""
    client.request(WARM_UP)
    gc.collect()
    gc.disable()
    try:
        client.request(REQUESTS)
        return gc.collect() / REQUESTS
    finally:
        gc.enable()


@pytest.mark.parametrize("path", ["/coroutine", "/synchronous"])
async def test_reference_cycles_per_request(path: str) -> None:
    """A request leaves no more to the garbage collector than it does at the floor."""
    # Werkzeug's URL matching makes one.
    least = await observed(floor, "/synchronous", cycles_per_request)

    assert await observed(ours, path, cycles_per_request) <= least + MORE_IN_CYCLES


@pytest.mark.parametrize("path", ["/coroutine", "/synchronous"])
async def test_a_request_leaves_no_memory_behind(path: str) -> None:
    """Thousands of requests later, no more memory is in use."""

    def left_behind(client: Client) -> float:
        client.request(10 * REQUESTS)
        gc.collect()
        before = sys.getallocatedblocks()
        client.request(20 * REQUESTS)
        gc.collect()
        return (sys.getallocatedblocks() - before) / (20 * REQUESTS)

    assert await observed(ours, path, left_behind) < 0.5
