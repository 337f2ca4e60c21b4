"""prometheus-flask-exporter."""

import asyncio
import re
from pathlib import Path

import pytest

EXTENSION = "prometheus-flask-exporter"
APP = "prometheus"


async def value(client, name, **labels):
    """Return the value of a sample, or 0 if there is none yet."""
    for line in (await client.get("/metrics")).text.splitlines():
        found = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
        if found and found[1] == name:
            shown = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or ""))
            if shown.items() >= labels.items():
                return float(found[3])
    return 0


def count(client, path, status):
    return value(
        client,
        "flask_http_request_duration_seconds_count",
        method="GET",
        path=path,
        status=str(status),
    )


@pytest.mark.covers("synchronous view", "coroutine view", "stream", "errors")
@pytest.mark.parametrize(
    ("path", "status"),
    [("/synchronous", 200), ("/coroutine", 202), ("/stream", 200), ("/error", 500)],
)
async def test_requests_are_counted_and_timed(client, path, status):
    before = await count(client, path, status)
    for _ in range(3):
        assert (await client.get(path)).status == status
    assert await count(client, path, status) == before + 3


@pytest.mark.covers("counter and gauge decorators")
async def test_decorators_take_coroutine_views(client):
    before = await value(client, "notes_total", status="202")
    await client.get("/coroutine")
    assert await value(client, "notes_total", status="202") == before + 1
    await client.get("/in-progress")
    assert await value(client, "in_progress") == 0


@pytest.mark.covers("WebSocket")
async def test_a_socket_is_counted_under_101(client):
    before = await count(client, "/socket", 101)
    assert await client.talk("/socket", "hello") == ["hello"]
    async with asyncio.timeout(60):
        while await count(client, "/socket", 101) < before + 1:
            pass


@pytest.mark.covers("several processes of gunicorn")
def test_the_workers_share_their_figures(gunicorn, tmp_path):
    """The hooks that the extension asks for are called: a dead worker's figures remain."""
    directory = tmp_path / "figures"
    directory.mkdir()
    configuration = (
        "from prometheus_flask_exporter.multiprocess import GunicornInternalPrometheusMetrics\n"
        "def child_exit(server, worker):\n"
        "    GunicornInternalPrometheusMetrics.mark_process_dead_on_child_exit(worker.pid)\n"
    )
    server = gunicorn(
        *("--workers", "2", "--config", "gunicorn.conf.py"),
        name="apps.prometheus:app",
        files={"gunicorn.conf.py": configuration},
        env={
            "PYTHONPATH": str(Path(__file__).parent),
            "PROMETHEUS_MULTIPROC_DIR": str(directory),
        },
    )
    seen = set()
    asked = 0
    while len(seen) < 2:
        seen.add(server.get("/pid")[1])
        assert server.get("/coroutine")[0] == 202
        asked += 1
    text = server.get("/metrics")[1]
    (total,) = re.findall(r'^notes_total\{status="202"\} (\S+)$', text, re.MULTILINE)
    assert float(total) == asked
