"""Clients for HTTP and Redis, of which a process has one each: the page on them, as processes."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path

import aiohttp
import pytest
from markdown_it import MarkdownIt

PAGE = Path(__file__).parents[1] / "docs/clients.md"
HANG = 60

#: What the tests want to know beside what the page shows.
MORE = """
import atexit

atexit.register(lambda: print("closed:", app.extensions["rates"].is_closed, flush=True))


@app.after_request
def sign(response):
    response.headers["X-Pid"] = str(os.getpid())
    response.headers["X-Client"] = str(id(app.extensions["rates"]))
    return response


@app.get("/connections")
async def connections():
    clients = await app.extensions["store"].client_list(_type="pubsub")
    return str(len(clients))


if __name__ == "__main__":
    aio.run(port=0)
"""


@pytest.fixture
def app_source() -> str:
    """The blocks of the page, one after the other."""
    tokens = MarkdownIt("commonmark").parse(PAGE.read_text(encoding="utf-8"))
    blocks = [token.content for token in tokens if token.info == "python"]
    assert len(blocks) >= 5
    return "\n\n".join([*blocks, MORE])


@pytest.fixture(params=["aio.run", "gunicorn"])
def server(request, app_source, start, gunicorn, redis_url, upstream):
    """The page's app, in one process or in two workers."""
    environment = {"REDIS_URL": redis_url, "RATES_URL": upstream.url}
    if request.param == "aio.run":
        return start(app=app_source, env=environment, warnings="default")
    server = gunicorn("--workers", "2", app=app_source, env=environment)
    server.wait_for("Booting worker with pid", 2)
    return server


PATHS = [
    "/rates",
    "/rates-for-everyone",
    "/rates-by-aiohttp",
    "/rates-by-aiohttp-for-everyone",
    "/rates-by-requests",
    "/rates-by-requests-from-a-coroutine",
]


async def test_one_client_serves_a_process(server):
    """In each process all requests find the same client, which uses its connection again."""
    processes = set(map(str, server.children() or [server.process.pid]))
    clients: defaultdict[str, set[str]] = defaultdict(set)
    ports: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    async with (
        asyncio.timeout(HANG),
        aiohttp.ClientSession(
            server.url, connector=aiohttp.TCPConnector(force_close=True)
        ) as session,
    ):
        rounds = 0
        while rounds < 10 or set(clients) != processes:
            rounds += 1
            for path in PATHS:
                async with session.get(path) as response:
                    found = await response.json()
                    assert found["EUR"] == 1.1
                    pid = response.headers["X-Pid"]
                    clients[pid].add(response.headers["X-Client"])
                    # Either kind of view uses the same connection.
                    ports[pid, path.removesuffix("-for-everyone")].add(found["port"])
    assert all(len(found) == 1 for found in clients.values())
    for (_, path), found in ports.items():
        # requests has a session for each thread.
        assert len(found) == 1 or "requests" in path
    of_process: defaultdict[str, set[int]] = defaultdict(set)
    for (pid, _), found in ports.items():
        of_process[pid] |= found
    # Each connection belongs to one process.
    assert sum(map(len, of_process.values())) == len(set().union(*of_process.values()))
    assert server.stop() == 0
    assert server.output.count("closed: True") == len(processes)
    assert "closed: False" not in server.output


async def test_hooks_and_events(server, upstream):
    """A hook counts in Redis; events come from it until the client leaves, then it is let go."""
    async with (
        asyncio.timeout(HANG),
        aiohttp.ClientSession(server.url) as session,
    ):
        async with session.get("/count") as response:
            first = int(await response.text())
        async with session.get("/count") as response:
            assert int(await response.text()) == first + 1
        streams = [await session.get("/news") for _ in range(3)]
        for stream in streams:
            assert await stream.content.readuntil(b"\n\n") == b": welcome\n\n"
        async with session.get("/connections") as response:
            assert int(await response.text()) == 3
        async with session.post("/news/spring") as response:
            assert response.status == 204
        for stream in streams:
            assert await stream.content.readuntil(b"\n\n") == b"data: spring\n\n"
            stream.close()
        while True:
            async with session.get("/connections") as response:
                if await response.text() == "0":
                    break
            await asyncio.sleep(0.01)
    assert server.stop() == 0
    assert "Traceback" not in server.output


async def test_stop_with_an_open_stream(server):
    """A stream that waits for Redis does not hold up the end, and nothing is left behind."""
    async with aiohttp.ClientSession(server.url) as session, session.get("/news") as stream:
        assert await stream.content.readuntil(b"\n\n") == b": welcome\n\n"
        assert server.stop() == 0
    assert "Traceback" not in server.output
    assert "closed: False" not in server.output


async def test_concurrent_requests_of_all_kinds(server):
    """Many at once are all answered."""
    async with aiohttp.ClientSession(server.url) as session:

        async def get(path):
            async with session.get(path) as response:
                return (await response.json())["EUR"]

        async with asyncio.timeout(HANG):
            assert set(await asyncio.gather(*map(get, PATHS * 15))) == {1.1}
