"""The demo of ``make run``, as a process of its own, page by page."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

DEMO = Path(__file__).parents[1] / "examples" / "demo" / "app.py"
PAGES = ["/", "/late", "/fan-out", "/events", "/upload", "/blocking", "/chat"]


@pytest.fixture
def demo():
    """A demo process, and the address that it has printed."""
    environment = {**os.environ, "PORT": "0", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, DEMO], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    line = next(line for line in process.stdout if "Running on" in line)
    found = re.search(r"http://\S+", line)
    assert found is not None
    yield process, found[0]
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture
async def client(demo):
    """A client whose base is the demo's address."""
    # By default the jar takes no cookies from an address that is a number.
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(base_url=demo[1], cookie_jar=jar) as session:
        yield session


@pytest.mark.parametrize("page", PAGES)
async def test_page_is_served_and_links_lead_somewhere(client, page):
    """Each page answers 200, and so does every address in it that is its own."""
    async with client.get(page) as answer:
        assert answer.status == 200
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        html = await answer.text()

    for address in set(re.findall(r'(?:href|src)="(/[^"]*)"', html)):
        async with client.get(address) as linked:
            # Two links show what bad input is answered with.
            assert linked.status == (400 if address.endswith(("=soon", "=3600")) else 200), address


async def test_late_refuses_what_is_no_number_of_seconds(client):
    """Bad input is answered with 400 and a sentence."""
    for value in ("soon", "-1", "11", "nan"):
        async with client.get("/late", params={"seconds": value}) as answer:
            assert answer.status == 400
            assert "seconds must be a number" in await answer.text()


async def test_fan_out_shows_every_upstream_whatever_the_host_header_says(client):
    """All five upstreams are asked on the demo's own address, not on that of the Host header."""
    async with client.get("/fan-out", headers={"Host": "elsewhere.invalid"}) as answer:
        assert answer.status == 200
        html = await answer.text()

    for number in range(1, 6):
        assert f"/upstream/{number}" in html


async def test_event_feed_ticks_and_notices_who_leaves(client):
    """Ticks arrive one by one; a viewer that has gone is no longer counted."""

    async def ticks(answer):
        async for line in answer.content:
            if line.startswith(b"data: "):
                yield json.loads(line[6:])

    async with client.get("/events/stream") as first:
        assert first.headers["Content-Type"].startswith("text/event-stream")
        numbers = []
        async for tick in ticks(first):
            numbers.append(tick["number"])
            if len(numbers) == 2:
                break
        assert numbers[1] == numbers[0] + 1
        second = await client.get("/events/stream")
        async for tick in ticks(first):
            if tick["viewers"] == 2:
                break
        second.close()
        async for tick in ticks(first):
            if tick["viewers"] == 1:
                break


async def test_upload_is_hashed_piece_by_piece(client):
    """A body of any kind is hashed as it arrives: with a length, and chunked."""
    body = os.urandom(3_000_000)

    async def pieces():
        for start in range(0, len(body), 100_000):
            yield body[start : start + 100_000]

    for data in (io.BytesIO(body), pieces()):
        async with client.post("/upload/stream?name=a.bin", data=data) as answer:
            described = await answer.json()
        assert described["size"] == len(body)
        assert described["sha256"] == hashlib.sha256(body).hexdigest()


async def test_upload_form_works_without_javascript(client):
    """The form posts a multipart file, and the page says what it was."""
    form = aiohttp.FormData()
    form.add_field("file", b"content", filename="../notes.txt")
    async with client.post("/upload", data=form) as answer:
        html = await answer.text()

    assert hashlib.sha256(b"content").hexdigest() in html
    assert "notes.txt: 7 bytes" in html


async def test_clock_ticks_while_the_blocking_view_sleeps(client):
    """The blocking view is still asleep when the clock has ticked several times."""
    async with client.get("/blocking/clock") as clock:
        await clock.content.readuntil(b"\n\n")
        sleeping = asyncio.create_task(client.get("/blocking/sleep?seconds=10"))
        for _ in range(5):
            await clock.content.readuntil(b"\n\n")
        assert not sleeping.done()
        sleeping.cancel()


async def test_unknown_page_is_a_page(client):
    """An address that does not exist is answered with the demo's own 404 page."""
    async with client.get("/nowhere") as answer:
        assert answer.status == 404
        assert "<html" in await answer.text()


async def test_ctrl_c_stops_the_demo_with_an_event_stream_open(demo, client):
    """Ctrl-C ends the stream cleanly and then the process, with status 0."""
    process, _ = demo
    async with client.get("/events/stream") as answer:
        await answer.content.readline()
        process.send_signal(signal.SIGINT)
        await answer.content.read()  # To its clean end: a broken one would raise.

    assert await asyncio.to_thread(process.wait) == 0


async def test_demo_runs_under_gunicorn(start):
    """The command of the examples' README serves every page, and the chat's WebSocket."""
    readme = (DEMO.parents[1] / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^    \.venv/bin/flask-aio-gunicorn (.*)$", readme, re.MULTILINE)
    *arguments, option, _ = shlex.split(command)
    assert option == "--bind"
    server = start(
        *("-m", "flask_aio_gunicorn", *arguments, option, "127.0.0.1:0"),
        *("--chdir", str(DEMO.parents[2]), "--no-control-socket"),
        warnings="default",
    )
    async with aiohttp.ClientSession(base_url=server.url) as session:
        for page in PAGES:
            async with session.get(page) as answer:
                assert answer.status == 200, page
        async with session.ws_connect("/chat/lobby/socket?name=Ada") as socket:
            await socket.send_json({"type": "message", "text": "Hello"})
            async for message in socket:
                said = message.json()
                if said["type"] == "message":
                    break
            assert (said["name"], said["text"]) == ("Ada", "Hello")
    assert await asyncio.to_thread(server.stop, signal.SIGTERM) == 0
