"""``flask aio run``, ``flask shell`` and commands of an app, in processes of their own."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from werkzeug.serving import make_ssl_devcert

APP = """
import asyncio, sys
from flask import Flask
from flask_aio_core import AioHTTP, await_

app = Flask(__name__)
aio = AioHTTP(app)

@aio.cleanup_ctx
async def context():
    print("hook: start", flush=True)
    yield
    print("hook: clean-up", flush=True)

@app.get("/")
async def index():
    await asyncio.sleep(0)
    return "index"

@app.get("/loop")
async def loop():
    return type(asyncio.get_running_loop()).__module__

@app.get("/debug")
async def debug():
    return str(app.debug)

@app.cli.command("greet")
def greet():
    print(await_(asyncio.sleep(0, "hello from the loop")))

@app.cli.command("fail")
def fail():
    await_(asyncio.sleep(0))
    raise LookupError("gone")

async def fetch():
    await asyncio.sleep(0)
    return "fetched"
"""
FACTORY = """
import asyncio
from flask import Flask
from flask_aio_core import AioHTTP

aio = AioHTTP()

def create_app(name="default"):
    app = Flask(__name__)
    aio.init_app(app)

    @app.get("/")
    async def index():
        await asyncio.sleep(0)
        return name

    return app
"""
PLAIN = """
import asyncio
from flask import Flask

app = Flask(__name__)

@app.get("/")
async def index():
    await asyncio.sleep(0)
    return "plain"
"""


def flask(*arguments: str, app: str = "app") -> list[str]:
    return ["-m", "flask", "--app", app, *arguments]


def run_flask(tmp_path: Path, *arguments: str, stdin: str = "") -> Any:
    """Run a command of an app to its end."""
    (tmp_path / "app.py").write_text(APP)
    return subprocess.run(
        [sys.executable, "-W", "error", *flask(*arguments)],
        cwd=tmp_path,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )


# --- flask aio run


def test_aio_run_serves_the_app(start):
    """flask --app app aio run serves it, hooks and all, and ends with status 0."""
    server = start(*flask("aio", "run", "--port", "0"), app=APP)
    assert server.get() == (200, "index")
    assert server.get("/debug") == (200, "False")
    assert server.stop(signal.SIGINT) == 0
    assert "hook: clean-up" in server.output
    assert "Traceback" not in server.output


def test_aio_run_finds_app_py_by_itself(start):
    """Without --app, app.py is found, as by flask run."""
    server = start("-m", "flask", "aio", "run", "-p", "0", app=APP)
    assert server.get() == (200, "index")


def test_aio_run_host_and_port_are_used(start):
    """--host and --port say where to listen."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = start(*flask("aio", "run", "--host", "0.0.0.0", "--port", str(port)), app=APP)
    assert server.port == port
    assert server.get() == (200, "index")


def test_aio_run_port_from_environment_is_used(start):
    """FLASK_RUN_PORT and the like are not needed to be typed, as for flask run."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = start(
        *flask("aio", "run"), app=APP, env={"FLASK_AIO_RUN_PORT": str(port), "FLASK_DEBUG": "0"}
    )
    assert server.port == port


def test_aio_run_debug_switches_debugger_and_reloader_on(start):
    """--debug turns on debug mode, and with it the reloader."""
    server = start(*flask("aio", "run", "--debug", "--port", "0"), app=APP)
    assert server.get("/debug") == (200, "True")
    assert "Restarting with" in server.output


def test_aio_run_no_reload_switches_reloader_off(start):
    """--no-reload keeps debug mode but not the reloader."""
    server = start(*flask("aio", "run", "--debug", "--no-reload", "--port", "0"), app=APP)
    assert server.get("/debug") == (200, "True")
    assert "Restarting with" not in server.output
    assert server.stop() == 0


def test_aio_run_reload_without_debug_restarts(start):
    """--reload works outside debug mode."""
    server = start(*flask("aio", "run", "--reload", "--port", "0"), app=APP)
    assert server.get("/debug") == (200, "False")
    assert "Restarting with" in server.output


@pytest.mark.parametrize(
    ("option", "module"), [([], "uvloop"), (["--uvloop"], "uvloop"), (["--no-uvloop"], "asyncio")]
)
def test_aio_run_uses_uvloop_unless_told_otherwise(start, option, module):
    """uvloop is used where installed; --no-uvloop keeps asyncio's own loop."""
    server = start(*flask("aio", "run", "--port", "0", *option), app=APP)
    assert server.get("/loop")[1].partition(".")[0] == module


def test_aio_run_with_cert_and_key_serves_https(start, tmp_path):
    """--cert and --key serve HTTPS."""
    cert, key = make_ssl_devcert(str(tmp_path / "dev"), host="localhost")
    server = start(*flask("aio", "run", "--port", "0", "--cert", cert, "--key", key), app=APP)
    assert server.url.startswith("https://")


def test_aio_run_with_adhoc_cert_serves_https(start):
    """--cert adhoc makes a certificate for the occasion."""
    server = start(*flask("aio", "run", "--port", "0", "--cert", "adhoc"), app=APP)
    assert server.url.startswith("https://")


def test_aio_run_key_without_cert_is_refused(start):
    """--key alone is a usage error, in Flask's own words."""
    server = start(*flask("aio", "run", "--key", "app.py"), app=APP, ready=False)
    assert server.wait() == 2
    assert "--cert" in server.output


@pytest.mark.parametrize(
    ("name", "answer"),
    [("app", "default"), ("app:create_app", "default"), ("app:create_app('given')", "given")],
)
def test_aio_run_calls_app_factory(start, name, answer):
    """A factory is found and called, with arguments too."""
    server = start(*flask("aio", "run", "--port", "0", app=name), app=FACTORY)
    assert server.get() == (200, answer)


def test_aio_run_adds_missing_extension(start):
    """A plain Flask app, which knows nothing of the extension, is served with coroutine views."""
    server = start(*flask("aio", "run", "--port", "0"), app=PLAIN)
    assert server.get() == (200, "plain")


def test_aio_run_ignores_unguarded_run_at_import(start):
    """A module that calls aio.run() at import is served once, by the command, with a hint."""
    server = start(*flask("aio", "run", "--port", "0"), app=APP + "\naio.run(port=0)\n")
    assert server.get() == (200, "index")
    assert "Ignoring a call to aio.run()" in server.output
    assert server.output.count("Running on") == 1


def test_aio_run_of_broken_app_shows_error_and_ends(start):
    """An app that cannot be imported ends the command with the user's own traceback."""
    server = start(*flask("aio", "run", "--port", "0"), app="def broken(:\n", ready=False)
    assert server.wait() != 0
    assert "SyntaxError" in server.output


def test_aio_run_port_in_use_is_one_line_and_status_1(start):
    """A taken port gives one line, not a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = start(*flask("aio", "run", "--port", str(port)), app=APP, ready=False)
        assert server.wait() == 1
    assert "the address is already in use" in server.output
    assert "Traceback" not in server.output


def test_aio_run_help_explains_the_options(tmp_path):
    """The command is found by the flask command, and explains itself."""
    done = run_flask(tmp_path, "aio", "run", "--help")
    assert done.returncode == 0
    for option in ("--host", "--port", "--debug", "--reload", "--cert", "--key", "--no-uvloop"):
        assert re.search(rf"{option}\b", done.stdout), option


# --- commands and the shell


def test_command_waits_on_the_private_loop(tmp_path):
    """await_ works in a command of the app; start and clean-up hooks run around it."""
    done = run_flask(tmp_path, "greet")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["hook: start", "hello from the loop", "hook: clean-up"]


def test_failing_command_still_cleans_up(tmp_path):
    """A command that fails shows its error; the clean-up hooks run at exit all the same."""
    done = run_flask(tmp_path, "fail")
    assert done.returncode == 1
    assert "LookupError: gone" in done.stderr
    assert "hook: clean-up" in done.stdout


def test_shell_waits_on_the_private_loop(tmp_path):
    """await_ works in flask shell, line after line."""
    lines = "from app import fetch, await_\nprint(await_(fetch()))\nprint(await_(fetch()) * 2)\n"
    done = run_flask(tmp_path, "shell", stdin=lines)
    assert done.returncode == 0, done.stderr
    assert "fetched" in done.stdout
    assert "fetchedfetched" in done.stdout
    assert done.stdout.rstrip().endswith("hook: clean-up")
    assert "Traceback" not in done.stderr


def test_command_that_does_not_wait_starts_no_hooks(tmp_path):
    """Only who waits needs a loop: flask routes runs no hook."""
    done = run_flask(tmp_path, "routes")
    assert done.returncode == 0
    assert "hook" not in done.stdout
