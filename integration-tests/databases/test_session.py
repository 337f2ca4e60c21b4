"""Flask-SQLAlchemy's session on each asyncio driver: only the URL of the app says so."""

from __future__ import annotations

import asyncio
import threading

import pytest
from flask import g, render_template_string
from sqlalchemy import create_engine, event, func, inspect, select
from sqlalchemy.orm import sessionmaker

from flask_aio_core import await_


@pytest.fixture
def shop(make_shop, database_url):
    return make_shop(database_url)


@pytest.fixture
async def client(serve, shop):
    return await serve(shop.app)


async def test_coroutine_view_queries_and_commits(shop, client):
    """The blocking API of Flask-SQLAlchemy reads and writes in a coroutine view."""
    app, db, Item = shop.app, shop.db, shop.Item

    @app.post("/items/<name>")
    async def add(name):
        db.session.add(Item(name=name))
        db.session.commit()
        await asyncio.sleep(0)
        return {"names": [item.name for item in db.session.execute(select(Item)).scalars()]}

    await client.post("/items/pen")
    answer = await client.post("/items/cup")

    assert await answer.json() == {"names": ["pen", "cup"]}


async def test_synchronous_view_uses_the_same_engine(shop, client):
    """What a coroutine view has written, a synchronous view reads, in its thread."""
    app, db, Item = shop.app, shop.db, shop.Item
    threads = set()

    @app.post("/items")
    async def add():
        threads.add(threading.current_thread())
        db.session.add(Item(name="pen"))
        db.session.commit()
        return ""

    @app.get("/items")
    def show():
        threads.add(threading.current_thread())
        return [item.name for item in db.session.scalars(select(Item))]

    await client.post("/items")
    answer = await client.get("/items")

    assert await answer.json() == ["pen"]
    assert len(threads) == 2


async def test_query_of_sqlite_leaves_the_loop_free(make_shop, serve, tmp_path):
    """While one request's query runs, the loop serves another: the first waits for the second."""
    shop = make_shop(f"sqlite+aiosqlite:///{tmp_path}/shop.db")
    app, db = shop.app, shop.db
    asked, answered = asyncio.Event(), threading.Event()

    @app.get("/slow")
    async def slow():
        def wait_in_database() -> int:
            # Runs in the driver's thread, in the middle of the query.
            loop.call_soon_threadsafe(asked.set)
            answered.wait()
            return 1

        def register(connection, _):
            connection.run_async(lambda driver: driver.create_function("wait", 0, wait_in_database))

        loop = asyncio.get_running_loop()
        event.listen(db.engine, "connect", register)
        db.engine.dispose()
        return {"answer": db.session.scalar(select(func.wait()))}

    @app.get("/fast")
    async def fast():
        answered.set()
        return "ok"

    client = await serve(app)
    first = asyncio.create_task(client.get("/slow"))
    await asked.wait()
    assert (await client.get("/fast")).status == 200

    assert await (await first).json() == {"answer": 1}


async def test_hooks_and_teardown_use_the_session(shop, client):
    """A synchronous and an async hook query; teardown gives the connection back."""
    app, db, Item = shop.app, shop.db, shop.Item

    @app.before_request
    def count() -> None:
        g.count = db.session.scalar(select(func.count()).select_from(Item))

    @app.before_request
    async def count_again() -> None:
        await asyncio.sleep(0)
        g.again = db.session.scalar(select(func.count()).select_from(Item))

    @app.get("/coroutine")
    async def coroutine():
        return [g.count, g.again]

    @app.get("/synchronous")
    def synchronous():
        return [g.count, g.again]

    for path in ("/coroutine", "/synchronous"):
        answer = await client.get(path)
        assert await answer.json() == [0, 0]
    assert shop.checked_out == 0


async def test_query_while_a_template_is_rendered(shop, client):
    """A template that runs a query, as lazy loading does, waits like any other code."""
    app, db, Item = shop.app, shop.db, shop.Item

    @app.get("/")
    async def page():
        db.session.add(Item(name="pen"))
        db.session.commit()
        return render_template_string(
            "{% for item in items() %}{{ item.name }}{% endfor %}",
            items=lambda: db.session.scalars(select(Item)),
        )

    assert await (await client.get("/")).text() == "pen"


async def test_requests_at_once_keep_their_sessions_apart(shop, client):
    """Each of 120 interleaved coroutine requests sees its own session and its own rows."""
    app, db, Item = shop.app, shop.db, shop.Item

    @app.post("/items/<int:number>")
    async def add(number):
        session = db.session()
        item = Item(name=str(number))
        db.session.add(item)
        await asyncio.sleep(0)
        db.session.commit()
        await asyncio.sleep(0)
        assert db.session() is session
        return {"name": db.session.get(Item, item.id).name}

    answers = await asyncio.gather(*(client.post(f"/items/{number}") for number in range(120)))

    assert [(await answer.json())["name"] for answer in answers] == [str(n) for n in range(120)]


async def test_stream_of_a_coroutine_view_queries(shop, client):
    """A streamed response reads from the database between its chunks."""
    app, db, Item = shop.app, shop.db, shop.Item

    @app.get("/")
    async def export():
        db.session.add_all([Item(name="pen"), Item(name="cup")])
        db.session.commit()

        def rows():
            for item in db.session.scalars(select(Item)):
                yield item.name + "\n"

        return rows()

    assert await (await client.get("/")).text() == "pen\ncup\n"


def test_test_client_runs_queries_of_both_kinds_of_views(shop):
    """Under Flask's own test client the same app needs no server."""
    app, db, Item = shop.app, shop.db, shop.Item

    @app.get("/coroutine")
    async def coroutine():
        return [item.name for item in db.session.scalars(select(Item))]

    @app.get("/synchronous")
    def synchronous():
        return [item.name for item in db.session.scalars(select(Item))]

    client = app.test_client()
    try:
        assert client.get("/coroutine").json == []
        assert client.get("/synchronous").json == []
    finally:
        shop.aio.close()


async def test_await_runs_a_query_of_sqlalchemys_own_asyncio_api(shop, client):
    """SQLAlchemy's AsyncSession works beside the blocking API, also through await_."""
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

    app, db, Item = shop.app, shop.db, shop.Item

    async def count() -> int:
        async with AsyncSession(AsyncEngine(db.engine)) as session:
            return await session.scalar(select(func.count()).select_from(Item)) or 0

    @app.get("/coroutine")
    async def coroutine():
        return {"count": await count()}

    @app.get("/synchronous")
    def synchronous():
        return {"count": await_(count())}

    for path in ("/coroutine", "/synchronous"):
        assert await (await client.get(path)).json() == {"count": 0}


@pytest.mark.parametrize("kind", ["coroutine", "synchronous"])
async def test_session_of_plain_sqlalchemy(shop, serve, database_url, kind):
    """A sessionmaker over create_engine works like Flask-SQLAlchemy's session."""
    engine = create_engine(database_url)
    make_session = sessionmaker(engine)

    def use():
        with make_session.begin() as session:
            session.add(shop.Item(name="pen"))
        with make_session() as session:
            return [item.name for item in session.scalars(select(shop.Item))]

    @shop.app.get("/coroutine")
    async def coroutine():
        return use()

    @shop.app.get("/synchronous")
    def synchronous():
        return use()

    @shop.aio.on_cleanup
    def dispose():
        engine.dispose()

    client = await serve(shop.app)
    assert await (await client.get(f"/{kind}")).json() == ["pen"]
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_rows_are_fetched_while_they_are_streamed(shop, client):
    """A server-side cursor lives as long as the stream: in a generator and an async generator."""
    app, db, Item = shop.app, shop.db, shop.Item
    names = [f"{number:04}" for number in range(250)]

    @app.post("/")
    async def fill():
        db.session.add_all([Item(name=name) for name in names])
        db.session.commit()
        return ""

    def pages():
        return db.session.scalars(select(Item).order_by(Item.name).execution_options(yield_per=100))

    @app.get("/generator")
    async def generator():
        return ((item.name + " ") for item in pages())

    @app.get("/async-generator")
    async def async_generator():
        for item in pages():
            yield item.name + " "
            await asyncio.sleep(0)

    @app.get("/synchronous")
    def synchronous():
        def rows():
            # Flask ends the context of a synchronous view, and the session with it, when the view
            # returns: the stream needs one of its own.
            with app.app_context():
                for item in pages():
                    yield item.name + " "

        return rows()

    await client.post("/")
    for path in ("/generator", "/async-generator", "/synchronous"):
        assert (await (await client.get(path)).text()).split() == names
    assert shop.checked_out == 0


async def test_lazy_loading_in_an_attribute(shop, client):
    """An attribute that was expired by a commit is loaded when it is looked at."""
    app, db, Item = shop.app, shop.db, shop.Item

    @app.get("/")
    async def view():
        item = Item(name="pen")
        db.session.add(item)
        db.session.commit()
        assert "name" in inspect(item).unloaded
        return item.name

    assert await (await client.get("/")).text() == "pen"
