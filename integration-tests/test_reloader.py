"""Debug mode's reloader: a change of the source restarts the server."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

APP = """
import asyncio, os
from flask import Flask
from flask_aio_core import AioHTTP

app = Flask(__name__)
aio = AioHTTP(app)
VERSION = "one"

@aio.cleanup_ctx
async def context():
    print("hook: start", VERSION, flush=True)
    yield
    await asyncio.sleep(0)
    print("hook: clean-up", VERSION, flush=True)

@app.get("/")
async def index():
    await asyncio.sleep(0)
    return VERSION

@app.get("/pid")
def pid():
    return str(os.getpid())

@app.get("/events")
async def events():
    async def chunks():
        yield "data: first\\n\\n"
        await asyncio.Event().wait()
    return chunks(), {"Content-Type": "text/event-stream"}
"""
MAIN = "\nif __name__ == '__main__':\n    aio.run(port=0, debug=True, reloader_type='stat')\n"
BROKEN = "def broken(:\n"

#: The two ways to run it. The first ends the process on a syntax error, as app.run() does.
WAYS = [
    pytest.param(["app.py"], id="aio.run"),
    pytest.param(["-m", "flask", "aio", "run", "--debug", "--port", "0"], id="flask-aio-run"),
]


def change(path: Path, text: str) -> None:
    """Write a file, with a time of change that differs, however coarse the file system's clock."""
    before = path.stat().st_mtime_ns
    path.write_text(text, encoding="utf-8")
    os.utime(path, ns=(before + 2_000_000_000, before + 2_000_000_000))


@pytest.fixture(params=WAYS)
def server(request, start):
    return start(*request.param, app=APP + MAIN, env={"WERKZEUG_DEBUG_PIN": "off"})


def open_events(server: Any) -> socket.socket:
    sock: socket.socket = server.connect()
    sock.sendall(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
    received = b""
    while b"first" not in received:
        received += sock.recv(1000)
    return sock


def test_change_restarts_on_the_same_port(server, wait_until):
    """After a change the new code answers, in a new process, at the address of the old one."""
    url, pid = server.url, server.get("/pid")
    assert server.get() == (200, "one")
    change(server.cwd / "app.py", (APP + MAIN).replace('"one"', '"two"'))
    server.wait_until_ready(2)
    assert server.url == url
    assert server.get() == (200, "two")
    assert server.get("/pid") != pid


def test_no_connection_is_refused_during_restart(server):
    """The port stays open while the server restarts: a request then waits for the new one."""
    change(server.cwd / "app.py", (APP + MAIN).replace('"one"', '"two"'))
    server.wait_for("hook: clean-up one")
    assert server.get() == (200, "two")


def test_cleanup_hooks_run_before_the_restart(server):
    """The old server's clean-up hooks have run when the new one's start hooks do."""
    change(server.cwd / "app.py", (APP + MAIN).replace('"one"', '"two"'))
    server.wait_for("hook: start two")
    assert server.output.index("hook: clean-up one") < server.output.index("hook: start two")
    assert "Traceback" not in server.output


def test_restart_does_not_wait_for_open_event_stream(server):
    """A page that listens to events does not hold the restart up: its connection is ended."""
    with open_events(server) as sock:
        change(server.cwd / "app.py", (APP + MAIN).replace('"one"', '"two"'))
        server.wait_until_ready(2)
        assert server.get() == (200, "two")
        while sock.recv(1000):
            pass
    assert "Traceback" not in server.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_the_group_runs_cleanup_hooks(server, number):
    """Ctrl-C, which the terminal sends to both processes, and SIGTERM end it with the hooks."""
    os.killpg(server.process.pid, number)
    server.wait()
    server.wait_for("hook: clean-up one")
    assert "Traceback" not in server.output


def test_sigint_with_reloader_exits_with_0(server):
    """Ctrl-C is the usual end: status 0."""
    os.killpg(server.process.pid, signal.SIGINT)
    assert server.wait() == 0


def test_ctrl_c_waits_for_a_slow_cleanup_hook(start):
    """A clean-up hook that takes a moment is not killed with the process."""
    slow = APP.replace("await asyncio.sleep(0)\n    print", "await asyncio.sleep(0.6)\n    print")
    server = start(app=slow + MAIN)
    os.killpg(server.process.pid, signal.SIGINT)
    server.wait()
    server.wait_for("hook: clean-up one")


def test_debugger_works_under_the_reloader(start):
    """With debug=True the debugger's page is shown for a coroutine view."""
    code = APP + '@app.get("/fail")\nasync def fail():\n    raise LookupError("gone")\n' + MAIN
    server = start(app=code, env={"WERKZEUG_DEBUG_PIN": "off"})
    status, page = server.get("/fail")
    assert status == 500
    assert "LookupError: gone" in page
    assert "SECRET" in page


def test_syntax_error_under_flask_command_is_shown_until_mended(start):
    """The browser shows the mistake; when it is mended the app comes back by itself."""
    server = start(
        "-m", "flask", "aio", "run", "--debug", "--port", "0", app=APP, files={"helper.py": ""}
    )
    url = server.url
    change(server.cwd / "app.py", APP + BROKEN)
    server.wait_until_ready(2)
    status, page = server.get()
    assert status == 500
    assert "SyntaxError" in page
    assert "def broken(:" in page
    server.wait_for("SyntaxError")
    assert server.process.poll() is None
    change(server.cwd / "app.py", APP.replace('"one"', '"two"') + "\n# mended, twice as late\n")
    os.utime(server.cwd / "app.py", ns=(4_000_000_000_000_000_000, 4_000_000_000_000_000_000))
    server.wait_until_ready(3)
    assert server.get() == (200, "two")
    assert server.url == url


def test_extra_file_is_watched(start, tmp_path):
    """A change of a file named by extra_files restarts the server too."""
    (tmp_path / "settings.toml").write_text("a = 1")
    extra = MAIN.replace("debug=True", "debug=True, extra_files=['settings.toml']")
    server = start(app=APP + extra)
    change(tmp_path / "settings.toml", "a = 2")
    server.wait_until_ready(2)
    assert server.get() == (200, "one")


def test_port_in_use_under_the_reloader_is_one_line(start):
    """The parent process finds out, before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = start(app=APP + MAIN.replace("port=0", f"port={port}"), ready=False)
        assert server.wait() == 1
    assert server.output.count("the address is already in use") == 1
    assert "Traceback" not in server.output


def test_unix_socket_is_kept_over_a_restart_and_removed_at_the_end(start, tmp_path):
    """The socket file lives as long as the reloader, not as its child."""
    path = tmp_path / "socket"
    server = start(app=APP + MAIN.replace("port=0", "path='socket'"))
    inode = path.stat().st_ino
    change(tmp_path / "app.py", (APP + MAIN).replace("port=0", "path='socket'") + "# changed\n")
    server.wait_until_ready(2)
    assert path.stat().st_ino == inode
    os.killpg(server.process.pid, signal.SIGINT)
    server.wait()
    assert not path.exists()
