"""OpenTelemetry's Flask instrumentation."""

import asyncio
from uuid import uuid4

import pytest

EXTENSION = "opentelemetry-instrumentation-flask"
APP = "otel"


@pytest.fixture
def name():
    return uuid4().hex


async def spans_of(client, name, count):
    """Return the spans of a request by name, as soon as there are so many."""
    async with asyncio.timeout(60):
        while len(spans := (await client.get(f"/spans/{name}")).json()) < count:
            pass
    assert len({span["trace"] for span in spans}) == 1
    return {span["name"]: span for span in spans}


@pytest.mark.covers("synchronous view", "coroutine view", "stream")
@pytest.mark.parametrize("path", ["synchronous", "coroutine", "stream"])
async def test_spans_are_children_of_the_request(client, name, path):
    assert (await client.get(f"/{path}/{name}")).status == 200
    spans = await spans_of(client, name, 3 if path == "coroutine" else 2)
    root = spans[f"GET /{path}/<name>"]
    assert (root["parent"], root["status"]) == (None, 200)
    if path != "stream":  # The request's span has ended when a stream goes on.
        assert spans[name]["parent"] == root["id"]


@pytest.mark.covers("spans of tasks")
async def test_a_task_has_the_context_of_its_maker(client, name):
    await client.get(f"/coroutine/{name}")
    spans = await spans_of(client, name, 3)
    assert spans[f"task of {name}"]["parent"] == spans[name]["id"]


@pytest.mark.covers("traces of concurrent requests kept apart")
async def test_concurrent_requests_are_traces_of_their_own(client):
    names = [uuid4().hex for _ in range(20)]
    await asyncio.gather(*(client.get(f"/coroutine/{name}") for name in names))
    for name in names:
        assert len(await spans_of(client, name, 3)) == 3


@pytest.mark.covers("propagated trace")
async def test_the_callers_trace_goes_on(client, name):
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = {"traceparent": f"00-{trace}-{parent}-01"}
    async with client.session.get(f"/coroutine/{name}", headers=headers) as answer:
        assert answer.status == 200
    spans = (await client.get(f"/spans/{name}")).json()
    assert {span["trace"] for span in spans} == {int(trace, 16)}
    assert int(parent, 16) in {span["parent"] for span in spans}


@pytest.mark.covers("errors")
async def test_an_error_is_recorded(client, name):
    assert (await client.get(f"/error/{name}")).status == 500
    (span,) = (await spans_of(client, name, 1)).values()
    assert span["status"] == 500


@pytest.mark.covers("stream that the client abandons")
async def test_an_abandoned_stream_ends_its_span(client, server, name):
    async with client.session.get(f"/stream/{name}") as answer:
        await answer.content.readany()
    await spans_of(client, name, 1)


@pytest.mark.covers("stream that never starts")
async def test_a_head_request_ends_its_span(client, name):
    """The body's iterator is closed without having been asked for anything."""
    reply = await client.request("HEAD", f"/stream/{name}")
    assert (reply.status, reply.body) == (200, b"")
    (span,) = (await spans_of(client, name, 1)).values()
    assert (span["name"], span["status"]) == ("HEAD /stream/<name>", 200)


@pytest.mark.covers("WebSocket")
async def test_a_socket_is_one_span_and_its_parts(client, name):
    assert await client.talk(f"/socket/{name}", "hello") == ["hello"]
    spans = await spans_of(client, name, 2)
    root = spans["GET /socket/<name>"]
    assert root["status"] == 101
    assert spans[name]["parent"] == root["id"]


@pytest.fixture(scope="module", autouse=True)
def no_detached_context(server):
    """A token that is detached in another context is logged as an error."""
    yield
    assert "Failed to detach context" not in server.output
    assert "was created in a different Context" not in server.output
