"""Worker threads that compute, and the event loop that wants its turn."""

from __future__ import annotations

import asyncio
import threading
import time

from flask_aio_core import contention
from flask_aio_core.state import get_state
from flask_aio_core.threads import WorkerThreads


def threads_of(app) -> WorkerThreads:
    runtime = get_state(app).serving_runtime()
    assert runtime is not None
    return runtime.threads


def compute(seconds: float) -> None:
    """Hold the interpreter lock as much as a thread can."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


async def test_fewer_calls_run_at_once_while_they_compute(app, aio, serve, monkeypatch):
    """While the loop is late because of threads fewer of them run; all may again afterwards."""
    # On a busy machine the process does not get its share.
    monkeypatch.setattr(contention, "_COMPUTING", 0)
    app.config.update(AIO_WORKER_THREADS=8, AIO_MAX_LAG=0.0005)
    enough = threading.Event()
    answered = []

    @app.get("/compute")
    def view():
        while not enough.is_set():
            compute(0.01)
            if threads.running_limit == 1:
                enough.set()
        return ""

    client = await serve(app)
    threads = threads_of(app)

    async def request():
        async with client.get("/compute") as response:
            answered.append(response.status)

    await asyncio.gather(*(request() for _ in range(20)))

    assert answered == [200] * 20
    assert enough.is_set()
    assert threads._contention is not None
    threads._contention._max_lag = 60  # Nothing is late any more.
    while not threads.is_unlimited:  # noqa: ASYNC110 -- nobody would set an event
        await asyncio.sleep(0.01)


async def test_calls_that_wait_run_all_at_once(app, aio, serve):
    """A blocking view that uses no processor is not held back, however late the loop is."""
    app.config.update(AIO_WORKER_THREADS=8, AIO_MAX_LAG=0)
    together = threading.Barrier(8, timeout=60)

    @app.get("/wait")
    def view():
        time.sleep(0.2)  # Some looks at the loop, which is always a little late.
        together.wait()
        return ""

    client = await serve(app)

    async def request():
        async with client.get("/wait") as response:
            return response.status

    assert await asyncio.gather(*(request() for _ in range(8))) == [200] * 8
    assert threads_of(app).is_unlimited


async def test_a_busy_loop_does_not_hold_waiting_calls_back(app, aio, serve):
    """Where coroutines keep the loop late, threads that wait all run: fewer would not help."""
    app.config.update(AIO_WORKER_THREADS=8, AIO_MAX_LAG=0)
    together = threading.Barrier(8, timeout=60)

    @app.get("/wait")
    def view():
        time.sleep(0.3)
        together.wait()
        return ""

    @app.get("/busy")
    async def busy():
        for _ in range(10):
            compute(0.05)
            await asyncio.sleep(0)
        return ""

    client = await serve(app)

    async def request(path):
        async with client.get(path) as response:
            return response.status

    paths = ["/wait"] * 8 + ["/busy"]
    assert await asyncio.gather(*map(request, paths)) == [200] * 9
    assert threads_of(app).is_unlimited


async def test_it_can_be_switched_off(app, aio, serve):
    """With AIO_MAX_LAG = None nobody looks."""
    app.config["AIO_MAX_LAG"] = None

    @app.get("/")
    def view():
        return "as ever"

    client = await serve(app)
    async with client.get("/") as response:
        assert await response.text() == "as ever"
    assert threads_of(app)._contention is None
