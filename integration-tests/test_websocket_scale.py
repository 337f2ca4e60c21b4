"""Thousands of idle WebSockets in one server process: no threads, and all are told of its end."""

from __future__ import annotations

import asyncio
import signal
import struct
from pathlib import Path

import pytest

resource = pytest.importorskip("resource", reason="raises the limit of open files")

SOCKETS = 5000
#: Files that a process needs besides: libraries, pipes, the event loop's own.
SPARE = 200
#: How many handshakes are on their way at a time: fewer than a listening socket queues.
AT_ONCE = 64

HARD_LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

pytestmark = [
    pytest.mark.skipif(
        not Path("/proc/self/status").exists(), reason="reads the number of threads from /proc"
    ),
    pytest.mark.skipif(
        HARD_LIMIT != resource.RLIM_INFINITY and HARD_LIMIT < SOCKETS + SPARE,
        reason=f"a process may not have {SOCKETS + SPARE} open files here",
    ),
]

APP = f"""
import resource

from flask import Flask
from flask_aio_core import AioHTTP
from flask_aio_ws import Channel, websocket, ws

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, ({SOCKETS + SPARE}, hard))

app = Flask(__name__)
aio = AioHTTP(app)
open_now = Channel()


@app.get("/count")
async def count():
    return str(len(open_now))


@app.route("/echo")
@websocket(heartbeat=None)
async def echo():
    async with open_now.joined(ws):
        async for message in ws:
            await ws.send_str(message.data)


aio.run(port=0, access_log=False)
"""

HANDSHAKE = (
    b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
def many_files():
    """Let this process open as many sockets as the test needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < SOCKETS + SPARE:
        resource.setrlimit(resource.RLIMIT_NOFILE, (SOCKETS + SPARE, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def threads(pid: int) -> int:
    """Return how many threads a process has."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Threads:"))


def masked(opcode: int, payload: bytes) -> bytes:
    """Return a short frame as a client sends it; the mask is zero, which changes nothing."""
    return bytes([0x80 | opcode, 0x80 | len(payload)]) + bytes(4) + payload


async def open_all(port: int) -> list[Streams]:
    """Open all WebSockets."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def open_one() -> Streams:
        async with turn:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HANDSHAKE)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 "), head
            return reader, writer

    return await asyncio.gather(*(open_one() for _ in range(SOCKETS)))


async def echo(number: int, streams: Streams) -> None:
    """Have one message answered."""
    reader, writer = streams
    payload = f"{number}".encode()
    writer.write(masked(1, payload))
    expected = bytes([0x81, len(payload)]) + payload
    assert await reader.readexactly(len(expected)) == expected


async def answer_close(streams: Streams) -> int:
    """Wait for the server's close, answer it, and wait for the end; return the close code."""
    reader, writer = streams
    first, length = await reader.readexactly(2)
    assert first == 0x88
    payload = await reader.readexactly(length)
    writer.write(masked(8, payload[:2]))
    assert await reader.read() == b""
    return int(struct.unpack("!H", payload[:2])[0])


async def test_five_thousand_websockets(start, many_files):
    """All sockets are open together, each answers, none has a thread, and the end reaches all."""
    server = start(app=APP)
    assert await asyncio.to_thread(server.get, "/count") == (200, "0")
    before = threads(server.process.pid)
    sockets = await open_all(server.port)
    try:
        assert await asyncio.to_thread(server.get, "/count") == (200, str(SOCKETS))
        assert threads(server.process.pid) == before
        await asyncio.gather(*(echo(number, one) for number, one in enumerate(sockets)))
        assert await asyncio.to_thread(server.get, "/count") == (200, str(SOCKETS))
        assert threads(server.process.pid) == before

        server.send_signal(signal.SIGTERM)
        codes = await asyncio.gather(*(answer_close(one) for one in sockets))
        assert set(codes) == {1001}
        assert await asyncio.to_thread(server.wait) == 0
        assert "Traceback" not in server.output
    finally:
        for _, writer in sockets:
            writer.transport.abort()
