"""Flask-JWT-Extended."""

import asyncio

import pytest

EXTENSION = "Flask-JWT-Extended"
APP = "jwt"


@pytest.fixture
async def bearer(client):
    return await log_in(client, "ada")


async def log_in(client, name):
    token = (await client.post("/login", data={"name": name})).text
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.covers("synchronous view", "coroutine view", "stream")
@pytest.mark.parametrize(
    ("path", "shown"),
    [("/synchronous", "ada Ada"), ("/coroutine", "ada Ada"), ("/stream", "ada\nada\n")],
)
async def test_a_token_is_needed(client, bearer, path, shown):
    assert (await client.get(path)).status == 401
    reply = await client.get(path, headers=bearer)
    assert (reply.status, reply.text) == (200, shown)


@pytest.mark.covers("async def callbacks: blocklist and user lookup")
@pytest.mark.parametrize("path", ["/synchronous", "/coroutine"])
async def test_a_revoked_token_is_refused(client, bearer, path):
    """A blocklist callback whose coroutine nobody awaits would refuse every token."""
    assert (await client.get(path, headers=bearer)).status == 200
    assert (await client.post("/logout", headers=bearer)).status == 200
    assert (await client.get(path, headers=bearer)).status == 401


@pytest.mark.covers("WebSocket")
async def test_the_handshake_needs_a_token(client, bearer):
    assert await client.refusal("/socket") == 401
    assert await client.talk("/socket", "hello", headers=bearer) == ["ada: hello"]


@pytest.mark.covers("identities of concurrent requests kept apart")
async def test_each_request_has_its_own_identity(client):
    async def visit(name):
        bearer = await log_in(client, name)
        assert (await client.get("/coroutine", headers=bearer)).text == f"{name} {name.title()}"

    await asyncio.gather(*(visit(f"user{number}") for number in range(25)))
