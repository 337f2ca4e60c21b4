"""Loading the app before the fork, and again when its code changes."""

from __future__ import annotations

import os
import signal
import time

import pytest

PRELOADED = """
import os
from flask import Flask
from flask_aio_core import AioHTTP, in_thread

app = Flask(__name__)
print("loaded in", os.getpid(), flush=True)
loader = os.getpid()

@app.get("/coroutine")
async def coroutine():
    return {"pid": os.getpid(), "loader": loader, "in_thread": in_thread(os.getpid)()}

@app.get("/synchronous")
def synchronous():
    return {"pid": os.getpid(), "loader": loader, "in_thread": os.getpid()}
"""


@pytest.mark.parametrize("extension", ["", "AioHTTP(app)\n"])
def test_preload(gunicorn, extension):
    """With --preload the app is loaded once, in the master; each worker is a fork that serves."""
    # Before that a signal would not be heard.
    config = "def post_worker_init(worker): print('ready', flush=True)"
    server = gunicorn("--preload", "-w", "2", app=PRELOADED + extension, config=config)
    server.wait_for("ready", count=2)
    workers = server.workers()
    for path in ("/coroutine", "/synchronous"):
        answer = server.get(path).json
        assert answer["loader"] == server.pid
        assert answer["pid"] == answer["in_thread"]
        assert answer["pid"] in workers
    # A worker that is forked later serves the same code, loaded once and for all.
    (server.cwd / "app.py").write_text("raise RuntimeError('loaded again')")
    for pid in workers:
        server.send_signal(signal.SIGTERM, pid)
    server.wait_for("ready", count=4)
    for path in ("/coroutine", "/synchronous"):
        answer = server.get(path).json
        assert answer["loader"] == server.pid
        assert answer["pid"] == answer["in_thread"]
        assert answer["pid"] not in workers
    assert server.stop() == 0
    assert server.output.count("loaded in") == 1


def test_without_preload_each_worker_loads_the_app(gunicorn):
    """Without --preload the master never loads the app, each worker does."""
    server = gunicorn("-w", "2", app=PRELOADED)
    server.wait_for("loaded in", count=2)
    answer = server.get("/synchronous").json
    assert answer["loader"] == answer["pid"] != server.pid
    assert f"loaded in {server.pid}" not in server.output


# --reload

CODE = """
import asyncio
from flask import Flask
app = Flask(__name__)

@app.get("/")
async def index():
    return "VERSION"

@app.get("/stream")
async def stream():
    while True:
        yield "piece\\n"
        await asyncio.sleep(0.05)
"""


@pytest.fixture
def edit(wait_until):
    """Change a file of a server, and wait until it answers with a status and a text."""

    def edit(server, name, content, status, text):
        file = server.cwd / name
        seen = server.output.count(" modified")
        file.write_text(content)
        saved = time.monotonic()

        def served():
            nonlocal saved
            response = server.get("/")
            if (response.status, text in response.text) == (status, True):
                return response
            missed = server.output.count(" modified") == seen
            if missed and time.monotonic() - saved > 5:  # Saved before the reloader's first look.
                os.utime(file)
                saved = time.monotonic()
            time.sleep(0.05)
            return None

        wait_until(served)
        return server.get("/")

    return edit


#: The compiled file of another version that was saved in the same second could be taken.
NO_CACHE = {"PYTHONDONTWRITEBYTECODE": "1"}


def code(version):
    return CODE.replace("VERSION", version)


def test_reload(gunicorn, edit):
    """New code is served when a file changes, and open streams do not hold it up."""
    server = gunicorn("--reload", "--graceful-timeout", "600", app=code("one"), env=NO_CACHE)
    assert server.get("/").text == "one"
    with server.connect() as stream:
        stream.sendall(b"GET /stream HTTP/1.1\r\nHost: test\r\n\r\n")
        assert stream.recv(1)
        assert edit(server, "app.py", code("two"), 200, "two").text == "two"
        while stream.recv(65536):
            pass
    assert server.stop() == 0
    assert server.output.count("app.py modified") == 1


@pytest.mark.parametrize("engine", ["poll", "auto"])
def test_extra_file_is_watched(gunicorn, edit, engine):
    """A change of a file of --reload-extra-file reloads the app too, with either engine."""
    app = code("old").replace(
        "app = Flask", 'version = open("settings", encoding="utf-8").read()\napp = Flask'
    )
    server = gunicorn(
        *("--reload", "--reload-engine", engine, "--reload-extra-file", "settings"),
        app=app.replace('"old"', "version"),
        files={"settings": "one"},
        env=NO_CACHE,
    )
    assert server.get("/").text == "one"
    assert edit(server, "settings", "two", 200, "two").text == "two"


MISTAKES = {
    "syntax": ("def broken(:\n", "SyntaxError: "),
    "name": (CODE + "\nundefined_name\n", "NameError: name 'undefined_name' is not defined"),
    "exit": (CODE + "\nraise SystemExit('stop')\n", "The app ended the process at import: 'stop'"),
    "attribute": ("from flask import Flask\n", "Failed to find attribute 'app' in 'app'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_shown_until_it_is_mended(gunicorn, edit, mistake):
    """With --reload, code that cannot be loaded is shown as a 500, and mended by the next edit."""
    broken, text = MISTAKES[mistake]
    server = gunicorn("--reload", app=broken, env=NO_CACHE)
    response = server.get("/")
    assert response.status == 500
    assert text in response.text
    assert "Traceback" in response.text
    server.wait_for("The app could not be loaded")
    assert edit(server, "app.py", code("mended"), 200, "mended").text == "mended"
    if mistake == "syntax":
        assert "Traceback" in edit(server, "app.py", broken, 500, text).text
        assert edit(server, "app.py", code("mended again"), 200, "again").text == "mended again"
    assert server.output.count("Booting worker") == (4 if mistake == "syntax" else 2)


def test_mistake_in_another_module(gunicorn, edit):
    """A mistake in a module that the app imports is mended by an edit of that module."""
    server = gunicorn(
        "--reload",
        app="import helper\n" + code("mended"),
        files={"helper.py": "helper_is_broken\n"},
        env=NO_CACHE,
    )
    assert "name 'helper_is_broken' is not defined" in server.get("/").text
    assert edit(server, "helper.py", "x = 1\n", 200, "mended").text == "mended"


def test_without_reload_a_mistake_ends_the_master(gunicorn):
    """Without --reload, code that cannot be loaded ends the master; no respawn loop."""
    server = gunicorn(app=MISTAKES["syntax"][0], ready=False)
    assert server.wait() == 3
    assert server.output.count("Booting worker") == 1
    assert "SyntaxError" in server.output
