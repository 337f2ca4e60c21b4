"""Coroutine functions that are called without Flask's ``ensure_sync``."""

from __future__ import annotations

import asyncio
import inspect

import pytest
from aiohttp.test_utils import TestClient, TestServer
from flask import Flask
from flask.views import MethodView

from flask_aio_core import AioHTTP


class Resource(MethodView):
    """Calls its methods itself, and changes what they return."""

    def dispatch_request(self, **arguments):
        method = getattr(self, self.choose())
        return {"data": method(**arguments)}

    def choose(self):
        return "get"


class Note(Resource):
    async def get(self, text):
        """Read a note."""
        await asyncio.sleep(0)
        return text


class OwnCoroutine(MethodView):
    async def dispatch_request(self):  # type: ignore[override] # Flask takes it.
        return {"data": await self.get()}

    async def get(self):
        return "own"


@pytest.fixture
def app():
    app = Flask(__name__)
    AioHTTP(app)
    app.add_url_rule("/notes/<text>", view_func=Note.as_view("note"))
    app.add_url_rule("/own", view_func=OwnCoroutine.as_view("own"))
    return app


@pytest.mark.parametrize(("path", "data"), [("/notes/milk", "milk"), ("/own", "own")])
async def test_a_method_that_its_class_calls_itself_is_waited_for(app, path, data):
    async with TestClient(TestServer(app.aiohttp_app)) as client:
        for _ in range(2):
            async with client.get(path) as response:
                assert await response.json() == {"data": data}


def test_the_test_client_waits_as_well(app):
    assert app.test_client().get("/notes/milk").json == {"data": "milk"}


def test_the_users_own_class_is_not_changed(app):
    app.test_client().get("/notes/milk")
    assert inspect.iscoroutinefunction(Note.get)
    assert app.view_functions["note"].view_class.get.__doc__ == "Read a note."
    assert asyncio.run(Note().get("milk")) == "milk"


def test_ensure_sync_keeps_the_name(app):
    """As a decorator it would otherwise give all views one endpoint."""

    @app.get("/one")
    @app.ensure_sync
    async def one():
        """The first."""
        return "one"

    @app.get("/two")
    @app.ensure_sync
    async def two():
        return "two"

    assert (one.__name__, one.__doc__, one.__module__) == ("one", "The first.", __name__)
    assert app.test_client().get("/two").text == "two"


def test_ensure_sync_takes_an_object_without_a_name(app):
    class Call:
        async def __call__(self):
            return "called"

    assert app.async_to_sync(Call())() == "called"
