"""Which pages may open a WebSocket: the defence against cross-site WebSocket hijacking."""

from __future__ import annotations

from typing import Any

import pytest
from werkzeug.middleware.proxy_fix import ProxyFix

from flask_aio_ws import websocket, ws

pytestmark = pytest.mark.usefixtures("aio")

HOST = "shop.example"


@pytest.fixture
async def status(app, serve, raw):
    """Return the status that a handshake gets, and whether the view was reached."""
    reached: list[bool] = []
    servers: list[Any] = []

    async def handshake(origin, *, host=HOST, headers=None, path="/"):
        if not servers:
            servers.append(await serve(app))
        one = await raw(servers[0], path, {"Host": host, "Origin": origin, **(headers or {})})
        if one.status == 101:
            await one.close_code()
            reached.clear()
        assert reached == []
        return one.status

    @app.route("/")
    @websocket
    async def view():
        reached.append(ws.closed)

    @app.route("/synchronous")
    @websocket
    def synchronous():
        reached.append(ws.connected)

    return handshake


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://evil.example:80",
        f"https://{HOST}.evil.example",
        f"https://evil-{HOST}",
        f"https://sub.{HOST}",
        f"https://{HOST}@evil.example",
        f"http://{HOST}:8080",
        f"http://{HOST}:443",
        "null",
        "",
        HOST,
    ],
)
async def test_a_page_of_another_origin_is_refused_before_the_upgrade(status, origin):
    """It gets 403 as plain HTTP, and the view is not reached."""
    assert await status(origin) == 403


async def test_a_page_of_another_origin_is_refused_by_a_synchronous_view(status):
    """The check is the same on both sides."""
    assert await status("https://evil.example", path="/synchronous") == 403
    assert await status(f"https://{HOST}", path="/synchronous") == 101


async def test_a_malformed_origin_is_refused(status):
    """What cannot be parsed is no server error."""
    assert await status("http://[evil") == 403


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (f"http://{HOST}", HOST),
        (f"https://{HOST}", HOST),
        (f"HTTPS://{HOST.upper()}", HOST),
        (f"https://{HOST}", HOST.upper()),
        (f"http://{HOST}:80", HOST),
        (f"https://{HOST}:443", HOST),
        (f"http://{HOST}", f"{HOST}:80"),
        (f"https://{HOST}", f"{HOST}:443"),
        (f"http://{HOST}:8080", f"{HOST}:8080"),
        ("http://127.0.0.1:5000", "127.0.0.1:5000"),
        ("http://[::1]:5000", "[::1]:5000"),
    ],
)
async def test_a_page_of_the_same_origin_may_connect(status, origin, host):
    """Case and default ports make no difference."""
    assert await status(origin, host=host) == 101


async def test_a_client_without_an_origin_may_connect(status):
    """It is not a browser, so nobody's cookies are abused."""
    assert await status(None) == 101


@pytest.mark.parametrize(
    "allowed",
    [
        ["https://partner.example"],
        ("https://other.example", "https://PARTNER.example"),
        {"https://partner.example/"},
        "https://partner.example",
        "*",
        ["*"],
    ],
)
async def test_a_listed_origin_may_connect(app, status, allowed):
    """The configuration names origins, or lets every page in."""
    app.config["AIO_WS_ORIGINS"] = allowed
    assert await status("https://partner.example") == 101
    assert await status("HTTPS://Partner.Example") == 101


async def test_an_origin_beside_the_list_is_refused(app, status):
    """The list adds to our own origin: scheme and port of a listed one count."""
    app.config["AIO_WS_ORIGINS"] = ["https://partner.example"]
    assert await status("https://evil.example") == 403
    assert await status("http://partner.example") == 403
    assert await status("https://partner.example:8443") == 403
    assert await status("https://partner") == 403
    assert await status(f"https://{HOST}") == 101


async def test_null_may_connect_if_all_may(app, status):
    """A sandboxed frame is let in by the asterisk."""
    app.config["AIO_WS_ORIGINS"] = "*"
    assert await status("null") == 101


async def test_the_parameter_of_the_decorator_takes_precedence(app, status):
    """One view may be public, another closed, whatever the configuration says."""
    app.config["AIO_WS_ORIGINS"] = ["https://partner.example"]

    @app.route("/public")
    @websocket(origins="*")
    async def public():
        pass

    @app.route("/closed")
    @websocket(origins=())
    async def closed():
        pass

    assert await status("https://evil.example", path="/public") == 101
    assert await status("https://partner.example", path="/closed") == 403


async def test_an_errorhandler_answers_a_refused_origin(app, serve, refusal):
    """The refusal is an ordinary 403 of Flask."""
    app.register_error_handler(403, lambda error: ("go away", 410))

    @app.route("/")
    @websocket
    async def view():
        pass

    client = await serve(app)
    refused = await refusal(client, "/", origin="https://evil.example")
    assert refused.status == 410


async def test_the_forwarded_host_counts_behind_a_proxy(app, status):
    """With ProxyFix the origin is compared with the host that the browser has asked for."""
    app.wsgi_app = ProxyFix(app.wsgi_app, x_host=1, x_proto=1)
    forwarded = {"X-Forwarded-Host": "public.example", "X-Forwarded-Proto": "https"}

    assert await status("https://public.example", headers=forwarded) == 101
    assert await status(f"https://{HOST}", headers=forwarded) == 403


async def test_the_forwarded_host_does_not_count_without_proxyfix(status):
    """Otherwise anybody could name it."""
    forwarded = {"X-Forwarded-Host": "evil.example"}
    assert await status("https://evil.example", headers=forwarded) == 403
