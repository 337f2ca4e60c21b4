"""What one request costs the server, in CPU time, beside a minimal handler that calls Flask inline.

Run it with no arguments; see README.md for the method.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from aiohttp import web
from flask import Flask

PAYLOAD = {"message": "Hello, World!", "numbers": list(range(10))}


def make_flask_app() -> Flask:
    """Return the app that all contenders but the first serve."""
    app = Flask("benchmark")

    @app.get("/synchronous")
    def synchronous() -> dict[str, Any]:
        return PAYLOAD

    @app.get("/coroutine")
    async def coroutine() -> dict[str, Any]:
        return PAYLOAD

    return app


def raw_aiohttp() -> web.Application:
    """An aiohttp handler that answers the same JSON."""

    async def handle(_: web.Request) -> web.Response:
        return web.json_response(PAYLOAD)

    application = web.Application()
    application.router.add_get("/synchronous", handle)
    return application


def floor() -> web.Application:
    """The least that anything which serves Flask on aiohttp has to do."""
    flask_app = make_flask_app()

    async def handle(request: web.Request) -> web.Response:
        environ = {
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

        iterable = flask_app(environ, start_response)
        body = b"".join(iterable)
        iterable.close()  # type: ignore[attr-defined]
        return web.Response(status=started[0], headers=started[1], body=body)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    return application


def ours() -> web.Application:
    """This project."""
    from flask_aio_core import AioHTTP

    app = make_flask_app()
    AioHTTP(app)
    return app.aiohttp_app  # type: ignore[attr-defined, no-any-return]


#: What is shown, which server that is, and the path that is asked for.
CONTENDERS: dict[str, tuple[Callable[[], web.Application], str]] = {
    "raw aiohttp": (raw_aiohttp, "/synchronous"),
    "floor": (floor, "/synchronous"),
    "coroutine view": (ours, "/coroutine"),
    "synchronous view": (ours, "/synchronous"),
}


def serve(name: str) -> None:
    """Serve a contender on a free port, which is printed; what the child processes run."""
    application = CONTENDERS[name][0]()

    async def main() -> None:
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        print(site.port, flush=True)
        await asyncio.Event().wait()

    asyncio.run(main())


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used, its threads included."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def load(port: int, path: str, requests: int, connections: int) -> None:
    """Send requests over keep-alive connections, and check that each was answered."""
    message = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n".encode()
    left = requests

    async def client() -> None:
        nonlocal left
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while left > 0:
            left -= 1
            writer.write(message)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
        writer.close()

    await asyncio.gather(*(client() for _ in range(connections)))


def pin(pid: int, processor: int) -> None:
    """Give a process one processor, if there are several."""
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(pid, {processor})


def main() -> None:
    """Measure all contenders in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=4000, help="per contender and round")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--serve", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return

    pin(0, 0)
    servers: dict[str, tuple[subprocess.Popen[str], int]] = {}
    try:
        for name in CONTENDERS:
            process = subprocess.Popen(
                [sys.executable, __file__, "--serve", name], stdout=subprocess.PIPE, text=True
            )
            assert process.stdout is not None
            servers[name] = process, int(process.stdout.readline())
            pin(process.pid, 1)
        microseconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        rates: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        for number in range(options.rounds + 1):
            for name, (process, port) in servers.items():
                path = CONTENDERS[name][1]
                before, start = cpu_seconds(process.pid), time.perf_counter()
                asyncio.run(load(port, path, options.requests, options.connections))
                seconds = time.perf_counter() - start
                used = cpu_seconds(process.pid) - before
                if number:  # The first round warms up.
                    microseconds[name].append(used / options.requests * 1e6)
                    rates[name].append(options.requests / seconds)
    finally:
        for process, _ in servers.values():
            process.kill()
            process.wait()

    cost = {name: statistics.median(values) for name, values in microseconds.items()}
    versions = ", ".join(f"{name} {version(name)}" for name in ("flask", "aiohttp", "greenlet"))
    print(f"Python {sys.version.split()[0]}, {versions}; {options.rounds} rounds, medians\n")
    print("| contender | CPU per request, µs | against the floor | requests per second |")
    print("| --- | --- | --- | --- |")
    for name in CONTENDERS:
        rate = statistics.median(rates[name])
        print(f"| {name} | {cost[name]:.0f} | {cost[name] / cost['floor']:.2f} | {rate:.0f} |")


if __name__ == "__main__":
    main()
