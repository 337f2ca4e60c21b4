"""Fixtures: the databases, and a Flask-SQLAlchemy app on each of the asyncio drivers."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from aiohttp import TCPConnector
from aiohttp.test_utils import TestClient, TestServer
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flask_aio_core import AioHTTP


def _load(name: str) -> ModuleType:
    # pytest puts no folder on sys.path in its mode "importlib".
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


postgresql = _load("postgresql")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A running PostgreSQL: one for each process of the tests."""
    folder = postgresql.binaries()
    if folder is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with postgresql.run_cluster(folder) as cluster:
        yield cluster


@pytest.fixture
def database(cluster: Any) -> Any:
    """An empty PostgreSQL database."""
    return cluster.create_database()


@pytest.fixture(params=["asyncpg", "psycopg_async"])
def postgresql_url(request: pytest.FixtureRequest, database: Any) -> str:
    """The URL of that database for each asyncio driver."""
    return str(database.url(request.param))


@pytest.fixture(params=["sqlite+aiosqlite", "postgresql+asyncpg", "postgresql+psycopg_async"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database for each asyncio driver."""
    kind, _, driver = request.param.rpartition("+")
    if kind == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/shop.db"
    return str(request.getfixturevalue("database").url(driver))


class Shop:
    """A Flask-SQLAlchemy app as its author would have written it for a blocking driver."""

    def __init__(self, url: str, **engine_options: Any) -> None:
        if url.startswith("sqlite"):
            # Only one writer at a time: the others wait, on a busy machine for long.
            engine_options.setdefault("connect_args", {"timeout": 60})
        self.app = app = Flask("shop")
        app.config["SQLALCHEMY_DATABASE_URI"] = url
        app.config["SQLALCHEMY_ENGINE_OPTIONS"] = engine_options
        self.db: Any = SQLAlchemy(app, model_class=type("Base", (DeclarativeBase,), {}))
        self.aio = AioHTTP(app)

        class Item(self.db.Model):  # type: ignore[misc, name-defined]
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str] = mapped_column(unique=True)

        self.Item = Item

        @self.aio.cleanup_ctx
        async def tables():
            self.db.create_all()
            yield
            self.db.engine.dispose()

    @property
    def checked_out(self) -> int:
        """How many connections of the pool are in use."""
        with self.app.app_context():
            return int(self.db.engine.pool.checkedout())


@pytest.fixture
def make_shop() -> Callable[..., Shop]:
    """Make the app for a URL; further options are the engine's."""
    return Shop


class PlainServer(TestServer):
    """Serves as aiohttp does by default: its test server cancels handlers whose client leaves."""

    async def _make_runner(self, **kwargs):
        kwargs.update(handler_cancellation=False, shutdown_timeout=0.2)
        return await super()._make_runner(**kwargs)


async def connect(app: Flask) -> TestClient[Any, Any]:
    """Start a server for an app; return an aiohttp client for it, of any number of connections."""
    client = TestClient(
        PlainServer(app.aiohttp_app),  # type: ignore[attr-defined]
        connector=TCPConnector(limit=0),
    )
    await client.start_server()
    return client


@pytest.fixture(name="connect")
def connect_fixture() -> Callable[[Flask], Awaitable[TestClient[Any, Any]]]:
    """Start a server on the running loop; whoever calls this closes its client."""
    return connect


@pytest.fixture
async def serve():
    """Start a server for an app; return an aiohttp client for it. Both end with the test."""
    clients: list[TestClient[Any, Any]] = []

    async def start(app: Flask) -> TestClient[Any, Any]:
        clients.append(await connect(app))
        return clients[-1]

    yield start
    for client in reversed(clients):
        await client.close()
