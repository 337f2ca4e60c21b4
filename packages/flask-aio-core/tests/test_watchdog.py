"""The watchdog: names what blocks the event loop while it does."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time

import pytest

import flask_aio_core.runtime as runtime_module
from flask_aio_core import in_thread
from flask_aio_core.loop_lag import LoopLag
from flask_aio_core.state import get_state

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


async def blockades(app, serve, eventually, count):
    """Have the same view block the loop several times, each time for as long as that is counted."""
    lags: list[LoopLag] = []

    @app.get("/")
    async def blocks():
        due = lags[0].due
        # The timer goes off no sooner than this returns, and is then late by more than the limit.
        while time.monotonic() < due + 0.3:
            time.sleep(0.005)  # noqa: ASYNC251 -- that is the point
        return "ok"

    client = await serve(app)
    runtime = get_state(app).serving_runtime()
    assert runtime is not None
    lag = runtime.lag
    lags.append(lag)
    for number in range(count):
        assert (await client.get("/")).status == 200
        await eventually(lambda number=number: lag.blocked > number)


async def test_in_production_a_function_is_named_once_a_minute(
    app, aio, serve, reports, eventually
):
    """Outside of debug mode each blockade is counted, and one report names the function."""
    app.config.update(AIO_WATCHDOG=True, AIO_SLOW_CALLBACK=0.05)
    await blockades(app, serve, eventually, 3)
    assert aio.gauges().loop_blocked >= 3
    assert sum("blocks" in message.partition("\n")[0] for message in reports.messages) == 1


async def test_the_next_report_says_how_often_it_was_silent(
    app, aio, serve, reports, eventually, monkeypatch
):
    """When the function is named again, what was not reported meanwhile has been counted."""
    monkeypatch.setattr(runtime_module, "_PRODUCTION_QUIET", 2.0)
    app.config.update(AIO_WATCHDOG=True, AIO_SLOW_CALLBACK=0.05)
    await blockades(app, serve, eventually, 6)
    first, second, *_ = [one.partition("\n")[0] for one in reports.messages if "blocks" in one]
    assert "unreported" not in first
    assert re.search(r"\(unreported since the last time: \d\)", second)


async def test_in_debug_mode_each_blockade_is_reported(app, aio, serve, reports, eventually):
    """Who is developing sees each."""
    app.debug = True
    app.config["AIO_SLOW_CALLBACK"] = 0.05
    await blockades(app, serve, eventually, 3)
    assert sum("blocks" in message.partition("\n")[0] for message in reports.messages) == 3


async def test_a_view_may_block_in_a_thread_in_production(app, aio, serve, reports, eventually):
    """A synchronous view blocks nothing: nothing is counted, nothing reported."""
    app.config.update(AIO_WATCHDOG=True, AIO_SLOW_CALLBACK=0.05)

    @app.get("/")
    def blocks_its_thread():
        time.sleep(0.7)  # Longer than an interval and the limit.
        return "ok"

    client = await serve(app)
    assert (await client.get("/")).status == 200
    assert not any("blocks_its_thread" in message for message in reports.messages)
