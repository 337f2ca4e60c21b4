"""What the database refuses reaches the view as SQLAlchemy's own exceptions."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import exc, select, update


@pytest.mark.parametrize("kind", ["coroutine", "synchronous"])
async def test_violated_constraint(make_shop, serve, database_url, kind):
    """A second row of the same name is an IntegrityError; after a rollback the view goes on."""
    shop = make_shop(database_url)
    app, db, Item = shop.app, shop.db, shop.Item

    def add_twice():
        db.session.add(Item(name="pen"))
        db.session.commit()
        db.session.add(Item(name="pen"))
        with pytest.raises(exc.IntegrityError):
            db.session.commit()
        db.session.rollback()
        return [item.name for item in db.session.scalars(select(Item))]

    @app.get("/coroutine")
    async def coroutine():
        return add_twice()

    @app.get("/synchronous")
    def synchronous():
        return add_twice()

    client = await serve(app)
    assert await (await client.get(f"/{kind}")).json() == ["pen"]
    assert shop.checked_out == 0


async def test_error_handler_of_the_app(make_shop, serve, database_url):
    """An unhandled database error goes to Flask's error handlers, and teardown rolls back."""
    shop = make_shop(database_url)
    app, db, Item = shop.app, shop.db, shop.Item

    @app.post("/")
    async def add():
        db.session.add(Item(name="pen"))
        db.session.commit()
        return "added"

    @app.errorhandler(exc.IntegrityError)
    def conflict(error):
        return "taken", 409

    client = await serve(app)
    assert (await client.post("/")).status == 200
    for _ in range(10):
        answer = await client.post("/")
        assert (answer.status, await answer.text()) == (409, "taken")
    assert shop.checked_out == 0


def sqlstate(error: exc.DBAPIError) -> str:
    """Return PostgreSQL's code of an error, which each driver has under the same name."""
    return str(error.orig.sqlstate)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("level", "state"), [("READ COMMITTED", "40P01"), ("REPEATABLE READ", "40001")]
)
async def test_deadlock_and_serialization_failure(make_shop, serve, postgresql_url, level, state):
    """Two requests in each other's way: one gets the error that tells it to try again."""
    shop = make_shop(postgresql_url, isolation_level=level)
    app, db, Item = shop.app, shop.db, shop.Item
    met = asyncio.Barrier(2)

    @app.post("/")
    async def fill():
        db.session.add_all([Item(id=1, name="pen"), Item(id=2, name="cup")])
        db.session.commit()
        return ""

    def touch(number):
        statement = update(Item).where(Item.id == number).values(name=Item.name + "!")
        db.session.execute(statement)

    @app.get("/<int:first>/<int:second>")
    async def view(first, second):
        try:
            if level == "READ COMMITTED":
                touch(first)
                await met.wait()
                touch(second)
            else:
                db.session.scalar(select(Item.name).where(Item.id == 1))
                await met.wait()
                touch(1)
            db.session.commit()
        except exc.DBAPIError as error:
            db.session.rollback()
            return {"state": sqlstate(error)}
        return {"state": "done"}

    client = await serve(app)
    await client.post("/")
    answers = await asyncio.gather(client.get("/1/2"), client.get("/2/1"))
    assert sorted([(await answer.json())["state"] for answer in answers]) == [state, "done"]
    assert shop.checked_out == 0


@pytest.mark.parametrize("kind", ["coroutine", "synchronous"])
async def test_connection_that_the_database_has_ended(
    make_shop, serve, database, postgresql_url, kind
):
    """pool_pre_ping replaces a connection that a restart of the database has cut."""
    shop = make_shop(postgresql_url, pool_size=1, max_overflow=0, pool_pre_ping=True)

    @shop.app.get("/coroutine")
    async def coroutine():
        return {"answer": shop.db.session.scalar(select(1))}

    @shop.app.get("/synchronous")
    def synchronous():
        return {"answer": shop.db.session.scalar(select(1))}

    client = await serve(shop.app)
    assert await (await client.get(f"/{kind}")).json() == {"answer": 1}
    with database.connect() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert await (await client.get(f"/{kind}")).json() == {"answer": 1}
