"""What is measured: each scenario puts a load on a server and returns its figures."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from . import load
from .server_process import ServerProcess

SYNCHRONOUS, COROUTINE, WAIT, UPSTREAM = "synchronous", "coroutine", "wait", "upstream"
TEMPLATE, FORM, STREAM = "template", "form", "stream"
DOWNLOAD, UPLOAD, MIXED = "download", "upload", "mixed"
ECHO, IDLE, BROADCAST, START = "echo", "idle", "broadcast", "start"

_MB: Final = 1_000_000


@dataclass(frozen=True)
class Settings:
    """How long a run takes."""

    rounds: int = 3
    #: Seconds of each load.
    seconds: float = 3.0
    #: Bytes of the download and of the upload.
    size: int = 1 << 30
    #: Idle WebSockets.
    sockets: int = 2000
    #: Broadcasts to all members.
    broadcasts: int = 20


@dataclass(frozen=True)
class Metric:
    """One figure of a scenario."""

    key: str
    title: str
    digits: int = 0


@dataclass(frozen=True)
class Scenario:
    """A way to use a server."""

    key: str
    title: str
    #: What exactly is done, for the reader of the results.
    text: str
    #: The first metric is the one that the contenders are ordered by.
    metrics: tuple[Metric, ...]
    run: Callable[[ServerProcess, Settings], dict[str, float]]
    #: Whether a server that has done something else would give another figure.
    needs_new_process: bool = False


def _requests(
    path: str, *, connections: int, body: bytes = b"", at_least: float = 0.0
) -> Callable[[ServerProcess, Settings], dict[str, float]]:
    def run(server: ServerProcess, settings: Settings) -> dict[str, float]:
        # The first requests find cold caches, threads to be started and code to be imported.
        load.requests(server.port, path, seconds=1, connections=min(connections, 16), body=body)
        before = server.cpu_seconds()
        found = load.requests(
            server.port,
            path,
            seconds=max(settings.seconds, at_least),
            connections=connections,
            body=body,
        )
        used = server.cpu_seconds() - before
        return {
            "cpu": used / found.count * 1e6,
            "rate": found.count / found.seconds,
            "p99": found.p99 * 1e3,
        }

    return run


def _download(server: ServerProcess, settings: Settings) -> dict[str, float]:
    before = server.cpu_seconds()
    server.forget_peak()
    resident = server.resident()
    seconds = load.download(server.port, "/download", settings.size)
    growth = server.peak() - resident
    used = server.cpu_seconds() - before
    return _per_megabyte(settings.size, seconds, used, growth)


def _upload(server: ServerProcess, settings: Settings) -> dict[str, float]:
    load.upload(server.port, "/upload", 1 << 20)
    before = server.cpu_seconds()
    server.forget_peak()
    resident = server.resident()
    seconds = load.upload(server.port, "/upload", settings.size)
    growth = server.peak() - resident
    used = server.cpu_seconds() - before
    return _per_megabyte(settings.size, seconds, used, growth)


def _per_megabyte(size: int, seconds: float, used: float, growth: float) -> dict[str, float]:
    megabytes = size / _MB
    return {
        "per_cpu": megabytes / max(used, 0.01),
        "rate": megabytes / seconds,
        "growth": max(growth, 0) / _MB,
    }


def _mixed(server: ServerProcess, settings: Settings) -> dict[str, float]:
    seconds = max(2 * settings.seconds, 2.0)
    alone = load.paced(server.port, "/coroutine", seconds=seconds, per_second=50)
    with load.background(server.port, "/burn", connections=8):
        time.sleep(1)
        beside = load.paced(server.port, "/coroutine", seconds=seconds, per_second=50)
    return {
        "ratio": beside.p99 / alone.p99,
        "alone": alone.p99 * 1e3,
        "beside": beside.p99 * 1e3,
    }


def _echo(server: ServerProcess, settings: Settings) -> dict[str, float]:
    load.echo(server.port, "/echo", seconds=0.5, connections=16)
    before = server.cpu_seconds()
    found = load.echo(server.port, "/echo", seconds=settings.seconds, connections=16)
    used = server.cpu_seconds() - before
    return {
        "cpu": used / found.count * 1e6,
        "rate": found.count / found.seconds,
        "p99": found.p99 * 1e3,
    }


def _idle(server: ServerProcess, settings: Settings) -> dict[str, float]:
    each = load.idle(server.port, "/echo", settings.sockets, server.resident)
    return {"memory": each / 1024}


def _broadcast(server: ServerProcess, settings: Settings) -> dict[str, float]:
    before = server.cpu_seconds()
    found = load.broadcast(server.port, "/broadcast", members=1000, messages=settings.broadcasts)
    used = server.cpu_seconds() - before
    return {
        "cpu": used / found.count * 1e6,
        "rate": found.count / found.seconds,
        "p99": found.p99 * 1e3,
    }


def _start(server: ServerProcess, _: Settings) -> dict[str, float]:
    return {
        "seconds": server.start_seconds,
        "cpu": server.cpu_seconds(),
        "memory": server.resident() / _MB,
    }


_REQUEST_METRICS: Final = (
    Metric("cpu", "CPU per request, µs"),
    Metric("rate", "requests per second"),
    Metric("p99", "p99, ms", 1),
)
_TRANSFER_METRICS: Final = (
    Metric("per_cpu", "MB per CPU second"),
    Metric("rate", "MB per second"),
    Metric("growth", "peak memory growth, MB", 1),
)
_NATURAL: Final = (
    "A coroutine view where the contender has them on one loop, else a synchronous one."
)

SCENARIOS: Final[tuple[Scenario, ...]] = (
    Scenario(
        START,
        "Start-up",
        "From the start of the process to its first answer; memory is that of all its processes.",
        (
            Metric("seconds", "seconds", 2),
            Metric("cpu", "CPU seconds", 2),
            Metric("memory", "memory, MB"),
        ),
        _start,
        needs_new_process=True,
    ),
    Scenario(
        SYNCHRONOUS,
        "JSON, synchronous view",
        "16 keep-alive connections. Where there are threads the view runs in one.",
        _REQUEST_METRICS,
        _requests("/synchronous", connections=16),
    ),
    Scenario(
        COROUTINE,
        "JSON, coroutine view",
        "The same by an `async def` view. WSGI servers run it on a loop made for each request.",
        _REQUEST_METRICS,
        _requests("/coroutine", connections=16),
    ),
    Scenario(
        WAIT,
        "1,000 connections that wait 100 ms each",
        f"10,000 requests per second would be ideal. {_NATURAL}",
        _REQUEST_METRICS,
        _requests("/wait", connections=1000, at_least=3),
    ),
    Scenario(
        UPSTREAM,
        "A call to a slow upstream",
        "64 connections; each view calls a server that answers after 50 ms, by a shared client"
        f" with a connection pool. {_NATURAL}",
        _REQUEST_METRICS,
        _requests("/upstream", connections=64),
    ),
    Scenario(
        TEMPLATE,
        "A template",
        f"Jinja, 50 rows, escaped. {_NATURAL}",
        _REQUEST_METRICS,
        _requests("/template", connections=16),
    ),
    Scenario(
        FORM,
        "A form post",
        f"Eleven URL-encoded fields. {_NATURAL}",
        _REQUEST_METRICS,
        _requests("/form", connections=16, body=load.FORM),
    ),
    Scenario(
        STREAM,
        "Streaming",
        f"100 chunks of 1 KiB, each sent when it is made. {_NATURAL}",
        _REQUEST_METRICS,
        _requests("/stream", connections=16),
    ),
    Scenario(
        DOWNLOAD,
        "A large download",
        "`send_file`, or `FileResponse` where there is no Flask; one connection.",
        _TRANSFER_METRICS,
        _download,
    ),
    Scenario(
        UPLOAD,
        "A large upload",
        f"Read in pieces that are counted and dropped; one connection. {_NATURAL}",
        _TRANSFER_METRICS,
        _upload,
    ),
    Scenario(
        MIXED,
        "A fast coroutine view beside synchronous ones that use the processor",
        "50 requests per second for the JSON coroutine view, timed from when each was due; alone,"
        " then while 8 connections keep synchronous pure-Python views running in threads.",
        (
            Metric("ratio", "p99 beside / alone", 1),
            Metric("alone", "p99 alone, ms", 1),
            Metric("beside", "p99 beside, ms", 1),
        ),
        _mixed,
    ),
    Scenario(
        ECHO,
        "WebSocket echo",
        "16 connections, each with one message of 100 bytes under way.",
        (
            Metric("cpu", "CPU per message, µs"),
            Metric("rate", "messages per second"),
            Metric("p99", "p99, ms", 1),
        ),
        _echo,
    ),
    Scenario(
        IDLE,
        "Idle WebSockets",
        "Growth of the server's resident memory, divided by the sockets opened.",
        (Metric("memory", "KiB per socket", 1),),
        _idle,
        needs_new_process=True,
    ),
    Scenario(
        BROADCAST,
        "Broadcast to 1,000 WebSockets",
        "A message of one socket goes to all; the next is sent when all have it.",
        (
            Metric("cpu", "CPU per delivery, µs", 1),
            Metric("rate", "deliveries per second"),
            Metric("p99", "p99 until all have it, ms"),
        ),
        _broadcast,
    ),
)

#: The scenarios that the goals need: what the short run measures.
QUICK: Final = (SYNCHRONOUS, COROUTINE, WAIT, DOWNLOAD, UPLOAD, MIXED, ECHO, IDLE, START)


def settle(server: ServerProcess, path: str) -> None:
    """Wait until a server has dealt with what the last load has left behind."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        start = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=15)
        try:
            connection.request("GET", path)
            connection.getresponse().read()
        except OSError:
            time.sleep(0.2)
            continue
        finally:
            connection.close()
        if time.monotonic() - start < 0.05:
            return
