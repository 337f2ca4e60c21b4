"""A pool smaller than the number of requests: they wait for a connection, and nobody else does."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import create_engine, exc, func, select
from sqlalchemy.pool import AsyncAdaptedQueuePool

#: The number of an advisory lock, by which a test decides when a query ends.
LOCK = 7


@pytest.fixture
def held(database):
    """Hold the lock that the views' queries wait for; calling it lets go."""
    with database.connect() as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        yield lambda: connection.execute("SELECT pg_advisory_unlock_all()")


@pytest.fixture
def make_views(make_shop):
    """Make an app with a view of each kind whose query waits for the lock."""

    def make(url, **options):
        shop = make_shop(url, **options)
        app, session = shop.app, shop.db.session

        def query():
            session.execute(select(func.pg_advisory_lock_shared(LOCK)))
            return str(session.scalar(select(func.pg_advisory_unlock_shared(LOCK))))

        @app.get("/coroutine")
        async def coroutine():
            return query()

        @app.get("/synchronous")
        def synchronous():
            return query()

        @app.get("/fast")
        async def fast():
            return "fast"

        @app.errorhandler(exc.TimeoutError)
        def timed_out(error):
            return type(error).__name__, 503

        return shop

    return make


async def until(condition):
    """Wait, without holding up the loop, until a condition holds."""
    while not await asyncio.to_thread(condition):  # noqa: ASYNC110 -- nobody would set an event
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("path", ["/coroutine", "/synchronous"])
async def test_requests_wait_for_a_connection(
    make_views, serve, database, postgresql_url, held, path
):
    """Twenty requests share two connections; meanwhile the loop answers others."""
    shop = make_views(postgresql_url, pool_size=2, max_overflow=0)
    client = await serve(shop.app)
    requests = [asyncio.create_task(client.get(path)) for _ in range(20)]
    await until(lambda: database.waiting() == 2)

    assert await (await client.get("/fast")).text() == "fast"
    assert shop.checked_out == 2
    held()
    answers = await asyncio.gather(*requests)

    assert [await answer.text() for answer in answers] == ["True"] * 20
    assert shop.checked_out == 0
    assert database.states() == ["idle"] * 2


@pytest.mark.parametrize("path", ["/coroutine", "/synchronous"])
async def test_no_connection_in_time_is_an_error(
    make_views, serve, database, postgresql_url, held, path
):
    """Who waits longer than pool_timeout gets SQLAlchemy's TimeoutError; the others go on."""
    shop = make_views(postgresql_url, pool_size=1, max_overflow=0, pool_timeout=0.1)
    client = await serve(shop.app)
    first = asyncio.create_task(client.get("/coroutine"))
    await until(lambda: database.waiting() == 1)

    answer = await client.get(path)
    assert (answer.status, await answer.text()) == (503, "TimeoutError")
    held()
    assert (await first).status == 200
    assert (await client.get(path)).status == 200
    assert shop.checked_out == 0


@pytest.mark.parametrize("uses_uvloop", [False, True], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("first", "second"), [("/coroutine", "/synchronous"), ("/synchronous", "/coroutine")]
)
def test_connection_goes_from_one_side_to_the_other(
    make_views, connect, database, postgresql_url, held, first, second, uses_uvloop
):
    """A connection that a thread gives back is taken by a coroutine that waits, and the reverse."""
    asyncio_or_uvloop = pytest.importorskip("uvloop") if uses_uvloop else asyncio

    async def run():
        shop = make_views(postgresql_url, pool_size=1, max_overflow=0, pool_timeout=60)
        client = await connect(shop.app)
        holder = asyncio.create_task(client.get(first))
        await until(lambda: database.waiting() == 1)
        waiters = [asyncio.create_task(client.get(second)) for _ in range(5)]
        await asyncio.sleep(0.05)
        held()
        answers = await asyncio.gather(holder, *waiters)
        assert [answer.status for answer in answers] == [200] * 6
        assert shop.checked_out == 0
        await client.close()

    with asyncio.Runner(loop_factory=asyncio_or_uvloop.new_event_loop) as runner:
        runner.run(run())


async def test_both_sides_take_turns_at_a_small_pool(make_shop, serve, postgresql_url):
    """Threads and coroutines hammer one pool; every request is answered with its own row."""
    shop = make_shop(postgresql_url, pool_size=2, max_overflow=1)
    app, db = shop.app, shop.db

    @app.get("/coroutine/<int:number>")
    async def coroutine(number):
        return {"number": db.session.scalar(select(number))}

    @app.get("/synchronous/<int:number>")
    def synchronous(number):
        return {"number": db.session.scalar(select(number))}

    client = await serve(app)

    async def ask(kind, number):
        async with client.get(f"/{kind}/{number}") as answer:
            return await answer.json()

    for _ in range(3):
        answers = await asyncio.gather(
            *(ask(("coroutine", "synchronous")[n % 2], n) for n in range(60))
        )
        assert answers == [{"number": n} for n in range(60)]
    assert shop.checked_out == 0


@pytest.mark.parametrize("kind", ["coroutine", "synchronous"])
async def test_recycled_connection_is_closed(make_shop, serve, database, postgresql_url, kind):
    """A connection that is too old is replaced, and does not stay open."""
    shop = make_shop(postgresql_url, pool_size=1, max_overflow=0, pool_recycle=0)

    @shop.app.get("/coroutine")
    async def coroutine():
        return {"answer": shop.db.session.scalar(select(1))}

    @shop.app.get("/synchronous")
    def synchronous():
        return {"answer": shop.db.session.scalar(select(1))}

    client = await serve(shop.app)
    for _ in range(5):
        assert await (await client.get(f"/{kind}")).json() == {"answer": 1}
    await until(lambda: database.states() == ["idle"])


def test_create_engine_chooses_the_pool_of_asyncio(database_url):
    """The pool waits on the loop, not in a lock of threads, without being told to."""
    engine = create_engine(database_url)
    assert engine.dialect.is_async
    assert isinstance(engine.pool, AsyncAdaptedQueuePool)


def test_psycopg_without_async_is_the_blocking_driver():
    """Only create_async_engine reads postgresql+psycopg as asynchronous."""
    engine = create_engine("postgresql+psycopg://127.0.0.1/none")
    assert not engine.dialect.is_async
