"""Flask-Caching."""

import asyncio
from uuid import uuid4

import pytest

EXTENSION = "Flask-Caching"
APP = "caching"


@pytest.fixture
def name():
    """What has not been cached yet."""
    return uuid4().hex


@pytest.mark.covers("synchronous view", "coroutine view")
@pytest.mark.parametrize("path", ["synchronous", "coroutine"])
async def test_a_page_is_made_once(client, name, path):
    for _ in range(3):
        assert (await client.get(f"/{path}/{name}")).text == f"{name} 1"


@pytest.mark.covers("stream", "limit: a stream is not cached")
async def test_a_stream_is_made_each_time(client, server, name):
    assert (await client.get(f"/stream/{name}")).text == f"{name} 1\n{name} 2\n"
    assert (await client.get(f"/stream/{name}")).text == f"{name} 3\n{name} 4\n"
    server.wait_for("Exception possibly due to cache backend")


@pytest.mark.covers("memoized functions, async def ones called without await")
@pytest.mark.parametrize(
    ("path", "shown"), [("/memoized/2", "4 1"), ("/memoized-coroutine/3", "27 1")]
)
async def test_a_memoized_function_is_called_once(client, path, shown):
    for _ in range(2):
        assert (await client.get(path)).text == shown


@pytest.mark.covers("cache under concurrent requests")
async def test_concurrent_requests_may_make_it_more_than_once(client, name):
    """Flask-Caching has no lock around it, under any server; afterwards it is cached."""
    replies = await asyncio.gather(*(client.get(f"/coroutine/{name}") for _ in range(10)))
    assert all(reply.status == 200 for reply in replies)
    first = (await client.get(f"/coroutine/{name}")).text
    assert (await client.get(f"/coroutine/{name}")).text == first
