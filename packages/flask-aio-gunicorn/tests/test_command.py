"""The command flask-aio-gunicorn."""

from __future__ import annotations

import re
import sys
import sysconfig

import pytest

SCRIPT = (sysconfig.get_path("scripts") + "/flask-aio-gunicorn",)
MODULE = (sys.executable, "-m", "flask_aio_gunicorn")

APP = """
import asyncio
import os
from flask import Flask
app = Flask(__name__)

@app.get("/")
async def index():
    return {"pid": os.getpid(), "loop": type(asyncio.get_running_loop()).__module__}
"""

#: Hides an installed uvloop.
NO_UVLOOP = {"sitecustomize.py": "import sys; sys.modules['uvloop'] = None\n"}


@pytest.mark.parametrize("command", [SCRIPT, MODULE], ids=["script", "module"])
def test_uvloop_is_chosen_where_it_is_installed(gunicorn, command):
    """The command takes gunicorn's options, and the worker for uvloop's event loop."""
    pytest.importorskip("uvloop")
    server = gunicorn("-w", "2", worker=None, app=APP, command=command)
    server.wait_for("Using worker: flask_aio_gunicorn.AioUVLoopWorker")
    server.wait_for("Booting worker with pid", count=2)
    answer = server.get("/").json
    assert answer["loop"].partition(".")[0] == "uvloop"
    assert answer["pid"] in server.workers()
    assert len(server.workers()) == 2
    assert server.stop() == 0


@pytest.mark.parametrize("extension", ["", "    AioHTTP(app)\n"])
def test_factory_is_called(gunicorn, extension):
    """A factory is named as a call, with arguments, and need not know of the extension."""
    factory = f"""
from flask import Flask
from flask_aio_core import AioHTTP

def create_app(greeting):
    app = Flask(__name__)
{extension}
    @app.get("/")
    async def index():
        return greeting

    return app
"""
    server = gunicorn(worker=None, app=factory, name="app:create_app('hello')", command=SCRIPT)
    assert server.get("/").text == "hello"
    assert server.stop() == 0


def test_asyncio_is_chosen_without_uvloop(gunicorn, tmp_path):
    """Where uvloop is not installed, the command takes the worker for asyncio's own loop."""
    server = gunicorn(
        worker=None, app=APP, command=SCRIPT, files=NO_UVLOOP, env={"PYTHONPATH": str(tmp_path)}
    )
    server.wait_for("Using worker: flask_aio_gunicorn.AioWorker\n")
    assert server.get("/").json["loop"].partition(".")[0] == "asyncio"


@pytest.mark.parametrize(
    ("worker", "module"),
    [("flask_aio_gunicorn.AioWorker", "asyncio"), ("flask_aio_gunicorn.AioUVLoopWorker", "uvloop")],
)
def test_worker_that_is_named_has_the_last_word(gunicorn, worker, module):
    """-k wins over the command's choice, and each worker runs on the loop of its name."""
    pytest.importorskip("uvloop")
    server = gunicorn(worker=worker, app=APP, command=MODULE)
    server.wait_for(f"Using worker: {worker}\n")
    assert server.get("/").json["loop"].partition(".")[0] == module


def printed(server):
    """Return the settings that --print-config has written."""
    assert server.wait() == 0, server.output
    return dict(re.findall(r"^(\w+) += (.*)$", server.output, re.MULTILINE))


def test_settings_come_from_where_gunicorn_looks(gunicorn):
    """gunicorn.conf.py wins over the command's worker, GUNICORN_CMD_ARGS over it, options over all.

    --print-config shows what has become of them, and nothing is served.
    """
    config = "workers = 3\nthreads = 5\nbacklog = 7\nworker_class = 'flask_aio_gunicorn.AioWorker'"
    server = gunicorn(
        "--print-config",
        "--backlog",
        "9",
        worker=None,
        ready=False,
        command=SCRIPT,
        config=config,
        env={"GUNICORN_CMD_ARGS": "--threads 6 --backlog 8"},
    )
    settings = printed(server)
    assert settings["worker_class"] == "flask_aio_gunicorn.AioWorker"
    assert (settings["workers"], settings["threads"], settings["backlog"]) == ("3", "6", "9")
    assert "Booting worker" not in server.output


def test_worker_of_environment_variable_wins(gunicorn):
    """-k in GUNICORN_CMD_ARGS wins over the command's choice as well."""
    server = gunicorn(
        "--print-config",
        worker=None,
        ready=False,
        command=MODULE,
        env={"GUNICORN_CMD_ARGS": "-k gthread"},
    )
    assert printed(server)["worker_class"] == "gthread"


@pytest.mark.parametrize(("app", "status"), [(APP, 0), ("missing_name\n", 1)])
def test_check_config(gunicorn, app, status):
    """--check-config tells by its exit status whether the app can be loaded, and serves nothing."""
    server = gunicorn("--check-config", worker=None, ready=False, command=SCRIPT, app=app)
    assert server.wait() == status
    assert ("missing_name" in server.output) is bool(status)
    assert "Listening at" not in server.output
