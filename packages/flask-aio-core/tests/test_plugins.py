"""The plugin point, without any of the packages that use it."""

from __future__ import annotations

import asyncio
import sys

import pytest
from aiohttp import web
from flask import Response, request
from werkzeug.debug import DebuggedApplication

from flask_aio_core import AioHTTP, await_
from flask_aio_core.plugins import RESPONSE_KEY, installed_plugins


async def take_over(text=b"taken over"):
    """Answer the current request past WSGI."""
    response = web.StreamResponse(status=203)
    await response.prepare(request.environ["aiohttp.request"])
    request.environ[RESPONSE_KEY] = response
    await response.write(text)


def test_a_plugin_is_called_once_with_the_app_and_its_hooks(app):
    """It is called when the extension is initialised, with lists it can add to."""
    calls = []
    AioHTTP(app, plugins=[lambda *arguments: calls.append(arguments)])

    [(given, hooks)] = calls
    assert given is app
    assert (hooks.on_request, hooks.on_shutdown) == ([], [])


def test_plugins_are_kept_for_init_app(app):
    """A factory's extension has them too, in their order; any iterable will do."""
    calls = []

    def plugin(number):
        return lambda app, hooks: calls.append(number)

    aio = AioHTTP(plugins=(plugin(number) for number in range(3)))
    assert calls == []
    aio.init_app(app)

    assert calls == [0, 1, 2]


def test_an_installed_package_is_found_by_its_entry_point(app, tmp_path, monkeypatch):
    """A package that only lies on the path and announces a plugin takes part."""
    (tmp_path / "my_plugin.py").write_text("calls = []\ndef install(*given): calls.append(given)\n")
    info = tmp_path / "my_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[flask_aio_core.plugins]\nmine = my_plugin:install\n")
    monkeypatch.syspath_prepend(tmp_path)

    AioHTTP(app)
    module = sys.modules.pop("my_plugin")
    assert [given[0] for given in module.calls] == [app]


def test_given_plugins_take_the_place_of_installed_ones(app, monkeypatch):
    """An empty list means none."""

    def unexpected():
        raise AssertionError

    monkeypatch.setattr("flask_aio_core.extension.installed_plugins", unexpected)
    AioHTTP(app, plugins=[])
    assert isinstance(installed_plugins(), list)


async def test_on_request_adds_to_the_environ_on_the_event_loop(app, serve):
    """It runs before the app, with aiohttp's request, for views of both kinds."""

    def plugin(_, hooks):
        def hook(request, environ):
            asyncio.get_running_loop()
            environ["my.path"] = request.path

        hooks.on_request.append(hook)

    AioHTTP(app, plugins=[plugin])
    app.add_url_rule("/sync", "sync", lambda: request.environ["my.path"])

    @app.route("/async")
    async def coroutine():
        return request.environ["my.path"]

    client = await serve(app)
    for path in ("/sync", "/async"):
        async with client.get(path) as response:
            assert await response.text() == path


async def test_on_shutdown_is_awaited_before_requests_are_waited_for(app, serve):
    """So it can end what would otherwise run on."""
    gate = asyncio.Event()
    begun = asyncio.Event()
    events = []

    async def stop():
        await asyncio.sleep(0)
        events.append("shutdown")
        gate.set()

    AioHTTP(app, plugins=[lambda _, hooks: hooks.on_shutdown.append(stop)])

    @app.route("/")
    async def view():
        begun.set()
        await gate.wait()
        events.append("view")
        return "whole"

    client = await serve(app)
    answer = asyncio.create_task(client.get("/"))
    await begun.wait()
    assert events == []
    await client.server.close()
    assert events == ["shutdown", "view"]
    async with await answer as response:
        assert await response.text() == "whole"


@pytest.mark.parametrize("kind", ["coroutine", "synchronous"])
@pytest.mark.parametrize("debugged", [True, False])
async def test_a_view_may_take_over_the_connection(app, aio, serve, kind, debugged):
    """Its prepared response is the only one; what it returns is closed unread."""
    if debugged:  # It calls the app only when its iterable is read.
        app.wsgi_app = DebuggedApplication(app.wsgi_app)
    closed = []

    def returned():
        response = Response("unread", 500)
        response.call_on_close(lambda: closed.append(True))
        return response

    @app.route("/coroutine")
    async def coroutine():
        await take_over()
        return returned()

    @app.route("/synchronous")
    def synchronous():
        await_(take_over())
        return returned()

    client = await serve(app)
    for _ in range(2):
        async with client.get(f"/{kind}") as response:
            assert (response.status, await response.read()) == (203, b"taken over")
    await client.close()
    assert closed == [True, True]


async def test_an_error_after_taking_over_is_not_sent(app, aio, serve, caplog):
    """It is logged; the response that was begun stays the only one."""

    @app.route("/")
    async def view():
        await take_over()
        raise ZeroDivisionError

    client = await serve(app)
    async with client.get("/") as response:
        assert (response.status, await response.read()) == (203, b"taken over")
    assert [one for one in caplog.records if one.exc_info]


async def test_a_426_keeps_its_upgrade_header(app, aio, serve):
    """Only there the application has to name the protocol; elsewhere it is the server's."""

    @app.route("/<int:status>")
    async def view(status):
        return "", status, {"Upgrade": "websocket"}

    client = await serve(app)
    async with client.get("/426") as response:
        assert response.status == 426
        assert response.headers["Upgrade"] == "websocket"
        assert response.headers["Connection"].lower() == "upgrade"
    async with client.get("/400") as response:
        assert "Upgrade" not in response.headers
