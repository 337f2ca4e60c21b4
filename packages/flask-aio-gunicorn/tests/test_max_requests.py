"""Workers that are replaced after a number of requests."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

#: ``/wait`` ends when there is a file ``go``.
APP = """
import asyncio
import os
from pathlib import Path

from flask import Flask

app = Flask(__name__)

@app.get("/coroutine")
async def coroutine():
    await asyncio.sleep(0.01)
    return str(os.getpid())

@app.get("/synchronous")
def synchronous():
    return str(os.getpid())

@app.get("/stream")
async def stream():
    yield str(os.getpid())
    await asyncio.sleep(0.01)

@app.get("/wait")
async def wait():
    while not Path("go").exists():
        await asyncio.sleep(0.01)
    return str(os.getpid())
"""


def test_worker_is_replaced_after_exactly_so_many_requests(gunicorn):
    """Requests of all kinds count, also those that fail, and sequential clients lose none."""
    server = gunicorn("--max-requests", "4", app=APP)
    paths = ["/coroutine", "/missing", "/stream", "/synchronous"]
    seen: list[int] = []
    for round_ in range(3):
        pids = set()
        # Each kind is the last one once.
        for path in paths[round_:] + paths[:round_]:
            response = server.get(path)
            if path == "/missing":
                assert response.status == 404
            else:
                assert response.status == 200
                pids.add(int(response.text))
        assert len(pids) == 1
        seen += pids
        server.wait_for("Autorestarting worker after 4 requests.", count=round_ + 1)
    assert len(set(seen)) == 3
    assert server.stop() == 0
    assert server.output.count("Autorestarting worker") == 3
    assert "[ERROR]" not in server.output


def test_requests_in_flight_finish(gunicorn, tmp_path):
    """What a worker is answering when it reaches its number is answered to the end."""
    server = gunicorn("--max-requests", "3", app=APP)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(server.get, "/wait") for _ in range(2)]
        try:
            # The third request to come, whichever it is, brings the end.
            last = server.get("/synchronous")
            server.wait_for("Autorestarting worker after 3 requests.")
            assert not any(one.done() for one in waiting)
        finally:
            (tmp_path / "go").touch()
        responses = [one.result() for one in waiting]
    assert [response.status for response in responses] == [200, 200]
    assert {response.text for response in responses} == {last.text}
    assert server.get("/synchronous").text != last.text


def test_jitter(gunicorn):
    """The jitter adds to the number, for each worker anew."""
    server = gunicorn(
        "--max-requests",
        "2",
        "--max-requests-jitter",
        "3",
        app=APP,
        config='def post_fork(server, worker): print("after:", worker.max_requests, flush=True)',
    )
    after = re.compile(r"after: (\d+)")
    for count in range(1, 4):
        server.wait_for(after, count)
        number = int(after.findall(server.output)[-1])
        assert 2 <= number <= 5
        pids = [server.get("/synchronous").text for _ in range(number)]
        assert len(set(pids)) == 1
        server.wait_for("Autorestarting worker", count)
        server.wait_for(f"Autorestarting worker after {number} requests.")


def test_no_limit_by_default(gunicorn):
    """Without --max-requests a worker serves for ever."""
    server = gunicorn("--max-requests-jitter", "1", app=APP)
    pids = {server.get("/synchronous").text for _ in range(20)}
    assert pids == {str(server.workers()[0])}
    assert "Autorestarting" not in server.output
