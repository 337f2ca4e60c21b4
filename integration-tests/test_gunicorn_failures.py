"""Apps that do not start, workers that die or hang, and a master that is gone."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import aiohttp
import pytest

#: Seconds after which something counts as hanging; no statement about speed.
HANG = 60

BEGINNING = """
import asyncio, hashlib, os, re, sys, time
from flask import Flask, request
from flask_aio_core import AioHTTP

app = Flask(__name__)
aio = AioHTTP(app)

"""

BROKEN = {
    "import": ("import no_such_module", "No module named 'no_such_module'"),
    "error at import": ("raise LookupError('the database is gone')", "the database is gone"),
    "exit at import": ("sys.exit('no database here')", "no database here"),
    "exit with 0 at import": ("sys.exit(0)", "ended the process at import: 0"),
    "syntax": ("if True print('x')", "SyntaxError"),
    "no app": ("del app", "Failed to find attribute 'app' in 'app'"),
    "on_startup": (
        "@aio.on_startup\nasync def start():\n    raise LookupError('the database is gone')",
        "LookupError: the database is gone",
    ),
    "synchronous on_startup": (
        "@aio.on_startup\ndef start():\n    raise LookupError('the database is gone')",
        "LookupError: the database is gone",
    ),
    "cleanup_ctx": (
        "@aio.cleanup_ctx\nasync def context():\n    raise LookupError('it is gone')\n    yield",
        "LookupError: it is gone",
    ),
    "exit in on_startup": (
        "@aio.on_startup\nasync def start():\n    sys.exit('no database here')",
        "no database here",
    ),
    "exit with 0 in cleanup_ctx": (
        "@aio.cleanup_ctx\nasync def context():\n    sys.exit(0)\n    yield",
        "The app ended the process while starting",
    ),
    "configuration": ("app.config['AIO_WORKER_THREADS'] = 0", "AIO_WORKER_THREADS"),
}


@pytest.mark.parametrize(("code", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_an_app_that_cannot_start_ends_the_master(gunicorn, code, message):
    """The master says why and ends; it does not start one worker after the other."""
    server = gunicorn(app=f"{BEGINNING}\n{code}\n", ready=False)
    assert server.wait() != 0
    assert message in server.output
    assert server.output.count("Booting worker") == 1
    assert "never retrieved" not in server.output


@pytest.mark.parametrize("kind", ["error at import", "on_startup", "exit with 0 in cleanup_ctx"])
def test_a_preloaded_app_that_cannot_start_ends_the_master(gunicorn, kind):
    """With --preload it is the same, wherever it fails."""
    code, message = BROKEN[kind]
    server = gunicorn("--preload", app=f"{BEGINNING}\n{code}\n", ready=False)
    assert server.wait() != 0
    assert message in server.output
    assert server.output.count("Booting worker") == (0 if "import" in kind else 1)


def test_a_factory_that_fails_ends_the_master(gunicorn):
    """An error in a factory is an error at import."""
    factory = "def create_app():\n    raise LookupError('the database is gone')\n"
    server = gunicorn(app=BEGINNING + factory, name="app:create_app()", ready=False)
    assert server.wait() != 0
    assert "the database is gone" in server.output
    assert server.output.count("Booting worker") == 1


def test_several_workers_that_cannot_start_end_the_master(gunicorn):
    """Each of the first workers fails, and none is started in its place."""
    hook = "@aio.on_startup\nasync def start():\n    raise LookupError('the database is gone')\n"
    server = gunicorn("-w", "3", app=BEGINNING + hook, ready=False)
    assert server.wait() != 0
    assert server.output.count("Booting worker") <= 3


def test_what_was_entered_before_a_failure_is_left(gunicorn):
    """A cleanup context is left also when a later hook fails, or exits."""
    app = """
@aio.cleanup_ctx
async def context():
    yield
    print("context left", flush=True)

@aio.on_startup
async def start():
    sys.exit(4 * os.environ.get("EXIT", ""))
"""
    server = gunicorn(app=BEGINNING + app, ready=False)
    assert server.wait() != 0
    assert server.output.count("context left") == 1


def test_a_reload_of_an_app_that_cannot_start_ends_the_master(gunicorn):
    """HUP with broken code is as a start with it, also for gunicorn's own workers."""
    server = gunicorn("-w", "2", app=APP)
    assert server.get("/pid")[0] == 200
    (server.cwd / "app.py").write_text("raise LookupError('the database is gone')\n")
    server.send_signal(signal.SIGHUP)
    assert server.wait() != 0
    assert "the database is gone" in server.output
    assert server.output.count("Booting worker") <= 4


def test_an_upgrade_to_an_app_that_cannot_start_leaves_the_old_one(gunicorn, wait_until):
    """The new master of a USR2 ends; the old one serves on, and can try again."""
    server = gunicorn("--pid", "pid", app=APP)
    _, worker = server.get("/pid")
    (server.cwd / "app.py").write_text("raise LookupError('the database is gone')\n")
    for count in (1, 2):
        server.send_signal(signal.SIGUSR2)
        server.wait_for("Reason: Worker failed to boot.", count)
        wait_until(lambda: server.children() == [int(worker)])
        assert server.get("/pid") == (200, worker)
    assert server.stop(signal.SIGTERM) == 0


VIEWS = """
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

@app.get("/pid")
async def pid():
    return str(os.getpid())

@app.get("/wait")
async def wait():
    say("waiting in", os.getpid())
    while not os.path.exists("go"):
        await asyncio.sleep(0.01)
    return str(os.getpid())

@app.get("/sleeping")
def sleeping():
    say("waiting in", os.getpid())
    time.sleep(float(request.args["seconds"]))
    return str(os.getpid())

@app.get("/awaiting")
async def awaiting():
    say("waiting in", os.getpid())
    await asyncio.sleep(float(request.args["seconds"]))
    return str(os.getpid())

@app.get("/blocked-by-sleep")
async def blocked_by_sleep():
    time.sleep(3600)
    return "never"

@app.get("/blocked-by-regex")
async def blocked_by_regex():
    re.match("(a+)+$", 60 * "a" + "b")
    return "never"

@app.get("/blocked-by-hash")
async def blocked_by_hash():
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
    return "never"

def helper():
    return sum(range(10**13))

@app.get("/blocked-by-helper")
async def blocked_by_helper():
    return str(helper())
"""
APP = BEGINNING + VIEWS


async def fetch(server, path):
    """GET a path over a connection of its own."""
    timeout = aiohttp.ClientTimeout(total=HANG)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        session._retry_connection = False  # A request that is lost must be seen.
        async with session.get(server.url + path) as response:
            return response.status, await response.text()


async def wait_for(server, text, count=1):
    """Wait for output without keeping the clients from running."""
    await asyncio.to_thread(server.wait_for, text, count)


async def test_a_killed_worker_is_replaced(gunicorn):
    """Only the requests of the worker that was killed are lost."""
    server = gunicorn("-w", "2", app=APP)
    running: dict[int, list[asyncio.Task[tuple[int, str]]]] = {}
    asked = 0
    while len(running) < 2:
        asked += 1
        task = asyncio.create_task(fetch(server, "/wait"))
        await wait_for(server, "waiting in", asked)
        pid = int(server.output.rpartition("waiting in ")[2].split()[0])
        running.setdefault(pid, []).append(task)
    killed, spared = running
    os.kill(killed, signal.SIGKILL)
    lost = await asyncio.gather(*running[killed], return_exceptions=True)
    assert all(isinstance(one, aiohttp.ClientError) for one in lost), lost
    await wait_for(server, "Booting worker", 3)
    assert not any(task.done() for task in running[spared])
    (server.cwd / "go").touch()
    assert set(await asyncio.gather(*running[spared])) == {(200, str(spared))}
    pids = server.children()
    assert killed not in pids
    assert spared in pids
    assert len(pids) == 2


@pytest.mark.parametrize(
    ("path", "to_file"),
    [("sleep", False), ("regex", False), ("helper", False), ("sleep", True), ("hash", True)],
)
async def test_a_blocked_loop_is_killed_and_the_log_names_the_view(
    gunicorn, wait_until, path, to_file
):
    """After --timeout the worker is replaced; the error log has the stack of what blocked."""
    server = gunicorn(
        *("--timeout", "4"),
        *(("--config", "config.py") if to_file else ()),
        app=APP,
        # The file gets the log; the address is printed for the test alone.
        files={
            "config.py": "errorlog = 'error.log'\n"
            "def when_ready(server):\n    print('Listening at:', server.LISTENERS[0], flush=True)\n"
        },
    )
    # What can be interrupted by a signal ends with an error, what cannot is lost.
    blocked: Any
    try:
        blocked = await fetch(server, f"/blocked-by-{path}")
    except aiohttp.ClientError as error:
        blocked = error
    assert isinstance(blocked, aiohttp.ClientError) or blocked[0] == 500
    # One that could be interrupted still answers what it has accepted.
    log_file = server.cwd / "error.log"
    await asyncio.to_thread(
        wait_until,
        lambda: (
            (log_file.read_text() if to_file else server.output).count("Booting worker") == 2
            and len(server.children()) == 1
        ),
    )
    status, pid = await fetch(server, "/pid")
    assert status == 200
    assert int(pid) in server.children()
    log = (server.cwd / "error.log").read_text() if to_file else server.output
    assert "WORKER TIMEOUT" in log
    assert f"in blocked_by_{path}\n" in log
    if path == "helper":
        assert "in helper\n" in log
    if path == "sleep":
        assert "The event loop has been blocked for more than 4 seconds" in log
    assert log.count("Booting worker") == 2


async def test_waiting_for_longer_than_the_timeout_is_no_block(gunicorn):
    """Neither a coroutine view that awaits nor a synchronous one that sleeps is killed."""
    server = gunicorn("--timeout", "4", app=APP)
    _, worker = await fetch(server, "/pid")
    results = await asyncio.gather(
        fetch(server, "/awaiting?seconds=7"), fetch(server, "/sleeping?seconds=7")
    )
    assert set(results) == {(200, worker)}
    assert await asyncio.to_thread(server.stop, signal.SIGTERM) == 0
    assert "WORKER TIMEOUT" not in server.output


@pytest.mark.parametrize("kind", ["on_startup", "cleanup_ctx"])
def test_a_slow_start_hook_is_no_block(gunicorn, kind):
    """A hook may await longer than --timeout before the worker serves."""
    app = f"""
@aio.{kind}
async def start():
    await asyncio.sleep(7)
    print("started", flush=True)
    {"yield" if kind == "cleanup_ctx" else ""}
"""
    server = gunicorn("--timeout", "4", app=APP + app)
    assert server.get("/pid")[0] == 200  # It has waited in the backlog.
    assert server.stop(signal.SIGTERM) == 0
    assert server.output.count("started") == 1
    assert server.output.count("Booting worker") == 1
    assert "WORKER TIMEOUT" not in server.output


async def test_a_running_request_finishes_when_the_master_has_died(
    gunicorn, is_running, wait_until
):
    """Workers without a master end by themselves, as after a TERM."""
    server = gunicorn("-w", "2", app=APP)
    running = asyncio.create_task(fetch(server, "/wait"))
    await wait_for(server, "waiting in")
    await wait_for(server, "Booting worker", 2)
    workers = server.children()
    server.process.kill()
    await wait_for(server, "Parent changed, shutting down")
    assert not running.done()
    (server.cwd / "go").touch()
    assert (await running)[0] == 200
    await asyncio.to_thread(wait_until, lambda: not any(map(is_running, workers)))
