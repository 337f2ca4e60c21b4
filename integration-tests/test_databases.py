"""An unmodified Flask-SQLAlchemy app on an asyncio driver: only its URL says so."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from flask import Flask, g, render_template_string
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import event, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flask_aio_core import AioHTTP, await_


@pytest.fixture
def database(tmp_path: Path):
    """A shop with two tables, as its author would have written it for psycopg or sqlite3."""
    app = Flask("shop")
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite+aiosqlite:///{tmp_path}/shop.db"
    db: Any = SQLAlchemy(app, model_class=type("Base", (DeclarativeBase,), {}))

    class Item(db.Model):  # type: ignore[misc]
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

    db.Item = Item
    aio = AioHTTP(app)

    @aio.cleanup_ctx
    async def tables():
        db.create_all()
        yield
        db.engine.dispose()

    return app, db


@pytest.fixture
async def client(database):
    app, _ = database
    async with TestClient(TestServer(app.aiohttp_app)) as client:
        yield client


async def test_coroutine_view_queries_and_commits(database, client):
    """The blocking API of Flask-SQLAlchemy reads and writes in a coroutine view."""
    app, db = database

    @app.post("/items/<name>")
    async def add(name):
        db.session.add(db.Item(name=name))
        db.session.commit()
        await asyncio.sleep(0)
        return {"names": [item.name for item in db.session.execute(select(db.Item)).scalars()]}

    await client.post("/items/pen")
    answer = await client.post("/items/cup")

    assert await answer.json() == {"names": ["pen", "cup"]}


async def test_synchronous_view_uses_the_same_engine(database, client):
    """What a coroutine view has written, a synchronous view reads, in its thread."""
    app, db = database
    threads = set()

    @app.post("/items")
    async def add():
        threads.add(threading.current_thread())
        db.session.add(db.Item(name="pen"))
        db.session.commit()
        return ""

    @app.get("/items")
    def show():
        threads.add(threading.current_thread())
        return [item.name for item in db.session.scalars(select(db.Item))]

    await client.post("/items")
    answer = await client.get("/items")

    assert await answer.json() == ["pen"]
    assert len(threads) == 2


async def test_query_suspends_instead_of_blocking_the_loop(database, client):
    """While one request's query runs, the loop serves another: the first waits for the second."""
    app, db = database
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

    first = asyncio.create_task(client.get("/slow"))
    await asked.wait()
    assert (await client.get("/fast")).status == 200

    assert await (await first).json() == {"answer": 1}


async def test_hooks_and_teardown_use_the_session(database, client):
    """A synchronous and an async hook query; teardown gives the connection back."""
    app, db = database

    @app.before_request
    def count() -> None:
        g.count = db.session.scalar(select(func.count()).select_from(db.Item))

    @app.before_request
    async def count_again() -> None:
        await asyncio.sleep(0)
        g.again = db.session.scalar(select(func.count()).select_from(db.Item))

    @app.get("/coroutine")
    async def coroutine():
        return [g.count, g.again]

    @app.get("/synchronous")
    def synchronous():
        return [g.count, g.again]

    for path in ("/coroutine", "/synchronous"):
        answer = await client.get(path)
        assert await answer.json() == [0, 0]
    with app.app_context():
        assert db.engine.pool.checkedout() == 0


async def test_query_while_a_template_is_rendered(database, client):
    """A template that runs a query, as lazy loading does, waits like any other code."""
    app, db = database

    @app.get("/")
    async def page():
        db.session.add(db.Item(name="pen"))
        db.session.commit()
        return render_template_string(
            "{% for item in items() %}{{ item.name }}{% endfor %}",
            items=lambda: db.session.scalars(select(db.Item)),
        )

    assert await (await client.get("/")).text() == "pen"


async def test_hundred_requests_at_once_keep_their_sessions_apart(database, client):
    """Each of a hundred interleaved coroutine requests sees its own session and its own rows."""
    app, db = database

    @app.post("/items/<int:number>")
    async def add(number):
        session = db.session()
        item = db.Item(name=str(number))
        db.session.add(item)
        await asyncio.sleep(0)
        db.session.commit()
        await asyncio.sleep(0)
        assert db.session() is session
        return {"name": db.session.get(db.Item, item.id).name}

    answers = await asyncio.gather(*(client.post(f"/items/{number}") for number in range(100)))

    assert [(await answer.json())["name"] for answer in answers] == [str(n) for n in range(100)]


async def test_stream_of_a_coroutine_view_queries(database, client):
    """A streamed response reads from the database between its chunks."""
    app, db = database

    @app.get("/")
    async def export():
        db.session.add_all([db.Item(name="pen"), db.Item(name="cup")])
        db.session.commit()

        def rows():
            for item in db.session.scalars(select(db.Item)):
                yield item.name + "\n"

        return rows()

    assert await (await client.get("/")).text() == "pen\ncup\n"


async def test_client_that_goes_away_gives_the_connection_back(database, client):
    """A cancelled stream in the middle of a transaction leaves no connection checked out."""
    app, db = database
    ended = asyncio.Event()

    @app.get("/")
    async def export():
        async def rows():
            try:
                db.session.execute(select(db.Item))
                yield "first\n"
                await asyncio.Event().wait()
            finally:
                ended.set()

        return rows()

    answer = await client.get("/")
    assert await answer.content.readline() == b"first\n"
    answer.close()
    await ended.wait()

    with app.app_context():
        while db.engine.pool.checkedout():  # noqa: ASYNC110 -- teardown follows the stream's end
            await asyncio.sleep(0.005)


def test_test_client_runs_queries_of_both_kinds_of_views(database):
    """Under Flask's own test client the same app needs no server."""
    app, db = database

    @app.get("/coroutine")
    async def coroutine():
        return [item.name for item in db.session.scalars(select(db.Item))]

    @app.get("/synchronous")
    def synchronous():
        return [item.name for item in db.session.scalars(select(db.Item))]

    client = app.test_client()
    try:
        assert client.get("/coroutine").json == []
        assert client.get("/synchronous").json == []
    finally:
        with app.app_context():
            app.extensions["flask_aio_core"].stop_private()


async def test_await_runs_a_query_of_sqlalchemys_own_asyncio_api(database, client):
    """SQLAlchemy's AsyncSession works beside the blocking API, also through await_."""
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

    app, db = database

    async def count() -> int:
        async with AsyncSession(AsyncEngine(db.engine)) as session:
            return await session.scalar(select(func.count()).select_from(db.Item)) or 0

    @app.get("/coroutine")
    async def coroutine():
        return {"count": await count()}

    @app.get("/synchronous")
    def synchronous():
        return {"count": await_(count())}

    for path in ("/coroutine", "/synchronous"):
        assert await (await client.get(path)).json() == {"count": 0}
