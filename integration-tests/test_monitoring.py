"""What a monitor sees of real servers: prometheus-client, OpenTelemetry, logs of all packages."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from typing import Any

import aiohttp
import pytest

APP = """
import asyncio, json, logging, os, sys, threading, time
from dataclasses import asdict, fields
from flask import Flask, request
from flask_aio_core import AioHTTP, Gauges, RequestIDFilter
from flask_aio_ws import websocket, ws

app = Flask(__name__)
app.config.from_prefixed_env()
aio = AioHTTP(app)
released = threading.Event()


class JSONFormatter(logging.Formatter):
    def format(self, record):
        names = ("request_path", "response_status", "side", "duration", "response_size")
        entry = {name: getattr(record, name, None) for name in names}
        return "JSON " + json.dumps(
            entry | {"logger": record.name, "id": record.request_id, "text": record.getMessage()}
        )


handler = logging.StreamHandler(sys.stdout)
handler.addFilter(RequestIDFilter())
handler.setFormatter(JSONFormatter())
logging.getLogger("aiohttp.access").addHandler(handler)
app.logger.addHandler(handler)
app.logger.setLevel("INFO")


@app.get("/coroutine")
async def coroutine():
    app.logger.info("a line of the view")
    while "hold" in request.args and not released.is_set():
        await asyncio.sleep(0.01)
    return "coroutine"


@app.get("/synchronous")
def synchronous():
    app.logger.info("a line of the view")
    if "hold" in request.args:
        released.wait(60)
    return "synchronous"


@app.get("/release")
async def release():
    released.set()
    return "released"


@app.get("/stream")
async def stream():
    while True:
        yield "piece"
        await asyncio.sleep(0.02)


@app.route("/echo")
@websocket
async def echo():
    async for message in ws:
        await ws.send_str(message.data)


@app.get("/pid")
async def pid():
    return str(os.getpid())
"""

PROMETHEUS = """
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily


class AioCollector:
    def collect(self):
        for name, value in asdict(aio.gauges()).items():
            family = CounterMetricFamily if name == "loop_blocked" else GaugeMetricFamily
            yield family(f"flask_aio_{name}", "Of flask-aio.", value=value)


REGISTRY.register(AioCollector())


@app.get("/metrics")
async def metrics():
    return generate_latest(), {"Content-Type": CONTENT_TYPE_LATEST}
"""

MULTIPROCESS = """
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from prometheus_client import multiprocess

exported = {
    field.name: Gauge(
        f"flask_aio_{field.name}",
        "Of flask-aio.",
        multiprocess_mode="livemax" if field.name == "loop_lag" else "livesum",
    )
    for field in fields(Gauges)
}


@aio.cleanup_ctx
async def export_gauges():
    async def export():
        while True:
            for name, value in asdict(aio.gauges()).items():
                exported[name].set(value)
            await asyncio.sleep(0.1)

    task = asyncio.create_task(export())
    yield
    task.cancel()


@app.get("/metrics")
async def metrics():
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    return generate_latest(registry), {"Content-Type": CONTENT_TYPE_LATEST}
"""

OPENTELEMETRY = """
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader


@aio.cleanup_ctx
async def export_gauges(app):
    app.extensions["reader"] = reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    meter = provider.get_meter("shop")

    def requests(_):
        now = aio.gauges()
        yield Observation(now.requests_on_loop, {"side": "loop"})
        yield Observation(now.requests_in_threads, {"side": "thread"})

    meter.create_observable_gauge("flask_aio.requests", [requests])
    meter.create_observable_gauge(
        "flask_aio.loop.lag", [lambda _: [Observation(aio.gauges().loop_lag)]]
    )
    meter.create_observable_gauge(
        "flask_aio.websockets", [lambda _: [Observation(aio.gauges().websockets)]]
    )
    yield
    provider.shutdown()


@app.get("/otel")
async def otel():
    # As an exporter does: in a thread of its own.
    data = await asyncio.to_thread(app.extensions["reader"].get_metrics_data)
    return [
        {"name": metric.name, "side": point.attributes.get("side"), "value": point.value}
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
        for point in metric.data.data_points
    ]
"""

MAIN = """
if __name__ == "__main__":
    aio.run(port=0)
"""


@pytest.fixture(params=["aio.run", "gunicorn"])
def serve(request, start, gunicorn):
    """Serve an app's text by either server."""

    def run(text: str, *options: str, **others: Any) -> Any:
        if request.param == "gunicorn":
            return gunicorn(*options, app=text, **others)
        return start(app=text + MAIN, **{"warnings": "default", **others})

    return run


def samples(text: str) -> dict[str, float]:
    """The samples of a text in Prometheus's format, those of flask-aio, without their prefix."""
    found = re.findall(r"^flask_aio_(\w+) (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in found}


async def eventually_true(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not await condition():  # noqa: ASYNC110 -- the condition asks a server
            await asyncio.sleep(0.02)


async def test_prometheus(serve):
    """/metrics tells what is open, on either side, and that it has been closed."""
    server = serve(APP + PROMETHEUS)
    async with aiohttp.ClientSession(server.url) as session:

        async def read() -> dict[str, float]:
            async with session.get("/metrics") as response:
                assert response.content_type == "text/plain"
                return samples(await response.text())

        first = await read()
        assert first["requests_on_loop"] == 1  # Its own.
        assert first["threads_limit"] == 32
        assert (first["loop_blocked_total"], first["streams"]) == (0, 0)
        socket = await session.ws_connect("/echo")
        stream = await session.get("/stream")
        slow = [
            asyncio.create_task(session.get(path, params={"hold": ""}))
            for path in ("/coroutine", "/synchronous")
        ]

        async def all_open() -> bool:
            now = await read()
            return (
                now["websockets"] == 1
                and now["streams"] == 1
                and now["requests_on_loop"] == 4
                and now["requests_in_threads"] == now["threads_busy"] == 1
            )

        await eventually_true(all_open)
        await socket.close()
        stream.close()
        (await session.get("/release")).close()
        for response in await asyncio.gather(*slow):
            response.close()

        async def all_closed() -> bool:
            now = await read()
            return (
                now["websockets"] == now["streams"] == 0
                and now["requests_on_loop"] == 1
                and now["requests_in_threads"] == now["threads_busy"] == 0
            )

        await eventually_true(all_closed)


async def test_prometheus_with_several_workers(gunicorn, tmp_path):
    """In prometheus-client's multiprocess mode /metrics tells of all living workers."""
    directory = tmp_path / "prometheus"
    directory.mkdir()
    server = gunicorn(
        *("--workers", "2", "--config", "gunicorn.conf.py"),
        app=APP + MULTIPROCESS,
        files={
            "gunicorn.conf.py": "from prometheus_client import multiprocess\n"
            "def child_exit(server, worker):\n"
            "    multiprocess.mark_process_dead(worker.pid)\n"
        },
        env={"PROMETHEUS_MULTIPROC_DIR": str(directory)},
    )
    async with aiohttp.ClientSession(
        server.url, connector=aiohttp.TCPConnector(force_close=True)
    ) as session:

        async def read() -> dict[str, float]:
            async with session.get("/metrics") as response:
                return samples(await response.text())

        async def both_workers() -> bool:
            return (await read()).get("threads_limit") == 64

        await eventually_true(both_workers)
        pids: set[str] = set()
        sockets: list[Any] = []
        while len(pids) < 2 or len(sockets) < 4:  # They are shared out by the operating system.
            sockets.append(await session.ws_connect("/echo"))
            async with session.get("/pid") as response:
                pids.add(await response.text())

        async def all_sockets() -> bool:
            return (await read())["websockets"] == len(sockets)

        await eventually_true(all_sockets)
        for socket in sockets:
            await socket.close()
        server.send_signal(signal.SIGTTOU)  # One worker less.

        async def one_worker() -> bool:
            now = await read()
            return now["threads_limit"] == 32 and now["websockets"] == 0

        await eventually_true(one_worker)


async def test_opentelemetry(serve):
    """Observable gauges are read in the exporter's thread, in each worker after the fork."""
    server = serve(APP + OPENTELEMETRY)
    async with (
        aiohttp.ClientSession(server.url) as session,
        session.ws_connect("/echo"),
        session.get("/otel") as response,
    ):
        found = {(one["name"], one["side"]): one["value"] for one in await response.json()}
    lag = found.pop(("flask_aio.loop.lag", None))
    assert 0 <= lag < 60
    assert found == {
        ("flask_aio.requests", "loop"): 2,
        ("flask_aio.requests", "thread"): 0,
        ("flask_aio.websockets", None): 1,
    }


def entries(server: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in re.findall(r"^JSON (.*)$", server.output, re.MULTILINE)]


async def test_json_logs_of_aio_run(start):
    """Lines of views and of the access log have their request's id, the latter all fields."""
    server = start(app=APP + MAIN, env={"FLASK_AIO_REQUEST_ID": "accept"}, warnings="default")
    async with aiohttp.ClientSession(server.url) as session:
        for path, side in (("/coroutine", "loop"), ("/synchronous", "thread")):
            async with session.get(path, headers={"X-Request-ID": side}) as response:
                assert response.headers["X-Request-ID"] == side
            server.wait_for(re.compile(rf'JSON .*"request_path": "{path}".*\n'))
        async with session.ws_connect("/echo", headers={"X-Request-ID": "socket"}) as socket:
            await socket.send_str("hello")
            assert await socket.receive_str(timeout=60) == "hello"
    server.wait_for(re.compile(r'JSON .*"request_path": "/echo".*\n'))
    found = entries(server)
    assert [(one["id"], one["text"]) for one in found if one["logger"] == "app"] == [
        ("loop", "a line of the view"),
        ("thread", "a line of the view"),
    ]
    access = [one for one in found if one["logger"] == "aiohttp.access"]
    assert [
        (one["request_path"], one["response_status"], one["side"], one["id"]) for one in access
    ] == [
        ("/coroutine", 200, "loop", "loop"),
        ("/synchronous", 200, "thread", "thread"),
        ("/echo", 101, "loop", "socket"),
    ]
    assert all(one["duration"] >= 0 for one in access)
    assert access[0]["response_size"] > len("coroutine")


def test_flask_aio_run_has_the_readable_line(start):
    """The command of the CLI logs the same, to stderr if nobody has configured logging."""
    plain = "from flask import Flask\napp = Flask(__name__)\n@app.get('/')\ndef index(): return 'x'"
    server = start("-m", "flask", "--app", "app", "aio", "run", "--port", "0", app=plain)
    server.get("/")
    server.wait_for(
        re.compile(r'^127\.0\.0\.1 \[.*\] "GET / HTTP/1\.1" 200 \d+ \d+\.\d{3}s thread$', re.M)
    )


def test_the_watchdog_in_production(serve):
    """Both servers name the function that blocks the loop, once, and count each time."""
    blocking = """
@app.get("/blocks")
async def blocks():
    time.sleep(1.0)
    return str(aio.gauges().loop_blocked)


@app.get("/blocked")
async def blocked():
    return str(aio.gauges().loop_blocked)
"""
    server = serve(APP + blocking, env={"FLASK_AIO_WATCHDOG": "true"})
    for count in (1, 2):
        server.get("/blocks")
        while int(server.get("/blocked")[1]) < count:
            pass
    server.wait_for("'blocks'")
    assert len(re.findall(r"has been blocked for .* by 'blocks'", server.output)) == 1
