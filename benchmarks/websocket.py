"""What a WebSocket costs the server: memory while it is idle, and time for each message it echoes.

Run it with no arguments; see README.md for the method.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version

from aiohttp import WSMsgType, web
from flask import Flask

HANDSHAKE = (
    b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
TEXT = b"x" * 100
#: A short text frame as a client sends it; the mask is zero, which changes nothing.
MESSAGE = bytes([0x81, 0x80 | len(TEXT)]) + bytes(4) + TEXT
ANSWER = bytes([0x81, len(TEXT)]) + TEXT

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def raw_aiohttp() -> web.Application:
    """An aiohttp handler that echoes, with the options that this project has by default."""

    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(heartbeat=25.0, max_msg_size=16 * 1024 * 1024)
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(message.data)
        return socket

    application = web.Application()
    application.router.add_get("/echo", echo)
    return application


def ours() -> web.Application:
    """This project: the same in a coroutine view."""
    from flask_aio_core import AioHTTP
    from flask_aio_ws import websocket, ws

    app = Flask("benchmark")
    AioHTTP(app)

    @app.route("/echo")
    @websocket
    async def echo():
        async for message in ws:
            if message.type is WSMsgType.TEXT:
                await ws.send_str(message.data)

    return app.aiohttp_app  # type: ignore[attr-defined, no-any-return]


CONTENDERS: dict[str, Callable[[], web.Application]] = {
    "raw aiohttp": raw_aiohttp,
    "coroutine view": ours,
}


def serve(name: str) -> None:
    """Serve a contender on a free port, which is printed; what the child processes run."""
    raise_file_limit()
    application = CONTENDERS[name]()

    async def main() -> None:
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
        await site.start()
        print(site.port, flush=True)
        await asyncio.Event().wait()

    asyncio.run(main())


def raise_file_limit() -> None:
    """Allow this process as many open sockets as the system lets it have."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used, its threads included."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Return the memory that a process has in RAM."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def open_sockets(port: int, count: int) -> list[Streams]:
    """Open WebSockets."""
    turn = asyncio.Semaphore(64)

    async def open_one() -> Streams:
        async with turn:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HANDSHAKE)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101"), head
            return reader, writer

    return await asyncio.gather(*(open_one() for _ in range(count)))


async def idle_bytes(pid: int, port: int, sockets: int) -> float:
    """Return what an idle socket adds to the server's memory."""
    # A few go first: what only the first request needs is no cost of a socket.
    streams = await open_sockets(port, 20)
    before = resident_bytes(pid)
    streams += await open_sockets(port, sockets)
    after = resident_bytes(pid)
    for _, writer in streams:
        writer.transport.abort()
    return (after - before) / sockets


async def load(port: int, messages: int, connections: int) -> float:
    """Have messages echoed, one at a time by each connection; return the seconds it took."""
    streams = await open_sockets(port, connections)
    left = messages

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            writer.write(MESSAGE)
            assert await reader.readexactly(len(ANSWER)) == ANSWER

    start = time.perf_counter()
    await asyncio.gather(*(client(*one) for one in streams))
    seconds = time.perf_counter() - start
    for _, writer in streams:
        writer.transport.abort()
    return seconds


def pin(pid: int, processor: int) -> None:
    """Give a process one processor, if there are several."""
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(pid, {processor})


def start_server(name: str) -> tuple[subprocess.Popen[str], int]:
    """Start a contender; return its process and port."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", name], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    port = int(process.stdout.readline())
    pin(process.pid, 1)
    return process, port


def stop(process: subprocess.Popen[str]) -> None:
    """End a server."""
    process.kill()
    process.communicate()


def main() -> None:
    """Measure all contenders in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=20000, help="per contender and round")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--sockets", type=int, default=2000, help="idle, per contender and round")
    parser.add_argument("--serve", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return

    raise_file_limit()
    pin(0, 0)
    memory: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(options.rounds):
        for name in CONTENDERS:
            # A new process each time: one that has had its sockets does not grow for the next.
            process, port = start_server(name)
            try:
                memory[name].append(asyncio.run(idle_bytes(process.pid, port, options.sockets)))
            finally:
                stop(process)

    microseconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    rates: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    servers: dict[str, tuple[subprocess.Popen[str], int]] = {}
    try:
        for name in CONTENDERS:
            servers[name] = start_server(name)
        for number in range(options.rounds + 1):
            for name, (process, port) in servers.items():
                before = cpu_seconds(process.pid)
                seconds = asyncio.run(load(port, options.messages, options.connections))
                used = cpu_seconds(process.pid) - before
                if number:  # The first round warms up.
                    microseconds[name].append(used / options.messages * 1e6)
                    rates[name].append(options.messages / seconds)
    finally:
        for process, _ in servers.values():
            stop(process)

    versions = ", ".join(f"{name} {version(name)}" for name in ("flask", "aiohttp", "greenlet"))
    print(f"Python {sys.version.split()[0]}, {versions}; {options.rounds} rounds, medians\n")
    print("| contender | KiB per idle socket | ratio | messages per second | ratio | CPU, µs |")
    print("| --- | --- | --- | --- | --- | --- |")
    kibibytes = {name: statistics.median(values) / 1024 for name, values in memory.items()}
    rate = {name: statistics.median(values) for name, values in rates.items()}
    first = next(iter(CONTENDERS))
    for name in CONTENDERS:
        print(
            f"| {name} | {kibibytes[name]:.1f} | {kibibytes[name] / kibibytes[first]:.2f}"
            f" | {rate[name]:.0f} | {rate[name] / rate[first]:.2f}"
            f" | {statistics.median(microseconds[name]):.0f} |"
        )


if __name__ == "__main__":
    main()
