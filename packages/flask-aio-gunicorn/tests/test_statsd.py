"""gunicorn's statsd client counts the requests."""

from __future__ import annotations

import re
import socket

import pytest


@pytest.fixture
def statsd():
    """A UDP socket that takes the place of a statsd server."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(60)
        yield sock


def _options(statsd):
    return "--statsd-host", f"127.0.0.1:{statsd.getsockname()[1]}"


def _receive_requests(statsd, count):
    """Return the metrics of so many requests; what the master counts meanwhile is left out."""
    metrics: list[str] = []
    while sum("request.status" in metric for metric in metrics) < count:
        metric = statsd.recv(65536).decode()
        if ".request" in metric:
            metrics.append(metric)
    return metrics


@pytest.mark.parametrize("access_log", [False, True])
def test_requests_are_counted(gunicorn, statsd, access_log):
    """Each request is counted with its duration and its status, access log or not."""
    server = gunicorn(*_options(statsd), *(["--access-logfile", "-"] if access_log else []))
    for path, status in (("/coroutine", 200), ("/synchronous", 200), ("/nowhere", 404)):
        assert server.get(path).status == status
        duration, count, by_status = _receive_requests(statsd, 1)
        assert re.fullmatch(r"gunicorn\.request\.duration:\d+\.\d+\|ms", duration)
        assert count == "gunicorn.requests:1|c|@1.0"
        assert by_status == f"gunicorn.request.status.{status}:1|c|@1.0"
    assert server.stop() == 0
    assert ("GET /coroutine HTTP/1.1" in server.output) == access_log


def test_prefix_and_tags(gunicorn, statsd):
    """The prefix and dogstatsd's tags are on each metric."""
    server = gunicorn(
        *_options(statsd), "--statsd-prefix", "shop.web", "--dogstatsd-tags", "env:test,app:shop"
    )
    server.get("/coroutine")
    metrics = _receive_requests(statsd, 1)
    assert [re.sub(r":[\d.]+\|", ":N|", metric) for metric in metrics] == [
        "shop.web.gunicorn.request.duration:N|ms|#env:test,app:shop",
        "shop.web.gunicorn.requests:N|c|@1.0|#env:test,app:shop",
        "shop.web.gunicorn.request.status.200:N|c|@1.0|#env:test,app:shop",
    ]
