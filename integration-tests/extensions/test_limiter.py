"""Flask-Limiter, on a real Redis."""

import asyncio
from collections import Counter
from uuid import uuid4

import pytest

EXTENSION = "Flask-Limiter"
APP = "limiter"


@pytest.fixture(scope="module")
def environment(redis_url):
    return {"REDIS_URL": redis_url}


@pytest.fixture
def name():
    """A client that has not been counted yet."""
    return {"X-Client": uuid4().hex}


@pytest.mark.covers("synchronous view", "coroutine view", "stream")
@pytest.mark.parametrize("path", ["/synchronous", "/coroutine", "/stream"])
async def test_the_third_request_is_refused(client, name, path):
    statuses = [(await client.get(path, headers=name)).status for _ in range(3)]
    assert statuses == [200, 200, 429]
    assert (await client.get("/unlimited", headers=name)).status == 200


@pytest.mark.covers("limits hold for concurrent requests")
async def test_concurrent_requests_are_counted_exactly(client, name):
    replies = await asyncio.gather(*(client.get("/coroutine", headers=name) for _ in range(20)))
    assert Counter(reply.status for reply in replies) == {200: 2, 429: 18}


@pytest.mark.covers("WebSocket")
async def test_a_socket_counts_once(client, name):
    for _ in range(2):
        assert await client.talk("/socket", *"abc", headers=name) == list("abc")
    assert await client.refusal("/socket", headers=name) == 429
