"""Streams: each chunk leaves when it is yielded, in the request's context, at the client's pace."""

from __future__ import annotations

import asyncio
import logging
import threading

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from flask import Response, has_request_context, request, stream_with_context, url_for

from flask_aio_core import async_, await_

pytestmark = pytest.mark.usefixtures("aio")

CHUNKS = [b"one;", b"two;", b"three;"]


class Pace:
    """Lets a stream produce a chunk only after the client has read the one before."""

    def __init__(self):
        self._steps: dict[bytes, threading.Event] = {chunk: threading.Event() for chunk in CHUNKS}
        self._loop = asyncio.get_running_loop()

    def read(self, chunk):
        self._steps[chunk].set()

    def wait(self, chunk):
        assert self._steps[chunk].wait(60)

    async def wait_on_loop(self, chunk):
        await asyncio.to_thread(self.wait, chunk)

    def generator(self):
        for chunk in CHUNKS:
            yield chunk
            self.wait(chunk)

    async def async_generator(self):
        for chunk in CHUNKS:
            yield chunk
            await self.wait_on_loop(chunk)

    def awaiting_generator(self):
        for chunk in CHUNKS:
            yield chunk
            await_(self.wait_on_loop(chunk))


@pytest.fixture
async def pace():
    """A stream that the client paces."""
    pace = Pace()
    yield pace
    for chunk in CHUNKS:
        pace.read(chunk)


def _generator(pace):
    return pace.generator()


def _async_generator(pace):
    return pace.async_generator()


def _awaiting_generator(pace):
    return pace.awaiting_generator()


STREAMS = {
    "sync_view_generator": (False, _generator),
    "sync_view_async_generator": (False, _async_generator),
    "sync_view_generator_that_awaits": (False, _awaiting_generator),
    "coroutine_view_generator_that_awaits": (True, _awaiting_generator),
    "coroutine_view_async_generator": (True, _async_generator),
}
FORMS = {
    "bare": lambda stream: stream,
    "response": Response,
    "tuple": lambda stream: (stream, 202, {"X-Kind": "tuple"}),
    "response_in_tuple": lambda stream: (Response(stream), 202, {"X-Kind": "tuple"}),
}


def add_view(app, is_coroutine, make):
    """Add a synchronous or a coroutine view at / that returns what a function makes."""

    def view():
        return make()

    async def coroutine():
        await asyncio.sleep(0)
        return make()

    app.add_url_rule("/", "view", coroutine if is_coroutine else view)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", STREAMS)
async def test_first_bytes_before_second_chunk_is_produced(app, serve, pace, kind, form):
    """Each chunk reaches the client before the next is produced, whatever form the view returns."""
    is_coroutine, make = STREAMS[kind]
    add_view(app, is_coroutine, lambda: FORMS[form](make(pace)))
    client = await serve(app)
    answer = await client.get("/")
    for chunk in CHUNKS:
        assert await answer.content.readexactly(len(chunk)) == chunk
        pace.read(chunk)
    assert await answer.read() == b""
    if "tuple" in form:
        assert (answer.status, answer.headers["X-Kind"]) == (202, "tuple")


@pytest.mark.parametrize("decorate", [lambda view: view, async_], ids=["bare", "async_"])
async def test_async_generator_function_as_view_streams(app, serve, pace, decorate):
    """A view that is itself an async generator function streams what it yields, as text too."""

    @app.get("/<path>")
    @decorate
    async def view(path):
        yield f"{path}:{request.args['a']};"
        await pace.wait_on_loop(b"one;")
        yield b"end"

    client = await serve(app)
    answer = await client.get("/p?a=1")
    assert await answer.content.readexactly(4) == b"p:1;"
    pace.read(b"one;")
    assert await answer.read() == b"end"


async def test_generator_function_as_synchronous_view_streams(app, serve, pace):
    """A synchronous view that is a generator function streams as it does in plain Flask."""

    @app.get("/")
    def view():
        yield from pace.generator()

    client = await serve(app)
    answer = await client.get("/")
    for chunk in CHUNKS:
        assert await answer.content.readexactly(len(chunk)) == chunk
        pace.read(chunk)


async def test_server_sent_events_arrive_one_by_one(app, serve, pace):
    """An event stream's events leave as they are yielded, without a Content-Length."""

    @app.get("/")
    async def view():
        async def events():
            for chunk in CHUNKS:
                yield b"data: " + chunk + b"\n\n"
                await pace.wait_on_loop(chunk)

        return Response(events(), content_type="text/event-stream")

    client = await serve(app)
    answer = await client.get("/")
    assert answer.content_type == "text/event-stream"
    assert "Content-Length" not in answer.headers
    for chunk in CHUNKS:
        assert await answer.content.readuntil(b"\n\n") == b"data: " + chunk + b"\n\n"
        pace.read(chunk)
    assert await answer.read() == b""


async def test_any_async_iterable_streams(app, serve):
    """An object with __aiter__ that is no generator is streamed as well."""

    class Numbers:
        def __aiter__(self):
            return self.make()

        async def make(self):
            for number in range(3):
                yield str(number)

    @app.get("/")
    async def view():
        return Numbers()

    client = await serve(app)
    assert await (await client.get("/")).text() == "012"


async def test_empty_stream_is_an_empty_response(app, serve):
    """A stream without any chunk, or with empty chunks only, is still answered."""

    @app.get("/<int:count>")
    async def view(count):
        async def stream():
            for _ in range(count):
                yield b""

        return stream()

    client = await serve(app)
    for count in (0, 2):
        answer = await client.get(f"/{count}")
        assert (answer.status, await answer.read()) == (200, b"")


async def test_empty_chunk_does_not_end_the_stream(app, serve):
    """An empty chunk in the middle is not sent as the chunk that ends a chunked body."""

    @app.get("/")
    def view():
        yield b"a"
        yield b""
        yield b"b"

    client = await serve(app)
    assert await (await client.get("/")).read() == b"ab"


async def test_connection_is_reused_after_a_stream(app, serve, connect):
    """After a chunked stream the same connection serves the next request."""

    @app.get("/")
    async def view():
        yield b"abc"

    reader, writer = await connect(await serve(app))
    for _ in range(2):
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"chunked" in head
        assert await reader.readuntil(b"0\r\n\r\n") == b"3\r\nabc\r\n0\r\n\r\n"


async def test_stream_to_http_1_0_client_ends_with_the_connection(app, serve, connect):
    """A client of HTTP/1.0 gets a stream without chunked framing, ended by closing."""

    @app.get("/")
    async def view():
        yield b"abc"

    reader, writer = await connect(await serve(app))
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert body == b"abc"


# The pace of the client


async def test_slow_reader_applies_back_pressure(app, serve, connect, eventually):
    """A client that does not read stops the stream at a bound, and reading lets it go on."""
    produced = 0
    total = 2000

    @app.get("/")
    async def view():
        nonlocal produced
        for _ in range(total):
            produced += 1
            yield b"x" * 65536

    client = await serve(app)
    sock_reader, writer = await connect(client)
    writer.transport.pause_reading()
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    last = -1

    def stalled():
        nonlocal last
        before, last = last, produced
        return before == produced > 0

    await eventually(lambda: produced > 0)
    # It has stopped when the loop, given ample turns, did not get one chunk further.
    for _ in range(20):
        await eventually(stalled)
    assert produced < total / 2
    writer.transport.resume_reading()
    size = 0
    while piece := await sock_reader.read(1 << 20):
        size += len(piece)
    assert produced == total
    assert size > total * 65536


async def test_slow_reader_holds_a_generator_in_a_thread_back(app, serve, connect, eventually):
    """The same back pressure stops a synchronous generator in its worker thread."""
    produced = 0
    total = 2000

    @app.get("/")
    def view():
        def stream():
            nonlocal produced
            for _ in range(total):
                produced += 1
                yield b"x" * 65536

        return stream()

    sock_reader, writer = await connect(await serve(app))
    writer.transport.pause_reading()
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    last = -1

    def stalled():
        nonlocal last
        before, last = last, produced
        return before == produced > 0

    for _ in range(50):
        await eventually(stalled)
    assert produced < total / 2
    writer.transport.resume_reading()
    while await sock_reader.read(1 << 20):
        pass
    assert produced == total


@pytest.mark.parametrize("is_generator", [True, False], ids=["generator", "async_generator"])
async def test_fast_stream_on_the_loop_does_not_starve_others(app, serve, is_generator):
    """An endless stream that never waits lets other requests run."""
    stop = False

    @app.get("/endless")
    async def endless():
        def generator():
            while not stop:
                yield b"x"

        async def async_generator():
            while not stop:
                yield b"x"

        return generator() if is_generator else async_generator()

    @app.get("/")
    async def view():
        return "ok"

    client = await serve(app)
    answer = await client.get("/endless")

    async def read_all():
        async for _ in answer.content.iter_any():
            pass

    reading = asyncio.create_task(read_all())
    assert await (await client.get("/")).text() == "ok"
    stop = True
    await reading


async def test_long_stream_does_not_starve_sync_views(app, serve):
    """Idle event streams of coroutine views hold no worker thread."""
    app.config.update(AIO_WORKER_THREADS=1, AIO_WORKER_QUEUE=0)
    more = asyncio.Event()

    @app.get("/events")
    async def events():
        yield b"data: 1\n\n"
        await more.wait()

    @app.get("/")
    def view():
        return "ok"

    client = await serve(app)
    streams = [await client.get("/events") for _ in range(5)]
    assert await (await client.get("/")).text() == "ok"
    more.set()
    for stream in streams:
        assert await stream.read() == b"data: 1\n\n"


async def test_stream_longer_than_any_timeout_is_not_cut(app, serve):
    """No timeout is set on a stream: the loop has no timer for one while it is idle."""
    more = asyncio.Event()
    loop = asyncio.get_running_loop()

    @app.get("/")
    async def view():
        yield b"a"
        await more.wait()
        yield b"b"

    client = await serve(app)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        before = {id(timer) for timer in loop._scheduled}  # type: ignore[attr-defined]
        answer = await session.get(client.make_url("/"))
        assert await answer.content.readexactly(1) == b"a"
        new = [
            timer
            for timer in loop._scheduled  # type: ignore[attr-defined]
            if id(timer) not in before and not timer.cancelled()
        ]
        assert [timer for timer in new if "_process_keepalive" not in repr(timer)] == []
        more.set()
        assert await answer.read() == b"b"


# The request context


def sync_stream():
    yield f"{request.args['a']};"
    yield f"{request.args['a']};"


async def async_stream():
    yield f"{request.args['a']};"
    await asyncio.sleep(0)
    yield f"{request.args['a']};"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stream", [sync_stream, async_stream])
async def test_stream_of_coroutine_view_sees_the_request(app, serve, eventually, stream, form):
    """A coroutine view's stream uses request unasked; teardown runs once, after its end."""
    torn_down: list[BaseException | None] = []

    @app.teardown_request
    def teardown(error):
        torn_down.append(error)

    @app.get("/")
    async def view():
        async def observed():
            async for chunk in async_stream():
                yield chunk
            assert torn_down == []

        def observed_sync():
            yield from sync_stream()
            assert torn_down == []

        return FORMS[form](observed() if stream is async_stream else observed_sync())

    client = await serve(app)
    assert await (await client.get("/?a=7")).text() == "7;7;"
    await eventually(lambda: torn_down)
    assert torn_down == [None]


@pytest.mark.parametrize("stream", [sync_stream, async_stream])
async def test_stream_of_synchronous_view_keeps_flasks_rule(app, serve, eventually, stream):
    """A synchronous view's stream runs after the request context is gone, as in plain Flask."""
    seen = []
    torn_down: list[BaseException | None] = []
    app.teardown_request(torn_down.append)

    async def asynchronous():
        seen.append((has_request_context(), len(torn_down)))
        yield b"x"

    def synchronous():
        seen.append((has_request_context(), len(torn_down)))
        yield b"x"

    @app.get("/")
    def view():
        return asynchronous() if stream is async_stream else synchronous()

    client = await serve(app)
    assert await (await client.get("/")).read() == b"x"
    assert seen == [(False, 1)]


@pytest.mark.parametrize("is_coroutine", [True, False], ids=["coroutine", "sync"])
@pytest.mark.parametrize("stream", [sync_stream, async_stream])
@pytest.mark.parametrize("use", ["wrapper", "decorator"])
async def test_stream_with_context_works_with_any_stream(app, serve, is_coroutine, stream, use):
    """stream_with_context gives any generator the request, in either kind of view and use."""
    wrapped = stream_with_context(stream)

    def make():
        return wrapped() if use == "decorator" else stream_with_context(stream())

    add_view(app, is_coroutine, make)
    client = await serve(app)
    answer = await client.get("/?a=7")
    assert (answer.status, await answer.text()) == (200, "7;7;")


async def test_stream_with_context_in_response_of_synchronous_view(app, serve):
    """A Response around stream_with_context around an async generator sees the request."""

    @app.get("/")
    def view():
        return Response(stream_with_context(async_stream()))

    client = await serve(app)
    answer = await client.get("/?a=7")
    assert (answer.status, await answer.text()) == (200, "7;7;")


async def test_context_variable_and_task_stay_the_same_across_the_stream(app, serve):
    """View and stream run in one asyncio task, so asyncio.timeout and task groups work in it."""
    tasks = []

    @app.get("/")
    async def view():
        tasks.append(asyncio.current_task())

        async def stream():
            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                child = group.create_task(asyncio.sleep(0, "child"))
                tasks.append(asyncio.current_task())
                yield b"x"
                yield (await child).encode()

        return stream()

    client = await serve(app)
    assert await (await client.get("/")).read() == b"xchild"
    assert tasks[0] is tasks[1]


async def test_async_context_manager_stays_open_across_the_stream(app, serve):
    """An async context manager that the stream enters is left when the stream has ended."""
    events = []

    class Database:
        async def __aenter__(self):
            events.append("open")

        async def __aexit__(self, *_):
            await asyncio.sleep(0)
            events.append("closed")

    @app.get("/")
    async def view():
        async with Database():
            yield b"a"
            events.append("used")
            yield b"b"

    client = await serve(app)
    assert await (await client.get("/")).read() == b"ab"
    assert events == ["open", "used", "closed"]


async def test_head_request_closes_the_stream_and_tears_down_once(app, serve, eventually):
    """HEAD sends no body; the stream that is not sent is closed and teardown runs once."""
    started = []
    torn_down: list[BaseException | None] = []
    app.teardown_request(torn_down.append)

    @app.get("/")
    async def view():
        async def stream():
            started.append(True)
            yield b"x"

        return Response(stream(), headers={"X-A": "1"})

    client = await serve(app)
    answer = await client.head("/")
    assert (answer.status, answer.headers["X-A"], await answer.read()) == (200, "1", b"")
    await eventually(lambda: torn_down)
    assert (torn_down, started) == ([None], [])


@pytest.mark.parametrize("is_async", [True, False], ids=["async_generator", "generator"])
async def test_stream_dropped_by_failing_after_request_is_closed(
    app, serve, eventually, caplog, is_async
):
    """When after_request raises, the stream is dropped and teardown runs once, with that error."""
    torn_down: list[BaseException | None] = []
    app.teardown_request(torn_down.append)

    @app.after_request
    def fail(_):
        raise LookupError("after")

    @app.get("/")
    async def view():
        return async_stream() if is_async else sync_stream()

    client = await serve(app)
    assert (await client.get("/?a=1")).status == 500
    await eventually(lambda: torn_down)
    (error,) = torn_down
    assert isinstance(error, LookupError)


async def test_stream_dropped_by_replacing_after_request_is_closed(app, serve, eventually):
    """When after_request returns another response, the dropped stream's context is torn down."""
    torn_down: list[BaseException | None] = []
    app.teardown_request(torn_down.append)

    @app.after_request
    def replace(_):
        return Response("another")

    @app.get("/")
    async def view():
        return async_stream()

    client = await serve(app)
    assert await (await client.get("/?a=1")).text() == "another"
    await eventually(lambda: torn_down)
    assert torn_down == [None]


async def test_stream_read_by_after_request_is_sent_whole(app, serve, eventually):
    """An after_request function may read a stream's data; the client gets it all the same."""
    torn_down: list[BaseException | None] = []
    app.teardown_request(torn_down.append)

    @app.after_request
    def upper(response):
        response.set_data(response.get_data().upper())
        return response

    @app.get("/")
    async def view():
        async def stream():
            yield request.args["a"]
            await asyncio.sleep(0)
            yield "b"

        return stream()

    client = await serve(app)
    assert await (await client.get("/?a=a")).text() == "AB"
    await eventually(lambda: torn_down)
    assert torn_down == [None]


# Errors in the middle


@pytest.mark.parametrize("is_coroutine", [True, False], ids=["coroutine", "sync"])
@pytest.mark.parametrize("is_async", [True, False], ids=["async_generator", "generator"])
async def test_error_in_mid_stream_breaks_the_connection_and_is_logged(
    app, serve, connect, caplog, is_coroutine, is_async
):
    """A stream that raises has no clean end on the wire, and the error is logged with traceback."""

    async def asynchronous():
        yield b"begun"
        raise LookupError("in mid-stream")

    def synchronous():
        yield b"begun"
        raise LookupError("in mid-stream")

    add_view(app, is_coroutine, lambda: asynchronous() if is_async else synchronous())
    client = await serve(app)
    reader, writer = await connect(client)
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    received = await reader.read()
    assert b"begun" in received
    assert not received.endswith(b"0\r\n\r\n")
    (record,) = [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], LookupError)
    with pytest.raises(aiohttp.ClientPayloadError):
        await (await client.get("/")).read()


async def test_error_before_the_first_chunk_is_answered_with_500(app, serve, caplog):
    """A stream that raises before anything was sent is answered with status 500."""

    @app.get("/")
    async def view():
        if request.path == "/":
            raise LookupError("at once")
        yield b"x"

    client = await serve(app)
    assert (await client.get("/")).status == 500
    assert "at once" in caplog.text


@pytest.mark.parametrize("is_async", [True, False], ids=["async_generator", "generator"])
async def test_teardown_gets_the_error_of_the_stream(app, serve, eventually, caplog, is_async):
    """Teardown runs once after a stream that raised, and is given its error."""
    torn_down: list[BaseException | None] = []
    app.teardown_request(torn_down.append)

    @app.get("/")
    async def view():
        async def asynchronous():
            yield b"begun"
            raise LookupError("stream")

        def synchronous():
            yield b"begun"
            raise LookupError("stream")

        return asynchronous() if is_async else synchronous()

    client = await serve(app)
    with pytest.raises(aiohttp.ClientPayloadError):
        await (await client.get("/")).read()
    await eventually(lambda: torn_down)
    (error,) = torn_down
    assert isinstance(error, LookupError)


async def test_stream_shorter_than_its_content_length_breaks_the_connection(
    app, serve, caplog, connect
):
    """A stream that ends before its declared length closes the connection and is logged."""

    @app.get("/")
    async def view():
        async def stream():
            yield b"abc"

        return Response(stream(), headers={"Content-Length": "10"})

    reader, writer = await connect(await serve(app))
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await reader.read()).endswith(b"\r\n\r\nabc")
    assert "declared a Content-Length of 10" in caplog.text


# Mounted in another application


async def test_mounted_app_knows_its_prefix_and_streams(app, pace):
    """Below a prefix of another aiohttp application, SCRIPT_NAME, url_for and streams work."""

    @app.get("/where/<name>")
    async def where(name):
        return f"{request.script_root} {request.path} {url_for('where', name=name)}"

    @app.get("/stream")
    async def stream():
        yield f"{request.script_root};"
        for chunk in CHUNKS:
            yield chunk
            await pace.wait_on_loop(chunk)

    outer = web.Application()
    outer.add_subapp("/sub", app.aiohttp_app)
    async with TestClient(TestServer(outer)) as client:
        assert await (await client.get("/sub/where/x")).text() == "/sub /where/x /sub/where/x"
        assert (await client.get("/where/x")).status == 404
        answer = await client.get("/sub/stream")
        assert await answer.content.readexactly(5) == b"/sub;"
        for chunk in CHUNKS:
            assert await answer.content.readexactly(len(chunk)) == chunk
            pace.read(chunk)
        assert await answer.read() == b""
