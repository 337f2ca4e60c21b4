"""What a monitor can read of a running server."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from flask_aio_core import AioHTTP, Gauges, NotInitialized, in_thread


def test_everything_is_zero_without_a_server(app, aio):
    """Reading gauges starts nothing, and does not fail."""
    assert aio.gauges() == Gauges(threads_limit=app.config["AIO_WORKER_THREADS"])


async def test_requests_by_side(app, aio, serve, eventually):
    """Requests in flight are counted where they run, and no longer when they have ended."""
    release = threading.Event()
    released = asyncio.Event()

    @app.get("/coroutine")
    async def coroutine():
        await released.wait()
        return "done"

    @app.get("/synchronous")
    def synchronous():
        assert release.wait(60)
        return "done"

    client = await serve(app)
    requests = [
        asyncio.create_task(client.get(path))
        for path in ("/coroutine", "/coroutine", "/synchronous")
    ]
    await eventually(lambda: aio.gauges().requests_on_loop == 2)
    await eventually(lambda: aio.gauges().requests_in_threads == 1)
    assert aio.gauges().threads_busy == 1
    released.set()
    release.set()
    assert [(await one).status for one in requests] == [200, 200, 200]
    await eventually(lambda: aio.gauges().threads_busy == 0)
    gauges = aio.gauges()
    assert (gauges.requests_on_loop, gauges.requests_in_threads) == (0, 0)


@pytest.mark.parametrize("path", ["/coroutine", "/synchronous"])
async def test_a_request_that_fails_is_counted_down(app, aio, serve, path):
    """An error of the app, even one that Flask does not handle, ends the request for the gauges."""
    app.config["PROPAGATE_EXCEPTIONS"] = True

    @app.get("/coroutine")
    async def coroutine():
        raise RuntimeError

    @app.get("/synchronous")
    def synchronous():
        raise RuntimeError

    client = await serve(app)
    assert (await client.get(path)).status == 500
    gauges = aio.gauges()
    assert (gauges.requests_on_loop, gauges.requests_in_threads) == (0, 0)


async def test_calls_that_wait_for_a_thread(app, aio, serve, eventually):
    """Beyond the limit of threads, calls are queued: those of requests and of in_thread alike."""
    app.config["AIO_WORKER_THREADS"] = 1
    release = threading.Event()

    @app.get("/synchronous")
    def synchronous():
        assert release.wait(60)
        return "done"

    @app.get("/coroutine")
    async def coroutine():
        in_thread(release.wait)(60)
        return "done"

    client = await serve(app)
    requests = [
        asyncio.create_task(client.get(path))
        for path in ("/synchronous", "/synchronous", "/coroutine")
    ]
    await eventually(lambda: aio.gauges().calls_queued == 2)
    gauges = aio.gauges()
    assert (gauges.threads_busy, gauges.threads_limit) == (1, 1)
    assert (gauges.requests_on_loop, gauges.requests_in_threads) == (1, 2)
    release.set()
    assert [(await one).status for one in requests] == [200, 200, 200]
    await eventually(lambda: aio.gauges().threads_busy == 0)
    assert aio.gauges().calls_queued == 0


@pytest.mark.parametrize("kind", ["coroutine", "generator"])
async def test_streams(app, aio, serve, eventually, kind):
    """A stream is counted while it is open, also if its client leaves."""
    release = threading.Event()

    if kind == "coroutine":

        @app.get("/")
        async def coroutine():
            while not release.is_set():
                yield "piece"
                await asyncio.sleep(0.01)

    else:

        @app.get("/")
        def generator():
            def pieces():
                while not release.wait(0.01):
                    yield "piece"

            return pieces()

    client = await serve(app)
    first, second = await client.get("/"), await client.get("/")
    await eventually(lambda: aio.gauges().streams == 2)
    first.close()
    await eventually(lambda: aio.gauges().streams == 1)
    release.set()
    assert (await second.read()).startswith(b"piece")
    await eventually(lambda: aio.gauges().streams == 0)


async def test_background_tasks(app, aio, serve, eventually):
    """Tasks of aio.spawn are counted until they end."""
    go_on = asyncio.Event()

    @app.get("/")
    async def view():
        aio.spawn(go_on.wait())
        return "ok"

    client = await serve(app)
    await client.get("/")
    assert aio.gauges().background_tasks == 1
    go_on.set()
    await eventually(lambda: aio.gauges().background_tasks == 0)


async def test_a_blocked_loop_is_seen_from_another_thread(app, aio, serve, eventually):
    """While the loop is blocked its lag grows; afterwards the blockade has been counted."""
    app.config["AIO_SLOW_CALLBACK"] = 0.1
    seen: list[Gauges] = []

    def watch():
        while (gauges := aio.gauges()).loop_lag < 0.3:
            time.sleep(0.01)
        seen.append(gauges)
        blocked.set()

    blocked = threading.Event()

    @app.get("/")
    async def view():
        assert blocked.wait(60)
        return "ok"

    client = await serve(app)
    assert aio.gauges().loop_blocked == 0  # It begins to measure.
    thread = threading.Thread(target=watch)
    thread.start()
    assert (await client.get("/")).status == 200
    thread.join(60)
    assert seen[0].requests_on_loop == 1
    await eventually(lambda: aio.gauges().loop_blocked == 1)
    assert aio.gauges().loop_lag >= 0.3


async def test_of_several_apps_one_must_be_named(app, serve):
    """An extension that two apps share needs to be told which one is meant."""
    from flask import Flask

    other = Flask("other")
    aio = AioHTTP()
    aio.init_app(app)
    aio.init_app(other)
    app.config["AIO_WORKER_THREADS"] = 3
    with pytest.raises(NotInitialized):
        aio.gauges()
    assert aio.gauges(app).threads_limit == 3
    with other.app_context():
        assert aio.gauges().threads_limit == 32


async def test_after_the_server_has_stopped_all_is_zero(app, aio, serve):
    """A monitor that asks later is not given what was."""
    client = await serve(app)
    aio.gauges()
    await client.close()
    assert aio.gauges() == Gauges(threads_limit=32)
