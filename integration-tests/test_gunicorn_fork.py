"""``--preload``: what the app has made in the master, before its workers are forked."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

#: It uses all that has threads and loops while it is imported, in the master.
APP = """
import asyncio, os, threading
from concurrent.futures import ThreadPoolExecutor
from flask import Flask, request
from flask_aio_core import AioHTTP, await_, in_thread

app = Flask(__name__)
app.config["AIO_BACKGROUND_GRACE"] = 0
aio = AioHTTP(app)

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

@aio.on_startup
async def start():
    global lock, ticks
    lock = asyncio.Lock()
    ticks = []
    aio.spawn(tick())
    say("started in", os.getpid())

@aio.on_cleanup
async def stop():
    say("cleaned up in", os.getpid())

@aio.cleanup_ctx
async def context():
    say("entered in", os.getpid())
    yield
    say("left in", os.getpid())

async def tick():
    while True:
        ticks.append(os.getpid())
        await asyncio.sleep(0.01)

@app.get("/loop")
async def loop():
    async with lock:
        await asyncio.sleep(0.01)
    return facts()

@app.get("/thread")
def thread():
    await_(asyncio.sleep(0.01))
    return facts()

@app.get("/both")
async def both():
    return in_thread(facts)()

@app.get("/client")
async def client():
    async with aio.client.get(f"http://{request.host}/loop") as response:
        body = await response.json()
    session = aio.client
    return {
        **facts(),
        "inner": body["pid"],
        "own loop": session._loop is asyncio.get_running_loop(),
        "kept": session is master_client,
    }

pool = None

@app.get("/pool")
def lazy_pool():
    global pool
    if pool is None:
        pool = ThreadPoolExecutor(1)
    return {**facts(), "made in": pool.submit(os.getpid).result()}

@app.get("/ticks")
async def show_ticks():
    count = len(ticks)
    while len(ticks) == count:
        await asyncio.sleep(0.01)
    return {**facts(), "ticks": sorted(set(ticks))}

def facts():
    return {"pid": os.getpid(), "thread": threading.current_thread().name}

async def use_client():
    return aio.client

master_client = None
if os.environ.get("USE_IN_MASTER"):
    for path in ["/loop", "/thread", "/both", "/ticks"]:
        assert app.test_client().get(path).json["pid"] == os.getpid()
    with app.app_context():
        assert await_(asyncio.sleep(0, "waited")) == "waited"
        master_client = await_(use_client())
    say("used in", os.getpid())
"""

PATHS = ["/loop", "/thread", "/both", "/client", "/ticks", "/pool"]


def ask(server, workers, path):
    """GET a path until each worker has answered; return the answers by process."""
    answers: dict[int, dict[str, Any]] = {}
    while set(answers) != set(workers):
        status, body = server.get(path)
        assert status == 200
        answer = json.loads(body)
        assert answer["pid"] in workers
        answers[answer["pid"]] = answer
    return answers


@pytest.mark.parametrize("worker", ["AioWorker", "AioUVLoopWorker"])
@pytest.mark.parametrize("used", ["", "1"], ids=["unused", "used in the master"])
def test_each_worker_has_its_own(gunicorn, wait_until, worker, used):
    """Loops, threads, clients, hooks and background tasks belong to the worker that uses them."""
    server = gunicorn("--preload", "-w", "2", app=APP, worker=worker, env={"USE_IN_MASTER": used})
    master = server.process.pid
    if used:
        server.wait_for(f"used in {master}")
    server.wait_for("started in", 3 if used else 2)
    workers = server.children()
    assert len(workers) == 2

    for path in PATHS:
        for pid, answer in ask(server, workers, path).items():
            if path == "/client":
                assert answer["inner"] in workers
                assert answer["own loop"]
                assert not answer["kept"]
            if path == "/ticks":
                assert answer["ticks"] == [pid]
            if path == "/pool":
                assert answer["made in"] == pid
    assert "left in" not in server.output

    assert server.stop(signal.SIGTERM) == 0
    assert server.output.count(f"started in {master}\n") == len(used)
    for pid in workers:
        assert server.output.count(f"started in {pid}\n") == 1
        assert server.output.count(f"entered in {pid}\n") == 1
        assert server.output.count(f"cleaned up in {pid}\n") == 1
        assert server.output.count(f"left in {pid}\n") == 1
    # The master's hooks run at its own end, not at that of a worker.
    assert server.output.count(f"left in {master}\n") == len(used)
    assert server.output.count("left in") == 2 + len(used)


def test_workers_after_a_reload_have_their_own(gunicorn, wait_until):
    """HUP forks new workers from a master whose app has been used."""
    server = gunicorn("--preload", "-w", "2", app=APP, env={"USE_IN_MASTER": "1"})
    server.wait_for("started in", 3)
    old = set(server.children())
    server.send_signal(signal.SIGHUP)
    wait_until(lambda: len(server.children()) == 2 and not old & set(server.children()))
    workers = server.children()
    for path in PATHS:
        ask(server, workers, path)
    assert server.stop(signal.SIGTERM) == 0
    for pid in workers:
        assert server.output.count(f"started in {pid}\n") == 1
    for pid in [*old, *workers]:
        assert server.output.count(f"left in {pid}\n") == 1


def test_a_replaced_worker_has_its_own(gunicorn, wait_until):
    """A worker that is forked late, in place of a killed one, works like the first."""
    server = gunicorn("--preload", app=APP, env={"USE_IN_MASTER": "1"})
    server.wait_for("started in", 2)
    (old,) = server.children()
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: server.children() not in ([], [old]))
    for path in PATHS:
        ask(server, server.children(), path)
    assert server.stop(signal.SIGTERM) == 0


def test_two_apps_of_one_process_are_independent(gunicorn):
    """Without --preload the app that was used at import starts once more for its server."""
    server = gunicorn(app=APP, env={"USE_IN_MASTER": "1"})
    server.wait_for("started in", 2)
    (worker,) = server.children()
    for path in PATHS:
        ask(server, [worker], path)
    assert server.stop(signal.SIGTERM) == 0
    # Of the private loop at import, and of the server.
    assert server.output.count(f"left in {worker}\n") == 2
