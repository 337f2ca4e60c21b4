"""Requests that end early: the transaction is rolled back, and the connection can be used again."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import func, select

from flask_aio_core import async_

#: The number of an advisory lock, by which a test decides when a query ends.
LOCK = 7


@pytest.fixture
def held(database):
    """Hold the lock that the views' queries wait for; calling it lets go."""
    with database.connect() as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        yield lambda: connection.execute("SELECT pg_advisory_unlock_all()")


@pytest.fixture
def shop(make_shop, postgresql_url):
    """An app with one connection, whose views write a row and then never come to an end."""
    shop = make_shop(postgresql_url, pool_size=1, max_overflow=0)
    app, session, Item = shop.app, shop.db.session, shop.Item

    def write_and_wait():
        session.add(Item(name="pen"))
        session.flush()
        session.execute(select(func.pg_advisory_lock(LOCK)))

    @app.get("/coroutine")
    @async_(cancel_on_disconnect=True)
    async def coroutine():
        write_and_wait()
        return ""

    @app.get("/hooks-in-thread")
    @async_(cancel_on_disconnect=True, hooks_in_thread=True)
    async def hooks_in_thread():
        write_and_wait()
        return ""

    @app.get("/synchronous")
    def synchronous():
        write_and_wait()
        return ""

    @app.get("/stream")
    async def stream():
        session.add(Item(name="pen"))
        session.flush()
        with session.scalars(select(Item).execution_options(yield_per=1)) as items:
            for item in items:
                yield item.name + "\n"
                await asyncio.Event().wait()

    @app.get("/generator")
    async def generator():
        def rows():
            session.add(Item(name="pen"))
            session.flush()
            while True:
                yield session.scalar(select(Item.name)) + "\n"

        return rows()

    @app.get("/items")
    async def items():
        return list(session.scalars(select(Item.name)))

    return shop


async def until(condition):
    """Wait, without holding up the loop, until a condition holds."""
    while not await asyncio.to_thread(condition):  # noqa: ASYNC110 -- nobody would set an event
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("path", ["/coroutine", "/hooks-in-thread"])
async def test_client_that_goes_away_in_a_query(shop, serve, database, held, path):
    """The query is given up, nothing of the transaction stays, and the pool is whole."""
    client = await serve(shop.app)
    request = asyncio.create_task(client.get(path))
    await until(lambda: database.waiting() == 1)

    request.cancel()
    await until(lambda: shop.checked_out == 0)

    await until(lambda: "active" not in database.states())
    assert await (await client.get("/items")).json() == []
    assert shop.checked_out == 0


async def test_client_that_leaves_a_synchronous_view(shop, serve, database, held):
    """A thread cannot be interrupted: its query comes to an end, then its connection goes back."""
    client = await serve(shop.app)
    request = asyncio.create_task(client.get("/synchronous"))
    await until(lambda: database.waiting() == 1)

    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    held()
    await until(lambda: shop.checked_out == 0)

    assert await (await client.get("/items")).json() == []


@pytest.mark.parametrize("path", ["/stream", "/generator"])
async def test_stream_that_is_abandoned(shop, serve, database, path):
    """A client that leaves in the middle of a stream of rows ends the transaction."""
    client = await serve(shop.app)
    answer = await client.get(path)
    assert await answer.content.readline() == b"pen\n"
    assert shop.checked_out == 1

    answer.close()
    await until(lambda: shop.checked_out == 0)

    assert set(await asyncio.to_thread(database.states)) <= {"idle"}
    assert await (await client.get("/items")).json() == []


@pytest.mark.parametrize("path", ["/coroutine", "/hooks-in-thread"])
async def test_server_that_stops_in_a_query(shop, connect, database, held, path):
    """A query that outlasts the grace period is cancelled; no connection is left open."""
    client = await connect(shop.app)
    request = asyncio.create_task(client.get(path))
    await until(lambda: database.waiting() == 1)

    await client.close()
    await asyncio.gather(request, return_exceptions=True)

    await until(lambda: database.states() == [])
    with database.connect() as connection:
        assert connection.execute("SELECT count(*) FROM item").fetchone() == (0,)


async def test_server_that_stops_in_a_stream(shop, connect, database):
    """A stream that never ends is ended with the server, and its transaction with it."""
    client = await connect(shop.app)
    answer = await client.get("/stream")
    assert await answer.content.readline() == b"pen\n"

    await client.close()

    await until(lambda: database.states() == [])
    with database.connect() as connection:
        assert connection.execute("SELECT count(*) FROM item").fetchone() == (0,)


async def test_time_limit_of_a_view(make_shop, serve, database, postgresql_url, held):
    """asyncio.timeout around a query cancels it, and the view goes on with the session."""
    shop = make_shop(postgresql_url, pool_size=1, max_overflow=0)
    app, session = shop.app, shop.db.session

    @app.get("/")
    async def view():
        try:
            async with asyncio.timeout(0.1):  # noqa: ASYNC100 -- the query is a checkpoint
                session.execute(select(func.pg_advisory_lock(LOCK)))
        except TimeoutError:
            session.rollback()
        return {"answer": session.scalar(select(1))}

    client = await serve(app)
    assert await (await client.get("/")).json() == {"answer": 1}
    assert shop.checked_out == 0
