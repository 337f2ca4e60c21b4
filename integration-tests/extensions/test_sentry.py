"""The Sentry SDK, with a server that keeps the envelopes it is sent."""

import asyncio
import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import uuid4

import brotli
import pytest

EXTENSION = "sentry-sdk"
APP = "sentry"


class Collector:
    """What the SDK has sent: a list of events, errors and transactions alike."""

    def __init__(self):
        self.events = []
        self._changed = threading.Condition()

    def add(self, body):
        lines = iter(body.split(b"\n"))
        next(lines)  # The envelope's header.
        for header in lines:
            if header and json.loads(header).get("type") in ("event", "transaction"):
                with self._changed:
                    self.events.append(json.loads(next(lines)))
                    self._changed.notify_all()

    async def wait_for(self, condition):
        """Return the first event that fulfils a condition."""

        def find():
            return next(filter(condition, self.events), None)

        def wait():
            with self._changed:
                assert self._changed.wait_for(find, 60), self.events
                return find()

        return await asyncio.to_thread(wait)


@pytest.fixture(scope="module")
def sentry():
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            decompress = {"br": brotli.decompress, "gzip": gzip.decompress}
            body = decompress.get(self.headers["Content-Encoding"], bytes)(body)
            collector.add(body)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        collector.dsn = f"http://key@127.0.0.1:{server.server_port}/1"
        yield collector
        server.shutdown()


@pytest.fixture(scope="module")
def environment(sentry):
    return {"SENTRY_DSN": sentry.dsn}


def is_error(name):
    def check(event):
        values = event.get("exception", {}).get("values", [{}])
        return values[-1].get("value") == name

    return check


def is_message(name):
    return lambda event: (event.get("logentry") or {}).get("message", event.get("message")) == name


@pytest.mark.covers("synchronous view", "coroutine view")
@pytest.mark.parametrize("path", ["synchronous", "coroutine"])
async def test_an_error_is_reported_with_its_request(client, sentry, path):
    name = uuid4().hex
    assert (await client.get(f"/{path}/{name}")).status == 500
    event = await sentry.wait_for(is_error(name))
    assert event["tags"]["name"] == name
    assert event["request"]["url"].endswith(f"/{path}/{name}")
    assert event["transaction"] == path
    frames = event["exception"]["values"][-1]["stacktrace"]["frames"]
    assert frames[-1]["function"] == path


@pytest.mark.covers("tags of concurrent requests kept apart")
async def test_each_request_has_its_own_scope(client, sentry):
    names = [uuid4().hex for _ in range(20)]
    await asyncio.gather(*(client.get(f"/message/{name}") for name in names))
    for name in names:
        event = await sentry.wait_for(is_message(name))
        assert event["tags"]["name"] == name
        assert event["request"]["url"].endswith(name)


@pytest.mark.covers("no tag left for the next request of a connection")
async def test_the_next_request_starts_without_tags(client, sentry):
    await client.get(f"/message/{uuid4().hex}")
    name = uuid4().hex
    await client.get(f"/untagged/{name}")
    assert "name" not in (await sentry.wait_for(is_message(name))).get("tags", {})


@pytest.mark.covers("transactions")
@pytest.mark.parametrize(("path", "status"), [("coroutine", 500), ("message", 200)])
async def test_a_request_is_one_transaction(client, sentry, path, status):
    name = uuid4().hex
    await client.get(f"/{path}/{name}")

    def is_transaction(event):
        url = event.get("request", {}).get("url", "")
        return event.get("type") == "transaction" and url.endswith(name)

    event = await sentry.wait_for(is_transaction)
    assert event["transaction"] == path
    assert event["contexts"]["response"]["status_code"] == status


@pytest.mark.covers("stream")
async def test_a_stream_keeps_its_scope(client, sentry):
    name = uuid4().hex
    assert (await client.get(f"/stream/{name}")).text == "first\nsecond\n"
    assert (await sentry.wait_for(is_message(name)))["tags"]["name"] == name


@pytest.mark.covers("WebSocket")
async def test_an_error_in_a_socket_is_reported(client, sentry):
    name = uuid4().hex
    assert await client.talk(f"/socket/{name}", "hello") == ["hello"]
    event = await sentry.wait_for(is_error(name))
    assert event["tags"]["name"] == name
    assert event["transaction"] == "socket"
