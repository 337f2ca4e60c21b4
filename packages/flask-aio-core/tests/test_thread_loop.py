"""The current event loop of worker threads, which SQLAlchemy needs to close a connection."""

from __future__ import annotations

import asyncio
import sys
from types import ModuleType

import pytest

from flask_aio_core import await_


@pytest.fixture
def drivers(monkeypatch):
    """Have it look as if one of SQLAlchemy's asyncio drivers had been imported."""
    name = "sqlalchemy.connectors.asyncio"
    monkeypatch.setitem(sys.modules, name, ModuleType(name))


async def test_shield_works_in_a_synchronous_view(app, aio, serve, drivers):
    """The task that asyncio.shield makes in a thread runs on the server's loop."""
    loops = []

    async def close():
        await asyncio.sleep(0)
        loops.append(asyncio.get_running_loop())
        return "closed"

    @app.get("/")
    def view():
        return await_(asyncio.shield(close()))

    client = await serve(app)
    for _ in range(2):
        assert await (await client.get("/")).text() == "closed"
    assert loops == [asyncio.get_running_loop()] * 2


async def test_shield_works_after_asyncio_run(app, aio, serve, drivers):
    """asyncio.run in a view leaves the thread without a loop; the next wait brings it back."""

    @app.get("/")
    def view():
        asyncio.run(asyncio.sleep(0))
        await_(asyncio.sleep(0))
        return await_(asyncio.shield(asyncio.sleep(0, "closed")))

    client = await serve(app)
    assert await (await client.get("/")).text() == "closed"


async def test_code_that_asks_for_the_threads_loop_can_run_it(app, aio, serve, drivers):
    """run_until_complete waits for the server's loop."""

    @app.get("/")
    def view():
        loop = asyncio.get_event_loop()
        assert not loop.is_running()
        assert not loop.is_closed()
        return str(loop.run_until_complete(asyncio.sleep(0, "done")))

    client = await serve(app)
    assert await (await client.get("/")).text() == "done"


async def test_without_sqlalchemy_a_thread_has_no_loop(app, aio, serve, monkeypatch):
    """Code that asks for a loop and makes one of its own goes on to do so."""
    monkeypatch.delitem(sys.modules, "sqlalchemy.connectors.asyncio", raising=False)

    @app.get("/")
    def view():
        await_(asyncio.sleep(0))
        with pytest.raises(RuntimeError, match="no current event loop"):
            asyncio.get_event_loop()
        return "none"

    client = await serve(app)
    assert await (await client.get("/")).text() == "none"
