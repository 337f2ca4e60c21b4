"""Flask-Session, on a real Redis."""

import asyncio
import re

import pytest
import redis

EXTENSION = "Flask-Session"
APP = "session"


@pytest.fixture(scope="module")
def environment(redis_url):
    watchdog = {"FLASK_AIO_WATCHDOG": "true", "FLASK_AIO_SLOW_CALLBACK": "0.2"}
    return {"REDIS_URL": redis_url, **watchdog}


@pytest.mark.covers("synchronous view", "coroutine view")
@pytest.mark.parametrize("path", ["set", "set-coroutine"])
async def test_a_session_lasts(client, path):
    assert (await client.post(f"/{path}/one")).json() == {"before": None}
    assert (await client.post(f"/{path}/two")).json() == {"before": "one"}


@pytest.mark.covers("sessions of concurrent requests kept apart")
async def test_sessions_are_not_mixed(new_client):
    async def visit(name):
        client = new_client()
        await client.post(f"/set-coroutine/{name}")
        assert (await client.post("/set-coroutine/other")).json() == {"before": name}

    await asyncio.gather(*(visit(f"user{number}") for number in range(25)))


@pytest.mark.covers("stream")
async def test_a_stream_reads_the_session(client):
    await client.post("/set/one")
    assert (await client.get("/stream")).text == "one\none\n"


@pytest.mark.covers("WebSocket")
async def test_a_socket_reads_the_session(client):
    await client.post("/set/one")
    assert await client.talk("/socket", "hello") == ["one: hello"]


@pytest.mark.covers("session changed before a handshake")
async def test_the_cookie_goes_out_with_the_handshake(client):
    """Later there is no response to put it in."""
    assert (await client.get("/sockets")).text == "0"
    await client.talk("/socket", "hello")
    await client.talk("/socket", "hello")
    assert (await client.get("/sockets")).text == "2"


@pytest.mark.covers("slow Redis named by the watchdog")
async def test_a_session_that_blocks_the_loop_is_named(client, server, redis_url):
    await client.post("/set/one")
    with redis.from_url(redis_url) as pausing:
        pausing.client_pause(1000)
    await client.post("/set-coroutine/two")
    named = re.compile(r"blocked for .* by '\w*SessionInterface\.\w+'.*flask_session")
    await asyncio.to_thread(server.wait_for, named)
