"""What happens to a request whose client goes away, or whose server stops."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import threading

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from flask import Response, request

from flask_aio_core import async_, await_

pytestmark = pytest.mark.usefixtures("aio")


class PlainServer(TestServer):
    """Serves as aiohttp does by default: its test server cancels handlers whose client leaves."""

    async def _make_runner(self, **kwargs):
        kwargs.update(handler_cancellation=False, shutdown_timeout=1)
        return await super()._make_runner(**kwargs)


GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def abort(writer):
    """Reset a connection, as the death of the client's process does."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def hang_up(writer):
    """Close a connection in the ordinary way."""
    writer.close()


LEAVE = pytest.mark.parametrize("leave", [abort, hang_up])


def noise(caplog):
    return [one for one in caplog.records if one.levelno >= logging.WARNING]


class Watched:
    """Streams that note their beginning and their end."""

    def __init__(self):
        self.ends: list[str] = []
        self.waiting = False
        self.gate = threading.Event()

    async def idle(self):
        """Sends one chunk and then waits for something that never happens."""
        try:
            yield b"begun"
            self.waiting = True
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # Cleaning up may have to wait.
            self.ends.append("stream")

    def idle_generator(self):
        try:
            yield b"begun"
            self.waiting = True
            await_(asyncio.Event().wait())
        finally:
            await_(asyncio.sleep(0))
            self.ends.append("stream")

    def blocked(self):
        """Computes for as long as the test wants, then has the next chunk."""
        try:
            yield b"begun"
            self.waiting = True
            assert self.gate.wait(60)
            while True:
                yield b"more"
        finally:
            self.ends.append("stream")


@pytest.fixture
def watched():
    """Streams whose ends are noted."""
    watched = Watched()
    yield watched
    watched.gate.set()


def add_view(app, is_coroutine, make):
    def view():
        return make()

    async def coroutine():
        await asyncio.sleep(0)
        return make()

    app.add_url_rule("/", "view", coroutine if is_coroutine else view)


# Streams


@LEAVE
@pytest.mark.parametrize("is_coroutine", [True, False], ids=["coroutine", "sync"])
@pytest.mark.parametrize("kind", ["idle", "idle_generator"])
async def test_idle_stream_ends_promptly_when_the_client_goes_away(
    app, serve, connect, eventually, caplog, watched, leave, is_coroutine, kind
):
    """A stream that waits for nothing in sight ends with its finally, once, without a log line."""
    add_view(app, is_coroutine, getattr(watched, kind))
    torn_down: list[BaseException | None] = []
    app.teardown_request(torn_down.append)
    reader, writer = await connect(await serve(app))
    writer.write(GET)
    await reader.readuntil(b"begun")
    await eventually(lambda: watched.waiting)
    leave(writer)
    await eventually(lambda: watched.ends and torn_down)
    assert watched.ends == ["stream"]
    assert len(torn_down) == 1
    assert noise(caplog) == []


@LEAVE
async def test_async_generator_function_as_view_ends_when_the_client_goes_away(
    app, serve, connect, eventually, caplog, leave
):
    """The finally of a view that is an async generator runs, with the request at hand."""
    ends = []

    @app.get("/")
    async def view():
        try:
            yield b"begun"
            await asyncio.Event().wait()
        finally:
            ends.append(request.path)

    reader, writer = await connect(await serve(app))
    writer.write(GET)
    await reader.readuntil(b"begun")
    leave(writer)
    await eventually(lambda: ends)
    assert ends == ["/"]
    assert noise(caplog) == []


@LEAVE
async def test_generator_in_thread_is_closed_at_its_next_chunk(
    app, serve, connect, eventually, caplog, watched, leave
):
    """A blocking generator of a synchronous view is closed at the chunk nobody is left for."""
    add_view(app, False, watched.blocked)
    gone = []
    app.before_request(lambda: gone.append(request.environ["aiohttp.request"].transport))
    reader, writer = await connect(await serve(app))
    writer.write(GET)
    await reader.readuntil(b"begun")
    await eventually(lambda: watched.waiting)
    leave(writer)
    await eventually(lambda: gone[0].is_closing())
    assert watched.ends == []
    watched.gate.set()
    await eventually(lambda: watched.ends)
    assert noise(caplog) == []


async def test_generator_in_thread_that_awaits_after_the_client_left_frees_its_thread(
    app, serve, connect, eventually, watched
):
    """A generator that was computing when its client left, and then waits, does not hang."""
    app.config.update(AIO_WORKER_THREADS=1)
    transports = []

    @app.get("/")
    def view():
        transports.append(request.environ["aiohttp.request"].transport)

        def stream():
            try:
                yield b"begun"
                watched.waiting = True
                assert watched.gate.wait(60)
                await_(asyncio.sleep(0))
                yield b"more"
            finally:
                watched.ends.append("stream")

        return stream()

    @app.get("/next")
    def following():
        return "served"

    client = await serve(app)
    reader, writer = await connect(client)
    writer.write(GET)
    await reader.readuntil(b"begun")
    await eventually(lambda: watched.waiting)
    abort(writer)
    await eventually(lambda: transports[0].is_closing())
    watched.gate.set()
    await eventually(lambda: watched.ends)
    assert await (await client.get("/next")).text() == "served"


async def test_async_generator_of_sync_view_is_closed_after_the_client_left_while_it_computed(
    app, serve, connect, eventually, watched
):
    """Such an async generator runs its finally to the end, with all that it awaits there."""
    transports = []

    @app.get("/")
    def view():
        transports.append(request.environ["aiohttp.request"].transport)

        async def asynchronous():
            try:
                while True:
                    yield b"begun"
            finally:
                await asyncio.sleep(0)
                watched.ends.append("stream")

        def blocking_middle(stream):
            for chunk in stream:
                yield chunk
                watched.waiting = True
                assert watched.gate.wait(60)

        response = app.make_response(asynchronous())
        body = response.response
        response.response = blocking_middle(body)
        response.call_on_close(body.close)
        return response

    client = await serve(app)
    reader, writer = await connect(client)
    writer.write(GET)
    await reader.readuntil(b"begun")
    await eventually(lambda: watched.waiting)
    abort(writer)
    await eventually(lambda: transports[0].is_closing())
    watched.gate.set()
    await eventually(lambda: watched.ends)


@pytest.mark.parametrize("is_coroutine", [True, False], ids=["coroutine", "sync"])
async def test_client_gone_before_the_stream_begins_cuts_no_finally_short(
    app, serve, connect, eventually, caplog, is_coroutine
):
    """If the client left while the view ran, the stream is closed; a finally it runs is whole."""
    entered: list[str] = []
    steps: list[str] = []
    closed: list[str] = []

    async def stream():
        steps.append("begun")
        try:
            while True:
                yield b"x"
        finally:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            steps.append("ended")

    async def left():
        transport = request.environ["aiohttp.request"].transport
        entered.append("view")
        await eventually(transport.is_closing)
        await asyncio.sleep(0)

    def respond():
        response = Response(stream())
        response.call_on_close(lambda: closed.append("response"))
        return response

    async def coroutine():
        await left()
        return respond()

    def view():
        await_(left())
        return respond()

    app.add_url_rule("/", "view", coroutine if is_coroutine else view)
    _, writer = await connect(await serve(app))
    writer.write(GET)
    await eventually(lambda: entered)
    abort(writer)
    await eventually(lambda: closed)
    assert steps in ([], ["begun", "ended"])
    assert noise(caplog) == []


async def test_stream_never_begun_is_closed(app, serve, connect, eventually, caplog):
    """A stream whose client left before its first chunk is closed to its depth, and torn down."""
    entered = []
    closed = []
    torn_down: list[BaseException | None] = []
    app.teardown_request(torn_down.append)

    class Source:
        def __iter__(self):
            return self

        def __next__(self):
            return b"x"

        def close(self):
            closed.append(True)

    @app.get("/")
    async def view():
        transport = request.environ["aiohttp.request"].transport
        entered.append(True)
        await eventually(transport.is_closing)
        await asyncio.sleep(0)
        return Source()

    _, writer = await connect(await serve(app))
    writer.write(GET)
    await eventually(lambda: entered)
    abort(writer)
    await eventually(lambda: closed and torn_down)
    assert len(closed) == len(torn_down) == 1
    assert noise(caplog) == []


@pytest.mark.parametrize("end", ["full_stream", "disconnect", "error"])
@pytest.mark.parametrize("is_coroutine", [True, False], ids=["coroutine", "sync"])
async def test_close_called_once(
    app, serve, connect, eventually, caplog, watched, is_coroutine, end
):
    """A response's call_on_close functions run once after its end, a disconnect or an error."""
    closes = []

    def stream():
        yield b"begun"
        if end == "disconnect":
            watched.waiting = True
            await_(asyncio.Event().wait())
        if end == "error":
            raise LookupError("stream")

    def make():
        response = Response(stream())
        response.call_on_close(lambda: closes.append(end))
        return response

    add_view(app, is_coroutine, make)
    reader, writer = await connect(await serve(app))
    writer.write(GET)
    await reader.readuntil(b"begun")
    if end == "disconnect":
        await eventually(lambda: watched.waiting)
        abort(writer)
    else:
        await eventually(lambda: closes)
        abort(writer)
    await eventually(lambda: closes)
    await asyncio.sleep(0)
    assert closes == [end]


async def test_client_that_leaves_while_it_does_not_read_ends_the_stream(
    app, serve, connect, eventually, caplog
):
    """A stream held back by a full socket ends when its client goes away."""
    ends = []
    produced = 0

    @app.get("/")
    async def view():
        nonlocal produced
        try:
            while True:
                produced += 1
                yield b"x" * 65536
        finally:
            ends.append(True)

    _, writer = await connect(await serve(app))
    writer.transport.pause_reading()
    writer.write(GET)
    last = -1

    def stalled():
        nonlocal last
        before, last = last, produced
        return before == produced > 0

    for _ in range(20):
        await eventually(stalled)
    assert not ends
    abort(writer)
    await eventually(lambda: ends)
    assert noise(caplog) == []


async def test_disconnect_of_mounted_apps_client_ends_the_stream(
    app, connect, eventually, caplog, watched
):
    """In a sub-application of another aiohttp application too, a stream ends with its client."""
    app.get("/")(watched.idle)
    outer = web.Application()
    outer.add_subapp("/sub", app.aiohttp_app)
    async with TestClient(PlainServer(outer)) as client:
        reader, writer = await connect(client)
        writer.write(GET.replace(b"GET /", b"GET /sub/"))
        await reader.readuntil(b"begun")
        await eventually(lambda: watched.waiting)
        abort(writer)
        await eventually(lambda: watched.ends)
    assert noise(caplog) == []


async def test_spawned_work_of_a_stream_outlives_its_disconnect(
    app, aio, serve, connect, eventually, watched
):
    """A background task that a stream has started is not cancelled with it."""
    go_on = asyncio.Event()
    done = []

    async def work():
        await go_on.wait()
        done.append(True)

    @app.get("/")
    async def view():
        aio.spawn(work())
        return watched.idle()

    reader, writer = await connect(await serve(app))
    writer.write(GET)
    await reader.readuntil(b"begun")
    abort(writer)
    await eventually(lambda: watched.ends)
    go_on.set()
    await eventually(lambda: done)


async def test_stream_under_handler_cancellation_ends_with_its_finally(
    app, connect, eventually, watched
):
    """A stream in a thread ends whole also where aiohttp's own handler_cancellation is on."""
    app.get("/")(lambda: watched.idle_generator())
    async with TestClient(TestServer(app.aiohttp_app)) as client:
        reader, writer = await connect(client)
        writer.write(GET)
        await reader.readuntil(b"begun")
        await eventually(lambda: watched.waiting)
        abort(writer)
        await eventually(lambda: watched.ends)


# Views that do not stream


@pytest.mark.parametrize("is_coroutine", [True, False], ids=["coroutine", "sync"])
async def test_disconnect_default_lets_view_finish(
    app, serve, connect, eventually, caplog, is_coroutine
):
    """A view that is not streaming runs to its end, after_request too, when its client leaves."""
    steps = []
    go_on = asyncio.Event()
    transports = []

    async def work():
        transports.append(request.environ["aiohttp.request"].transport)
        await go_on.wait()
        steps.append("view")

    async def coroutine():
        await work()
        return "ok"

    def view():
        await_(work())
        return "ok"

    app.add_url_rule("/", "view", coroutine if is_coroutine else view)

    @app.after_request
    def after(response):
        steps.append("after")
        return response

    app.teardown_request(lambda error: steps.append(f"teardown {error}"))
    _, writer = await connect(await serve(app))
    writer.write(GET)
    await eventually(lambda: transports)
    abort(writer)
    await eventually(lambda: transports[0].is_closing())
    go_on.set()
    await eventually(lambda: len(steps) == 3)
    assert steps == ["view", "after", "teardown None"]
    assert noise(caplog) == []


@pytest.mark.parametrize("switch", ["view", "app"])
@pytest.mark.parametrize("hooks_in_thread", [False, True], ids=["loop", "thread"])
async def test_disconnect_cancels_view_when_opted_in(
    app, serve, connect, eventually, caplog, switch, hooks_in_thread
):
    """With cancel_on_disconnect a view is cancelled where it waits, and teardown runs."""
    app.config["AIO_CANCEL_ON_DISCONNECT"] = switch == "app"
    app.config["AIO_HOOKS_IN_THREAD"] = hooks_in_thread
    steps = []

    async def view():
        steps.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            steps.append("cancelled")

    app.teardown_request(lambda _: steps.append("teardown"))
    app.get("/")(async_(cancel_on_disconnect=True)(view) if switch == "view" else view)
    _, writer = await connect(await serve(app))
    writer.write(GET)
    await eventually(lambda: steps)
    abort(writer)
    await eventually(lambda: len(steps) == 3)
    assert steps == ["begun", "cancelled", "teardown"]
    assert noise(caplog) == []


async def test_view_option_switches_cancellation_off(app, serve, connect, eventually):
    """cancel_on_disconnect=False on a view wins over AIO_CANCEL_ON_DISCONNECT."""
    app.config["AIO_CANCEL_ON_DISCONNECT"] = True
    go_on = asyncio.Event()
    transports = []
    finished = []

    @app.get("/")
    @async_(cancel_on_disconnect=False)
    async def view():
        transports.append(request.environ["aiohttp.request"].transport)
        await go_on.wait()
        finished.append(True)
        return "ok"

    _, writer = await connect(await serve(app))
    writer.write(GET)
    await eventually(lambda: transports)
    abort(writer)
    await eventually(lambda: transports[0].is_closing())
    go_on.set()
    await eventually(lambda: finished)


async def test_cancelled_view_that_swallows_the_cancellation_is_no_error(
    app, serve, connect, eventually, caplog
):
    """A cancelled view that catches BaseException and returns, as some do, leaves no log line."""
    steps = []

    @app.get("/")
    @async_(cancel_on_disconnect=True)
    async def view():
        steps.append("begun")
        try:
            await asyncio.Event().wait()
        except BaseException:
            steps.append("caught")
        return "answer for nobody"

    app.teardown_request(lambda _: steps.append("teardown"))
    client = await serve(app)
    _, writer = await connect(client)
    writer.write(GET)
    await eventually(lambda: steps)
    abort(writer)
    await eventually(lambda: len(steps) == 3)
    assert steps == ["begun", "caught", "teardown"]
    assert noise(caplog) == []


async def test_client_gone_during_large_response_logs_nothing(
    app, serve, connect, eventually, caplog
):
    """A client that leaves in the middle of a large ordinary response is no error."""
    torn_down: list[BaseException | None] = []
    app.teardown_request(torn_down.append)
    body = b"x" * 20_000_000

    @app.get("/")
    async def view():
        return body

    reader, writer = await connect(await serve(app))
    writer.write(GET)
    await reader.readuntil(b"xxx")
    abort(writer)
    await eventually(lambda: torn_down)
    assert noise(caplog) == []


# The server stops


@pytest.mark.parametrize("is_coroutine", [True, False], ids=["coroutine", "sync"])
async def test_event_stream_ends_at_once_on_graceful_shutdown(
    app, eventually, caplog, watched, is_coroutine
):
    """When the server stops, an idle event stream is ended without using up the grace."""
    add_view(
        app,
        is_coroutine,
        lambda: Response(watched.idle(), content_type="text/event-stream; charset=utf-8"),
    )
    runner = web.AppRunner(app.aiohttp_app, shutdown_timeout=3600)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(GET)
    await reader.readuntil(b"begun")
    await eventually(lambda: watched.waiting)
    await runner.cleanup()
    assert watched.ends == ["stream"]
    await reader.read()
    assert noise(caplog) == []
    writer.close()


async def test_other_stream_gets_the_grace_on_shutdown(app, eventually, watched):
    """A stream that is no event stream may run to its end when the server stops."""
    go_on = asyncio.Event()

    @app.get("/")
    async def view():
        yield b"begun"
        await go_on.wait()
        yield b"-ended"

    runner = web.AppRunner(app.aiohttp_app, shutdown_timeout=3600)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(GET)
    await reader.readuntil(b"begun")
    stopping = asyncio.create_task(runner.cleanup())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not stopping.done()
    go_on.set()
    assert (await reader.read()).endswith(b"-ended\r\n0\r\n\r\n")
    await stopping
    writer.close()


async def test_stream_over_the_grace_is_cancelled_and_its_finally_runs(app, eventually, watched):
    """A stream still idle when the grace is over is cancelled; its finally and teardown run."""
    torn_down: list[BaseException | None] = []
    app.teardown_request(torn_down.append)
    app.get("/")(watched.idle)
    runner = web.AppRunner(app.aiohttp_app, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(GET)
    await reader.readuntil(b"begun")
    await eventually(lambda: watched.waiting)
    await runner.cleanup()
    assert watched.ends == ["stream"]
    await eventually(lambda: torn_down)
    writer.close()
