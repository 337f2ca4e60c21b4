"""How the package adds itself to the server of flask-aio-core."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest
from flask import Flask, request

from flask_aio_core import AioHTTP
from flask_aio_core.plugins import GROUP
from flask_aio_ws import websocket, ws
from flask_aio_ws.config import DEFAULTS
from flask_aio_ws.plugin import install


def test_the_package_announces_its_plugin():
    """Installing it is enough: flask-aio-core finds the entry point."""
    assert install in [one.load() for one in entry_points(group=GROUP)]


def test_the_plugin_sets_defaults_and_leaves_what_is_set(app):
    """Every AIO_WS_* key exists afterwards."""
    app.config["AIO_WS_HEARTBEAT"] = 3
    AioHTTP(app)

    assert {key: app.config[key] for key in DEFAULTS} == {**DEFAULTS, "AIO_WS_HEARTBEAT": 3}


async def test_the_plugin_may_be_given_by_hand(app, serve, dial):
    """As to a server that should not look for installed packages."""
    AioHTTP(app, plugins=[install])

    @app.route("/")
    @websocket
    async def view():
        await ws.send_str("hello")

    client = await serve(app)
    assert await (await dial(client, "/")).recv() == "hello"


@pytest.mark.parametrize("kind", ["coroutine", "synchronous"])
async def test_without_the_plugin_a_handshake_gets_the_failure_status(app, serve, refusal, kind):
    """There is no WebSocket then, in the environ or anywhere."""
    AioHTTP(app, plugins=[])

    @app.route("/coroutine", websocket=True)
    @websocket
    async def coroutine():
        raise AssertionError

    @app.route("/synchronous", websocket=True)
    @websocket
    def synchronous():
        raise AssertionError

    @app.route("/look", websocket=True)
    async def look():
        return "", 418 if "wsgi.websocket" not in request.environ else 500

    client = await serve(app)
    assert (await refusal(client, "/look")).status == 418
    assert (await refusal(client, f"/{kind}")).status == 400


async def test_a_rule_with_websocket_true_serves_plain_requests_too(app, serve):
    """Werkzeug answers 400 by itself; here the view decides."""
    AioHTTP(app)

    @app.route("/", websocket=True)
    async def view():
        return "plain"

    client = await serve(app)
    async with client.get("/") as response:
        assert (response.status, await response.text()) == (200, "plain")


async def test_matching_of_other_requests_is_as_before(app, serve):
    """404, 405 with Allow, and redirects are Werkzeug's."""
    AioHTTP(app)
    app.add_url_rule("/page/", "page", lambda: "page")

    client = await serve(app)
    async with client.get("/nothing") as response:
        assert response.status == 404
    async with client.post("/page/") as response:
        assert response.status == 405
        assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}
    async with client.get("/page", allow_redirects=False) as response:
        assert response.status == 308


async def test_two_apps_of_one_process_have_sockets_of_their_own(app, serve, dial):
    """The server of one may stop while clients of the other go on."""
    other = Flask("other")
    connections = []
    for one in (app, other):
        AioHTTP(one)

        @one.route("/")
        @websocket
        async def view():
            async for message in ws:
                await ws.send_str(message.data)

    clients = [await serve(app), await serve(other)]
    for client in clients:
        connections.append(await dial(client, "/"))
    await clients[0].close()
    await connections[0].wait_closed()
    assert connections[0].close_code == 1001

    await connections[1].send("hello")
    assert await connections[1].recv() == "hello"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("AIO_WS_CLOSE_TIMEOUT", -1),
        ("AIO_WS_HEARTBEAT", "25"),
        ("AIO_WS_MAX_MESSAGE_SIZE", 1.5),
        ("AIO_WS_RECEIVE_TIMEOUT", -1),
        ("AIO_WS_FAILURE_STATUS", 101),
        ("AIO_WS_MAX_SYNCHRONOUS", None),
    ],
)
async def test_a_number_that_makes_no_sense_is_refused_at_start(app, aio, serve, key, value):
    """The server does not start, and the error names the key and what it must be."""
    app.config[key] = value

    with pytest.raises(ValueError, match=rf"{key}.*must be a .*number"):
        await serve(app)
