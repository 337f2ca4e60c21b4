"""Flask-Talisman."""

import pytest

EXTENSION = "Flask-Talisman"
APP = "talisman"
SECURE = {"X-Forwarded-Proto": "https"}


@pytest.mark.covers("synchronous view", "coroutine view", "stream", "redirect to https")
@pytest.mark.parametrize(
    ("path", "shown"), [("/synchronous", "ok"), ("/coroutine", "ok"), ("/stream", "ok\nok\n")]
)
async def test_pages_are_https_only(client, path, shown):
    redirect = await client.get(path)
    assert redirect.status == 302
    assert redirect.headers["Location"].startswith("https://")
    reply = await client.get(path, headers=SECURE)
    assert (reply.status, reply.text) == (200, shown)
    assert "connect-src 'self' wss:" in reply.headers["Content-Security-Policy"]
    assert "Strict-Transport-Security" in reply.headers
    assert reply.headers["X-Frame-Options"] == "SAMEORIGIN"


@pytest.mark.covers("options of one coroutine view")
async def test_a_view_has_options_of_its_own(client):
    reply = await client.get("/embedded")
    assert (reply.status, reply.headers["X-Frame-Options"]) == (200, "ALLOW-FROM *")


@pytest.mark.covers("WebSocket")
async def test_a_handshake_is_https_only_too(client):
    handshake = {
        **{"Connection": "Upgrade", "Upgrade": "websocket"},
        **{"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="},
    }
    redirect = await client.get("/socket", headers=handshake)
    assert redirect.status == 302
    assert redirect.headers["Location"].startswith("https://")
    assert await client.talk("/socket", "hello", headers=SECURE) == ["hello"]
    assert await client.talk("/plain-socket", "hello") == ["hello"]
