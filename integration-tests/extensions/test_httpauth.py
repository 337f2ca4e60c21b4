"""Flask-HTTPAuth."""

import asyncio
import hashlib
import re

import aiohttp
import pytest

EXTENSION = "Flask-HTTPAuth"
APP = "httpauth"


def basic(name, password=None):
    password = password or f"password of {name}"
    return {"Authorization": aiohttp.encode_basic_auth(name, password)}


def bearer(name):
    return {"Authorization": f"Bearer token-of-{name}"}


@pytest.mark.covers("synchronous view", "coroutine view", "stream")
@pytest.mark.parametrize(
    ("path", "shown"),
    [("/synchronous", "ada"), ("/coroutine", "ada ada"), ("/stream", "ada\nada\n")],
)
async def test_the_password_is_needed(client, path, shown):
    assert (await client.get(path)).status == 401
    assert (await client.get(path, headers=basic("ada", "wrong"))).status == 401
    reply = await client.get(path, headers=basic("ada"))
    assert (reply.status, reply.text) == (200, shown)


@pytest.mark.covers("async def callbacks: password and roles")
async def test_roles_come_from_a_coroutine_function(client):
    assert (await client.get("/roles", headers=basic("ada"))).status == 403
    assert (await client.get("/roles", headers=basic("root"))).text == "root"


@pytest.mark.covers("several schemes in one")
async def test_either_scheme_will_do(client):
    assert (await client.get("/coroutine", headers=bearer("ada"))).text == "ada ada"


def md5(*parts):
    return hashlib.md5(":".join(parts).encode()).hexdigest()


@pytest.mark.covers("digest authentication")
async def test_digest(client):
    """The nonce is kept in the session (RFC 7616, section 3.4.1)."""
    refused = await client.get("/digest")
    assert refused.status == 401
    given = dict(re.findall(r'(\w+)="([^"]*)"', refused.headers["WWW-Authenticate"]))
    secret = md5("ada", given["realm"], "password of ada")
    response = md5(secret, given["nonce"], "00000001", "mine", "auth", md5("GET", "/digest"))
    answer = {
        **{name: given[name] for name in ("realm", "nonce", "opaque")},
        **{"username": "ada", "uri": "/digest", "cnonce": "mine", "response": response},
    }
    quoted = ", ".join(f'{name}="{value}"' for name, value in answer.items())
    headers = {"Authorization": f"Digest {quoted}, qop=auth, nc=00000001"}
    assert (await client.get("/digest", headers=headers)).text == "ada"


@pytest.mark.covers("users of concurrent requests kept apart")
async def test_each_request_has_its_own_user(client):
    async def visit(name):
        assert (await client.get("/coroutine", headers=basic(name))).text == f"{name} {name}"

    await asyncio.gather(*(visit(f"user{number}") for number in range(25)))


@pytest.mark.covers("WebSocket")
async def test_the_handshake_needs_a_token(client):
    assert await client.refusal("/socket") == 401
    assert await client.talk("/socket", "hello", headers=bearer("ada")) == ["ada: hello"]
