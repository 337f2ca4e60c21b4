"""Flask-Login."""

import asyncio
import re

import pytest

EXTENSION = "Flask-Login"
APP = "login"


@pytest.fixture(scope="module")
def environment():
    return {"FLASK_AIO_WATCHDOG": "true", "FLASK_AIO_SLOW_CALLBACK": "0.2"}


@pytest.mark.covers("synchronous view", "coroutine view", "stream")
@pytest.mark.parametrize("login", ["/login", "/login-coroutine"])
@pytest.mark.parametrize(
    ("path", "shown"),
    [("/synchronous", "ada"), ("/coroutine", "ada ada"), ("/stream", "ada\nada\nada\n")],
)
async def test_only_a_user_may_see(client, login, path, shown):
    assert (await client.get(path)).status == 401
    assert (await client.post(login, data={"name": "ada"})).status == 200
    reply = await client.get(path)
    assert (reply.status, reply.text) == (200, shown)


@pytest.mark.covers("WebSocket")
async def test_the_handshake_needs_a_user(client):
    assert await client.refusal("/socket") == 401
    await client.post("/login", data={"name": "ada"})
    assert await client.talk("/socket", "hello") == ["ada: hello"]


@pytest.mark.covers("users of concurrent requests kept apart")
async def test_each_request_has_its_own_user(new_client):
    async def visit(name):
        client = new_client()
        await client.post("/login", data={"name": name})
        seen = await asyncio.gather(*(client.get("/coroutine") for _ in range(4)))
        assert {reply.text for reply in seen} == {f"{name} {name}"}

    await asyncio.gather(*(visit(f"user{number}") for number in range(25)))


@pytest.mark.covers("remember-me cookie")
@pytest.mark.parametrize("login", ["/login", "/login-coroutine"])
async def test_the_user_is_remembered_without_a_session(client, login):
    await client.post(login, data={"name": "ada", "remember": "yes"})
    client.session.cookie_jar.clear(lambda cookie: cookie.key == "session")
    assert (await client.get("/coroutine")).text == "ada ada"


@pytest.mark.covers("async def request_loader")
@pytest.mark.parametrize(("path", "shown"), [("/synchronous", "ada"), ("/coroutine", "ada ada")])
async def test_a_loader_may_be_a_coroutine_function(client, path, shown):
    assert (await client.get(path, headers={"X-Token": "token of ada"})).text == shown
    assert (await client.get(path, headers={"X-Token": "forged"})).status == 401


@pytest.mark.covers("blocking user_loader named by the watchdog")
async def test_a_loader_that_blocks_is_named(client, server):
    await client.post("/login", data={"name": "slow"})
    assert (await client.get("/coroutine")).text == "slow slow"
    await asyncio.to_thread(server.wait_for, re.compile(r"blocked for .* by 'load_user'"))
