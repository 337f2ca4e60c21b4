"""The watchdog: names what blocks the event loop while it does."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from flask_aio_core import in_thread

pytestmark = pytest.mark.usefixtures("aio")


class Reports(logging.Handler):
    """Collects the watchdog's records; the blocking function waits for the first of them."""

    def __init__(self):
        super().__init__()
        self.messages: list[str] = []
        self.arrived = threading.Event()

    def emit(self, record):
        self.messages.append(record.getMessage())
        self.arrived.set()


@pytest.fixture
def reports():
    """What the watchdog has logged."""
    handler = Reports()
    logger = logging.getLogger("flask_aio_core.watchdog")
    logger.addHandler(handler)
    yield handler
    handler.arrived.set()
    logger.removeHandler(handler)


def watchdog_threads():
    return [one for one in threading.enumerate() if one.name == "flask-aio-watchdog"]


async def test_blocking_hook_is_named_in_debug_mode(app, serve, reports):
    """A synchronous hook that blocks the loop is logged with its name and the advice."""
    app.debug = True
    app.config["AIO_SLOW_CALLBACK"] = 0.01

    @app.before_request
    def slow_hook():
        assert reports.arrived.wait(60)

    @app.get("/")
    async def view():
        return "ok"

    client = await serve(app)
    assert (await client.get("/")).status == 200
    message = reports.messages[0]
    assert "slow_hook" in message.partition("\n")[0]
    assert "test_watchdog.py" in message.partition("\n")[0]
    assert "in_thread" in message.partition("\n")[0]


async def test_blocking_view_code_is_named_not_its_helper(app, serve, reports):
    """Of the frames on the stack, the one named is the user's, with where it blocks shown."""
    app.debug = True
    app.config["AIO_SLOW_CALLBACK"] = 0.01

    @app.get("/")
    async def slow_view():
        await asyncio.sleep(0)
        assert reports.arrived.wait(60)
        return "ok"

    client = await serve(app)
    assert (await client.get("/")).status == 200
    head, _, stack = reports.messages[0].partition("\n")
    assert "slow_view" in head
    assert "in wait" in stack


async def test_blocked_loop_is_reported_once_per_blockade(app, serve, reports):
    """One long blockade is one record, not one per interval."""
    app.debug = True
    app.config["AIO_SLOW_CALLBACK"] = 0.01
    second = threading.Event()

    @app.get("/")
    async def view():
        assert reports.arrived.wait(60)
        # Twenty intervals more: were there a second report, it would come here.
        second.wait(0.2)
        return "ok"

    client = await serve(app)
    assert (await client.get("/")).status == 200
    assert sum("view" in message for message in reports.messages) == 1


async def test_function_in_thread_is_not_reported(app, serve, reports):
    """Blocking in a worker thread by in_thread does not block the loop: nothing is logged."""
    app.debug = True
    app.config["AIO_SLOW_CALLBACK"] = 0.05
    pings = threading.Semaphore(0)

    @in_thread
    def work():
        # The loop goes on running callbacks for as long as this blocks.
        for _ in range(50):
            assert pings.acquire(timeout=60)

    @app.get("/")
    async def view():
        work()
        return "ok"

    client = await serve(app)
    task = asyncio.create_task(client.get("/"))
    while not task.done():
        pings.release()
        await asyncio.sleep(0.005)
    assert (await task).status == 200
    assert not any("work" in message.partition("\n")[0] for message in reports.messages)


@pytest.mark.parametrize(
    ("debug", "config", "running"),
    [
        (False, {}, 0),
        (True, {}, 1),
        (False, {"AIO_WATCHDOG": True}, 1),
        (True, {"AIO_WATCHDOG": False}, 0),
        (True, {"AIO_SLOW_CALLBACK": None}, 0),
    ],
)
async def test_watchdog_runs_in_debug_mode_unless_configured(app, serve, debug, config, running):
    """The watchdog runs in debug mode, or as AIO_WATCHDOG says, until the server ends."""
    app.debug = debug
    app.config.update(config)
    client = await serve(app)
    assert len(watchdog_threads()) == running
    await client.close()
    assert watchdog_threads() == []
