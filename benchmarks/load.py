"""The load: wrk where it is installed, else clients of our own; and sockets for the rest."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import resource
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

T = TypeVar("T")
_WRK = shutil.which("wrk")
#: Makes wrk print what it has counted, as JSON, in place of rounded figures.
_SCRIPT = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('RESULT {"requests":%d,"seconds":%f,"p99":%f,"errors":%d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(99) / 1e6,
    e.connect + e.status + e.timeout))
end
"""
FORM = b"name=Ada+Lovelace&" + b"&".join(b"field%d=value+%d" % (n, n) for n in range(10))
_FORM_TYPE = "application/x-www-form-urlencoded"

TEXT = b"x" * 100
#: A short text frame as a client sends it; the mask is zero, which changes nothing.
MESSAGE = bytes([0x81, 0x80 | len(TEXT)]) + bytes(4) + TEXT
ANSWER = bytes([0x81, len(TEXT)]) + TEXT
_HANDSHAKE = (
    "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class LoadError(RuntimeError):
    """The server did not answer as it should."""


@dataclass(frozen=True)
class Requests:
    """What a load of requests has brought."""

    count: int
    seconds: float
    p99: float


def allow_many_files() -> None:
    """Raise the limit of open files to what the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that ``share`` of the values do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * share) - 1)]


def message(path: str, body: bytes = b"") -> bytes:
    """Return a request: a GET, or with a body the POST of a form."""
    head = f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n"
    if body:
        head += f"Content-Type: {_FORM_TYPE}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def requests(
    port: int, path: str, *, seconds: float, connections: int, body: bytes = b""
) -> Requests:
    """Send requests over keep-alive connections, each the next as soon as it is answered.

    :raises LoadError: a request was not answered by 200, or none was answered at all.
    """
    if _WRK is None:
        return asyncio.run(_own_requests(port, message(path, body), seconds, connections))
    with _wrk(port, path, seconds, connections, body) as process:
        output, _ = process.communicate()
    line = next((line for line in output.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise LoadError(f"wrk failed: {output}")
    found = json.loads(line.removeprefix("RESULT "))
    if found["errors"] > found["requests"] * 0.001 or not found["requests"]:
        raise LoadError(f"{found['errors']} errors in {found['requests']} requests for {path}.")
    return Requests(found["requests"], found["seconds"], found["p99"])


@contextmanager
def background(port: int, path: str, *, connections: int) -> Iterator[None]:
    """Keep up a load while the block runs; who answers how much is not looked at."""
    if _WRK is None:
        raise LoadError("The load beside another one needs wrk.")
    with _wrk(port, path, 600, connections, b"") as process:
        try:
            yield
        finally:
            process.kill()
            process.communicate()


@contextmanager
def _wrk(
    port: int, path: str, seconds: float, connections: int, body: bytes
) -> Iterator[subprocess.Popen[str]]:
    script = _SCRIPT
    if body:
        script += f'wrk.method = "POST"\nwrk.body = "{body.decode()}"\n'
        script += f'wrk.headers["Content-Type"] = "{_FORM_TYPE}"\n'
    assert _WRK is not None
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        with subprocess.Popen(
            [
                _WRK,
                "--threads=1",
                f"--connections={connections}",
                f"--duration={max(1, round(seconds))}s",
                "--timeout=10s",
                f"--script={file.name}",
                f"http://127.0.0.1:{port}{path}",
            ],
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            yield process


async def _answer(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise LoadError(f"The answer was {head[:80]!r}.")
    lower = head.lower()
    if b"transfer-encoding: chunked" in lower:
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
        await reader.readexactly(2)
    else:
        length = int(lower.partition(b"content-length: ")[2].split(b"\r\n")[0])
        await reader.readexactly(length)


async def _own_requests(port: int, request: bytes, seconds: float, connections: int) -> Requests:
    times: list[float] = []
    start = time.perf_counter()

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while (sent := time.perf_counter()) < start + seconds:
                writer.write(request)
                await _answer(reader)
                times.append(time.perf_counter() - sent)
        finally:
            writer.transport.abort()

    await asyncio.gather(*(client() for _ in range(connections)))
    return Requests(len(times), time.perf_counter() - start, percentile(times, 0.99))


def paced(port: int, path: str, *, seconds: float, per_second: float) -> Requests:
    """Send requests at fixed times, each over an idle connection, and time each.

    The time counts from when a request was due: a server that stalls cannot hide it by receiving
    fewer requests.
    """
    return asyncio.run(_paced(port, message(path), seconds, per_second))


async def _paced(port: int, request: bytes, seconds: float, per_second: float) -> Requests:
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    writers: list[asyncio.StreamWriter] = []
    times: list[float] = []

    async def send(due: float) -> None:
        if idle:
            reader, writer = idle.pop()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writers.append(writer)
        writer.write(request)
        await _answer(reader)
        times.append(time.perf_counter() - due)
        idle.append((reader, writer))

    # The first requests open connections and find cold caches.
    await asyncio.gather(*(send(time.perf_counter()) for _ in range(16)))
    times.clear()
    start = time.perf_counter()
    pending = []
    for number in range(int(seconds * per_second)):
        due = start + number / per_second
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        pending.append(asyncio.create_task(send(due)))
    await asyncio.gather(*pending)
    for writer in writers:
        writer.transport.abort()
    return Requests(len(times), time.perf_counter() - start, percentile(times, 0.99))


def download(port: int, path: str, size: int) -> float:
    """Receive a large response and drop it; return the seconds it took."""
    buffer = bytearray(1024 * 1024)
    start = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        connection.sendall(message(path).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        head = bytearray()
        while b"\r\n\r\n" not in head:
            piece = connection.recv(4096)
            if not piece:
                raise LoadError(f"The download ended in its head: {bytes(head)!r}.")
            head += piece
        if not head.startswith(b"HTTP/1.1 200"):
            raise LoadError(f"The answer to a download was {bytes(head[:80])!r}.")
        received = len(head) - head.index(b"\r\n\r\n") - 4
        while count := connection.recv_into(buffer):
            received += count
            # Not every server closes when asked to, and with a length nobody has to wait for it.
            if b"chunked" not in head.lower() and received >= size:
                break
    if received < size:
        raise LoadError(f"{received} of {size} bytes were received.")
    return time.perf_counter() - start


def upload(port: int, path: str, size: int) -> float:
    """Send a large body; return the seconds until the answer."""
    piece = bytes(256 * 1024)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {size}\r\n\r\n"
    )
    start = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), 120) as connection:
        connection.sendall(head.encode())
        for _ in range(size // len(piece)):
            connection.sendall(piece)
        answer = b""
        while str(size).encode() not in answer:
            received = connection.recv(4096)
            answer += received
            if not received or not answer.startswith(b"HTTP/1.1 200"):
                raise LoadError(f"The answer to an upload was {answer[:200]!r}.")
    return time.perf_counter() - start


class _Socket(asyncio.Protocol):
    """A WebSocket client that knows no more than the frames above."""

    def __init__(self, path: str, on_frame: Callable[[_Socket], None]) -> None:
        self._path = path
        self._on_frame = on_frame
        self._received = bytearray()
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not declared to be asyncio's.
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(_HANDSHAKE.format(self._path).encode())

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self.opened.done():
            head, end, rest = bytes(self._received).partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self.opened.set_exception(LoadError(f"The handshake's answer was {head!r}."))
                return
            self._received = bytearray(rest)
            self.opened.set_result(None)
        while len(self._received) >= len(ANSWER):
            if not self._received.startswith(ANSWER):
                raise LoadError(f"An unexpected frame: {bytes(self._received[:20])!r}.")
            del self._received[: len(ANSWER)]
            self._on_frame(self)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(error or LoadError("The handshake was not answered."))


async def _open(
    port: int, path: str, count: int, on_frame: Callable[[_Socket], None]
) -> list[_Socket]:
    loop = asyncio.get_running_loop()
    turn = asyncio.Semaphore(64)

    async def open_one() -> _Socket:
        async with turn:
            _, client = await loop.create_connection(
                lambda: _Socket(path, on_frame), "127.0.0.1", port
            )
            await asyncio.wait_for(client.opened, 20)
            return client

    return await asyncio.gather(*(open_one() for _ in range(count)))


def echo(port: int, path: str, *, seconds: float, connections: int) -> Requests:
    """Have messages echoed, one at a time by each connection."""

    async def main() -> Requests:
        times: list[float] = []
        sent: dict[_Socket, float] = {}
        ended = asyncio.Event()
        end = 0.0

        def on_frame(client: _Socket) -> None:
            now = time.perf_counter()
            times.append(now - sent[client])
            if now > end:
                ended.set()
            else:
                sent[client] = now
                client.transport.write(MESSAGE)

        clients = await _open(port, path, connections, on_frame)
        start = time.perf_counter()
        end = start + seconds
        for client in clients:
            sent[client] = start
            client.transport.write(MESSAGE)
        await asyncio.wait_for(ended.wait(), seconds + 20)
        result = Requests(len(times), time.perf_counter() - start, percentile(times, 0.99))
        for client in clients:
            client.transport.abort()
        return result

    return _run(main)


def idle(port: int, path: str, count: int, measure: Callable[[], int]) -> float:
    """Open sockets and leave them idle; return by how much each of them changes a measure."""

    async def main() -> float:
        # A few go first: what only the first request needs is no cost of a socket.
        clients = await _open(port, path, 20, lambda _: None)
        await asyncio.sleep(0.2)
        before = measure()
        clients += await _open(port, path, count, lambda _: None)
        await asyncio.sleep(0.2)
        change = (measure() - before) / count
        for client in clients:
            client.transport.abort()
        return change

    return _run(main)


def broadcast(port: int, path: str, *, members: int, messages: int) -> Requests:
    """Have one socket's messages sent to all; count the messages that arrive."""

    async def main() -> Requests:
        arrived = 0
        round_trip: asyncio.Future[None]
        times: list[float] = []

        def on_frame(_: _Socket) -> None:
            nonlocal arrived
            arrived += 1
            if arrived % members == 0:
                round_trip.set_result(None)

        clients = await _open(port, path, members, on_frame)
        await asyncio.sleep(0.2)  # The last one may not have joined yet.
        start = time.perf_counter()
        for _ in range(messages):
            sent = time.perf_counter()
            round_trip = asyncio.get_running_loop().create_future()
            clients[0].transport.write(MESSAGE)
            await asyncio.wait_for(round_trip, 20)
            times.append(time.perf_counter() - sent)
        result = Requests(arrived, time.perf_counter() - start, percentile(times, 0.99))
        for client in clients:
            client.transport.abort()
        return result

    return _run(main)


def _run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a client on the fastest loop there is: it must not be what is measured."""
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())
